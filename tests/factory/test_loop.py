"""How the queue is worked through: an executor that answers as it is told, on stores as they are."""

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from sddfkit.data.records import Record
from sddfkit.factory import Batch, ClusterError, Store, StoreError, inbox, loop, plan
from sddfkit.factory.batch import Submitted
from sddfkit.factory.claims import claim, give_back, of_batch, open_groups
from sddfkit.factory.costs import CostModel
from sddfkit.factory.store import attempts, calculations, results
from sddfkit.processes import started
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.qc.spool import spool_path

GFN2 = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
TBLITE = ChosenProgram("tblite", "0.8.0", "")
GFN1 = Level(name="GFN1-xTB", method="GFN1-xTB", basis=None, programs={"tblite": {}})


def chain(number: int, carbons: int = 1) -> Record:
    """A row of carbon atoms, each number another one."""
    return Record(
        record_id=f"{carbons}-{number}", molecule_id="C" * carbons, name=f"chain {carbons}", smiles="C" * carbons,
        conformer=number, charge=0, multiplicity=1, atomic_numbers=np.full(carbons, 6, dtype=np.int32),
        positions=np.arange(carbons)[:, None] * [1.5, 0.0, 0.0] + [0.001 * number, 0.0, 0.0],
        bonds=np.zeros((0, 3), dtype=np.int32), formal_charges=np.zeros(carbons, dtype=np.int32),
    )  # fmt: skip


def done(job: dict[str, Any], wall_s: float = 1.0) -> dict[str, Any]:
    """An outcome that is right as far as anybody can see."""
    n_atoms = len(job["input"]["molecule"]["symbols"])
    result = {
        "input_data": job["input"], "properties": {"return_energy": -1.0 * n_atoms},
        "return_result": [0.0] * 3 * n_atoms, "success": True,
    }  # fmt: skip
    return outcome(job, success=True, result=result, wall_s=wall_s, cpu_s=wall_s)


def failed(job: dict[str, Any], error_class: str) -> dict[str, Any]:
    return outcome(job, success=False, result={}, error_class=error_class, error_message=f"{error_class} it is")


def outcome(job: dict[str, Any], **fields: Any) -> dict[str, Any]:
    stamp = f"{time.time_ns()}"
    return {"key": job["key"], "host": "here", "pid": 1, "started": stamp, "finished": stamp, "error_class": None,
            "error_message": None, **fields}  # fmt: skip


class Told:
    """Answers each job of a message by a function, writes the outcomes into the spool, and remembers the messages."""

    def __init__(self, answer: Callable[[dict[str, Any]], dict[str, Any]] = done) -> None:
        self.answer = answer
        self.messages: list[list[dict[str, Any]]] = []

    def __call__(self) -> tuple["Told", int]:
        return self, 2

    def submit(self, function: Any, jobs: list[dict[str, Any]], *, spool: str, owner: Any) -> Future:
        del function, owner
        self.messages.append(jobs)
        future: Future = Future()
        answers = []
        try:
            for job in jobs:
                found = self.answer(job)
                path = spool_path(spool, job["key"])
                path.write_text(json.dumps(found))
                answers.append({**{name: v for name, v in found.items() if name != "result"}, "path": str(path)})
            future.set_result(answers)
        except ConnectionError as lost:
            future.set_exception(lost)
        return future

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return [job for message in self.messages for job in message]


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "store.sqlite") as opened:
        yield opened


def asked(store: Store, records: list[Record], level: Level = GFN2, name: str = "b") -> Batch:
    batch = Batch(store, name, timeout_s=60, memory_gib=1)
    assert batch.submit(records, level, TBLITE) == Submitted(len(records), 0, [])
    return batch


def states(store: Store) -> dict[str, int]:
    rows = store.select(sa.select(calculations.c.state, sa.func.count().label("n")).group_by(calculations.c.state))
    return {row["state"]: row["n"] for row in rows}


def test_the_longest_are_claimed_first_across_levels_and_are_claimed_once(store):
    batch = asked(store, [chain(i, 1 + i % 5) for i in range(20)])
    batch.submit([chain(i, 3) for i in range(5)], GFN1, TBLITE)
    model = CostModel()
    for carbons in (1, 5):
        cost = (15.0 * carbons) ** 3
        model.learn("GFN2-xTB", "tblite", cost, 1e-6 * cost)
    groups = open_groups(store, "b")
    assert groups == [("GFN1-xTB", "tblite"), ("GFN2-xTB", "tblite")]
    first = claim(store, "b", groups, model, 6)
    assert [item.cost for item in first[:4]] == [75.0**3] * 4, "by cost, as nothing is known of one level"
    assert states(store) == {"ready": 19, "running": 6}
    model.learn("GFN1-xTB", "tblite", 45.0**3, 1000.0)
    second = claim(store, "b", groups, model, 6)
    assert [item.level for item in second] == ["GFN1-xTB"] * 5 + ["GFN2-xTB"]
    assert not {item.key for item in first} & {item.key for item in second}
    assert claim(store, "another batch", groups, model, 6) == []
    give_back(store, [item.key for item in first])
    assert states(store) == {"ready": 19, "running": 6}
    assert len(claim(store, "b", groups, model, 100)) == 19


