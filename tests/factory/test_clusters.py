"""Clusters whose coordinator, controller or engines are killed: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from sddfkit.factory import Batch, Cluster, ClusterError, Store
from sddfkit.factory.cluster import EngineGoneError, answers, client_file, end_abandoned, marked, read_owner
from sddfkit.factory.jobs import Calculation, plan_atoms
from sddfkit.factory.ownership import Owner, alone, end, enter_user, users, write_owner
from sddfkit.factory.store import attempts, results
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
ELEMENTS = {1, 2, 3, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 18}


def atoms(elements: set[int] = ELEMENTS) -> list[Calculation]:
    return list(plan_atoms(elements, LEVEL, LEVEL.choose()).values())


def killed_coordinator(folder: Path, arguments: str = "engines=2") -> list[int]:
    """Start a cluster in another process, keep its engines busy for a while, kill the process: the engines' pids."""
    code = (
        "import os, signal, time\nfrom sddfkit.factory import Cluster\n"
        f"cluster = Cluster({str(folder)!r}, {arguments}).__enter__(); engines, n = cluster.executor()\n"
        "print(*cluster.engine_pids(), flush=True)\n"
        "busy = [engines.submit(time.sleep, 3) for _ in range(2 * n)]; time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    errors = folder.parent.parent / "stderr"
    with errors.open("w") as stderr:  # no pipe: what survives the kill would keep it open
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=300
        )
    assert done.returncode == -signal.SIGKILL, errors.read_text()
    return [int(word) for word in done.stdout.split()]


def controllers(folder: Path) -> list[psutil.Process]:
    """The processes of the controller, its first one first."""
    found = [item.process for item in marked(folder) if "ipyparallel.controller" in item.process.cmdline()]
    first = [process for process in found if process.ppid() not in {item.pid for item in found}]
    return first + [process for process in found if process not in first]


