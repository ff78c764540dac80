"""Clusters beyond this machine: what a person must set, turned into the traits of ipyparallel's launchers.

Each function makes a :class:`~sddfkit.factory.cluster.Cluster`, and each has a file in ``conf/cluster``. The controller
always runs here; ``controller_location`` is the name or address by which the engines find this machine.
"""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from sddfkit.factory.cluster import Cluster, ClusterError, engine_environment


class BatchSystem(NamedTuple):
    """The words of a batch system: ipyparallel's class, the script, and the lines that ask for something.

    The script's fields in braces are filled in by ipyparallel; ``asked`` are the lines below, ``setup`` shell commands.
    """

    launcher: str
    script: str
    queue: str
    account: str
    time_limit: str
    memory: str


_SHELL: Final = "{asked}\n{setup}\n"

SYSTEMS: Final[Mapping[str, BatchSystem]] = {
    "slurm": BatchSystem(
        "SlurmEngineSetLauncher",
        "#!/bin/sh\n#SBATCH --job-name=sddfkit\n#SBATCH --export=ALL\n#SBATCH --ntasks={n}\n"
        "#SBATCH --output={output_file}\n" + _SHELL + "srun {program_and_args}\n",
        queue="#SBATCH --partition={}",
        account="#SBATCH --account={}",
        time_limit="#SBATCH --time={}",
        memory="#SBATCH --mem-per-cpu={}",
    ),
    "pbs": BatchSystem(
        "PBSEngineSetLauncher",
        # an array of one job is an error in PBS Pro and OpenPBS
        "#!/bin/sh\n#PBS -N sddfkit\n#PBS -V\n#PBS -j oe\n#PBS -o {output_file}\n"
        "{'#PBS -J 1-%d' % n if n > 1 else ''}\n" + _SHELL + "{program_and_args}\n",
        queue="#PBS -q {}",
        account="#PBS -A {}",
        time_limit="#PBS -l walltime={}",
        memory="#PBS -l mem={}",
    ),
    "sge": BatchSystem(
        "SGEEngineSetLauncher",
        "#!/bin/sh\n#$ -S /bin/sh\n#$ -N sddfkit\n#$ -V\n#$ -j y\n#$ -o {output_file}\n#$ -t 1-{n}\n"
        + _SHELL
        + "{program_and_args}\n",
        queue="#$ -q {}",
        account="#$ -P {}",
        time_limit="#$ -l h_rt={}",
        memory="#$ -l h_vmem={}",
    ),
    "lsf": BatchSystem(
        "LSFEngineSetLauncher",
        "#!/bin/sh\n#BSUB -J sddfkit[1-{n}]\n#BSUB -env all\n#BSUB -o {output_file}\n#BSUB -e {output_file}\n"
        + _SHELL
        + "{program_and_args}\n",
        queue="#BSUB -q {}",
        account="#BSUB -P {}",
        time_limit="#BSUB -W {}",
        memory="#BSUB -M {}",
    ),
    "htcondor": BatchSystem(
        "HTCondorEngineSetLauncher",
        'universe = vanilla\nexecutable = {engine}\narguments = "{program_args}"\ntransfer_executable = False\n'
        "getenv = True\noutput = {output_file}\nerror = {output_file}\n{asked}\nqueue {n}\n",
        queue="",
        account="accounting_group = {}",
        time_limit="allowed_job_duration = {}",
        memory="request_memory = {}",
    ),
}


def on_batch_system(
    folder: str | Path,
    *,
    system: str,
    engines: int,
    queue: str | None = None,
    account: str | None = None,
    time_limit: str | int | None = None,
    memory: str | int | None = None,
    header: Sequence[str] = (),
    setup: Sequence[str] = (),
    python: str | None = None,
    controller_ip: str | None = None,
    controller_location: str | None = None,
    start_timeout_s: float = 3600.0,
) -> Cluster:
    """Return a cluster whose engines are a job of a batch system; submit from a machine that the nodes can reach.

    Parameters
    ----------
    folder
        Of the cluster, on a disk that the nodes see as well.
    system
        A key of ``SYSTEMS``.
    engines
        Number of tasks; each computes one molecule at a time.
    queue, account, time_limit, memory
        As the system writes them; the memory is that of one engine and its calculation. None leaves the site's default.
    header
        More lines for the head of the script, as the system writes them (``#SBATCH --constraint=zen3``).
    setup
        Shell commands before the engine (``module load psi4``); not with HTCondor, which runs no script.
    python
        The Python on the nodes, with sddfkit installed; None: this one.
    controller_ip, controller_location, start_timeout_s
        See :class:`~sddfkit.factory.cluster.Cluster`.
    """
    if system not in SYSTEMS:
        raise ClusterError(f"there is no batch system {system!r}, only {', '.join(SYSTEMS)}")
    if system == "htcondor" and (queue or setup):
        raise ClusterError(
            "HTCondor has no queues and runs no script: use cluster.header, 'requirements = …' for instance"
        )
    words = SYSTEMS[system]
    folder = Path(folder).absolute()
    asked = {words.queue: queue, words.account: account, words.time_limit: time_limit, words.memory: memory}
    interpreter = python or sys.executable
    exports = [f"export {name}={shlex.quote(value)}" for name, value in engine_environment(folder).items()]
    traits = {
        "engine_cmd": [interpreter, "-m", "ipyparallel.engine"],
        # in words, because not every site passes an environment on
        "engine_args": [f"--profile-dir={folder / 'profile'}", f"--cluster-id={folder.name}"],
        "batch_file_name": str(folder / f"{system}-engines.job"),
        "batch_template": words.script,
        "queue": queue or "",
        "namespace": {
            "asked": "\n".join([*(line.format(value) for line, value in asked.items() if value is not None), *header]),
            "setup": "\n".join([*exports, *setup]),
            "engine": str(Path(interpreter).with_name("ipengine")),
        },
    }
    if system == "pbs":  # the number of an array ends in brackets, and only so it can be deleted
        traits["job_id_regexp"] = r"\d+(?:\[\])?"
    return Cluster(
        folder,
        engines=engines,
        launcher=system,
        start_timeout_s=start_timeout_s,
        traits={words.launcher: traits},
        controller_ip=controller_ip,
        controller_location=controller_location,
    )


