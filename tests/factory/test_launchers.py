"""Engines that others start for us, from the configuration to a batch that is computed."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
from hydra.utils import instantiate
from ipyparallel.cluster import launcher as ipp_launchers

from sddfkit.config import load
from sddfkit.factory import Batch, ClusterError, Store, launchers
from sddfkit.factory.cluster import end_abandoned, marked
from sddfkit.factory.jobs import plan_atoms
from sddfkit.factory.store import attempts
from sddfkit.qc.levels import Level

HERE = sys.executable
LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})


def configured(tmp_path: Path, name: str, *overrides: str):
    cfg = load("label", [f"cluster={name}", f"paths.root={tmp_path}", *(f"cluster.{o}" for o in overrides)])
    return instantiate(cfg.cluster)(tmp_path / "clusters" / "one")


def engine_launcher(cluster):
    """The launcher that ipyparallel would start."""
    made = cluster.make()
    return made.engine_launcher_class(
        work_dir=".", parent=made, profile_dir=made.profile_dir, cluster_id=made.cluster_id
    )


def wait_until(condition, limit_s: float = 30.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


ASKED = {
    "slurm": (
        ["queue=short", "account=chem", "time_limit=8:00:00", "memory=4G", "header=['#SBATCH --constraint=zen3']"],
        ["#SBATCH --ntasks=3", "#SBATCH --partition=short", "#SBATCH --account=chem", "#SBATCH --time=8:00:00",
         "#SBATCH --mem-per-cpu=4G", "#SBATCH --constraint=zen3"],
    ),
    "pbs": (
        ["queue=short", "account=chem", "time_limit=8:00:00", "memory=4gb", "header=['#PBS -l place=scatter']"],
        ["#PBS -J 1-3", "#PBS -q short", "#PBS -A chem", "#PBS -l walltime=8:00:00", "#PBS -l mem=4gb",
         "#PBS -l place=scatter"],
    ),
    "sge": (
        ["queue=all.q", "account=chem", "time_limit=8:00:00", "memory=4G", "header=['#$ -l arch=lx-amd64']"],
        ["#$ -t 1-3", "#$ -q all.q", "#$ -P chem", "#$ -l h_rt=8:00:00", "#$ -l h_vmem=4G", "#$ -l arch=lx-amd64"],
    ),
    "lsf": (
        ["queue=normal", "account=chem", "time_limit=8:00", "memory=4GB", "header=['#BSUB -R \"span[ptile=16]\"']"],
        ["#BSUB -J sddfkit[1-3]", "#BSUB -q normal", "#BSUB -P chem", "#BSUB -W 8:00", "#BSUB -M 4GB",
         '#BSUB -R "span[ptile=16]"'],
    ),
    "htcondor": (
        ["account=chem", "time_limit=28800", "memory=4GB", "header=['requirements = (Arch == \"X86_64\")']"],
        ["queue 3", "accounting_group = chem", "allowed_job_duration = 28800", "request_memory = 4GB",
         'requirements = (Arch == "X86_64")'],
    ),
}  # fmt: skip
CLASSES = {"slurm": "Slurm", "pbs": "PBS", "sge": "SGE", "lsf": "LSF", "htcondor": "HTCondor"}


@pytest.mark.parametrize("system", ASKED)
def test_a_job_holds_what_was_configured_is_submitted_and_deleted(system, tools, tmp_path):
    overrides, lines = ASKED[system]
    setup = [] if system == "htcondor" else ["setup=['module load psi4']"]
    python = "python=/opt/sddfkit/bin/python"
    cluster = configured(tmp_path, system, "engines=3", python, "controller_location=login1", *overrides, *setup)
    engines = engine_launcher(cluster)
    assert type(engines) is getattr(ipp_launchers, f"{CLASSES[system]}EngineSetLauncher")
    identifier = tools.submitter(system)
    assert engines.start(3) == identifier
    script = tools.lines("script")
    assert [line for line in lines if line not in script] == []
    assert not any("None" in line or "{" in line for line in script)
    command = next(line for line in script if f"--profile-dir={cluster.folder}/profile" in line)
    assert "--cluster-id=one" in command
    if system == "htcondor":
        assert "executable = /opt/sddfkit/bin/ipengine" in script
    else:
        assert "/opt/sddfkit/bin/python -m ipyparallel.engine" in command
        assert script.index("module load psi4") < script.index(command)
        assert "export OMP_NUM_THREADS=1" in script
    engines.stop()
    assert tools.lines("deleted") == [identifier]
    assert cluster.make().controller_location == "login1"


@pytest.mark.parametrize("system", ASKED)
def test_what_is_not_configured_is_left_to_the_site(system, tools, tmp_path):
    cluster = configured(tmp_path, system, "engines=1")
    engines = engine_launcher(cluster)
    tools.submitter(system)
    engines.start(1)
    script = "\n".join(tools.lines("script"))
    assert not re.search(r"partition|account|walltime|h_rt|-W |duration|mem|-q |-J 1-1", script)
    assert str(Path(HERE).with_name("ipengine")) in script or f"{shlex.quote(HERE)} -m ipyparallel.engine" in script


def test_ssh_is_told_hosts_python_and_options(tmp_path):
    cluster = configured(
        tmp_path, "ssh", "hosts={node1: 2, me@node2: 4}", "python=/opt/bin/python3", "ssh_options=[-i, /key]"
    )
    engines = engine_launcher(cluster)
    assert type(engines) is ipp_launchers.SSHEngineSetLauncher
    assert (cluster.engines, engines.engines) == (6, {"node1": 2, "me@node2": 4})
    assert engines.remote_python == "/opt/bin/python3" and engines.engine_cmd[0] == "/opt/bin/python3"
    assert engines.ssh_args[-2:] == ["-i", "/key"] and engines.remote_profile_dir == ".sddfkit"
    with pytest.raises(ClusterError, match="needs machines"):
        configured(tmp_path, "ssh")


def test_mpi_is_told_command_options_and_number(tmp_path):
    engines = engine_launcher(configured(tmp_path, "mpi", "engines=4", "command=[srun]", "options=['--mpi=pmix']"))
    assert type(engines) is ipp_launchers.MPIEngineSetLauncher
    engines.n = 4
    assert engines.find_args()[:7] == ["srun", "-n", "4", "--mpi=pmix", HERE, "-m", "ipyparallel.engine"]


@pytest.mark.parametrize(("name", "secret"), [("local", False), ("slurm", True), ("mpi", True)])
def test_what_leaves_this_machine_is_encrypted(tmp_path, name, secret):
    made = configured(tmp_path, name).make()
    assert ("--IPController.enable_curve=True" in made.controller_args) == secret
    assert made.controller_ip == ("*" if secret else "")


def test_settings_that_cannot_be_are_said(tmp_path):
    with pytest.raises(ClusterError, match="HTCondor has no queues"):
        launchers.on_batch_system(tmp_path / "one", system="htcondor", engines=1, queue="short")
    with pytest.raises(ClusterError, match="no batch system 'loadleveler'"):
        launchers.on_batch_system(tmp_path / "one", system="loadleveler", engines=1)
    missing = configured(tmp_path, "connect", f"connection_file={tmp_path}/none.json")
    with missing, pytest.raises(ClusterError, match="there is no connection file"):
        missing.executor()


def test_a_batch_system_that_is_not_here_is_said(tmp_path):
    with (
        configured(tmp_path, "slurm", "engines=1") as cluster,
        pytest.raises(ClusterError, match=r"could not be started by the launcher 'slurm' .*sbatch"),
    ):
        cluster.executor()
    assert not cluster.folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ssh"])
def test_engines_elsewhere_compute_encrypted_and_are_ended(name, tools, tmp_path):
    if name == "slurm":
        tools.slurm()
        cluster = configured(tmp_path, "slurm", "engines=2", "start_timeout_s=120")
    else:
        tools.ssh(tmp_path / "far home")
        cluster = configured(tmp_path, "ssh", "hosts={node1: 1, node2: 1}", f"python={HERE}", "start_timeout_s=120")
    with cluster:
        executor, _ = cluster.executor()
        wait_until(lambda: cluster.executor()[1] == 2)
        pids = cluster.engine_pids()
        assert len(set(pids)) == 2
        asked = list(plan_atoms({1, 2, 3, 6, 7, 8}, LEVEL, LEVEL.choose()).values())
        with Store(tmp_path / "store.sqlite") as store:
            batch = Batch(store, "atoms")
            batch.add(asked)
            outcome = batch.run(cluster.executor)
            assert (outcome.computed, outcome.failed) == (6, 0)
            assert {row["pid"] for row in store.select(sa.select(attempts.c.pid))}.isdisjoint({os.getpid()})
        secrets = {executor.submit(os.getenv, "IPP_CONNECTION_INFO").result() for _ in range(4)}
        (client_file,) = cluster.folder.glob("profile/security/*-client.json")
        assert '"curve_serverkey": null' not in client_file.read_text()
        if name == "ssh":
            assert executor.submit(os.getenv, "HOME").result() == str(tmp_path / "far home")
            assert {*tools.lines("hosts")} == {"node1", "node2"} and len(secrets) == 1
    if name == "slurm":
        assert tools.lines("cancelled") == tools.lines("jobs")
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
    assert not cluster.folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["slurm", "ssh"])
def test_jobs_of_a_killed_run_are_cancelled_by_the_next(name, tools, tmp_path):
    """The mark of the processes is not enough where they run on other machines: the cluster file must do."""
    if name == "slurm":
        tools.slurm()
        arguments = "system='slurm', engines=1"
        make = "on_batch_system"
    else:
        tools.ssh(tmp_path / "far home")
        arguments = f"hosts={{'node1': 1}}, python={HERE!r}"
        make = "over_ssh"
    code = (
        "import os, signal\nfrom sddfkit.factory import launchers\n"
        f"cluster = launchers.{make}({str(tmp_path / 'clusters' / 'one')!r}, {arguments}).__enter__()\n"
        "cluster.executor(); print(cluster.engine_pids()[0], flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    with (tmp_path / "stderr").open("w") as stderr:  # no pipe: what survives the kill would keep it open
        done = subprocess.run(
            [HERE, "-c", code], check=False, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=120
        )
    assert done.returncode == -signal.SIGKILL, (tmp_path / "stderr").read_text()
    engine = psutil.Process(int(done.stdout.split()[-1]))
    assert engine.is_running()
    told = len(tools.lines("hosts"))
    end_abandoned(tmp_path / "clusters")
    if name == "slurm":
        assert tools.lines("cancelled") == tools.lines("jobs")
    else:
        assert len(tools.lines("hosts")) > told
    with contextlib.suppress(psutil.NoSuchProcess):
        engine.wait(timeout=20)
    assert list((tmp_path / "clusters").iterdir()) == []
    assert not [item for item in marked() if item.folder.parent == tmp_path / "clusters"]
