"""Many components: interrupted, killed, lost and continued, and what the manifest says afterwards."""

import json
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pynauty", reason="pynauty is not installed (extra bench)")

from flashrmsd_cy import rmsd
from sddfkit.rmsd_set import LocalProcesses, RmsdSetError, Settings, build_set, read_manifest, read_rmsd_set
from sddfkit.rmsd_set.journal import FOLDER, finished
from sddfkit.rmsd_set.manifest import INDEX, MANIFEST, REFERENCE
from sddfkit.rmsd_set.series import build_chunk

SETTINGS = Settings(conformers=3)
WRITTEN = (MANIFEST, REFERENCE, INDEX)


LOCAL = LocalProcesses(1)  # one for all tests: a child takes seconds to start


@pytest.fixture(scope="session", autouse=True)
def _local():
    with LOCAL:
        yield


def build(folder, few, ids=None, settings=SETTINGS, **options):
    return build_set(folder, few, few.ids() if ids is None else ids, settings, LOCAL.executor, chunk=1, **options)


@pytest.fixture(scope="session")
def whole(few, tmp_path_factory):
    """A set that was built in one go."""
    folder = tmp_path_factory.mktemp("whole")
    outcome = build(folder, few)
    assert (outcome.wanted, outcome.known, outcome.built, outcome.classes) == (8, 0, 8, {})
    return folder


class Nobody:
    """An executor that must not be asked for."""

    def __call__(self):
        raise AssertionError("there is nothing to do")


def contents(folder):
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def test_what_is_done_is_not_done_again(whole, few):
    before = contents(whole)
    outcome = build_set(whole, few, few.ids(), SETTINGS, Nobody())
    assert (outcome.known, outcome.built) == (8, 0) and contents(whole) == before


def test_a_set_may_grow(whole, few, tmp_path):
    assert build(tmp_path, few, ["BNZ", "ACT"]).built == 2
    outcome = build(tmp_path, few)
    assert (outcome.known, outcome.built) == (2, 6) and contents(tmp_path) == contents(whole)


KILLED = """
import sys
sys.path[:0] = [{here!r}]
from pathlib import Path
from conftest import FewMolecules
from sddfkit.rmsd_set import LocalProcesses, Settings, build_set

if __name__ == "__main__":
    few = FewMolecules()
    with LocalProcesses(1) as local:
        build_set({folder!r}, few, few.ids(), Settings(conformers=3), local.executor, chunk=3)
"""


