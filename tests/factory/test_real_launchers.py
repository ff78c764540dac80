"""Engines behind a real sshd on loopback, and engines started by a real mpiexec."""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hydra.utils import instantiate

from sddfkit.config import load
from sddfkit.factory import Batch, Cluster, Store
from sddfkit.factory.cluster import client_file, end_abandoned, marked
from sddfkit.factory.jobs import plan_atoms
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
SERVER = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
PidFile {folder}/pid
AuthorizedKeysFile {folder}/mine.pub
StrictModes no
UsePAM no
PasswordAuthentication no
SetEnv PYTHONPATH={path}
"""
CLIENT = """\
Host here
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/mine
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking no
    LogLevel ERROR
"""
pytestmark = pytest.mark.long


def configured(tmp_path: Path, name: str, *overrides: str) -> Cluster:
    settings = ["controller_ip=127.0.0.1", "controller_location=127.0.0.1", "start_timeout_s=120", *overrides]
    named = [f"cluster.{setting}" for setting in settings]
    cfg = load("label", [f"cluster={name}", f"paths.root={tmp_path}", *named])
    return instantiate(cfg.cluster)(tmp_path / "clusters" / "one")


def wait_until(condition, limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def computes(cluster: Cluster, tmp_path: Path) -> list[int]:
    """Compute six atoms on two engines of a cluster, encrypted; the engines' pids."""
    executor, n = cluster.executor()
    assert n == 2
    with Store(tmp_path / "store.sqlite") as store:
        batch = Batch(store, "atoms")
        batch.add(list(plan_atoms({1, 2, 3, 6, 7, 8}, LEVEL, LEVEL.choose()).values()))
        outcome = batch.run(cluster.executor)
        assert (outcome.computed, outcome.failed) == (6, 0)
    assert '"curve_serverkey": null' not in client_file(cluster.folder).read_text()
    assert {future.result() for future in executor.on_each(os.getenv, "OMP_NUM_THREADS").values()} == {"1"}
    return cluster.engine_pids()


@pytest.fixture
def ssh_options() -> Iterator[str]:
    """The options by which ssh reaches this machine as ``here``."""
    server = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if server is None or os.geteuid() != 0 or shutil.which("ssh-keygen") is None:
        pytest.skip("needs root, ssh and sshd: apt-get install openssh-server openssh-client")
    folder = Path(tempfile.mkdtemp(prefix="sshd-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    for name in ("host", "mine"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    told = {"port": port, "folder": folder, "path": os.environ.get("PYTHONPATH", "")}
    (folder / "server").write_text(SERVER.format(**told))
    (folder / "client").write_text(CLIENT.format(**told))
    Path("/run/sshd").mkdir(exist_ok=True)
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([server, "-D", "-e", "-f", folder / "server"], stderr=log, stdin=subprocess.DEVNULL)
    try:
        options = ["-F", str(folder / "client")]
        wait_until(lambda: subprocess.run(["ssh", *options, "here", "true"], check=False).returncode == 0)
        yield f"ssh_options=[{','.join(options)}]"
    finally:
        process.terminate()
        process.wait(timeout=30)
        shutil.rmtree(folder)


def test_engines_behind_a_real_sshd(ssh_options, tmp_path):
    overrides = ("hosts={here: 2}", f"python={sys.executable}", f"remote_folder={tmp_path / 'far'}", ssh_options)
    with configured(tmp_path, "ssh", *overrides) as cluster:
        pids = computes(cluster, tmp_path)
        assert all(psutil.Process(pid).environ().get("SSH_CONNECTION") for pid in pids)
        busy = [cluster.executor()[0].submit(time.sleep, 600) for _ in range(4)]
    assert all(future.done() for future in busy)
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))
    assert marked(cluster.folder) == [] and not cluster.folder.exists()

    here = str(Path(__file__).parent)
    code = (
        f"import os, signal, sys\nsys.path.insert(0, {here!r})\n"
        f"from pathlib import Path\nfrom test_real_launchers import configured\n"
        f"cluster = configured(Path({str(tmp_path)!r}), 'ssh', *{overrides!r}).__enter__(); cluster.executor()\n"
        "print(*cluster.engine_pids(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with (tmp_path / "stderr").open("w") as stderr:
        done = subprocess.run(
            [sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=300
        )
    assert done.returncode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    left = sorted(map(int, done.stdout.split()))
    with configured(tmp_path, "ssh", *overrides) as cluster:
        cluster.executor()
        assert cluster.adopted and sorted(cluster.engine_pids()) == left
    wait_until(lambda: not any(map(psutil.pid_exists, left)))
    assert marked(cluster.folder) == []


def test_engines_by_a_real_mpiexec(tmp_path):
    if shutil.which("mpiexec") is None or importlib.util.find_spec("mpi4py") is None:
        pytest.skip("needs mpiexec (apt-get install mpich) and mpi4py")
    root = ["options=['--allow-run-as-root','--oversubscribe']"] if "Open" in version("mpiexec") else []
    with configured(tmp_path, "mpi", "engines=2", *root) as cluster:
        pids = computes(cluster, tmp_path)
        sizes = cluster.executor()[0].on_each(eval, "__import__('mpi4py.MPI').MPI.COMM_WORLD.Get_size()")
        assert [future.result() for future in sizes.values()] == [2, 2]
    wait_until(lambda: not any(map(psutil.pid_exists, pids)))
    assert marked(cluster.folder) == [] and end_abandoned(tmp_path / "clusters") == 0


def version(program: str) -> str:
    with contextlib.suppress(subprocess.CalledProcessError):
        return subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return ""