def test_the_queue_is_an_index(store):
    asked(store, [chain(i) for i in range(50)])
    statement = (
        sa.select(calculations.c.key)
        .where(
            calculations.c.state == "ready", calculations.c.level == "GFN2-xTB", calculations.c.program == "tblite",
            of_batch("b"),
        )
        .order_by(calculations.c.cost.desc(), calculations.c.key)
        .limit(4)
    )  # fmt: skip
    compiled = statement.compile(dialect=store._engine.dialect, compile_kwargs={"literal_binds": True})
    steps = " ".join(row["detail"] for row in store.select(sa.text(f"explain query plan {compiled}")))
    assert "USING COVERING INDEX queue" in steps or "USING INDEX queue" in steps
    assert "B-TREE" not in steps.upper().replace("TEMP B-TREE FOR DISTINCT", ""), steps


def test_short_calculations_share_messages_and_long_ones_go_one_by_one(store):
    batch = asked(store, [chain(i) for i in range(300)])
    short = Told(lambda job: done(job, wall_s=0.01))
    assert batch.run(short).computed == 300
    assert len(short.messages) < 40 and max(map(len, short.messages)) > 20
    batch = asked(store, [chain(i, 40) for i in range(10)], name="long")
    long_ = Told(lambda job: done(job, wall_s=100.0))
    for _ in range(3):  # the model has seen none so long before, so the first ones may share
        batch.submit([chain(100 + _, 40)], GFN2, TBLITE)
        batch.run(long_)
    assert max(map(len, long_.messages[-5:])) == 1


def test_an_scf_climbs_and_memory_grows_and_each_step_is_in_the_record(store, monkeypatch):
    batch = asked(store, [chain(1), chain(2, 2)])
    climber, hungry = (row["key"] for row in store.select(sa.select(calculations).order_by(calculations.c.cost)))
    monkeypatch.setattr("sddfkit.factory.retry.rungs_of", lambda program: 2)
    monkeypatch.setattr("sddfkit.factory.ingest.rungs_of", lambda program: 2)

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        if job["key"] == climber and job["rung"] < 2:
            return {**failed(job, "convergence"), "recipe": f"rung {job['rung']}" if job["rung"] else None}
        if job["key"] == hungry and job["memory_gib"] < 4:
            return failed(job, "memory")
        return {**done(job), "recipe": f"rung {job['rung']}" if job["rung"] else None}

    told = Told(answer)
    outcome = batch.run(told)
    assert (outcome.computed, outcome.failed) == (2, 0)
    assert [job["rung"] for job in told.jobs if job["key"] == climber] == [0, 1, 2]
    assert [job["memory_gib"] for job in told.jobs if job["key"] == hungry] == [1, 2, 4]
    rows = store.select(sa.select(attempts).where(attempts.c.key == climber).order_by(attempts.c.id))
    assert [(row["state"], row["recipe"]) for row in rows] == [
        ("failed", None), ("failed", "rung 1"), ("done", "rung 2"),
    ]  # fmt: skip


def test_ladders_and_memory_end(store, monkeypatch):
    monkeypatch.setattr("sddfkit.factory.ingest.rungs_of", lambda program: 2)
    batch = asked(store, [chain(1), chain(2, 2)])
    told = Told(lambda job: failed(job, "convergence" if len(job["input"]["molecule"]["symbols"]) == 1 else "memory"))
    assert batch.run(told).failed == 2
    assert len(told.jobs) == 6 and states(store) == {"failed": 2}


def test_a_lost_engine_costs_only_what_it_had_not_finished(store):
    batch = asked(store, [chain(i) for i in range(100)])
    batch.run(Told(lambda job: done(job, wall_s=0.01)))
    batch = asked(store, [chain(100 + i) for i in range(60)], name="second")
    calls = 0

    def dies_at_the_tenth(job: dict[str, Any]) -> dict[str, Any]:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise ConnectionError("the engine is gone")
        return done(job)

    told = Told(dies_at_the_tenth)
    assert batch.run(told).computed == 60
    ends = np.cumsum([len(message) for message in told.messages])
    dying = int(np.argmax(ends >= 10))
    not_finished = int(ends[dying]) - 9
    assert not_finished > 1 and len(told.jobs) == 60 + not_finished
    rows = store.select(sa.select(attempts).where(attempts.c.state == "failed"))
    assert [row["error_class"] for row in rows] == ["engine_lost"], "those after it had not begun"
    assert rows[0]["key"] == told.jobs[9]["key"]
    assert len(store.select(sa.select(attempts.c.id).where(attempts.c.state == "done"))) == 160


