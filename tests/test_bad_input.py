"""What people do wrong, and what goes wrong around them: a sentence, an exit code, no stack trace, nothing lost."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import warm
from rdkit import Chem
from rdkit.Chem import AllChem, rdMolTransforms

from sddfkit.cli import main
from sddfkit.data import read_snapshot, to_records
from sddfkit.factory.schema import SCHEMA_VERSION

USAGE = {
    "a verb": (["activ"], "did you mean 'active'?"),
    "a key": (["active", "lopp.rounds=1"], "no setting 'lopp.rounds' in 'active'; did you mean 'loop.rounds'?"),
    "a key below": (["active", "loop.round=1"], "did you mean 'loop.rounds'?"),
    "a key without its group": (["active", "n_conformers=3"], "did you mean 'conformers.n_conformers'?"),
    "a group": (["active", "stategy=random"], "did you mean 'strategy'?"),
    "a choice": (["active", "strategy=randm"], "did you mean 'random'?"),
    "a choice in a list": (["active", "model=[gen,pan]"], "model=pan does not exist"),
    "no choice": (["label", "experiment=null"], "'experiment=null' names no choice: leave it out"),
    "an empty list": (["active", "model=[]"], "'model=[]' names no choice"),
    "two of one": (["active", "level=[gfn2,wb97x_631gd]"], "level takes one"),
    "no number": (["label", "seed=null"], "seed is null, expected a whole number"),
    "no path": (["train", "data=null"], "data is null, expected a text"),
    "two paths": (["label", "molecules.path=[a,b]"], "molecules.path is ['a', 'b'], expected a text"),
    "no root": (["label", "paths.root=null"], "paths.root is null"),
    "a number as root": (["label", "paths.root=5"], "must be paths"),
    "nobody's home": (["label", "paths.root='~nobody-of-this-name/x'"], "must be paths"),
    "a later value of a sweep": (["label", "-m", "seed=1,2,two"], "seed is 'two', expected a whole number"),
    "a network's setting": (["active", "+model.gen.widht=3"], "unexpected keyword argument 'widht'"),
    "a group without a class": (["label", "~level._target_"], "level names no class"),
    "flags": (["active", "--resolve"], "--resolve"),
    "a flag": (["active", "--frobnicate"], "unrecognized arguments: --frobnicate"),
    "a level": (["label", "level=wb97"], "did you mean 'wb97x_631gd"),
    "no equals sign": (["active", "demo"], "did you mean 'experiment=demo'?"),
    "a number": (["active", "loop.rounds=two"], "loop.rounds is 'two', expected a whole number (the default is 2)"),
    "a fraction": (["active", "seed=1.5"], "seed is 1.5, expected a whole number"),
    "a list": (["label", "molecules.elements=H"], "expected a list such as [a,b]"),
    "quotes": (["label", "molecules=file", "molecules.path=a b (c).smi"], "in quotes it would: 'molecules.path=\"a b"),
    "a sweep without -m": (["active", "seed=1,2"], "add -m for a sweep"),
    "nothing mandatory": (["label", "molecules=file"], "molecules.path is not given: add molecules.path="),
    "a choice in a sweep": (["active", "-m", "experiment=smoke", "seed=1,2", "strategy=random,lss"], "strategy=lss"),
    "a folder of settings": (["active", "--config-dir", "nowhere"], "--config-dir nowhere is no folder"),
    "a negative seed": (["label", "seed=-1"], "seed is -1, expected 0 or more"),
    "no conformers": (["label", "conformers.n_conformers=0"], "n_conformers=0; expected at least 1"),
    "no engines": (["label", "cluster.engines=0"], "at least one engine"),
    "an element": (["label", "molecules.elements=[H,Xx]"], "'Xx' is not a chemical element"),
    "a program": (["label", "level.program=orca"], "no keywords for program 'orca'; it knows psi4, pyscf"),
    "a limit": (["label", "level.timeout_s=-1"], "must be positive"),
    "a strategy's setting": (["active", "strategy.per_molecule=0"], "per_molecule is 0, expected at least 1"),
    "loop sizes": (["active", "loop.test_size=0"], "loop.test_size is 0, expected at least 1"),
    "a run": (["predict", "run=nowhere"], "run=nowhere is neither a folder nor a run below"),
    "no run yet": (["evaluate"], "make one with `sddfkit active` or `sddfkit train`"),
    "a class": (["active", "model.gen._target_=sddfkit.models.gem.GEN"], "cannot be imported"),
    "a command for the store": (["store", "stat"], "invalid choice: 'stat'"),
    "a store of another kind": (["store", "stats", "--store", "mysql://x/y"], "expected the path of an SQLite file"),
    "a class of errors": (["store", "retry", "--class", "tme"], "no error class 'tme'; the classes are input, "),
}


@pytest.fixture
def in_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder; the command line's signal handlers and environment are taken back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDDFKIT_ROOT", raising=False)
    monkeypatch.delenv("SDDFKIT_DEBUG", raising=False)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield tmp_path
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("arguments", "sentence"), USAGE.values(), ids=USAGE)
@pytest.mark.usefixtures("in_process")
def test_a_wrong_command(arguments: list[str], sentence: str, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        assert main(arguments) == 2
    except SystemExit as end:  # of argparse
        assert end.code == 2
    said = capfd.readouterr().err
    assert sentence in said, said
    assert "Traceback" not in said and "HYDRA_FULL_ERROR" not in said
    assert len(said.strip().splitlines()) == 1 or said.startswith("usage: sddfkit")


@pytest.mark.usefixtures("in_process")
def test_a_file_of_settings_that_cannot_be_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "conf" / "strategy").mkdir(parents=True)
    (tmp_path / "conf" / "strategy" / "mine.yaml").write_text("_target_:\n\tx: [\n")
    assert main(["active", "--config-dir", "conf", "strategy=mine"]) == 2
    said = capfd.readouterr().err
    assert "mine.yaml" in said and "line 2" in said and "Traceback" not in said


@pytest.mark.usefixtures("in_process")
def test_debug_shows_where(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["label", "molecules.path=nowhere.smi", "level=gfn2", "--debug"]) == 1
    said = capfd.readouterr().err
    assert "Traceback" in said and "MoleculeError" in said
    del os.environ["SDDFKIT_DEBUG"]


def sddfkit(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {key: value for key, value in os.environ.items() if key not in ("SDDFKIT_ROOT", "SDDFKIT_DEBUG")}
    kept["XDG_STATE_HOME"] = str(cwd / "state")  # where an engine keeps what a full disk does not take
    return warm.run("sddfkit", *arguments, cwd=cwd, env=kept | environment)


def failed(done: subprocess.CompletedProcess[str], *sentences: str) -> None:
    assert done.returncode == 1, done.stdout + done.stderr
    for sentence in sentences:
        assert sentence in done.stdout + done.stderr, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert "(--debug shows where it came from)" in done.stderr


LABEL = ("label", "molecules=file", "level=gfn2", "conformers.n_conformers=1", "cluster.engines=1")
FILES = {
    "missing": (None, "no such file: mine.smi"),
    "empty": ("", "mine.smi holds no molecules: it is empty"),
    "comments alone": ("# nothing\n\n# here\n", "mine.smi holds no molecules: it is empty, or has only comments"),
    "rubbish alone": ("not a molecule\n(((\n", "mine.smi: the reasons stand above"),
    "not text": (b"\x00\xff\xfe\x00PNG" * 50, "mine.smi"),
    "elements beyond the level": ("[Rn]\nC[At]\n", "mine.smi can be computed at wB97X/6-31G(d)"),
    "nothing that can be embedded": ("C1#CC1 cyclopropyne\n", "no conformer of cyclopropyne (C1#CC1): not embedded"),
}


@pytest.mark.parametrize(("content", "sentence"), FILES.values(), ids=FILES)
def test_a_file_of_molecules(tmp_path: Path, content: str | bytes | None, sentence: str) -> None:
    if content is not None:
        (tmp_path / "mine.smi").write_bytes(content if isinstance(content, bytes) else content.encode())
    level = ["level=wb97x_631gd", "level.program=pyscf"] if "level" in sentence or "computed" in sentence else []
    failed(sddfkit(*LABEL, *level, "molecules.path=mine.smi", cwd=tmp_path), sentence)


def test_a_file_that_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.smi").mkdir()
    failed(sddfkit(*LABEL, "molecules.path=mine.smi", cwd=tmp_path), "mine.smi is a folder; give a file with molecules")


def test_what_is_wrong_in_a_file_does_not_stop_the_rest(tmp_path: Path) -> None:
    lines = [
        "CCO ethanol",
        "C(C methyl?",
        "C1#CC1 cyclopropyne",
        "C[Sn](C)(C)C tin",
        "[CH3] methyl",
        "CCO again",
        "N ammonia",
    ]
    (tmp_path / "mine.smi").write_text("\n".join(lines))
    done = sddfkit(*LABEL, "molecules.path=mine.smi", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert "mine.smi:2" in said and "mine.smi:6: duplicate of line 1" in said
    assert "no conformer of cyclopropyne (C1#CC1): not embedded ×1" in said
    assert "mine.smi:4" in said and "ground state of the atom Sn is not tabulated" in said
    assert "snapshot: 3 records" in said  # methyl is a doublet


def test_an_element_beyond_the_level_is_refused_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "mine.smi").write_text("O water\nC[Xe]C\nN ammonia\n")
    done = sddfkit(*LABEL, "level=wb97x_631gd", "level.program=pyscf", "molecules.path=mine.smi", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "mine.smi:2" in done.stdout and "Xe" in done.stdout and "snapshot: 2 records" in done.stdout
    assert done.stdout.index("Xe") < done.stdout.index("conformers:")


def test_a_broken_psi4_is_named_and_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "mine.smi").write_text("O water\n")
    done = sddfkit(
        *LABEL, "level=wb97x_631gd", "molecules.path=mine.smi", cwd=tmp_path, SDDFKIT_PSI4_PYTHON="/usr/bin/false"
    )
    failed(done, "Psi4 is broken (SDDFKIT_PSI4_PYTHON=/usr/bin/false)", "level.program=pyscf")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A folder with one labelled molecule."""
    (tmp_path / "mine.smi").write_text("O water\n")
    done = sddfkit(*LABEL, "molecules.path=mine.smi", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def results(folder: Path) -> int:
    with sqlite3.connect(f"file:{folder / 'store.sqlite'}?mode=ro", uri=True) as connection:
        return int(connection.execute("select count(*) from results").fetchone()[0])


def test_a_store_that_cannot_be_used(labelled: Path) -> None:
    store = labelled / "sddfkit-data" / "store.sqlite"
    with sqlite3.connect(store) as connection:
        connection.execute("update meta set value = '99' where name = 'schema_version'")
    failed(
        sddfkit(*LABEL, "molecules.path=mine.smi", cwd=labelled),
        f"has schema version 99, this sddfkit reads version {SCHEMA_VERSION}", "another store (paths.root)",
    )  # fmt: skip
    with sqlite3.connect(store) as connection:
        connection.execute(f"update meta set value = '{SCHEMA_VERSION}' where name = 'schema_version'")
    again = sddfkit(*LABEL, "molecules.path=mine.smi", cwd=labelled)
    assert again.returncode == 0 and "3 known before, 0 computed" in again.stdout

    store.write_text("this was a store once\n" * 500)
    for name in ("store.sqlite-wal", "store.sqlite-shm"):
        (store.with_name(name)).unlink(missing_ok=True)
    failed(sddfkit(*LABEL, "molecules.path=mine.smi", cwd=labelled), str(store), "no SQLite database")
    store.unlink()
    store.mkdir()
    failed(sddfkit(*LABEL, "molecules.path=mine.smi", cwd=labelled), f"{store} is a folder, a store is a file")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, of a few MiB, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or mount("-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)):
        pytest.skip("a disk of its own can be mounted only by root, where that is allowed")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def mount(*arguments: str) -> int:
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode


def test_a_full_disk_loses_nothing(tmp_path: Path, disk: Path) -> None:
    root = disk / "data"
    (tmp_path / "mine.smi").write_text("O\nCO\nCCO\nCN\nCF\nCS\nCCl\nC=O\nC#N\nCC\n")
    wanted = (*LABEL, "molecules.path=mine.smi", f"paths.root={root}", "conformers.n_conformers=3")
    (disk / "of somebody else").write_bytes(b"0" * (2**21 - 500_000))
    failed(sddfkit(*wanted, cwd=tmp_path), "disk is full; free some space", "the same command")
    (disk / "of somebody else").unlink()
    done = sddfkit(*wanted, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on with the unfinished run" in done.stdout
    with sqlite3.connect(root / "store.sqlite") as connection:
        states = dict(connection.execute("select state, count(*) from calculations group by state").fetchall())
        twice = connection.execute("select key from attempts where state = 'done' group by key having count(*) > 1")
        assert set(states) == {"done"} and twice.fetchall() == []


def test_a_disk_that_may_only_be_read(tmp_path: Path, disk: Path) -> None:
    (tmp_path / "mine.smi").write_text("O water\n")
    assert mount("-o", "remount,ro", str(disk)) == 0
    done = sddfkit(*LABEL, "molecules.path=mine.smi", f"paths.root={disk}/data", cwd=tmp_path)
    failed(done, "Read-only file system", "paths.root")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file\n")
    (tmp_path / "mine.smi").write_text("O water\n")
    failed(sddfkit(*LABEL, "molecules.path=mine.smi", "paths.root=taken/data", cwd=tmp_path), "taken", "paths.root")


@pytest.mark.long
def test_a_sweep_with_failures_goes_on_when_they_are_mended(tmp_path: Path) -> None:
    (tmp_path / "a.smi").write_text("O water\n")
    sweep = [part for part in LABEL if part != "molecules=file"]
    sweep[1:1] = ["-m", "molecules=file", "molecules.path=a.smi,b.smi"]
    first = sddfkit(*sweep, cwd=tmp_path)
    assert first.returncode == 1 and "Traceback" not in first.stderr
    assert "job 1 failed" in first.stderr and "no such file" in first.stderr
    (tmp_path / "b.smi").write_text("N ammonia\n")
    second = sddfkit(*sweep, cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    assert "going on with the unfinished sweep" in second.stdout and "finished before" in second.stdout
    assert len(list(tmp_path.glob("sddfkit-data/runs/*-sweep"))) == 1


def test_two_jobs_at_once_have_folders_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mine.smi").write_text("O water\nN ammonia\n")
    command = [sys.executable, "-m", "sddfkit", *LABEL, "molecules.path=mine.smi"]
    jobs = [
        subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(2)
    ]  # fmt: skip
    said = [job.communicate(timeout=300)[0] for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0], said
    assert len(list(tmp_path.glob("sddfkit-data/runs/*/snapshot/manifest.json"))) == 2


def test_coordinates_that_changed_are_read_again(tmp_path: Path) -> None:
    """A job that goes on takes what it had kept of a molecule only while the molecule is the same."""
    water = Chem.AddHs(Chem.MolFromSmiles("O"))
    AllChem.EmbedMolecule(water, randomSeed=7)
    command = [*LABEL[:-2], "cluster.engines=1", "conformers=given", "molecules.path=mine.sdf"]
    Chem.MolToMolFile(water, str(tmp_path / "mine.sdf"))
    (tmp_path / "sddfkit-data" / "store.sqlite").mkdir(parents=True)  # so that it fails after the conformers
    failed(sddfkit(*command, cwd=tmp_path), "is a folder, a store is a file")
    (tmp_path / "sddfkit-data" / "store.sqlite").rmdir()
    rdMolTransforms.SetBondLength(water.GetConformer(), 0, 1, 1.08)
    Chem.MolToMolFile(water, str(tmp_path / "mine.sdf"))
    done = sddfkit(*command, cwd=tmp_path)
    assert done.returncode == 0 and "going on with the unfinished run" in done.stdout, done.stderr
    (folder,) = tmp_path.glob("sddfkit-data/runs/*-label/snapshot")
    (record,) = to_records(read_snapshot(folder))
    assert np.linalg.norm(record.positions[0] - record.positions[1]) == pytest.approx(1.08, abs=1e-3)


def test_data_that_is_no_snapshot(tmp_path: Path) -> None:
    done = sddfkit("train", f"data={tmp_path}", cwd=tmp_path)
    failed(done, f"{tmp_path} is not a snapshot: it has no manifest.json")