def test_after_a_kill_the_same_command_goes_on(whole, few, tmp_path):
    program = KILLED.format(here=str(Path(__file__).parent), folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", program])
    deadline = time.monotonic() + 60
    while len(finished(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    there = {}
    for _ in range(40):  # the child follows its parent at once, but not in no time
        time.sleep(0.05)
        there = {name: (place.path, place.offset) for name, place in finished(tmp_path).items()}
    assert 2 <= len(there) < 8 and not (tmp_path / MANIFEST).exists()
    outcome = build(tmp_path, few)
    assert (outcome.known, outcome.built) == (len(there), 8 - len(there))
    lines = [line for path in (tmp_path / FOLDER).iterdir() for line in path.read_text().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == few.ids()  # each once
    assert contents(tmp_path) == contents(whole)


def test_half_a_line_and_a_missing_file_are_no_finished_components(whole, few, tmp_path):
    build(tmp_path, few, ["BNZ", "ACT"])
    whole_line = json.dumps(finished(tmp_path)["BNZ"].row() | {"id": "ETH", "files": []})
    (tmp_path / FOLDER / "0-of-a-dead-writer.jsonl").write_text(whole_line[:-1])
    (tmp_path / "T/ACT.sdf.gz").unlink()
    assert set(finished(tmp_path)) == {"BNZ"}
    assert build(tmp_path, few).built == 7 and contents(tmp_path) == contents(whole)


def test_other_settings_are_refused_by_name(whole, few):
    with pytest.raises(RmsdSetError, match=r"settings\.seed was 1, is 2"):
        build_set(whole, few, few.ids(), Settings(conformers=3, seed=2), Nobody())


def test_a_folder_has_one_builder(few, tmp_path):
    class Second:
        def __call__(self):
            with pytest.raises(RmsdSetError, match="another process builds"):
                build_set(tmp_path, few, ["BNZ"], SETTINGS, Nobody())
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_set(tmp_path, few, ["BNZ"], SETTINGS, Second())


def test_a_component_that_takes_too_long_is_a_failure_which_can_be_tried_again(few, tmp_path):
    hasty = Settings(conformers=3, component_limit_s=0.0)
    outcome = build(tmp_path, few, ["BNZ"], hasty)
    assert outcome.classes == {"time": 1} and outcome.with_failures == 1
    (row,) = read_manifest(tmp_path)["components"]
    assert row["failures"] == [{"class": "time", "reason": "not finished in 0 s"}]
    assert build_set(tmp_path, few, ["BNZ"], hasty, Nobody()).known == 1
    assert build(tmp_path, few, ["BNZ"], hasty, retry=["time"]).built == 1
    assert finished(tmp_path)["BNZ"].attempt == 2


def test_a_component_that_kills_its_process_is_a_failure_and_the_rest_is_built(few, tmp_path):
    poison = {"component": {"id": "BAD"}, "attempt": 1}  # no component: the child ends with an error
    executor, _ = LOCAL.executor()
    jobs = [poison, {"component": asdict(few["BNZ"]), "attempt": 1}]
    assert executor.submit(build_chunk, str(tmp_path), asdict(SETTINGS), jobs).result() == ["BAD", "BNZ"]
    found = finished(tmp_path)
    assert found["BAD"].row()["failures"] == [{"class": "died", "reason": "it ended with exit code 1"}]
    assert not found["BNZ"].classes


def test_an_entry_that_cannot_be_used_is_a_failure(few, tmp_path):
    outcome = build(tmp_path, few, ["BNZ", "XYZ"])
    assert (outcome.built, outcome.classes) == (2, {"input": 1})


class Unreliable(Executor):
    """Loses an engine with every task that holds a certain component, so many times."""

    def __init__(self, name, times):
        self.name, self.times = name, times
        self.engine, _ = LOCAL.executor()

    def submit(self, function, /, folder, settings, jobs):
        future = Future()
        names = [job["component"]["id"] for job in jobs]
        if self.name in names and self.times:
            self.times -= 1
            if names.index(self.name):
                self.engine.submit(function, folder, settings, jobs[: names.index(self.name)]).result()
            future.set_exception(RuntimeError("the engine died"))
        else:
            future.set_result(self.engine.submit(function, folder, settings, jobs).result())
        return future


@pytest.mark.parametrize(("times", "classes"), [(1, {}), (9, {"engine_lost": 1})])
def test_lost_engines_cost_no_component_but_the_one_that_loses_them(whole, few, tmp_path, times, classes):
    engines = Unreliable("DMS", times)
    outcome = build_set(tmp_path, few, few.ids(), SETTINGS, lambda: (engines, 1), chunk=3)
    assert (outcome.built, outcome.classes) == (8, classes)
    if not classes:
        assert contents(tmp_path) == contents(whole)


def test_progress_steps_once_per_component(few, tmp_path):
    seen = []

    def progress(steps, total):
        for _ in steps:
            seen.append(total)
            yield

    build(tmp_path, few, ["BNZ", "ACT", "ETH"], progress=progress)
    assert seen == [3, 3, 3]


def test_a_set_is_read_back_in_one_order(whole, few):
    entries = list(read_rmsd_set(whole))
    assert len(entries) == 16 and {entry.atoms for entry in entries} == {"heavy", "all"}
    for entry in entries:
        item = few[Path(entry.file).name.removesuffix("_H")]
        assert entry.molecule.n_atoms == len(item.heavy if entry.atoms == "heavy" else item.elements)
        assert [(row.i, row.j) for row in entry.references] == [(0, 1), (0, 2), (1, 2)]
        for row in entry.references:
            for align, expected in ((False, row.sc_rmsd), (True, row.min_sc_rmsd)):
                a, b = entry.positions[row.i], entry.positions[row.j]
                assert rmsd(a, b, entry.molecule, align=align).value == pytest.approx(expected, abs=1e-5)
    only = list(read_rmsd_set(whole, ids={"GLY"}))
    assert [entry.file for entry in only] == ["Y/GLY", "Y/GLY_H"]
    assert np.array_equal(only[1].positions, next(e for e in entries if e.file == "Y/GLY_H").positions)


@pytest.mark.parametrize("name", ["D/no", "H/ETH.mol2.gz", REFERENCE])
def test_an_altered_set_is_not_read(few, tmp_path, name):
    build(tmp_path, few, ["ETH"])
    if not (tmp_path / name).exists():
        (tmp_path / MANIFEST).unlink()
        with pytest.raises(RmsdSetError, match="no finished set"):
            list(read_rmsd_set(tmp_path))
        return
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(RmsdSetError, match="differs from what was written"):
        list(read_rmsd_set(tmp_path))


def test_the_tables_have_the_columns_of_the_shared_set(whole):
    header = "file,i,j,atoms,n_atoms,n_orbits,n_automorphisms,sc_rmsd,min_sc_rmsd,method_sc,method_min"
    lines = (whole / REFERENCE).read_text().splitlines()
    assert lines[0] == header and len(lines) == 1 + 16 * 3
    assert lines[1].startswith("T/ACT,0,1,heavy,4,3,2,")
    index = json.loads((whole / INDEX).read_text())
    fields = {"file", "base", "split", "kind", "how", "n_atoms", "n_orbits", "n_automorphisms", "bruteforce"}
    assert len(index) == 16 and all(set(row) == fields and row["kind"] == "ccd" for row in index)


@pytest.mark.slow
def test_the_engine_of_a_cluster_builds_the_same_set_and_survives_a_task_that_dies(whole, few, tmp_path):
    factory = pytest.importorskip("sddfkit.factory")
    with factory.Cluster(tmp_path / "clusters" / "one", engines=1) as cluster:
        executor, _ = cluster.executor()
        before = cluster.engine_pids()
        jobs = [{"component": {"id": "BAD"}, "attempt": 1}]
        assert executor.submit(build_chunk, str(tmp_path), asdict(SETTINGS), jobs).result(60) == ["BAD"]
        outcome = build_set(tmp_path / "set", few, few.ids(), SETTINGS, cluster.executor, chunk=3)
        assert cluster.engine_pids() == before
    assert finished(tmp_path)["BAD"].classes == {"died"}
    assert (outcome.built, outcome.classes) == (8, {}) and contents(tmp_path / "set") == contents(whole)
