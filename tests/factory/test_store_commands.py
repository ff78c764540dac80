"""``sddfkit store`` on stores that batches of real GFN2-xTB calculations filled."""

import csv
import io
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import zlib
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from sddfkit import store_command
from sddfkit.cli import main
from sddfkit.data.records import Record
from sddfkit.factory import Batch, Store, StoreError, inbox, plan
from sddfkit.factory import sqlite as module
from sddfkit.factory.jobs import plan_atoms, record_document
from sddfkit.factory.store import calculations
from sddfkit.factory.survey import COLUMNS
from sddfkit.qc import supervisor
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
WATER = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
FAILS = {  # by name of the record: class and message
    "slow": ("time", "took longer than {} s"),
    "slower": ("time", "took longer than {} s"),
    "hungry": ("killed", "killed by signal 9"),
    "wrong": ("input", "the program knows no such keyword"),
}


def water(number: int, name: str = "water") -> Record:
    return Record(
        record_id=f"{name}-{number}",
        molecule_id="O",
        name=name,
        smiles="O",
        conformer=number,
        charge=0,
        multiplicity=1,
        atomic_numbers=np.array([8, 1, 1], dtype=np.int32),
        positions=WATER * (1 + 0.01 * number),
        bonds=np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32),
        formal_charges=np.zeros(3, dtype=np.int32),
    )


class Here:
    """An executor in this process: it computes, or fails as it was told to."""

    def __init__(self, fails: dict[str, tuple[str, str]]) -> None:
        self.fails = fails
        self.computed = 0

    def submit(self, function, jobs, **limits):
        future: Future = Future()
        future.set_result([self.answer(function, job, limits) for job in jobs])
        return future

    def answer(self, function, job, limits):
        if job["key"] not in self.fails:
            return function([job], **limits)[0]
        error_class, message = self.fails[job["key"]]
        self.computed += 1
        outcome = {
            "key": job["key"], "success": False, "result": {}, "error_class": error_class, "error_message": message,
            "host": "here", "pid": 7, "started": f"2026-01-01T00:00:0{self.computed}", "finished": "2026-01-01",
            "wall_s": 3600.0, "cpu_s": 1800.0, "peak_rss_mib": 512.0, "output_tail": "iteration 1\nlast words",
        }  # fmt: skip
        path = Path(limits["spool"]) / f"{job['key']}.json"
        path.write_text(json.dumps(outcome))
        return {**{name: value for name, value in outcome.items() if name != "result"}, "path": str(path)}


