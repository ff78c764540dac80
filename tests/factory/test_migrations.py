"""A store that version 1 of the code made and filled, with tblite's results for water, brought to this version.

``version_1/sqlite.sql`` is its dump, ``version_1/postgresql.sql`` what the same code would have made on a server.
"""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy as sa

from sddfkit.factory import migrations
from sddfkit.factory.schema import SCHEMA_VERSION, metadata
from sddfkit.factory.store import Store, StoreError, attempts, batches, calculations, requests, results, rounds
from sddfkit.factory.survey import stats
from sddfkit.factory.verify import verify

FOLDER = Path(__file__).parent / "version_1"


@pytest.fixture
def old(tmp_path) -> Path:
    path = tmp_path / "store.sqlite"
    with sqlite3.connect(path) as connection:
        connection.executescript((FOLDER / "sqlite.sql").read_text())
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()
    return path


@pytest.fixture
def old_on_server(old, server) -> str:
    """The same rows on a server."""
    url = server.new()
    engine, file = sa.create_engine(url), sa.create_engine(f"sqlite:///{old}")
    theirs = sa.MetaData()
    with engine.begin() as connection, file.connect() as source:
        for statement in (FOLDER / "postgresql.sql").read_text().splitlines():
            connection.exec_driver_sql(statement)
        theirs.reflect(connection)
        for table in theirs.sorted_tables:
            names = [column.name for column in table.columns if (table.name, column.name) != ("attempts", "id")]
            quoted = ", ".join(f'"{name}"' for name in names)
            rows = source.exec_driver_sql(f"SELECT {quoted} FROM {table.name} ORDER BY 1").mappings().all()
            if rows:
                connection.execute(table.insert(), [dict(row) for row in rows])
    engine.dispose()
    file.dispose()
    return url


def schema(engine: sa.Engine) -> dict[str, object]:
    """Everything that a database knows of its tables, but the order of their columns."""
    inspector = sa.inspect(engine)
    found: dict[str, object] = {}
    for name in inspector.get_table_names():
        columns = {c["name"]: (str(c["type"]), c["nullable"], c["default"]) for c in inspector.get_columns(name)}
        indexes = {
            item["name"]: (item["column_names"], item["unique"], item.get("column_sorting"))
            for item in inspector.get_indexes(name)
        }
        keys = [(k["constrained_columns"], k["referred_table"]) for k in inspector.get_foreign_keys(name)]
        primary = inspector.get_pk_constraint(name)["constrained_columns"]
        found[name] = (columns, indexes, sorted(keys), primary, inspector.get_unique_constraints(name))
    if engine.dialect.name == "sqlite":  # which does not tell how an index is sorted
        with engine.connect() as connection:
            kept = connection.exec_driver_sql("SELECT name, sql FROM sqlite_master WHERE type = 'index'")
            found["indexes"] = {name: sql and " ".join(sql.replace('"', "").split()) for name, sql in kept}
    return found


def check_content(store: Store) -> None:
    """All that the old store held is there, and can be used."""
    assert verify(store).problems == []
    assert stats(store)["states"] == {"done": 3, "failed": 1, "ready": 1}
    assert [len(store.select(sa.select(t))) for t in (attempts, results, requests, rounds, batches)] == [9, 3, 5, 1, 0]
    (hydrogen,) = store.select(sa.select(calculations).where(calculations.c.label == "atom 1"))
    assert store.result(hydrogen["key"])["properties"]["return_energy"] == pytest.approx(-0.3934828, abs=1e-6)
    assert {row["claimed_by"] for row in store.select(sa.select(calculations))} == {None}
    assert {row["recipe"] for row in store.select(sa.select(attempts))} == {None}


