"""How far a batch is, as numbers and as ``sddfkit watch``, from planted rows: every number is known, none computed."""

import dataclasses
import datetime as dt
import io
import json
import os
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy.dialects import sqlite

from sddfkit import store_command
from sddfkit.cli import main
from sddfkit.factory import Batch, StoreError, inbox
from sddfkit.factory import progress as module
from sddfkit.factory.costs import CostModel
from sddfkit.factory.progress import Learnt, frames, progress
from sddfkit.factory.store import Store, attempts, batches, calculations, records, requests

LEVELS = {"quick": "GFN2-xTB", "slow": "ωB97X/6-31G(d)"}


def ago(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).isoformat()


def calculation(key: str, *, batch: str, level: str, cost: float, state: str, failed_as: str | None = None) -> dict:
    return {
        "key": key, "record_id": f"record of {key}", "level": LEVELS[level], "program": "tblite",
        "program_version": "1", "label": f"molecule of {key}", "input": "{}", "cost": cost, "state": state,
        "error_class": failed_as, "error_message": f"took {key[-1]} s" if failed_as else None, "created": ago(7200),
        "batch": batch,
    }  # fmt: skip


def attempt(key: str, *, engine: str | None, ended_s_ago: float, wall_s: float, failed_as: str | None = None) -> dict:
    return {
        "key": key, "state": "failed" if failed_as else "done", "host": "node", "pid": 7, "engine": engine,
        "started": ended_s_ago + wall_s, "finished": ended_s_ago, "wall_s": wall_s, "cpu_s": 2.0 * wall_s,
        "peak_rss_mib": 100.0 + wall_s, "error_class": failed_as, "error_message": "why" if failed_as else None,
        "output_tail": "first line\nlast \x1b[31mwords" if failed_as else None,
    }  # fmt: skip


CALCULATIONS = [
    calculation("d1", batch="a", level="quick", cost=10.0, state="done"),
    calculation("d2", batch="a", level="quick", cost=20.0, state="done"),
    calculation("d3", batch="a", level="slow", cost=10.0, state="done"),
    calculation("f1", batch="a", level="slow", cost=10.0, state="failed", failed_as="time"),
    calculation("f2", batch="a", level="slow", cost=10.0, state="failed", failed_as="time"),
    calculation("h1", batch="a", level="quick", cost=10.0, state="held", failed_as="killed"),
    calculation("a1", batch="a", level="quick", cost=10.0, state="ready", failed_as="unknown"),
    calculation("o1", batch="a", level="quick", cost=10.0, state="ready"),
    calculation("o2", batch="a", level="quick", cost=10.0, state="ready"),
    calculation("r1", batch="a", level="slow", cost=40.0, state="running"),
    calculation("z1", batch="b", level="quick", cost=10.0, state="done"),
    calculation("z2", batch="b", level="slow", cost=10.0, state="failed", failed_as="memory"),
]
ATTEMPTS = [
    attempt("d1", engine="node:1", ended_s_ago=3000.0, wall_s=10.0),
    attempt("d2", engine="node:1", ended_s_ago=120.0, wall_s=20.0),
    attempt("d3", engine="node:2", ended_s_ago=60.0, wall_s=30.0),
    attempt("f1", engine="node:2", ended_s_ago=100.0, wall_s=40.0, failed_as="time"),
    attempt("f2", engine="node:2", ended_s_ago=140.0, wall_s=40.0, failed_as="time"),
    attempt("h1", engine="node:3", ended_s_ago=3400.0, wall_s=10.0, failed_as="killed"),
    attempt("h1", engine="node:3", ended_s_ago=3410.0, wall_s=10.0, failed_as="killed"),
    attempt("a1", engine="node:1", ended_s_ago=200.0, wall_s=5.0, failed_as="unknown"),
    attempt("z1", engine=None, ended_s_ago=5000.0, wall_s=10.0),
    attempt("z2", engine=None, ended_s_ago=5000.0, wall_s=11.0, failed_as="memory"),
]