def fill(path: Path, records: list[Record], *, atoms: bool = False, run: bool = True) -> list[str]:
    """Label records and return their keys."""
    asked, refusals = plan(records, LEVEL, LEVEL.choose())
    assert not refusals
    with Store(path) as store:
        store.add_records(record_document(record) for record in records)
        batch = Batch(store, "b")
        batch.add([*asked, *(plan_atoms({1, 8}, LEVEL, LEVEL.choose()).values() if atoms else ())])
        fails = {
            item.key: (FAILS[item.label][0], FAILS[item.label][1].format(i))
            for i, item in enumerate(asked)
            if item.label in FAILS
        }
        if run:
            batch.run(lambda: (Here(fails), 1))
    return [item.key for item in asked]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A store with 3 waters and 2 atoms done, 3 failed and 1 held; and one with 2 of those waters and 2 more."""
    folder = tmp_path_factory.mktemp("stores")
    names = ["slow", "slower", "hungry", "wrong"]
    waters = [water(i) for i in range(3)]
    keys = fill(folder / "a.sqlite", [*waters, *(water(10 + i, name) for i, name in enumerate(names))], atoms=True)
    fill(folder / "b.sqlite", [waters[1], waters[2], water(3), water(4), water(20, "wrong")])
    supervisor.close()
    return folder, dict(zip(["water 0", "water 1", "water 2", *names], keys, strict=True))


@pytest.fixture
def stores(filled, tmp_path, monkeypatch):
    """Copies of both in the working folder, the first one where the verbs have theirs."""
    folder, _ = filled
    (tmp_path / "sddfkit-data").mkdir()
    shutil.copy(folder / "a.sqlite", tmp_path / "sddfkit-data" / "store.sqlite")
    shutil.copy(folder / "b.sqlite", tmp_path / "b.sqlite")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SDDFKIT_ROOT", raising=False)
    monkeypatch.delenv("SDDFKIT_DEBUG", raising=False)
    return tmp_path / "sddfkit-data" / "store.sqlite", tmp_path / "b.sqlite"


@pytest.fixture
def said(capsys):
    """Run a command that must end with a code, and return what it printed."""

    def run(*arguments: str, code: int = 0) -> str:
        assert main(["store", *arguments]) == code
        done = capsys.readouterr()
        assert "Traceback" not in done.err
        return done.out + done.err

    return run


def change(path: Path, statement: str, *values) -> None:
    with sqlite3.connect(path) as connection:
        assert connection.execute(statement, values).rowcount > 0
    connection.close()


def states(path: Path) -> dict[str, int]:
    with Store(path, read_only=True) as store:
        rows = store.select(sa.select(calculations.c.state))
    found = [row["state"] for row in rows]
    return {state: found.count(state) for state in sorted(set(found))}


def test_stats_count_and_add_up(stores, said):
    found = json.loads(said("stats", "--json"))
    assert found["states"] == {"done": 5, "failed": 3, "held": 1} and found["records"] == 7
    assert found["error_classes"] == {"input": 1, "killed": 1, "time": 2}
    assert found["attempts"] == 10  # the killer was tried twice
    assert found["core_hours"] == pytest.approx(5 * 0.5, abs=0.05) and found["peak_rss_mib"] >= 512
    assert found["writer"] is None and found["spooled"] == 0 and found["file_bytes"] >= stores[0].stat().st_size
    rows = list(csv.DictReader(io.StringIO(said("stats", "--csv"))))
    assert sum(int(row["calculations"]) for row in rows) == 9 and {row["level"] for row in rows} == {"GFN2-xTB"}
    text = said("stats")
    assert "calculations: 9 (done 5, failed 3, held 1) of 7 records" in text and "nobody writes it" in text
    assert text.count("\n") == 4 + 1 + len(rows)


def test_failures_are_grouped_beyond_their_numbers(stores, filled, said):
    found = json.loads(said("failures", "--json"))
    assert [(item["error_class"], item["count"], item["held"]) for item in found] == [
        ("time", 2, 0), ("input", 1, 0), ("killed", 1, 1),
    ]  # fmt: skip
    assert found[2]["key"] == filled[1]["hungry"] and found[2]["batches"] == ["b"] and found[2]["molecule_id"] == "O"
    text = said("failures", "--class", "time")
    assert (
        "2 × time: took longer than" in text and "(O)" in text and "    | last words" in text and "killed" not in text
    )
    assert "and 2 groups more, with 2 failures" in said("failures", "--limit", "1")
    assert said("failures", "--class", "disk") == "no failures of class disk\n"


def test_retry_opens_what_may_be_opened(stores, filled, said):
    assert "ready again: 2 (time 2)" in said("retry", "--class", "time")
    assert "ready again: 1 (killed 1)" in said("retry")
    assert "nothing to retry" in said("retry")
    assert states(stores[0]) == {"done": 5, "failed": 1, "ready": 3}
    assert "name single ones by key" in said("retry", "--class", "input", code=2)
    assert "is done; only failed and held ones" in said("retry", "--key", filled[1]["water 0"], code=2)
    assert "no calculation begins" in said("retry", "--key", "0" * 20, code=2)
    assert "is no key" in said("retry", "--key", "%%%%%%%", code=2)
    assert "ready again: 1 (input 1)" in said("retry", "--key", filled[1]["wrong"][:12])
    with Store(stores[0]) as store:
        batch = Batch(store, "b")
        assert batch.run(lambda: (Here({filled[1]["hungry"]: ("killed", "again")}), 1)).computed == 3
    supervisor.close()
    assert states(stores[0]) == {"done": 8, "held": 1}  # one more try, and it is held again
    assert "whole" in said("verify")


def test_a_living_writer_is_named_and_readers_are_welcome(stores, said, monkeypatch):
    code = f"from sddfkit.factory import Store; import sys; Store({str(stores[0])!r}); print('open'); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "open\n"
        who = f"process {other.pid} on {socket.gethostname()}"
        monkeypatch.setattr(store_command, "TAKEN_WITHIN_S", 0.1)
        assert f"retry: left for {who}" in said("retry", "--class", "time")
        assert [r["classes"] for r in inbox.take(stores[0].parent / "inbox")] == [["time"]]
        assert who in said("merge", "b.sqlite", code=1)
        assert f"{who} writes it" in said("stats")
        assert "whole" in said("verify") and "time" in said("failures")
        assert states(stores[0]) == {"done": 5, "failed": 3, "held": 1}
        change(stores[0], "update attempts set state = 'running' where state = 'failed'")
        assert "whole" in said("verify")
    finally:
        other.kill()
        other.wait()
    assert "it is running, but no living process that writes the store has it" in said("verify", code=1)


def document(path: Path, key: str) -> dict:
    with Store(path, read_only=True) as store:
        return store.result(key)


def packed(content: dict) -> bytes:
    return zlib.compress(json.dumps(content).encode())


def test_a_store_is_whole_or_verify_says_what_is_wrong(stores, filled, said):
    assert "whole; 9 calculations and 5 results read" in said("verify")
    path, keys = stores[0], filled[1]
    first, second, third = (keys[f"water {i}"] for i in range(3))
    other = document(path, second)
    hot = document(path, third)
    hot["properties"]["return_energy"] *= 27.2114
    change(path, "update results set document = ? where key = ?", packed(other), first)
    change(path, "delete from results where key = ?", second)
    change(
        path, "update results set document = ?, energy_hartree = ? where key = ?",
        packed(hot), hot["properties"]["return_energy"], third,
    )  # fmt: skip
    change(path, "update calculations set input = replace(input, '0.2', '0.3') where key = ?", keys["slow"])
    change(path, "update calculations set state = 'lost' where key = ?", keys["hungry"])
    found = json.loads(said("verify", "--json", code=1))
    problems = {item["key"]: item["what"] for item in found["problems"]}
    assert len(problems) == len(found["problems"]) == 5 and found["done"] == 4
    assert problems[first] == "its result is of another calculation: the input hashes to another key"
    assert problems[second] == "it is done, but has no result"
    assert "cannot be in hartree" in problems[third]
    assert problems[keys["slow"]] == "its input hashes to another key"
    assert "its state is 'lost'" in problems[keys["hungry"]]
    text = said("verify", code=1)
    assert f"{second[:12]}: it is done, but has no result" in text and "not whole (5 found)" in text


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda d: d["properties"].update(return_energy=float("nan")), "its energy is nan"),
        (lambda d: d["return_result"].__setitem__(0, float("inf")), "NaN or infinity"),
        (lambda d: d.update(return_result=d["return_result"][:3]), "3 numbers for 3 atoms"),
        (lambda d: d.update(success=False), "says that it failed"),
        (lambda d: d.pop("properties"), "cannot be read (KeyError"),
        (lambda d: d["properties"].update(return_energy=-5.0), "in the table and -5.0 in the result"),
    ],
)
def test_verify_reads_results(stores, filled, said, spoil, sentence):
    key = filled[1]["water 0"]
    content = document(stores[0], key)
    spoil(content)
    change(stores[0], "update results set document = ? where key = ?", packed(content), key)
    text = said("verify", code=1)
    assert f"{key[:12]}: " in text and sentence in text and "(1 found)" in text


def test_a_cut_result_and_a_damaged_file_are_found(stores, filled, said):
    path, key = stores[0], filled[1]["water 0"]
    change(path, "update results set document = substr(document, 1, 100) where key = ?", key)
    assert f"{key[:12]}: its result cannot be read" in said("verify", code=1)
    change(path, "update requests set key = 'nobody' where key = ?", key)
    text = said("verify", code=1)
    assert "1 rows of requests refer to calculations that are not there" in text and "(2 found)" in text
    content = bytearray(path.read_bytes())
    content[4096 * 3 :] = b"\xff" * (len(content) - 4096 * 3)
    path.write_bytes(content)
    assert "damaged" in said("verify", code=1)


def test_merge_takes_results_once_and_keeps_conflicts_out(stores, filled, said):
    a, b = stores
    energies = "select key, energy_hartree from results order by key"
    with sqlite3.connect(b) as connection:
        theirs = dict(connection.execute(energies))
    text = said("merge", "b.sqlite")
    assert "2 results and 1 failures taken over, 2 known before, 0 still open there, 0 conflicts" in text
    assert states(a) == {"done": 7, "failed": 4, "held": 1}
    with sqlite3.connect(a) as connection:
        mine = dict(connection.execute(energies))
        attempts = connection.execute("select count(*) from attempts").fetchone()[0]
    assert theirs.items() <= mine.items() and attempts == 13
    assert "0 results and 0 failures taken over, 5 known" in said("merge", "b.sqlite")
    assert "whole; 12 calculations and 7 results" in said("verify")
    fill(a, [water(3), water(4)], run=False)
    with Store(a) as store:  # nothing is computed twice
        assert Batch(store, "b").open_count() == 0

    key = filled[1]["water 1"]
    wrong = document(b, key)
    wrong["properties"]["return_energy"] += 1e-3
    change(
        b, "update results set document = ?, energy_hartree = energy_hartree + 1e-3 where key = ?", packed(wrong), key
    )
    change(b, "update results set document = x'00' where key = ?", filled[1]["water 2"])
    text = said("merge", str(b), code=1)
    assert f"kept out {key[:12]}, water: its energy is" in text and "cannot be read" in text and "2 conflicts" in text
    with sqlite3.connect(a) as connection:
        assert dict(connection.execute(energies)) == mine


def test_merge_finishes_what_is_open_or_failed_here(stores, filled, said):
    a, _ = stores
    fill(Path("new.sqlite"), [water(0), water(5)], run=False)
    text = said("merge", "sddfkit-data", "b.sqlite", "--store", "new.sqlite")
    assert text.count("\n") == 2
    assert states(Path("new.sqlite")) == {"done": 7, "failed": 4, "held": 1, "ready": 1}
    change(a, "update calculations set state = 'failed', error_class = 'time' where key = ?", filled[1]["water 0"])
    change(a, "delete from results where key = ?", filled[1]["water 0"])
    assert "3 results" in said("merge", "new.sqlite")
    with Store(a, read_only=True) as store:
        assert store.states([filled[1]["water 0"]])[filled[1]["water 0"]]["error_class"] is None
    assert "whole" in said("verify")
    assert "a new store" in said("merge", "b.sqlite", "--store", "sqlite:///fresh.sqlite")
    assert states(Path("fresh.sqlite")) == {"done": 4, "failed": 1}
    assert "cannot be merged into itself" in said("merge", "b.sqlite", "--store", "b.sqlite", code=1)


def test_export_is_a_snapshot_to_train_on(stores, said):
    from sddfkit.workflows.label import load_snapshot

    assert "snapshot: 3 records" in said("export", "out/snapshot")
    records, atoms = load_snapshot(Path("out/snapshot"))
    assert [record.record_id for record in records] == ["water-0", "water-1", "water-2"] and sorted(atoms) == [1, 8]
    assert json.loads(Path("out/snapshot/manifest.json").read_text())["level"] == "GFN2-xTB"
    assert "exists" in said("export", "out/snapshot", code=1)
    assert "cannot be written: Not a directory; choose" in said("export", f"{stores[1]}/below", code=1)
    assert "nothing that is labelled" in said("export", "other", "--level", "GFN1-xTB", code=1)
    change(stores[0], "update calculations set level = 'another' where record_id = 'water-2'")
    assert "choose one by --level" in said("export", "other", code=1)
    assert "snapshot: 2 records" in said("export", "other", "--level", "GFN2-xTB")


def test_a_frame_has_a_row_per_calculation(stores, filled):
    with Store(stores[0], read_only=True) as store:
        frame = store.to_frame()
        assert list(frame.columns) == list(COLUMNS) and len(frame) == 9 and frame.attrs["units"]["wall_s"] == "s"
        hungry = frame.set_index("key").loc[filled[1]["hungry"]]
        assert (hungry.attempts, hungry.wall_s, hungry.host, hungry.state) == (2, 7200.0, "here", "held")
        assert hungry.started.year == 2026 and np.isnan(hungry.energy_hartree)
        done = store.to_frame("state = 'done' and record_id is not null")
        assert done.energy_hartree.between(-5.1, -5.0).all() and set(done.molecule_id) == {"O"}
        assert store.to_frame("label like ':x%'").dtypes["cpu_s"] == np.float64
        with pytest.raises(
            StoreError, match=r"where='stat = 1': no such column: stat; expected SQL on the columns key"
        ):
            store.to_frame("stat = 1")


def test_what_cannot_be_used_is_answered_by_a_sentence(stores, said, monkeypatch):
    for command in (["stats"], ["failures"], ["retry"], ["verify"], ["export", "x"]):
        assert "there is no store at" in said(*command, "--store", "nothing.sqlite", code=1)
    assert not Path("nothing.sqlite").exists()
    assert "expected the path of an SQLite file, sqlite:///PATH or postgresql" in said(
        "stats", "--store", "mysql://x/y", code=2
    )
    assert "there is no error class 'tme'" in said("retry", "--class", "tme", code=2)
    assert "there is no error class 'tme'" in said("failures", "--class", "tme", code=2)
    Path("text").write_text("no database " * 200)
    sqlite3.connect("other.sqlite").execute("create table t (x)").connection.commit()
    for name in ("text", "other.sqlite"):
        before = Path(name).read_bytes()
        for command in (["stats"], ["retry"], ["merge", "b.sqlite"]):
            assert "cannot be used as a store" in said(*command, "--store", name, code=1)
        assert "cannot be used as a store" in said("merge", name, code=1)
        assert Path(name).read_bytes() == before
    change(stores[1], "update meta set value = '99' where name = 'schema_version'")
    assert "schema version 99" in said("stats", "--store", "b.sqlite", code=1)
    monkeypatch.setenv("SDDFKIT_ROOT", "elsewhere")
    assert f"there is no store at {Path('elsewhere').absolute()}" in said("stats", code=1)


def test_a_lock_is_said(stores, said, monkeypatch):
    connect, pragmas = sqlite3.connect, module._set_pragmas

    def impatient(connection, record):
        pragmas(connection, record)
        connection.execute("PRAGMA busy_timeout=100")

    monkeypatch.setattr(module, "_set_pragmas", impatient)
    other = connect(stores[0], isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert "locked by another program" in said("retry", code=1)
    assert "calculations: 9" in said("stats")
    other.execute("ROLLBACK")
    other.execute("PRAGMA locking_mode=EXCLUSIVE")
    other.execute("update meta set value = value")
    monkeypatch.setattr(module.sqlite3, "connect", lambda *args, **named: connect(*args, **{**named, "timeout": 0.1}))
    assert "locked by another program" in said("stats", code=1)
    other.close()
    assert states(stores[0]) == {"done": 5, "failed": 3, "held": 1}


def test_help_is_quick_and_a_wrong_command_is_wrong(capsys):
    assert main(["--help"]) == 0 and "sddfkit store --help" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["store", "stat"])
    assert end.value.code == 2 and "stats" in capsys.readouterr().err
    code = (
        "import sys\nfrom sddfkit.cli import main\n"
        "try: main(['store', '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'mlflow', 'hydra', 'pyscf', 'numpy', 'sqlalchemy', 'ipyparallel'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ)
    assert all(f"\n    {name}" in done.stdout for name in ("stats", "failures", "retry", "verify", "merge", "export"))