def test_a_result_that_cannot_be_right_is_refused(store):
    batch = asked(store, [chain(1)])

    def wrong(job: dict[str, Any]) -> dict[str, Any]:
        answer = done(job)
        answer["result"]["return_result"][1] = float("nan")
        return answer

    told = Told(wrong)
    assert batch.run(told).failed == 1
    (row,) = store.select(sa.select(calculations))
    assert (row["state"], row["error_class"]) == ("failed", "unknown")
    assert row["error_message"] == "refused: its gradient holds NaN or infinity"
    assert not store.select(sa.select(results.c.key)) and len(told.jobs) == 2, "tried once more"
    assert not list(store.spool.glob("[!.]*"))


def test_what_an_engine_of_a_dead_coordinator_computes_is_waited_for(store):
    batch = asked(store, [chain(1), chain(2)])
    mine, other = sorted(row["key"] for row in store.select(sa.select(calculations.c.key)))
    engine = subprocess.Popen(["sleep", "60"])
    marker = store.spool / f".running.{os.uname().nodename}.{engine.pid}.json"
    about = {"host": os.uname().nodename, "pid": engine.pid, "process_started": started(engine.pid), "keys": [other]}
    marker.write_text(json.dumps(about))
    document = store.select(sa.select(calculations.c.input).where(calculations.c.key == other))[0]["input"]

    def arrive() -> None:
        job = {"key": other, "input": json.loads(document)}
        spool_path(store.spool, other).write_text(json.dumps(done(job)))
        marker.unlink()

    timer = threading.Timer(1.0, arrive)
    timer.start()
    told = Told()
    assert batch.run(told).computed == 2
    timer.join()
    engine.kill()
    engine.wait()
    assert [job["key"] for job in told.jobs] == [mine]


def test_what_a_dead_engine_had_is_computed_again(store):
    batch = asked(store, [chain(1)])
    (row,) = store.select(sa.select(calculations.c.key))
    marker = store.spool / f".running.{os.uname().nodename}.4194999.json"
    marker.write_text(
        json.dumps({"host": os.uname().nodename, "pid": 4194999, "process_started": 0.0, "keys": [row["key"]]})
    )
    assert batch.run(Told()).computed == 1


def test_another_process_may_ask_to_stop_and_to_retry(store):
    batch = asked(store, [chain(i, 1 + i) for i in range(30)])
    asks = 0

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        nonlocal asks
        asks += 1
        if asks == 4:
            inbox.leave(store.inbox, {"do": "stop", "batch": "b"})
        return done(job, wall_s=100.0)

    assert 4 <= batch.run(Told(answer)).computed < 12
    assert set(states(store)) == {"done", "ready"} and not list(store.inbox.glob("*.json"))
    inbox.leave(store.inbox, {"do": "stop", "batch": "another"})
    path = inbox.leave(store.inbox, {"do": "retry", "keys": ["0" * 20]})
    assert not inbox.waits_for(path, 0.1)
    assert batch.run(Told()).failed == 0
    assert states(store) == {"done": 30} and inbox.waits_for(path, 0.1)
    assert [request["batch"] for request in inbox.take(store.inbox)] == ["another"]
    with pytest.raises(ValueError, match="no request 'explode', only stop, retry"):
        inbox.leave(store.inbox, {"do": "explode"})


def test_a_batch_in_the_background_can_be_stopped_opened_and_asked(tmp_path):
    def slowly(job: dict[str, Any]) -> dict[str, Any]:
        time.sleep(0.02)
        return done(job, wall_s=100.0)

    class Here:
        executor = Told(slowly)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    with Store(tmp_path / "store.sqlite") as store:
        asked(store, [chain(i, 1 + i) for i in range(40)])
    with pytest.raises(Exception, match="has no batch 'c'; there: b"):
        Batch.open("c", tmp_path)
    with Batch.open("b", tmp_path) as batch:
        assert (batch.timeout_s, batch.memory_gib) == (60, 1)
        assert not batch.stop() and not batch.running and batch.wait() is None
        batch.start(Here())
        assert batch.running and batch.wait(0.2) is None
        batch.submit([chain(i, 50) for i in range(3)], GFN2, TBLITE)
        assert batch.stop()
        stopped = batch.wait(20)
        assert 0 < stopped.computed < 43
        batch.start(Here())
        assert batch.wait(20).computed == 43 - stopped.computed
        assert states(batch.store) == {"done": 43}
        bad = Told(lambda job: 1 / 0)
        batch.submit([chain(99)], GFN2, TBLITE)
        broken = Here()
        broken.executor = bad
        batch.start(broken)
        with pytest.raises(ZeroDivisionError):
            batch.wait(20)


