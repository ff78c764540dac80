import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import sqlalchemy as sa

from sddfkit.factory import sqlite
from sddfkit.factory import store as module
from sddfkit.factory.cluster import Owner
from sddfkit.factory.store import Store, StoreError, calculations
from sddfkit.factory.survey import failure_groups
from sddfkit.processes import started

RECORD = {"record_id": "r1", "molecule_id": "O", "name": "water", "positions": [[0.0, 0.0, 0.1]]}


def test_records_are_kept_once_and_come_back_unchanged(place):
    with place.open() as store:
        assert store.add_records([RECORD]) == 1
        assert store.add_records([RECORD, {**RECORD, "record_id": "r2"}]) == 1
        assert store.record("r1") == RECORD
    with place.open(read_only=True) as store:
        assert store.record("r2")["record_id"] == "r2"


def test_unknown_record_is_named(place):
    with place.open() as store, pytest.raises(StoreError, match="no record nobody"):
        store.record("nobody")


def test_a_failed_change_leaves_nothing(place):
    with place.open() as store:
        with pytest.raises(RuntimeError), store.writing() as connection:
            connection.execute(module.meta.insert().values(name="half", value="done"))
            raise RuntimeError
        assert sorted(row["name"] for row in store.select(sa.select(module.meta.c.name))) == [
            "last_lease", "schema_version", "store_id",
        ]  # fmt: skip


def test_reading_writes_nothing(place):
    place.open().close()
    with place.open(read_only=True) as store, pytest.raises(StoreError, match="read-only"):
        store.add_records([RECORD])


def test_a_living_writer_is_named_and_a_dead_one_is_succeeded(tmp_path):
    path = tmp_path / "store.sqlite"
    code = f"import sys; from sddfkit.factory.store import Store; Store({str(path)!r}); print('open'); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        with pytest.raises(StoreError, match=f"process {other.pid} "):
            Store(path)
        with Store(path, read_only=True) as reader:
            assert reader.select(sa.select(calculations)) == []
    finally:
        other.kill()
        other.wait()
    Store(path).close()


def test_a_writer_that_was_killed_and_not_waited_for_is_dead(tmp_path):
    path = tmp_path / "store.sqlite"
    code = f"import sys; from sddfkit.factory.store import Store; Store({str(path)!r}); print('open'); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        owner = Owner(socket.gethostname(), other.pid, started(other.pid))
        assert owner.lives()
        os.kill(other.pid, signal.SIGKILL)
        os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        Store(path).close()
        assert not owner.lives()
    finally:
        other.kill()
        other.wait()


