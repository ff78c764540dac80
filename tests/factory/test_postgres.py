"""A real PostgreSQL server: several coordinators, what goes wrong with a server, and stores that move to a file."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from sddfkit.cli import main
from sddfkit.factory import Batch
from sddfkit.factory.store import Store, StoreError, attempts, calculations, results
from sddfkit.factory.survey import stats
from sddfkit.factory.verify import verify
from sddfkit.qc.spool import TOKEN_FILE

pytestmark = pytest.mark.long

COORDINATOR = """
import sys
from concurrent.futures import ProcessPoolExecutor
import numpy as np
from sddfkit.data.records import Record
from sddfkit.factory import Batch, Store, plan
from sddfkit.factory.jobs import record_document
from sddfkit.qc import supervisor
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
WATER = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
drawn = [
    Record(record_id=f"water-{i}", molecule_id="O", name="water", smiles="O", conformer=i, charge=0, multiplicity=1,
           atomic_numbers=np.array([8, 1, 1], dtype=np.int32), positions=WATER * (1 + 0.002 * i),
           bonds=np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32), formal_charges=np.zeros(3, dtype=np.int32))
    for i in range(40)
]
if __name__ == "__main__":
    with Store(sys.argv[1], spool=sys.argv[2]) as store, ProcessPoolExecutor(1) as pool:
        store.add_records(record_document(record) for record in drawn)
        batch = Batch(store, "waters")
        batch.add(plan(drawn, LEVEL, LEVEL.choose())[0])
        print("ready", flush=True)
        sys.stdin.readline()
        print(batch.run(lambda: (pool, 1)).computed, flush=True)
        pool.submit(supervisor.close).result()
"""


@pytest.fixture(scope="module")
def labelled(server, tmp_path_factory) -> str:
    """The URL of a store whose one batch two coordinators have worked off together, from one folder of spools."""
    url, folder = server.new(), tmp_path_factory.mktemp("coordinators")
    (folder / "coordinator.py").write_text(COORDINATOR)
    command = [sys.executable, str(folder / "coordinator.py"), url, str(folder / "spool")]
    jobs = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [job.stdout.readline() for job in jobs] == ["ready\n"] * 2
    with Store(url, read_only=True) as store:
        assert {row["pid"] for row in store.writers()} == {job.pid for job in jobs}
    for job in jobs:
        job.stdin.write("go\n")
        job.stdin.flush()
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    return url


def test_two_coordinators_do_nothing_twice(labelled):
    with Store(labelled, read_only=True) as store:
        assert stats(store)["states"] == {"done": 40}
        assert len(store.select(sa.select(attempts))) == len(store.select(sa.select(results))) == 40
        assert verify(store) == (40, 40, 0, []) and store.writers() == []


def test_a_store_moves_to_a_file_and_back(labelled, server, tmp_path, capsys):
    file, url = str(tmp_path / "file.sqlite"), server.new()
    for source, target in ((labelled, file), (file, url)):
        for taken in (40, 0):
            assert main(["store", "merge", source, "--store", target]) == 0
            assert f"{taken} results and 0 failures taken over" in capsys.readouterr().out
    assert main(["store", "verify", "--store", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 40
    with Store(labelled, read_only=True) as first, Store(url, read_only=True) as last:
        energies = sa.select(results.c.key, results.c.energy_hartree).order_by(results.c.key)
        assert first.select(energies) == last.select(energies)
        assert first.to_frame("state = 'done'").equals(last.to_frame("state = 'done'"))
    assert main(["store", "merge", url, "--store", url]) == 1
    assert "cannot be merged into itself" in capsys.readouterr().err
    assert main(["store", "stats", "--store", url, "--csv"]) == 0 and "GFN2-xTB" in capsys.readouterr().out


def test_the_spool_of_a_dead_coordinator_is_taken_over(server, tmp_path):
    url, spool = server.new(), tmp_path / "spool"
    code = (
        "import os, sys\nfrom sddfkit.factory.store import Store\n"
        "stores = [Store(sys.argv[1], spool=sys.argv[2]) for _ in range(2)]\n"
        "for store in stores: (store.spool / f'left-{store.lease_id}.json').write_text('{}')\n"
        "print(stores[0].owner.token, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", code, url, spool], capture_output=True, text=True)
    first, second = sorted(spool.iterdir())
    with Store(url, spool=spool) as store, Store(url, spool=spool) as other:
        assert (store.spool, other.spool) == (first, second)
        assert sorted(path.name for path in first.glob("*.json")) == ["left-1.json", "left-2.json"]
        assert (first / TOKEN_FILE).read_text().split() == [store.owner.token, done.stdout.strip()]
        assert len(store.writers()) == 2


def test_a_server_that_is_down_a_wrong_name_and_a_wrong_password_are_said(server, monkeypatch):
    url = server.new()
    with pytest.raises(StoreError, match=r"database \"nobody's\" does not exist; make the database with `createdb"):
        Store(server.url("nobody's"))
    server.run("CREATE ROLE guarded LOGIN PASSWORD 'secret'")
    monkeypatch.setenv("PGPASSWORD", "guess")
    with pytest.raises(StoreError, match=r"password authentication failed .* check the user, and the password in ~/"):
        Store(url.replace("tester", "guarded"), read_only=True)
    with pytest.raises(StoreError, match="cannot be used as a store") as error:
        Store(url.replace("tester@", "tester:hidden@"), read_only=True)
    assert "hidden" not in str(error.value)
    with Store(url) as store:
        server.stop()
        with pytest.raises(StoreError, match=r"the database server of .* cannot be reached .* start the same command"):
            store.heartbeat()
        server.start()
        store.heartbeat()


def test_who_may_not_write_is_told(server):
    url = server.new()
    Store(url).close()
    name = url.rpartition("/d")[2].partition("?")[0]
    server.run(f"ALTER DATABASE d{name} SET default_transaction_read_only = on")
    with pytest.raises(StoreError, match=r"cannot be written .*read-only transaction.* use another database"):
        Store(url)
    Store(url, read_only=True).close()


def test_tables_of_somebody_else_are_left_alone(server):
    url = server.new()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE results (theirs INTEGER)")
    with pytest.raises(StoreError, match=r"it holds something else \(results\)"):
        Store(url)
    assert sa.inspect(engine).get_table_names() == ["results"]
    engine.dispose()


OUTLIVED = """
import json, os, subprocess, sys
from concurrent.futures import ProcessPoolExecutor
from coordinator import LEVEL, drawn
from sddfkit.factory import Batch, Store, plan
from sddfkit.factory.jobs import record_document

