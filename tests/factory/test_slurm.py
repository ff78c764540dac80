"""A real Slurm on this machine: munged, slurmctld and slurmd of one node, started and ended here, on loopback."""

import contextlib
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
from typing import NamedTuple

import psutil
import pytest
import sqlalchemy as sa
from hydra.utils import instantiate

from sddfkit.config import load
from sddfkit.factory import Batch, Store
from sddfkit.factory.cluster import marked
from sddfkit.factory.jobs import plan_atoms
from sddfkit.factory.store import attempts, results
from sddfkit.qc.levels import Level

LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "sinfo")
CONFIGURATION = """\
ClusterName=here
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldParameters=node_reg_mem_percent=0
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
KillWait=3
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
pytestmark = pytest.mark.long


def search_path() -> str:
    return os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])


class Slurm(NamedTuple):
    """Slurm's own programs, asked as a person would."""

    folder: Path

    def ask(self, *command: str) -> list[str]:
        """The lines that a command prints."""
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()

    def jobs(self) -> list[str]:
        """The numbers of the jobs that wait, run or are about to end."""
        return self.ask("squeue", "--noheader", "--format=%i")

    def logs(self) -> str:
        return "\n".join(path.read_text(errors="replace")[-3000:] for path in sorted(self.folder.glob("*.log")))


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    """A Slurm of one node with four places, known to every program that this process starts."""
    if os.geteuid() != 0:
        pytest.skip("a slurmd needs root")
    missing = [program for program in PROGRAMS if shutil.which(program, path=search_path()) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: apt-get install slurmctld slurmd slurm-client munge")
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: a socket's path has a limit
    started: list[subprocess.Popen[bytes]] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.setenv("PATH", search_path())
        try:
            running = Slurm(folder)
            start(running, started)
            yield running
        finally:
            for process in reversed(started):
                end_with_children(process)
            shutil.rmtree(folder, ignore_errors=True)


def start(slurm: Slurm, started: list[subprocess.Popen[bytes]]) -> None:
    folder = slurm.folder
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    controller_port, node_port = free_ports(2)
    host = socket.gethostname().partition(".")[0]
    places = {"folder": folder, "controller_port": controller_port, "node_port": node_port}
    (folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, **places))
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
    files = [f"--{name}={folder}/munge.{ending}" for name, ending in names.items()]
    daemons = [["munged", "--foreground", "--force", *files], ["slurmctld", "-D", "-i"], ["slurmd", "-D"]]
    for command in daemons:
        with (folder / f"{command[0]}.out.log").open("wb") as out:
            started.append(subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL))
        if command[0] == "munged":
            wait_until(lambda: (folder / "munge.socket").exists(), slurm)

    def ready() -> bool:
        with contextlib.suppress(subprocess.CalledProcessError):
            return slurm.ask("sinfo", "--noheader", "--format=%t") == ["idle"]
        return False

    wait_until(ready, slurm)


def free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for item in sockets:
            item.bind(("127.0.0.1", 0))
        return [item.getsockname()[1] for item in sockets]


def end_with_children(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def wait_until(condition, slurm: Slurm, limit_s: float = 120.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain\n{slurm.logs()}"
        time.sleep(0.2)


def configured(tmp_path: Path, *overrides: str):
    settings = ["engines=2", "queue=short", "time_limit=30", "controller_ip=127.0.0.1", "controller_location=127.0.0.1"]
    named = [f"cluster.{setting}" for setting in (*settings, *overrides)]
    cfg = load("label", ["cluster=slurm", f"paths.root={tmp_path}", *named])
    return instantiate(cfg.cluster)(tmp_path / "clusters" / "one")


def test_the_engines_of_a_job_compute_are_replaced_and_are_cancelled(slurm, tmp_path):
    asked = list(plan_atoms({1, 2, 3, 5, 6, 7, 8, 9, 10, 14, 15, 16, 17}, LEVEL, LEVEL.choose()).values())
    with configured(tmp_path, "start_timeout_s=120") as cluster:
        executor, _ = cluster.executor()
        wait_until(lambda: cluster.executor()[1] == 2, slurm)
        (job,) = slurm.jobs()
        assert slurm.ask("squeue", "--noheader", "--format=%j %P %C %T %l") == ["sddfkit short 2 RUNNING 30:00"]
        assert {future.result() for future in executor.on_each(os.getenv, "SLURM_JOB_ID").values()} == {job}
        first = cluster.engine_pids()
        assert {future.result() for future in executor.on_each(os.getenv, "OMP_NUM_THREADS").values()} == {"1"}

        def disturb(steps, total):
            for i, step in enumerate(steps):
                if i == 2:
                    os.kill(first[0], signal.SIGKILL)
                if i == 6:
                    slurm.ask("scancel", f"{job}.0")  # the step with the engine that is left
                yield step

        with Store(tmp_path / "store.sqlite") as store:
            batch = Batch(store, "atoms")
            batch.add(asked)
            outcome = batch.run(cluster.executor, progress=disturb)
            assert (outcome.computed, outcome.failed) == (len(asked), 0)
            assert len(store.select(sa.select(results.c.key))) == len(asked)
            bad = store.select(sa.select(attempts.c.error_class).where(attempts.c.state == "failed"))
            assert {row["error_class"] for row in bad} <= {"engine_lost"}
        wait_until(lambda: cluster.executor()[1] == 2, slurm)
        assert set(cluster.engine_pids()).isdisjoint(first) and job not in slurm.jobs()
        busy = [cluster.executor()[0].submit(time.sleep, 600) for _ in range(4)]
        folder = cluster.folder
    assert all(future.done() for future in busy)
    wait_until(lambda: slurm.jobs() == [], slurm)
    assert marked(folder) == [] and not folder.exists()


def test_a_job_outlives_its_coordinator_and_is_taken_over_or_cancelled(slurm, tmp_path):
    here = str(Path(__file__).parent)
    code = (
        f"import os, signal, sys\nsys.path.insert(0, {here!r})\n"
        f"from pathlib import Path\nfrom test_slurm import configured\n"
        f"cluster = configured(Path({str(tmp_path)!r}), 'engines=1').__enter__(); cluster.executor()\n"
        "print(*cluster.engine_pids(), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    engines = []
    for _ in range(2):
        with (tmp_path / "stderr").open("w") as stderr:
            done = subprocess.run(
                [sys.executable, "-c", code], check=False, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=300
            )
        assert done.returncode == -signal.SIGKILL, (tmp_path / "stderr").read_text() + slurm.logs()
        engines.append(int(done.stdout.split()[-1]))
        (job,) = slurm.jobs()
        with configured(tmp_path, "engines=1") as cluster:
            if len(engines) == 1:
                cluster.executor()
                assert cluster.adopted and cluster.engine_pids() == engines and slurm.jobs() == [job]
        wait_until(lambda: slurm.jobs() == [], slurm)
        assert not psutil.pid_exists(engines[-1]) and marked(cluster.folder) == []