def test_claims_of_a_dead_writer_are_ready_again(place):
    code = (
        "import os, sys\nfrom sddfkit.factory.store import Store, calculations\n"
        f"store = {place.code()}\n"
        "row = dict(level='l', program='p', program_version='1', label='x', input='{}', cost=1.0, created='')\n"
        "with store.writing() as connection:\n"
        "    connection.execute(store.insert(calculations), [\n"
        "        {**row, 'key': 'a', 'state': 'running', 'claimed_by': store.lease_id},\n"
        "        {**row, 'key': 'b', 'state': 'done', 'claimed_by': None}])\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    columns = sa.select(calculations.c.key, calculations.c.state, calculations.c.claimed_by)
    with place.open(read_only=True) as store:
        assert [row["state"] for row in store.select(columns.order_by(calculations.c.key))] == ["running", "done"]
    with place.open() as store:
        rows = store.select(columns.order_by(calculations.c.key))
        assert [(row["state"], row["claimed_by"]) for row in rows] == [("ready", None), ("done", None)]
        with store.writing() as connection:
            mine = calculations.update().where(calculations.c.key == "a")
            connection.execute(mine.values(state="running", claimed_by=store.lease_id))
    with place.open(read_only=True) as store:
        assert store.states("a")["a"]["state"] == "ready", "closing gives claims back"


def test_another_schema_version_is_refused(place):
    with place.open() as store, store.writing() as connection:
        connection.execute(module.meta.update().values(value="99"))
    with pytest.raises(StoreError, match="schema version 99"):
        place.open()


def test_what_is_no_store_is_refused(tmp_path):
    (tmp_path / "text").write_text("no database at all, but long enough to be read as one " * 20)
    with pytest.raises(StoreError, match="cannot be used as a store"):
        Store(tmp_path / "text")
    with pytest.raises(StoreError, match="is a folder"):
        Store(tmp_path)
    with pytest.raises(StoreError, match="there is no store"):
        Store(tmp_path / "nothing.sqlite", read_only=True)
    with pytest.raises(StoreError, match="cannot be made or written"):
        Store(tmp_path / "text" / "store.sqlite")


def test_a_network_file_system_is_refused(tmp_path, monkeypatch):
    assert sqlite.file_system(tmp_path)
    monkeypatch.setattr(sqlite, "file_system", lambda folder: "nfs4")
    with pytest.raises(StoreError, match="network file system \\(nfs4\\)"):
        Store(tmp_path / "store.sqlite")


def test_a_round_is_kept_in_order(place):
    with place.open() as store:
        store.add_records([RECORD, {**RECORD, "record_id": "r0"}])
        chosen = [{"record_id": r, "score": s, "reason": "why"} for r, s in (("r1", 2.0), ("r0", 1.0))]
        store.add_round("run", 0, chosen)
        store.add_round("run", 0, chosen)
        rows = store.select(sa.select(module.rounds).order_by(module.rounds.c.rank))
    assert [(row["record_id"], row["rank"]) for row in rows] == [("r1", 0), ("r0", 1)]


def test_the_writer_gives_its_lease_back(place):
    with place.open() as store:
        assert store.select(sa.select(module.lease))[0]["pid"] == os.getpid()
        store.heartbeat()
    with place.open(read_only=True) as store:
        assert store.select(sa.select(module.lease)) == []
        assert json.loads(json.dumps([dict(r) for r in store.select(sa.select(module.meta))]))


def test_awkward_text_does_not_break_a_store(place):
    tail = "wavefunction \x00 lost \udcff\nÅ \U0001f9ea"
    with place.open() as store:
        with store.writing() as connection:
            row = {"level": "l", "program": "p", "program_version": "1", "input": "{}", "cost": 1.0, "created": ""}
            connection.execute(
                store.insert(calculations), [{**row, "key": "k", "state": "held", "label": tail, "error_message": tail}]
            )
            connection.execute(
                store.insert(module.attempts), [{"key": "k", "state": "failed", "output_tail": tail, "host": "h"}]
            )
        shown = "wavefunction \\x00 lost \\udcff\nÅ \U0001f9ea"
        (group,) = failure_groups(store)
        assert (group["output_tail"], group["error_message"], group["label"]) == (shown, shown, shown)
        assert store.to_frame("label like '%Å%' and state <> ':x'").label.tolist() == [shown]


def test_any_number_of_keys_may_be_asked_for(place):
    row = {"level": "l", "program": "p", "program_version": "1", "input": "{}", "cost": 1.0, "created": "", "label": ""}
    with place.open() as store:
        with store.writing() as connection:
            rows = [{**row, "key": f"{i:06d}", "state": "ready"} for i in range(0, 40_000, 1000)]
            assert connection.execute(store.insert(calculations).on_conflict_do_nothing(), rows).rowcount in (40, -1)
        assert list(store.states(f"{i:06d}" for i in range(40_000))) == [row["key"] for row in rows]
        assert store.states([]) == {}


def test_a_lease_that_was_lost_is_taken_again_or_the_new_holder_is_named(place):
    with place.open() as store:
        number = store.lease_id
        with store.writing() as connection:
            connection.execute(module.lease.delete())
        store.heartbeat()
        assert [(row["id"], row["pid"]) for row in store.writers()] == [(number, os.getpid())]
        if not store.database.shared:
            with store.writing() as connection:
                connection.execute(module.lease.update().values(pid=1))
            with pytest.raises(StoreError, match=r"process 1 on .* has taken over the store"):
                store.heartbeat()


def test_the_url_of_a_file_is_its_path(tmp_path):
    with Store(f"sqlite:///{tmp_path}/store.sqlite") as store:
        assert (store.path, store.name) == (tmp_path / "store.sqlite", str(tmp_path / "store.sqlite"))
        assert store.spool == tmp_path / "spool"
    with pytest.raises(StoreError, match=r"mysql:// is no store: expected .* or postgresql\+psycopg://user@host/data"):
        Store("mysql://me@there/labels")
