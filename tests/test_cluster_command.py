"""``sddfkit cluster`` as a user types it: engines that outlive the command, are shared, looked at and ended."""

import json
import os
import subprocess
import sys
import time
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from sddfkit.cli import main
from sddfkit.factory import Batch, Cluster, ClusterError, Store, launchers
from sddfkit.factory.cluster import client_file, end_abandoned, marked, read_owner
from sddfkit.factory.jobs import plan_atoms
from sddfkit.factory.ownership import Owner, write_owner
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})


@pytest.fixture
def clusters(tmp_path, monkeypatch) -> Path:
    """Where the clusters of this test are."""
    monkeypatch.setenv("SDDFKIT_ROOT", str(tmp_path))
    return tmp_path / "clusters"


def status(capsys) -> dict[str, dict]:
    capsys.readouterr()
    assert main(["cluster", "status", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


@pytest.mark.slow
def test_a_cluster_remains_is_shared_by_two_jobs_and_is_stopped(clusters, tmp_path, capsys):
    done = subprocess.run(
        [sys.executable, "-m", "sddfkit", "cluster", "start", "cluster.engines=2"],
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "cluster=running" in done.stdout
    folder = clusters / "default"
    owner = read_owner(folder)
    assert owner.remains and owner.lives() and end_abandoned(clusters) == 0
    seen = status(capsys)["default"]
    assert (seen["state"], seen["launcher"], seen["registered"], seen["asked"]) == ("remains", "local", 2, 2)
    assert (seen["busy"], seen["idle"], seen["used_by"]) == (0, 2, [])
    assert main(["cluster", "start"]) == 1 and "cluster=running" in capsys.readouterr().err

    code = (
        "import os, sys; from sddfkit.factory.launchers import running\n"
        f"with running({str(clusters / 'job')!r}) as cluster:\n"
        "    engines, n = cluster.executor(); print(n, flush=True); sys.stdin.readline()\n"
        "    print(engines.submit(os.getppid).result(), flush=True)"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "2\n"
    with launchers.running(clusters / "mine", engines=2) as cluster:
        engines, _ = cluster.executor()
        busy = engines.submit(time.sleep, 1.5)
        deadline = time.monotonic() + 60
        while (seen := status(capsys)["default"])["busy"] != 1:
            busy = engines.submit(time.sleep, 1.5) if busy.done() else busy
            assert time.monotonic() < deadline
        me, they = f"process {os.getpid()} on {Owner.me().host}", f"process {other.pid} on {Owner.me().host}"
        assert sorted(seen["used_by"]) == sorted([me, they])
        with Store(tmp_path / "store.sqlite") as store:
            batch = Batch(store, "atoms")
            batch.add(list(plan_atoms({1, 6, 7, 8}, LEVEL, LEVEL.choose()).values()))
            outcome = batch.run(cluster.executor)
            assert (outcome.computed, outcome.failed) == (4, 0)
        pids = cluster.engine_pids()
        waiting = [engines.submit(time.sleep, 1.5) for _ in range(6)]
    assert all(future.cancelled() or future.done() for future in waiting), "a job that ends takes its calls back"
    assert all(map(psutil.pid_exists, pids)), "and leaves the engines alone"
    said, _ = other.communicate("\n", timeout=60)
    assert int(said) > 0 and other.returncode == 0
    with launchers.running(clusters / "late") as late:
        engines, _ = late.executor()
        kept = engines.submit(time.sleep, 600)
        assert main(["cluster", "stop"]) == 0
        assert f"{me} was using it" in capsys.readouterr().out
        assert wait([kept], timeout=30).done and kept.exception() is not None
        with pytest.raises(ClusterError, match="no running cluster 'default'"):
            late.executor()
    assert marked(folder) == [] and list(clusters.iterdir()) == []


def test_states_are_told_apart_and_only_what_remains_is_stopped(clusters, capsys):
    parent = psutil.Process(os.getppid())
    living = Owner.me()._replace(pid=parent.pid, started=parent.create_time())
    for name, owner in {
        "job": living,
        "gone": living._replace(pid=2**22),
        "quiet": living._replace(remains=True),
        "far": living._replace(host="far", remains=True),
    }.items():
        (clusters / name).mkdir(parents=True)
        write_owner(clusters / name, owner)
    seen = status(capsys)
    assert {name: row["state"] for name, row in seen.items()} == {
        "job": "silent", "gone": "left", "quiet": "silent", "far": "silent",
    }  # fmt: skip
    assert seen["job"]["used_by"] == [f"process {parent.pid} on {living.host}"]
    assert main(["cluster", "status"]) == 0
    assert "?/?" in capsys.readouterr().out
    assert main(["cluster", "stop", "job"]) == 1
    assert f"belongs to the job of process {parent.pid}" in capsys.readouterr().err
    assert main(["cluster", "stop", "far"]) == 1
    assert "controller on far" in capsys.readouterr().err
    assert main(["cluster", "stop", "none"]) == 1
    assert "there is no cluster 'none'" in capsys.readouterr().err
    with launchers.running(clusters / "x", name="quiet") as cluster, pytest.raises(ClusterError, match="no running"):
        cluster.executor()
    client_file(clusters / "quiet").parent.mkdir(parents=True)
    client_file(clusters / "quiet").write_text("{}")
    with Cluster(clusters / "quiet", running=True) as cluster, pytest.raises(ClusterError, match="does not answer"):
        cluster.executor()
    assert main(["cluster", "stop", "quiet"]) == 0 and not (clusters / "quiet").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["start", "model=pna"], "says nothing of a cluster"),
        (["start", "--name", "../x"], "is no name"),
        (["start", "cluster=runing"], "runing"),
        (["start", "cluster.engines=0"], "at least one engine"),
        (["start", "cluster=running"], "started before"),
        (["start", "cluster=ssh"], "needs machines"),
        (["stop", "a", "--all"], "either a name or --all"),
    ],
)
def test_a_wrong_command_is_said_in_a_sentence(arguments, says, clusters, capsys):
    assert main(["cluster", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert not clusters.exists()


def test_nothing_to_see_is_said(clusters, capsys):
    assert main(["cluster", "status"]) == 0
    assert f"no cluster in {clusters}" in capsys.readouterr().out
    assert status(capsys) == {}
    assert main(["cluster", "stop", "--all"]) == 0
    assert "0 clusters ended" in capsys.readouterr().out


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom sddfkit.cli import main\n"
        "try: main(['cluster', '--help'])\nexcept SystemExit as end: assert not end.code\n"
        "heavy = {'numpy', 'ipyparallel', 'psutil', 'hydra', 'sqlalchemy', 'zmq'} & sys.modules.keys()\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "stop" in done.stdout