def wait_until(condition, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


@pytest.mark.slow
def test_a_killed_coordinator_leaves_a_cluster_to_the_next_and_a_killed_controller_costs_nothing(tmp_path):
    folder = tmp_path / "clusters" / "one"
    left = killed_coordinator(folder)
    others = tmp_path / "clusters" / "other"
    others.mkdir()
    write_owner(others, Owner.me()._replace(pid=2**22, started=0.0))
    with Cluster(folder, engines=2) as cluster:
        assert not others.exists(), "whose owner is dead, and which nobody takes over"
        engines, n = cluster.executor()
        assert cluster.adopted and n == 2 and cluster.engine_pids() == left, "busy ones go on, and are reached"
        assert read_owner(folder) == Owner.me()
        assert end_abandoned(folder.parent) == 0, "the marks name a dead process, the folder a living one"
        before = [item.process for item in marked(folder)]

        def kill_the_controller(steps, total):
            for i, step in enumerate(steps):
                if i == 4:
                    controllers(folder)[0].kill()
                yield step

        with Store(tmp_path / "store.sqlite") as store:
            batch = Batch(store, "atoms")
            batch.add(atoms())
            outcome = batch.run(cluster.executor, progress=kill_the_controller)
            assert (outcome.computed, outcome.failed) == (len(ELEMENTS), 0)
            assert len(store.select(sa.select(results.c.key))) == len(ELEMENTS)
            bad = store.select(sa.select(attempts.c.error_class).where(attempts.c.state == "failed"))
            assert {row["error_class"] for row in bad} <= {"engine_lost"}
        again, n = cluster.executor()
        assert n == 2 and again is not engines and set(cluster.engine_pids()).isdisjoint(left)
        assert not any(process.is_running() for process in before), "the engines of a dead controller are ended"
        with pytest.raises(EngineGoneError):
            engines.submit(os.getpid).result(timeout=5)
        loaded = again.on_each(eval, "[n for n in ('torch', 'rdkit', 'sqlalchemy') if n in __import__('sys').modules]")
        assert [future.result() for future in loaded.values()] == [[], []], "an engine that has computed is light"
        busy = [again.submit(time.sleep, 600) for _ in range(4)]
        assert wait(busy, timeout=0.5).done == set()
    assert all(isinstance(future.exception(), EngineGoneError) for future in busy)
    assert marked(folder) == [] and list(folder.parent.iterdir()) == []


@pytest.mark.long
def test_the_death_of_any_process_of_the_controller_is_noticed(tmp_path):
    folder = tmp_path / "clusters" / "one"
    with Cluster(folder, engines=1) as cluster:
        cluster.executor()
        number = len(controllers(folder))
        for which in range(1, number):
            engines, _ = cluster.executor()
            futures = [engines.submit(time.sleep, 600) for _ in range(3)]
            controllers(folder)[which].kill()
            wait_until(lambda before=engines: cluster.executor()[0] is not before)
            assert [type(future.exception(timeout=0)) for future in futures] == [EngineGoneError] * 3
            assert cluster.executor()[0].submit(int, "7").result(timeout=60) == 7
            cluster._restarted.clear()
    assert marked(folder) == []


@pytest.mark.long
def test_what_cannot_be_taken_over_is_ended_and_started_anew(tmp_path):
    folder = tmp_path / "clusters" / "one"
    left = killed_coordinator(folder, "engines=1")
    with Cluster(folder, engines=2) as cluster:
        _, n = cluster.executor()
        assert (n, cluster.adopted) == (2, False), "another number of engines: not the same settings"
        assert not any(map(psutil.pid_exists, left))
    left = killed_coordinator(folder)
    controllers(folder)[0].suspend()
    with Cluster(folder, engines=2) as cluster:
        _, n = cluster.executor()
        assert (n, cluster.adopted) == (2, False), "its controller does not answer"
        assert not any(map(psutil.pid_exists, left))
    left = killed_coordinator(folder)
    psutil.Process(left[0]).kill()
    with Cluster(folder, engines=2) as cluster:
        cluster.executor()
        assert cluster.adopted
        wait_until(lambda: cluster.executor()[1] == 2)
        assert left[1] in cluster.engine_pids()
    left = killed_coordinator(folder)
    with Cluster(folder, engines=2):
        assert all(map(psutil.pid_exists, left))  # and nothing is to be done
    assert not any(map(psutil.pid_exists, left)) and marked(folder) == []


@pytest.mark.long
def test_a_process_that_ends_without_stopping_its_cluster_leaves_nothing(tmp_path):
    folder = tmp_path / "clusters" / "one"
    code = (
        "import threading, time\nfrom sddfkit.factory import Cluster\n"
        "ready = threading.Event()\n"
        "def work():\n"
        f"    cluster = Cluster({str(folder)!r}, engines=1)\n"
        "    while True:\n"
        "        cluster.executor(); ready.set(); time.sleep(0.02)\n"
        "threading.Thread(target=work, daemon=True).start(); ready.wait()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300, stderr=subprocess.DEVNULL)
    assert marked(folder) == [] and list(folder.parent.iterdir()) == []


def test_a_controller_that_is_not_there_does_not_answer(tmp_path):
    file = client_file(tmp_path / "one")
    assert not answers(file)
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps({"interface": "tcp://127.0.0.1", "location": "", "registration": 1}))
    assert not answers(file)


def test_a_living_process_keeps_its_cluster_and_users_are_known_while_they_live(tmp_path):
    folder = tmp_path / "clusters" / "one"
    folder.mkdir(parents=True)
    parent = psutil.Process(os.getppid())
    write_owner(folder, Owner.me()._replace(pid=parent.pid, started=parent.create_time()))
    with pytest.raises(ClusterError, match=rf"belongs to process {parent.pid}"), Cluster(folder) as cluster:
        cluster.executor()
    write_owner(folder, Owner.me()._replace(pid=parent.pid, started=parent.create_time(), remains=True))
    with pytest.raises(ClusterError, match="cluster=running"), Cluster(folder) as cluster:
        cluster.executor()
    note = enter_user(folder)
    gone = note.with_name("gone.json")
    gone.write_text(json.dumps(Owner.me()._replace(pid=2**22)._asdict()))
    assert users(folder) == [Owner.me()]
    assert end_abandoned(folder.parent) == 0 and folder.exists()


def test_clusters_are_taken_by_one_at_a_time(tmp_path):
    order = []

    def second() -> None:
        with alone(tmp_path):
            order.append("second")

    other = threading.Thread(target=second)
    with alone(tmp_path):
        other.start()
        other.join(timeout=0.3)
        order.append("first")
    other.join(timeout=30)
    assert order == ["first", "second"]


def test_a_process_is_ended_before_those_that_it_has_started():
    code = (
        "import signal, subprocess, sys, time\nchild = subprocess.Popen(['sleep', '60'])\n"
        "def asked(*_): time.sleep(0.5); print('alone' if child.poll() is not None else 'first'); sys.exit()\n"
        "signal.signal(signal.SIGTERM, asked); print(child.pid, flush=True)\nwhile True: time.sleep(1)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        end([child, psutil.Process(parent.pid)])
        assert parent.stdout.read() == "first\n"
    assert not child.is_running()