def test_a_migrated_store_is_as_a_new_one(old, tmp_path, caplog):
    with Store(old) as store, Store(tmp_path / "new.sqlite") as new:
        assert schema(store._engine) == schema(new._engine)
        check_content(store)
        with store.writing() as connection:
            connection.execute(calculations.update().values(state="running", claimed_by=store.lease_id))
    copy = tmp_path / "store.sqlite.v1.bak"
    assert f"from version 1 to {SCHEMA_VERSION}; as it was, it is kept as {copy}" in caplog.text
    caplog.clear()
    with sqlite3.connect(copy) as kept, sqlite3.connect(":memory:") as first:
        first.executescript((FOLDER / "sqlite.sql").read_text())
        assert list(kept.iterdump()) == list(first.iterdump())
    kept.close()
    Store(old).close()
    assert not caplog.text and sorted(p.name for p in tmp_path.glob("*.bak*")) == [copy.name]


def test_an_old_store_is_read_as_it_is(old, tmp_path):
    before = old.read_bytes()
    with Store(old, read_only=True) as store:
        check_content(store)
        assert store.to_frame("state = 'done'").energy_hartree.notna().all()
    assert old.read_bytes() == before and not list(tmp_path.glob("*.bak"))


def test_a_migration_that_fails_or_dies_leaves_the_old_store(old, monkeypatch):
    def fail(connection, version):
        connection.exec_driver_sql("ALTER TABLE attempts ADD COLUMN engine VARCHAR")
        connection.exec_driver_sql("UPDATE meta SET value = '2' WHERE name = 'schema_version'")
        raise ZeroDivisionError

    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(migrations, "migrate", fail)
        Store(old)
    code = (
        "import os\nfrom sddfkit.factory import migrations\nfrom sddfkit.factory.store import Store\n"
        "whole = migrations.migrate\n"
        "def dies(connection, version):\n    whole(connection, version)\n    os.kill(os.getpid(), 9)\n"
        f"migrations.migrate = dies\nStore({str(old)!r})"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    with sqlite3.connect(old) as connection:
        assert connection.execute("SELECT value FROM meta WHERE name = 'schema_version'").fetchone() == ("1",)
        assert "engine" not in [row[1] for row in connection.execute("PRAGMA table_info(attempts)")]
    connection.close()
    with Store(old) as store:
        check_content(store)


def test_no_copy_no_migration(old, tmp_path):
    (tmp_path / "store.sqlite.v1.bak").mkdir()
    (tmp_path / "store.sqlite.v1.bak" / "somebody's").touch()
    with pytest.raises(StoreError, match=r"was not changed, because the copy store\.sqlite\.v1\.bak cannot be made"):
        Store(old)
    with Store(old, read_only=True) as store:
        check_content(store)
    assert not list(tmp_path.glob("*.partial"))


def test_of_two_that_open_an_old_store_one_brings_it_to_this_version(old, tmp_path):
    code = (
        "import sys, logging\nlogging.basicConfig(level='WARNING')\nfrom sddfkit.factory.store import Store\n"
        f"print('ready', flush=True); sys.stdin.readline(); Store({str(old)!r}, wait_s=60).close()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    jobs = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]
    assert [job.stdout.readline() for job in jobs] == ["ready\n"] * 2
    said = []
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    for job in jobs:
        said.append(job.communicate(timeout=120)[1])
        assert job.returncode == 0, said
    assert "".join(said).count("is brought from version 1") == 1
    with Store(old) as store:
        check_content(store)


def test_alembic_is_loaded_only_where_a_version_differs(old, tmp_path):
    code = (
        "import sys\nfrom sddfkit.factory.store import Store\n"
        "Store(sys.argv[1]).close()\nprint('alembic' in sys.modules)"
    )
    for path, loaded in ((tmp_path / "new.sqlite", "False"), (old, "True"), (old, "False")):
        done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, env=os.environ)
        assert done.stdout == f"{loaded}\n", done.stderr


@pytest.mark.long
def test_a_migrated_store_on_a_server_is_as_a_new_one(old_on_server, server, tmp_path):
    with pytest.raises(StoreError, match=r"has schema version 1, .* open it once for writing"):
        Store(old_on_server, read_only=True)
    with Store(old_on_server) as store, Store(server.new(), spool=tmp_path / "spool") as new:
        assert schema(store._engine) == schema(new._engine)
        check_content(store)
        assert set(metadata.tables) <= set(schema(store._engine))
    with Store(old_on_server, read_only=True) as store:
        check_content(store)