def over_ssh(
    folder: str | Path,
    *,
    hosts: Mapping[str, int] | None,
    python: str = "python3",
    ssh_options: Sequence[str] = (),
    remote_folder: str = ".sddfkit",
    controller_ip: str | None = None,
    controller_location: str | None = None,
    start_timeout_s: float = 300.0,
) -> Cluster:
    """Return a cluster whose engines run on machines that ssh reaches without a password.

    Parameters
    ----------
    folder
        Of the cluster, here.
    hosts
        Number of engines by host, each as ssh knows it: ``node1``, ``me@node2``, ``node3:2222``.
    python
        The Python there, with sddfkit installed.
    ssh_options
        ``-i``, ``-o``, … one word each.
    remote_folder
        Where engines keep their logs there; relative to the home folder.
    controller_ip, controller_location, start_timeout_s
        See :class:`~sddfkit.factory.cluster.Cluster`.
    """
    if not hosts:
        raise ClusterError("cluster=ssh needs machines, with the engines on each: 'cluster.hosts={node1: 8, node2: 4}'")
    folder = Path(folder).absolute()
    engine = {
        "remote_python": shlex.quote(python),  # the shell over there reads it; the engine is started without one
        "engine_cmd": [python, "-m", "ipyparallel.engine"],
        "remote_profile_dir": remote_folder,
        "ssh_args": ["-o", "BatchMode=yes", *ssh_options],
        "scp_cmd": ["false"],  # nothing is fetched: what engines print stays in their logs there
        "engine_args": [f"--profile-dir={remote_folder}", f"--cluster-id={folder.name}"],
        "environment": engine_environment(folder),
        "engines": dict(hosts),
    }
    return Cluster(
        folder,
        engines=sum(hosts.values()),
        launcher="ssh",
        start_timeout_s=start_timeout_s,
        # the connection travels in the engine's environment: no file with a key is left there
        traits={"SSHEngineSetLauncher": engine, "SSHEngineLauncher": {"to_send": []}},
        controller_ip=controller_ip,
        controller_location=controller_location,
    )


def by_mpi(
    folder: str | Path,
    *,
    engines: int,
    command: Sequence[str] = ("mpiexec",),
    options: Sequence[str] = (),
    python: str | None = None,
    controller_ip: str | None = None,
    controller_location: str | None = None,
    start_timeout_s: float = 120.0,
) -> Cluster:
    """Return a cluster whose engines are started by MPI; their Python needs mpi4py.

    Parameters
    ----------
    folder
        Of the cluster, on a disk that all machines see.
    engines
        Number of MPI processes.
    command, options
        What starts them, and its options (``--hostfile``, …), one word each.
    python
        The Python of the engines, with sddfkit and mpi4py; None: this one.
    controller_ip, controller_location, start_timeout_s
        See :class:`~sddfkit.factory.cluster.Cluster`.
    """
    folder = Path(folder).absolute()
    traits: dict[str, Any] = {
        "mpi_cmd": list(command),
        "mpi_args": list(options),
        "engine_cmd": [python or sys.executable, "-m", "ipyparallel.engine"],
        "engine_args": [f"--profile-dir={folder / 'profile'}", f"--cluster-id={folder.name}"],
    }
    return Cluster(
        folder,
        engines=engines,
        launcher="mpi",
        start_timeout_s=start_timeout_s,
        traits={"MPIEngineSetLauncher": traits},
        controller_ip=controller_ip,
        controller_location=controller_location,
    )


def connected(
    folder: str | Path, *, connection_file: str | Path, engines: int = 1, start_timeout_s: float = 120.0
) -> Cluster:
    """Return a cluster that somebody else started, known by its client connection file; it is never stopped."""
    return Cluster(folder, engines=engines, start_timeout_s=start_timeout_s, connection_file=connection_file)


def running(folder: str | Path, *, name: str = "default", engines: int = 1, start_timeout_s: float = 3600.0) -> Cluster:
    """Return the cluster that ``sddfkit cluster start`` left running, by name, beside `folder`; it is never stopped."""
    if not name or Path(name).name != name:
        raise ClusterError(f"cluster.name={name!r} is no name of a running cluster: sddfkit cluster status lists them")
    return Cluster(
        Path(folder).absolute().parent / name, engines=engines, start_timeout_s=start_timeout_s, running=True
    )