def plant(path: Path, *, batch_rows: bool = True) -> Store:
    """Return a store opened for writing, filled with the rows above."""
    store = Store(path)
    documents = [
        {"record_id": item["record_id"], "molecule_id": "CCO", "name": item["label"], "document": json.dumps({"smiles": "OCC"}), "created": ago(7200)}  # noqa: E501
        for item in CALCULATIONS
    ]  # fmt: skip
    with store.writing() as connection:
        connection.execute(records.insert(), documents)
        connection.execute(calculations.insert(), [{k: v for k, v in c.items() if k != "batch"} for c in CALCULATIONS])
        times = [{name: ago(item[name]) for name in ("started", "finished")} for item in ATTEMPTS]
        connection.execute(attempts.insert(), [{**item, **when} for item, when in zip(ATTEMPTS, times, strict=True)])
        connection.execute(requests.insert(), [{"batch": c["batch"], "key": c["key"]} for c in CALCULATIONS])
        if batch_rows:
            rows = [
                {"name": n, "timeout_s": 600.0, "memory_gib": 4.0, "created": c} for n, c in (("b", "1"), ("a", "2"))
            ]
            connection.execute(batches.insert(), rows)
    return store


PER_COST = SimpleNamespace(seconds=lambda level, program, cost: cost if level == LEVELS["quick"] else 3.0 * cost)


@pytest.fixture
def store(tmp_path):
    with plant(tmp_path / "store.sqlite") as opened:
        yield opened


def test_counts_are_those_of_the_rows(store):
    for batch in (None, "a", "b"):
        mine = [item for item in CALCULATIONS if batch in (None, item["batch"])]
        now = progress(store, batch)
        counted = {(group.level, group.state, group.error_class): group.calculations for group in now.groups}
        wanted: dict = {}
        for item in mine:
            which = (item["level"], item["state"], item["error_class"] or "")
            wanted[which] = wanted.get(which, 0) + 1
        assert counted == wanted
        assert now.total == len(mine) == now.done + now.failed + now.open
        assert now.states == {
            state: sum(item["state"] == state for item in mine)
            for state in ("ready", "running", "done", "failed", "held")
        }
        keys = {item["key"] for item in mine}
        tries = [item for item in ATTEMPTS if item["key"] in keys]
        assert now.attempts == len(tries) and now.wall_s == sum(item["wall_s"] for item in tries)
        assert now.core_hours == pytest.approx(sum(item["cpu_s"] for item in tries) / 3600)
        assert now.peak_rss_mib == max(item["peak_rss_mib"] for item in tries)
    assert now.error_classes == {"memory": 1} and now.batches == ("b", "a")


def test_speed_counts_results_in_the_window_and_since_the_start(store):
    now = progress(store, "a", window_min=10.0)
    assert now.per_minute == pytest.approx(2 / 10) and now.elapsed_s >= 3420.0
    assert now.per_minute_overall == pytest.approx(3 / (now.elapsed_s / 60))
    assert progress(store, "a", window_min=55.0).per_minute == pytest.approx(3 / 55)


def test_engines_are_told_apart_and_those_without_a_name_are_called_after_their_host(store):
    engines = {item.engine: item for item in progress(store).engines}
    assert set(engines) == {"node:1", "node:2", "node:3", "node"}
    assert (engines["node:1"].done, engines["node:1"].failed, engines["node:1"].busy_s) == (2, 1, 35.0)
    assert engines["node:2"].busy == pytest.approx(110 / 120, rel=1e-3)
    assert [name for name, item in engines.items() if item.working] == ["node:1", "node:2"]


def test_an_engine_that_says_what_it_computes_is_at_work_though_it_has_finished_nothing(store):
    """Its host shares our spool, so that silence there means that there is nothing to do."""
    marker = store.spool / ".running.node.9.json"
    marker.write_text(json.dumps({"host": "node", "pid": 9, "process_started": 0.0, "keys": ["r1"]}))
    assert [item.engine for item in progress(store, "a").engines if item.working] == ["node:9"]
    marker.write_text(json.dumps({"host": "node", "pid": 9, "process_started": 0.0, "keys": ["z2"]}))
    assert [item.engine for item in progress(store, "a").engines if item.working] == ["node:1", "node:2"]


