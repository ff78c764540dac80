"""Batches of real GFN2-xTB calculations; the executor is a plain process pool where no cluster is needed."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor

import numpy as np
import pytest
import sqlalchemy as sa

from sddfkit.data.records import Record
from sddfkit.factory import Batch, Cluster, ClusterError, Store, plan
from sddfkit.factory import cluster as cluster_module
from sddfkit.factory.cluster import OWNER_FILE, EngineGoneError, Owner, end_abandoned, marked, read_owner
from sddfkit.factory.export import failures, labelled
from sddfkit.factory.ingest import collect
from sddfkit.factory.jobs import estimated_cost, plan_atoms, record_document
from sddfkit.factory.retry import verdict
from sddfkit.factory.store import attempts, calculations, results
from sddfkit.qc import supervisor
from sddfkit.qc.levels import Level
from sddfkit.qc.spool import TOKEN_FILE
from sddfkit.units import HARTREE_TO_EV

HOST = socket.gethostname()
LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})


def water(stretch: float = 1.0, *, charge: int = 0, name: str = "water") -> Record:
    positions = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]]) * stretch
    return Record(
        record_id=f"{name}-{stretch:.4f}",
        molecule_id="O",
        name=name,
        smiles="O",
        conformer=0,
        charge=charge,
        multiplicity=1,
        atomic_numbers=np.array([8, 1, 1], dtype=np.int32),
        positions=positions,
        bonds=np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32),
        formal_charges=np.zeros(3, dtype=np.int32),
    )


def many_waters() -> Record:
    """A cube of 27 molecules: a calculation that takes long enough to be stopped."""
    one = water()
    shifts = 3.0 * np.stack(np.meshgrid(*[np.arange(3.0)] * 3), axis=-1).reshape(-1, 1, 3)
    return one._replace(
        record_id="27 waters",
        atomic_numbers=np.tile(one.atomic_numbers, 27),
        positions=(one.positions + shifts).reshape(-1, 3),
        formal_charges=np.zeros(81, dtype=np.int32),
    )


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


@pytest.fixture(scope="module")
def pool():
    with ProcessPoolExecutor(1) as executor:
        yield executor
        executor.submit(supervisor.close).result()


def ask(store: Store, records: list[Record]):
    calculations_, refusals = plan(records, LEVEL, LEVEL.choose())
    store.add_records(record_document(record) for record in records)
    return calculations_, refusals


def test_labels_reach_the_records_and_nothing_is_computed_twice(store, pool):
    records = [water(s) for s in (0.97, 1.0, 1.03)]
    asked, refusals = ask(store, records)
    batch = Batch(store, "first")
    assert (batch.add(asked), refusals, batch.open_count()) == (0, [], 3)
    outcome = batch.run(lambda: (pool, 1))
    assert (outcome.known, outcome.computed, outcome.failed) == (0, 3, 0)
    found = labelled(store, asked, records)
    assert [r.record_id for r in found] == [r.record_id for r in records]
    assert found[1].energy == pytest.approx(-5.07 * HARTREE_TO_EV, abs=0.05)
    assert found[1].level == "GFN2-xTB" and found[1].program == "tblite" and found[1].result_key == asked[1].key
    np.testing.assert_allclose(found[1].forces.sum(axis=0), 0.0, atol=1e-5)
    # the force along the stretch is the slope of the energy, to the curvature over this step
    slope = -(found[2].energy - found[0].energy) / 0.06
    assert np.sum(found[1].forces * records[1].positions) == pytest.approx(slope, abs=0.3)

    again = Batch(store, "second")
    assert again.add(asked) == 3

    def never():
        raise AssertionError("an executor was asked for although everything is known")

    assert again.run(never).known == 3
    assert len(store.select(sa.select(attempts))) == 3


def test_bad_records_are_refused_or_stored_as_failures(store, pool):
    broken = water()._replace(positions=np.zeros((3, 3)), record_id="overlap")
    odd = water(charge=1, name="odd electrons")
    slow = many_waters()
    asked, refusals = ask(store, [broken, odd, slow])
    assert [r.record_id for r in refusals] == ["overlap", "odd electrons-1.0000"]
    assert all(r.reason for r in refusals)
    batch = Batch(store, "b", timeout_s=1e-3)
    batch.add(asked)
    outcome = batch.run(lambda: (pool, 1))
    assert (outcome.computed, outcome.failed) == (0, 1)
    (row,) = failures(store, [asked[0].key])
    assert row["error_class"] == "time" and "0.001 s" in row["error_message"]
    assert labelled(store, asked, [slow]) == []


def test_a_result_that_reached_the_spool_is_never_computed_again(store):
    record = water()
    asked, _ = ask(store, [record])
    Batch(store, "b").add(asked)
    supervisor.calculate(
        {"key": asked[0].key, "input": asked[0].input}, spool=str(store.spool), timeout_s=60, memory_gib=4
    )
    supervisor.close()
    dead, living, distant, old = (
        f".half.json.{who}.tmp" for who in (f"{HOST}.4194999", f"{HOST}.{os.getpid()}", "far.1", "far.2")
    )
    for name in (dead, living, distant, old, "foreign.json"):
        (store.spool / name).write_text("{}")
    os.utime(store.spool / old, (0, 0))
    assert collect(store) == 1
    assert collect(store) == 0
    assert {path.name for path in store.spool.iterdir()} == {living, distant, "foreign.json", TOKEN_FILE}
    assert Batch(store, "b").open_count() == 0
    assert len(labelled(store, asked, [record])) == 1


def test_a_killed_worker_is_an_attempt_and_the_calculation_is_tried_again(store, tmp_path):
    """The executor kills its worker under the first calculation, as the kernel does when memory runs out."""
    asked, _ = ask(store, [water()])
    batch = Batch(store, "b")
    batch.add(asked)

    class KillsOnce:
        tries = 0

        def submit(self, function, jobs, **limits):
            future: Future = Future()
            KillsOnce.tries += 1
            if KillsOnce.tries == 1:
                (job,) = jobs
                outcome = {
                    "key": job["key"], "success": False, "result": {}, "error_class": "killed",
                    "error_message": "signal 9", "host": "here", "pid": 1, "started": "now", "finished": "now",
                }  # fmt: skip
                path = tmp_path / "spool" / f"{job['key']}.json"
                path.write_text(json.dumps(outcome))
                future.set_result([{**outcome, "path": str(path)}])
            else:
                future.set_result(function(jobs, **limits))
            return future

    outcome = batch.run(lambda: (KillsOnce(), 1))
    supervisor.close()
    assert (outcome.computed, outcome.failed) == (1, 0)
    assert [row["state"] for row in store.select(sa.select(attempts).order_by(attempts.c.id))] == ["failed", "done"]
    assert store.select(sa.select(calculations.c.state)) == [{"state": "done"}]


@pytest.mark.parametrize(("error_class", "is_open"), [("unknown", 1), ("disk", 1), ("input", 0), ("time", 0)])
def test_asking_again_opens_what_failed_for_reasons_of_the_machine(store, error_class, is_open):
    asked, _ = ask(store, [water()])
    Batch(store, "b").add(asked)
    with store.writing() as connection:
        connection.execute(calculations.update().values(state="failed", error_class=error_class))
    assert Batch(store, "again").add(asked) == 1 - is_open
    assert Batch(store, "again").open_count() == is_open


def test_isolated_atoms_have_their_ground_state(store, pool):
    asked = plan_atoms({1, 8}, LEVEL, LEVEL.choose())
    assert [asked[z].input["molecule"]["molecular_multiplicity"] for z in (1, 8)] == [2, 3]
    assert [asked[z].label for z in (1, 8)] == ["atom 1", "atom 8"]


def test_the_queue_is_longest_first():
    methane, water_, hydrogen = np.array([6, 1, 1, 1, 1]), np.array([8, 1, 1]), np.array([1, 1])
    assert estimated_cost(methane) > estimated_cost(water_) > estimated_cost(hydrogen)
    assert estimated_cost(water_, 3) == 2 * estimated_cost(water_)
    assert estimated_cost(water_, hessian=True) == 18 * estimated_cost(water_)


@pytest.mark.parametrize(
    ("error_class", "failures_so_far", "state"),
    [("input", 1, "failed"), ("time", 1, "failed"), ("engine_lost", 5, "ready"), ("engine_lost", 6, "failed"),
     ("killed", 1, "ready"), ("killed", 2, "held"), ("never heard of", 1, "failed")],
)  # fmt: skip
def test_verdicts(error_class, failures_so_far, state):
    assert verdict(error_class, failures_so_far) == state


def wait_for_engines(cluster: Cluster, n: int) -> None:
    deadline = time.monotonic() + 60
    while cluster.executor()[1] < n:
        assert time.monotonic() < deadline, "engines do not come"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_real_cluster_labels_replaces_a_lost_engine_and_leaves_nothing(store, tmp_path):
    psutil = pytest.importorskip("psutil")
    records = [water(0.9 + 0.002 * i) for i in range(60)]
    asked, _ = ask(store, records)
    batch = Batch(store, "b")
    batch.add(asked)
    before = {p.pid for p in psutil.Process().children(recursive=True)}
    with Cluster(tmp_path / "cluster", engines=2) as cluster:
        _, engines = cluster.executor()
        started = [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
        assert engines == 2 and len(started) >= 3
        (first, second) = cluster.engine_pids()

        def kill_one_engine(steps, total):
            for i, step in enumerate(steps):
                if i == 5:
                    os.kill(first, signal.SIGKILL)
                yield step

        outcome = batch.run(cluster.executor, progress=kill_one_engine)
        assert (outcome.computed, outcome.failed) == (60, 0)
        wait_for_engines(cluster, 2)
        pids = cluster.engine_pids()
        assert len(pids) == 2 and second in pids and first not in pids
        started += [p for p in psutil.Process().children(recursive=True) if p.pid not in before]
    assert len(store.select(sa.select(results.c.key))) == 60
    deadline = time.monotonic() + 10
    while any(p.is_running() and p.status() != "zombie" for p in started) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [p.cmdline() for p in started if p.is_running() and p.status() != "zombie"] == []


@pytest.mark.slow
def test_all_engines_are_replaced_but_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(cluster_module, "REPLACEMENTS_PER_ENGINE", 1)
    with Cluster(tmp_path / "cluster", engines=1) as cluster:
        for _ in range(2):
            executor, engines = cluster.executor()
            assert engines == 1
            with pytest.raises(EngineGoneError):
                executor.submit(signal.raise_signal, signal.SIGKILL).result()
        with pytest.raises(ClusterError, match="all 2 engines are lost"):
            cluster.executor()


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.3, 1.5])
def test_an_interrupt_while_the_engines_start_is_quiet_and_leaves_nothing(tmp_path, after_s):
    code = (
        "import sys, threading, _thread, time; from sddfkit.factory import Cluster\n"
        f"with Cluster({str(tmp_path / 'clusters' / 'c')!r}, engines=1) as cluster:\n"
        "    print('ready', flush=True)\n"
        "    try: cluster.executor(); time.sleep(60)\n"
        "    except KeyboardInterrupt: print('interrupted', flush=True)\n"
    )
    job = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert job.stdout.readline() == "ready\n"
    time.sleep(after_s)
    job.send_signal(signal.SIGINT)
    said, complained = job.communicate(timeout=60)
    assert (said, complained, job.returncode) == ("interrupted\n", "", 0)
    assert not [item for item in marked() if item.folder.parent == tmp_path / "clusters"]
    assert list((tmp_path / "clusters").iterdir()) == []


def test_a_cluster_of_another_machine_is_never_touched(tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / OWNER_FILE).write_text(json.dumps(Owner("another-host", 1, 0.0)._asdict()))
    assert end_abandoned(tmp_path) == 0 and folder.exists()
    with (
        pytest.raises(ClusterError, match=r"belongs to process 1 on another-host.* remove the folder"),
        Cluster(folder, engines=1) as cluster,
    ):
        cluster.executor()
    assert read_owner(folder) == Owner("another-host", 1, 0.0)


def test_two_processes_may_make_a_store_together(tmp_path):
    code = (
        "import sys; from sddfkit.factory.store import Store\n"
        f"sys.stdin.readline(); Store({str(tmp_path / 'store.sqlite')!r}, wait_s=30).close()"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, text=True) for _ in range(4)]
    time.sleep(3)  # all of them have imported and wait for the word
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    assert [job.wait(timeout=60) for job in jobs] == [0] * 4