if __name__ == "__main__":
    first, store = Store(sys.argv[1], spool=sys.argv[2]), Store(sys.argv[1], spool=sys.argv[2])
    store.add_records(record_document(record) for record in drawn[:1])
    (item,) = plan(drawn[:1], LEVEL, LEVEL.choose())[0]
    Batch(store, "waters").add([item])
    engine = (
        "import json, sys, time\\n"
        "from sddfkit.qc import attempt, supervisor\\n"
        "begin = attempt.Attempt.begin\\n"
        "def slowly(*of): time.sleep(6); return begin(*of)\\n"
        "attempt.Attempt.begin = slowly\\n"
        "job = json.loads(sys.argv[1])\\n"
        "supervisor.calculate_many([job], spool=sys.argv[2], timeout_s=60, memory_gib=2)"
    )
    job = json.dumps({"key": item.key, "input": item.input})
    subprocess.Popen([sys.executable, "-c", engine, job, str(store.spool)], start_new_session=True)
    while not list(store.spool.glob(".running.*")):
        pass
    os.kill(os.getpid(), 9)
"""


def test_what_an_engine_of_a_dead_coordinator_computes_is_waited_for_in_its_spool(server, tmp_path):
    url, spool = server.new(), tmp_path / "spool"
    (tmp_path / "coordinator.py").write_text(COORDINATOR)
    (tmp_path / "outlived.py").write_text(OUTLIVED)
    died = subprocess.run([sys.executable, str(tmp_path / "outlived.py"), url, str(spool)])
    assert died.returncode == -9

    def nobody():
        return ThreadPoolExecutor(1), 1

    with Store(url, spool=spool) as store:
        assert store.spool == min(spool.iterdir()), "the engine writes into the other one"
        batch = Batch(store, "waters")
        assert batch.run(nobody).computed == 1
        (row,) = store.select(sa.select(attempts.c.engine, attempts.c.state))
        assert row["state"] == "done" and not row["engine"].endswith(f":{os.getpid()}")


def test_claims_of_a_coordinator_that_died_meanwhile_go_back_with_a_heartbeat(server, tmp_path):
    url = server.new()
    row = {"level": "l", "program": "p", "program_version": "1", "label": "", "input": "{}", "cost": 1.0, "created": ""}
    with Store(url) as store:
        lost = Store(url)
        with lost.writing() as connection:
            claimed = {"state": "running", "claimed_by": lost.lease_id}
            connection.execute(lost.insert(calculations), [{**row, "key": "k", **claimed}])
        store.heartbeat()
        assert store.states("k")["k"]["state"] == "running"
        lost._dispose()
        del lost, connection
        store.heartbeat()
        assert store.states("k")["k"]["state"] == "ready"


def test_settings_reach_the_store(server, tmp_path):
    from hydra.utils import instantiate

    from sddfkit.config import load

    url = server.new()
    cfg = load("label", ["store=postgres", f"store.path='{url}'", f"paths.root={tmp_path}"])
    with instantiate(cfg.store)() as store:
        assert store.name == url.replace("/tmp", "%2Ftmp").replace("/sddfkit", "%2Fsddfkit")
        assert Path(store.spool).parent == tmp_path / "spool" and (store.spool / TOKEN_FILE).exists()