def test_time_left_is_what_is_open_over_the_engines_at_work(store):
    now = progress(store, "a", model=PER_COST)
    assert now.rest_s == 3 * 10.0 + 3 * 40.0
    assert now.rest_core_hours == pytest.approx(2 * now.rest_s / 3600)
    assert now.engines_working == 2
    assert now.eta_s == 120.0, "no engine can share the longest one"
    less = progress(store, "a", model=SimpleNamespace(seconds=lambda level, program, cost: 10.0))
    assert less.eta_s == 4 * 10.0 / 2 and "2 engines" in less.eta_how


def test_what_was_done_tells_how_long_the_rest_takes(store):
    model = CostModel.fit(store)
    quick, slow = (model.seconds(LEVELS[level], "tblite", cost) for level, cost in (("quick", 10.0), ("slow", 40.0)))
    for now in (progress(store, "a"), Learnt().look(store, "a")):
        assert now.rest_s == pytest.approx(3 * quick + slow)


def test_no_time_is_given_where_none_can_be_known(store, tmp_path):
    with store.writing() as connection:
        connection.execute(calculations.update().where(calculations.c.key == "o1").values(level="new"))
    now = progress(store, "a")
    assert (now.eta_s, now.rest_s) == (None, None) and "new" in now.eta_how
    store.close()
    with Store(store.path, read_only=True) as closed:
        later = progress(closed, "a", model=PER_COST)
    assert later.writer is None and later.eta_s is None and "no process" in later.eta_how
    assert later.engines_working == 0 and later.rest_s is not None
    with Store(tmp_path / "empty.sqlite") as empty:
        nothing = progress(empty)
    assert (nothing.total, nothing.eta_s, nothing.first, nothing.engines, nothing.batches) == (0, 0.0, None, (), ())


def test_alike_failures_come_together_with_an_example(store):
    time, killed = progress(store, "a").failures
    assert (time.error_class, time.count, time.held, killed.error_class, killed.held) == ("time", 2, 0, "killed", 1)
    assert time.smiles == "OCC" and time.output_tail.startswith("first line") and time.batches == ("a",)
    assert len(progress(store, failures=1).failures) == 1


def test_every_number_is_also_in_a_frame(store):
    found, now = frames(store, "a"), progress(store, "a")
    assert found["states"]["calculations"].sum() == now.total
    assert found["engines"]["done"].sum() == now.done
    assert found["failures"]["count"].sum() == now.failed
    assert found["attempts"]["wall_s"].sum() == now.wall_s and len(found["attempts"]) == now.attempts
    assert found["attempts"]["key"].tolist() == [item["key"] for item in ATTEMPTS[:8]]
    assert str(found["engines"]["last"].dt.tz) == "UTC" and found["attempts"].attrs["units"]["wall_s"] == "s"
    with Store(store.path.with_name("empty.sqlite")) as empty:
        assert all(len(frame) == 0 and len(frame.columns) > 3 for frame in frames(empty).values())


def test_everything_is_json(store):
    now = progress(store)
    document = json.loads(json.dumps(now.document()))
    assert document["groups"][0]["level"] == LEVELS["quick"] and document["states"] == dict(now.states)


def test_an_unknown_batch_is_refused_with_those_there_are(store):
    with pytest.raises(StoreError, match="no batch 'c'; its batches are b, a"):
        progress(store, "c")


def test_a_batch_of_a_store_that_wrote_no_dates_is_found(tmp_path):
    with plant(tmp_path / "old.sqlite", batch_rows=False) as store:
        assert progress(store, "a").batches == ("a", "b")


def test_counting_reads_no_inputs(store, monkeypatch):
    """An input has kilobytes, the index has none of it: that makes a look at 100,000 calculations quick."""
    asked = []
    with store._engine.connect() as connection:
        with monkeypatch.context() as patched:
            patched.setattr(store, "select", asked.append)
            for batch in (None, "a"):
                module._by_cost(store, batch)
        for statement in asked:
            text = str(statement.compile(dialect=sqlite.dialect(), compile_kwargs={"literal_binds": True}))
            steps = str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}").all())
            assert "USING COVERING INDEX queue" in steps
    assert len(asked) == 2