def test_known_calculations_are_only_looked_up(store):
    records = [chain(i, 4) for i in range(30)]
    batch = asked(store, records)
    batch.run(Told())
    broken = records[0]._replace(record_id="overlap", positions=np.zeros((4, 3)))
    again = Batch(store, "again").submit([*records, broken], GFN2, TBLITE)
    assert (again.new, again.known) == (0, 30) and "closer than 0.5" in again.refusals[0].reason
    calculations_, refusals = plan(records, GFN2, TBLITE, known=lambda keys: store.states(keys).keys())
    assert not refusals and [item.input for item in calculations_] == [
        item.input for item in plan(records, GFN2, TBLITE)[0]
    ]
    assert Path(store.path).is_file()


def test_two_batches_never_run_on_one_store_at_once(store):
    first, second = asked(store, [chain(1)]), Batch(store, "second")
    second.submit([chain(1)], GFN2, TBLITE)

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        with pytest.raises(StoreError, match=r"the batch 'b' is running on .* in this process: wait for it"):
            second.run(Told())
        with pytest.raises(StoreError, match="being written by"):
            Store(store.path)
        return done(job)

    assert first.run(Told(answer)).computed == 1
    assert second.run(Told()).known == 1


def test_a_run_after_one_that_broke_off_in_the_middle_finds_all_that_is_left(store, monkeypatch):
    batch = asked(store, [chain(i) for i in range(8)])
    real = loop.ingest

    def breaks(*arguments):
        monkeypatch.setattr(loop, "ingest", real)
        raise StoreError("the disk is full")

    monkeypatch.setattr(loop, "ingest", breaks)
    with pytest.raises(StoreError, match="the disk is full"):
        batch.run(Told())
    assert batch.run(Told()).computed == 8


def test_a_request_to_stop_that_was_for_another_job_is_not_for_this_one(store):
    batch = asked(store, [chain(1)])
    inbox.leave(store.inbox, {"do": "stop"})
    (store.inbox / "0.json").write_text('{"do": "retry", "keys": 5, "by": 5}')
    time.sleep(0.01)
    assert batch.run(Told()).computed == 1
    assert not list(store.inbox.glob("*.json"))


def test_a_refused_result_in_an_engine_s_own_spool_is_computed_again(store):
    batch = asked(store, [chain(1)])

    class Far(Told):
        """Keeps what it computed, and gives it again as long as it is not told otherwise."""

        kept: dict[str, Any] | None = None

        def submit(self, function, jobs, *, spool, owner):
            (job,) = jobs
            self.messages.append(jobs)
            if self.kept is None or job["again"]:
                self.kept = done(job)
                if len(self.messages) == 1:
                    self.kept["result"]["return_result"][0] = float("inf")
            future: Future = Future()
            future.set_result([self.kept])
            return future

    far = Far()
    assert batch.run(far).computed == 1
    assert [job["again"] for job in far.jobs] == [False, True]


def test_another_version_of_the_program_is_refused(store):
    batch = asked(store, [chain(1)])

    def answer(job: dict[str, Any]) -> dict[str, Any]:
        outcome = done(job)
        outcome["result"]["provenance"] = {"version": "0.3.0"}
        return outcome

    assert batch.run(Told(answer)).failed == 1
    (row,) = store.select(sa.select(calculations.c.error_message))
    assert "computed by tblite 0.3.0 on here, and 0.8.0 was asked for" in row["error_message"]


def test_engines_without_room_do_not_fail_the_whole_queue(store):
    batch = asked(store, [chain(i) for i in range(200)])
    told = Told(lambda job: failed(job, "disk"))
    with pytest.raises(ClusterError, match=r"failed for want of disk space.*tried again when they are asked for again"):
        batch.run(told)
    assert len(told.jobs) < 60 and states(store)["ready"] > 150


def test_closing_a_store_that_was_taken_over_takes_nothing_from_its_successor(tmp_path):
    first = Store(tmp_path / "store.sqlite")
    asked(first, [chain(i) for i in range(4)])
    second = Store(tmp_path / "store.sqlite")
    assert second.lease_id != first.lease_id
    assert len(claim(second, "b", open_groups(second, "b"), CostModel(), 4)) == 4
    first.close()
    assert states(second) == {"running": 4}
    second.close()


def test_a_stop_right_after_the_start_is_heard(tmp_path):
    class Slow:
        def __enter__(self):
            time.sleep(0.3)
            return self

        def __exit__(self, *_):
            pass

        executor = Told()

    with Store(tmp_path / "store.sqlite") as store:
        batch = asked(store, [chain(i) for i in range(5)])
        batch.start(Slow())
        assert batch.stop() and batch.wait(20).computed == 0
        batch.start(Slow())
        assert batch.wait(20).computed == 5
