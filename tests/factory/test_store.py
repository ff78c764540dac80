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
from sddfkit.processes import started

RECORD = {"record_id": "r1", "molecule_id": "O", "name": "water", "positions": [[0.0, 0.0, 0.1]]}


def test_records_are_kept_once_and_come_back_unchanged(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        assert store.add_records([RECORD]) == 1
        assert store.add_records([RECORD, {**RECORD, "record_id": "r2"}]) == 1
        assert store.record("r1") == RECORD
    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        assert store.record("r2")["record_id"] == "r2"


def test_unknown_record_is_named(tmp_path):
    with Store(tmp_path / "store.sqlite") as store, pytest.raises(StoreError, match="no record nobody"):
        store.record("nobody")


def test_a_failed_change_leaves_nothing(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        with pytest.raises(RuntimeError), store.writing() as connection:
            connection.execute(module.meta.insert().values(name="half", value="done"))
            raise RuntimeError
        assert [row["name"] for row in store.select(sa.select(module.meta.c.name))] == ["schema_version", "store_id"]


def test_reading_writes_nothing(tmp_path):
    Store(tmp_path / "store.sqlite").close()
    with Store(tmp_path / "store.sqlite", read_only=True) as store, pytest.raises(StoreError, match="read-only"):
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


def test_claims_of_a_dead_writer_are_ready_again(tmp_path):
    path = tmp_path / "store.sqlite"
    code = (
        "import os, sys\nfrom sddfkit.factory.store import Store, calculations\n"
        f"store = Store({str(path)!r})\n"
        "row = dict(level='l', program='p', program_version='1', label='x', input='{}', cost=1.0, created='')\n"
        "with store.writing() as connection:\n"
        "    connection.execute(store.insert(calculations), [\n"
        "        {**row, 'key': 'a', 'state': 'running', 'claimed_by': store.lease_id},\n"
        "        {**row, 'key': 'b', 'state': 'done', 'claimed_by': None}])\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    columns = sa.select(calculations.c.key, calculations.c.state, calculations.c.claimed_by)
    with Store(path, read_only=True) as store:
        assert [row["state"] for row in store.select(columns.order_by(calculations.c.key))] == ["running", "done"]
    with Store(path) as store:
        rows = store.select(columns.order_by(calculations.c.key))
        assert [(row["state"], row["claimed_by"]) for row in rows] == [("ready", None), ("done", None)]
        with store.writing() as connection:
            mine = calculations.update().where(calculations.c.key == "a")
            connection.execute(mine.values(state="running", claimed_by=store.lease_id))
    with Store(path, read_only=True) as store:
        assert store.states("a")["a"]["state"] == "ready", "closing gives claims back"


def test_another_schema_version_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store, store.writing() as connection:
        connection.execute(module.meta.update().values(value="99"))
    with pytest.raises(StoreError, match="schema version 99"):
        Store(path)


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


def test_a_round_is_kept_in_order(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        store.add_records([RECORD, {**RECORD, "record_id": "r0"}])
        chosen = [{"record_id": r, "score": s, "reason": "why"} for r, s in (("r1", 2.0), ("r0", 1.0))]
        store.add_round("run", 0, chosen)
        store.add_round("run", 0, chosen)
        rows = store.select(sa.select(module.rounds).order_by(module.rounds.c.rank))
    assert [(row["record_id"], row["rank"]) for row in rows] == [("r1", 0), ("r0", 1)]


def test_the_writer_gives_its_lease_back(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        assert store.select(sa.select(module.lease))[0]["pid"] == os.getpid()
        store.heartbeat()
    with Store(tmp_path / "store.sqlite", read_only=True) as store:
        assert store.select(sa.select(module.lease)) == []
        assert json.loads(json.dumps([dict(r) for r in store.select(sa.select(module.meta))]))