@pytest.fixture
def watched(store, monkeypatch):
    """The folder of a store that this process writes, at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    return store.path.parent


def test_a_look_is_plain_text_that_fits_and_says_it_all(watched, capsys):
    assert main(["watch", "--root", str(watched), "--batch", "a", "--once"]) == 0
    said = capsys.readouterr().out
    assert max(map(len, said.splitlines())) <= 80 and "\x1b" not in said
    assert "60 %  6 of 10" in said and f"process {os.getpid()} on" in said
    assert re.search(r"time +· +· +· +2 +·", said) and re.search(r"node:2 +at work +1 +2 ", said)
    assert "2 × time: took 1 s" in said and "│ last  [31mwords" in said and "OCC" in said


def test_a_look_as_json_holds_the_same_numbers(watched, store, capsys):
    assert main(["watch", "--store", str(watched / "store.sqlite"), "--json", "--once"]) == 0
    document = json.loads(capsys.readouterr().out)
    now = progress(store).document()
    assert {key: document[key] for key in ("states", "groups", "core_hours")} == json.loads(
        json.dumps({key: now[key] for key in ("states", "groups", "core_hours")})
    )


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["--batch", "c"], 1, "its batches are b, a"),
        (["--store", "nowhere"], 1, "there is no store"),
        (["--store", "mysql://x/y"], 2, "mysql"),
    ],
)
def test_what_cannot_be_watched_is_a_sentence(watched, capsys, monkeypatch, arguments, code, word):
    monkeypatch.setenv("SDDFKIT_ROOT", str(watched))
    assert main(["watch", "--once", *arguments]) == code
    assert word in capsys.readouterr().err


def test_looking_ends_when_nothing_is_open(watched, store, capsys):
    with store.writing() as connection:
        connection.execute(
            calculations.update().where(calculations.c.state.in_(("ready", "running"))).values(state="done")
        )
    assert main(["watch", "--root", str(watched), "--interval", "0.1"]) == 0
    assert "100 %  12 of 12  complete" in capsys.readouterr().out


class Terminal(io.StringIO):
    """What a person sits at."""

    def isatty(self) -> bool:
        return True


def test_a_small_terminal_is_drawn_in_place_and_the_last_look_stays(watched, monkeypatch):
    looks = []

    def ending(store, *arguments, **options):
        """Look, and find nothing open the third time."""
        looks.append(progress(store, *arguments, **options))
        return looks[-1] if len(looks) < 3 else dataclasses.replace(looks[-1], open=0)

    monkeypatch.setattr(module, "progress", ending)
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("LINES", "12")
    monkeypatch.setenv("TERM", "xterm")
    assert main(["watch", "--root", str(watched), "--interval", "0.1"]) == 0
    during, after = sys.stdout.getvalue().split("\x1b[?1049l")
    assert during.startswith("\x1b[?1049h") and "66 %" in during and "took 1 s" not in during
    assert "66 %" in after and "took 1 s" in after, "all that was known is left on the screen"


def test_a_batch_tells_its_own_progress_and_has_a_view(store):
    batch = Batch(store, "a")
    assert batch.progress().groups == progress(store, "a").groups
    assert {name: len(frame) for name, frame in batch.frames().items()} == {
        name: len(frame) for name, frame in frames(store, "a").items()
    }
    view = batch.monitor(interval_s=60.0)
    view.close()
    assert "Batch a" in view.head and "3 failed" in view.failures and "<svg" in view.failures


def test_stopping_is_asked_of_the_process_that_works(store, watched, monkeypatch, capsys):
    monkeypatch.setattr(store_command, "TAKEN_WITHIN_S", 0.0)
    assert main(["store", "stop", "--store", str(watched), "--batch", "a"]) == 0
    assert f"process {os.getpid()}" in capsys.readouterr().out
    (request,) = inbox.take(store.inbox, "a")
    assert (request["do"], request["batch"], request["now"]) == ("stop", "a", False)
    store.close()
    assert main(["store", "stop", "--store", str(watched)]) == 0
    assert "nothing to stop" in capsys.readouterr().out
    assert list(store.inbox.glob("*.json")) == []
