"""Real disks that are full or read-only: small file systems in memory, mounted for a test."""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from sddfkit.data.records import Record
from sddfkit.factory import Batch, Store, StoreError, plan
from sddfkit.factory.ingest import Arrived, ingest
from sddfkit.factory.jobs import record_document
from sddfkit.factory.store import attempts, records, results
from sddfkit.qc import supervisor
from sddfkit.qc.levels import Level
from sddfkit.qc.spool import drop_kept, kept, own_folders, read_kept

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
RECORD = {"record_id": "r1", "molecule_id": "O", "name": "water"}


class Disk:
    """A file system of its own, as small as asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def mount(self, options: str) -> None:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(self.folder)], check=True, capture_output=True
        )

    def remount(self, mode: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{mode}", str(self.folder)], check=True)

    def fill(self) -> None:
        """Leave not one free block."""
        descriptor = os.open(self.folder / "ballast", os.O_CREAT | os.O_WRONLY)
        try:
            while True:
                os.write(descriptor, b"0" * 4096)
        except OSError:
            pass
        finally:
            os.close(descriptor)

    def free(self) -> None:
        (self.folder / "ballast").unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    made.folder.mkdir()
    try:
        made.mount("size=1m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here: {error}")
    yield made
    subprocess.run(["umount", "-l", str(made.folder)], check=True)


@pytest.fixture
def own_spool(tmp_path, monkeypatch) -> Path:
    """Where engines of this test keep what they cannot put into the coordinator's spool."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "sddfkit" / "spool"


def waters(n: int) -> list[Record]:
    one = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
    return [
        Record(
            record_id=f"water-{i}", molecule_id="O", name="water", smiles="O", conformer=i, charge=0, multiplicity=1,
            atomic_numbers=np.array([8, 1, 1], dtype=np.int32), positions=one * (1 + 0.01 * i),
            bonds=np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32), formal_charges=np.zeros(3, dtype=np.int32),
        )
        for i in range(n)
    ]  # fmt: skip


def test_a_full_disk_is_said_and_nothing_is_lost(disk):
    path = disk.folder / "store.sqlite"
    Store(path).close()
    with (
        pytest.raises(StoreError, match="its disk is full; free some space there, then start the same"),
        Store(path) as store,
    ):
        disk.fill()
        for i in range(1000):
            store.add_records([{**RECORD, "record_id": f"r{i}", "name": "n" * 4000}])
    with Store(path, read_only=True) as reader:
        n = len(reader.select(sa.select(records.c.record_id)))
    assert n == i
    disk.free()
    with Store(path) as store:
        assert store.add_records([RECORD, {**RECORD, "record_id": f"r{i}"}]) == (2 if i < 2 else 1)
        assert len(store.select(sa.select(records.c.record_id))) >= n


def test_a_disk_that_is_full_from_the_start_is_said(disk):
    disk.fill()
    with pytest.raises(StoreError, match=r"full|No space left"):
        Store(disk.folder / "data" / "store.sqlite")
    disk.free()
    Store(disk.folder / "data" / "store.sqlite").close()


def test_what_happened_first_is_what_is_said(disk, caplog):
    with pytest.raises(ZeroDivisionError), Store(disk.folder / "store.sqlite") as store:
        store.add_records([RECORD])
        store._engine.dispose()  # a disk that is being written to cannot be made read-only
        disk.remount("ro")
        raise ZeroDivisionError
    assert "while closing: the store" in caplog.text and "read-only" in caplog.text


@pytest.mark.parametrize("killed", [False, True])
def test_a_store_on_a_read_only_disk_is_read_with_all_that_was_written(disk, killed):
    path = disk.folder / "store.sqlite"
    end = "os.kill(os.getpid(), 9)" if killed else "store.close()"
    code = (
        "import os, json; from sddfkit.factory import Store\n"
        f"store = Store({str(path)!r}); store.add_records([json.loads({json.dumps(json.dumps(RECORD))})]); {end}"
    )
    subprocess.run([sys.executable, "-c", code], check=not killed)
    for keep_index in (True, False):  # the log's index need not have survived with the log
        if not keep_index:
            path.with_name("store.sqlite-shm").unlink(missing_ok=True)
        disk.remount("ro")
        with Store(path, read_only=True) as store:
            assert store.record("r1") == RECORD
        with pytest.raises(StoreError, match=r"store\.sqlite cannot be written or opened .* make it writable"):
            Store(path)
        with pytest.raises(StoreError, match="cannot be made or written: Read-only"):
            Store(disk.folder / "new" / "store.sqlite")
        disk.remount("rw")
    Store(path).close()


def test_a_damaged_store_is_said(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.add_records([{**RECORD, "record_id": f"r{i}"} for i in range(500)])
    content = bytearray(path.read_bytes())
    content[8192:] = b"\xff" * (len(content) - 8192)
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"is damaged .* backup"), Store(path, read_only=True) as store:
        store.select(sa.select(records))


def test_a_locked_store_is_said(tmp_path, monkeypatch):
    path = tmp_path / "store.sqlite"
    with pytest.raises(StoreError, match="locked by another program"), Store(path) as store:
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA busy_timeout=100")
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        try:
            store.add_records([RECORD])
        finally:
            other.execute("ROLLBACK")
            other.close()


def test_a_result_that_finds_the_spool_full_is_kept_elsewhere(disk, own_spool):
    asked, _ = plan(waters(1), LEVEL, LEVEL.choose())
    job = {"key": asked[0].key, "input": asked[0].input}
    with Store(disk.folder / "store.sqlite") as store:
        owner = store.owner
    spool = str(disk.folder / "spool")
    disk.fill()
    answer = supervisor.calculate(job, spool=spool, timeout_s=60, memory_gib=4, owner=owner)
    supervisor.close()
    assert answer["success"] and answer["result"]["properties"]["return_energy"] == pytest.approx(-5.07, abs=0.01)
    assert Path(answer["path"]) == own_spool / owner.store / f"{asked[0].key}.json"
    changed = kept(owner.store)
    assert list(changed) == [asked[0].key]
    assert read_kept(owner.store, changed)[0]["result"] == answer["result"]
    drop_kept(owner.store, {asked[0].key: 1})
    assert kept(owner.store) == changed, "what has changed since it was handed over stays"
    for _ in range(2):
        drop_kept(owner.store, changed)
        assert kept(owner.store) == {} and not (own_spool / owner.store).exists()


def test_a_result_that_fits_on_no_disk_is_a_failure_of_the_disk(disk, tmp_path, monkeypatch):
    asked, _ = plan(waters(1), LEVEL, LEVEL.choose())
    monkeypatch.setenv("XDG_STATE_HOME", str(disk.folder / "state"))
    temporary = tmp_path / "tmp" / f"sddfkit-{os.getuid()}"
    temporary.mkdir(parents=True)
    temporary.chmod(0o777)  # open to all: somebody else could put results there
    monkeypatch.setattr(tempfile, "tempdir", str(temporary.parent))
    with Store(disk.folder / "store.sqlite") as store:
        owner = store.owner
    assert own_folders(owner.store) == [disk.folder / "state" / "sddfkit" / "spool" / owner.store]
    disk.fill()
    job = {"key": asked[0].key, "input": asked[0].input}
    answer = supervisor.calculate(job, spool=str(disk.folder / "spool"), timeout_s=60, memory_gib=4, owner=owner)
    supervisor.close()
    assert not answer["success"] and answer["error_class"] == "disk" and "result" not in answer
    assert f"{disk.folder}/spool/" in answer["error_message"] and f"{disk.folder}/state/" in answer["error_message"]
    disk.free()
    with Store(disk.folder / "store.sqlite") as store:
        store.add_records(record_document(record) for record in waters(1))
        batch = Batch(store, "b")
        batch.add(asked)
        assert ingest(store, [Arrived(asked[0].key, answer, None)]) == {asked[0].key: "ready"}
        assert batch.open_count() == 1, "it is tried again"


def test_a_batch_stopped_by_a_full_disk_goes_on_where_it_was(disk, own_spool):
    path = disk.folder / "store.sqlite"
    drawn = waters(12)
    asked, _ = plan(drawn, LEVEL, LEVEL.choose())
    with Store(path) as store:
        store.add_records(record_document(record) for record in drawn)
        Batch(store, "b").add(asked)

    def fill_after_four(steps, total):
        for i, step in enumerate(steps):
            if i == 3:
                disk.fill()
            yield step

    with ProcessPoolExecutor(1) as pool:
        with pytest.raises(StoreError, match="disk is full"), Store(path) as store:
            Batch(store, "b").run(lambda: (pool, 1), progress=fill_after_four)
        disk.free()
        with Store(path) as store:
            batch = Batch(store, "b")
            assert batch.open_count() < 9
            assert batch.run(lambda: (pool, 1)).failed == 0
            assert len(store.select(sa.select(results.c.key))) == 12
            assert [row["state"] for row in store.select(sa.select(attempts.c.state))] == ["done"] * 12
        pool.submit(supervisor.close).result()
