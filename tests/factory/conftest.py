"""The programs of batch systems and of ssh, as this machine can play them: each really does its part, here."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from sddfkit.factory.store import Store

sys.path.insert(0, str(Path(__file__).parent))  # for postgres_server
from postgres_server import Server, running_server

# A job runs with an empty environment, as sites that pass nothing on have it, in a process group of its own.
_SBATCH = """#!/bin/sh
n=$(sed -n 's/^#SBATCH --ntasks=//p' "$1")
env -i PATH="$PATH" HOME="$HOME" SLURM_NTASKS="$n" setsid sh "$1" >"$1.out" 2>&1 </dev/null &
echo $! >>{folder}/jobs
cp "$1" {folder}/script.$!
echo "Submitted batch job $!"
"""
_SRUN = """#!/bin/sh
i=0
while [ $i -lt "$SLURM_NTASKS" ]; do "$@" & i=$((i+1)); done
wait
"""
_SCANCEL = """#!/bin/sh
echo "$1" >>{folder}/cancelled
kill -TERM -"$1"
"""
# ssh [-o option]... host command: the command runs by a shell in the home folder of the other machine.
_SSH = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in
        -o | -i | -p) shift 2 ;;
        *) break ;;
    esac
done
echo "$1" >>{folder}/hosts
shift
cd '{home}' && exec env -i PATH="$PATH" HOME='{home}' sh -c "$*"
"""
_SUBMIT = """#!/bin/sh
if [ $# -gt 0 ]; then cp "$1" {folder}/script; else cat >{folder}/script; fi
echo '{says}'
"""
_DELETE = """#!/bin/sh
echo "$@" >>{folder}/deleted
"""
SUBMITTERS = {
    "slurm": ("sbatch", "scancel", "Submitted batch job 4711", "4711"),
    "pbs": ("qsub", "qdel", "4711[].server.site", "4711[]"),
    "sge": ("qsub", "qdel", 'Your job-array 4711.1-3:1 ("sddfkit") has been submitted', "4711"),
    "lsf": ("bsub", "bkill", "Job <4711> is submitted to queue <normal>.", "4711"),
    "htcondor": ("condor_submit", "condor_rm", "3 job(s) submitted to cluster 4711.", "4711"),
}


class Tools(NamedTuple):
    """A folder of programs at the head of PATH, where they also note what they were told."""

    folder: Path

    def lines(self, name: str) -> list[str]:
        """What was noted under a name."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def _write(self, **programs: str) -> None:
        for name, text in programs.items():
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o755)

    def slurm(self) -> None:
        """sbatch, srun and scancel: jobs are process groups; ``jobs`` and ``cancelled`` list them."""
        self._write(sbatch=_SBATCH.format(folder=self.folder), srun=_SRUN, scancel=_SCANCEL.format(folder=self.folder))

    def submitter(self, system: str) -> str:
        """A program that takes a script and says what the real one says; returns the id by which the job is deleted."""
        submit, delete, says, identifier = SUBMITTERS[system]
        self._write(
            **{
                submit: _SUBMIT.format(folder=self.folder, says=says),
                delete: _DELETE.format(folder=self.folder),
            }
        )
        return identifier

    def ssh(self, home: Path) -> None:
        """ssh to another machine: this one, with another home folder and no environment; ``hosts`` lists calls."""
        home.mkdir(parents=True)
        self._write(ssh=_SSH.format(folder=self.folder, home=home))


@pytest.fixture
def tools(tmp_path, monkeypatch) -> Tools:
    """An empty :class:`Tools`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return Tools(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A PostgreSQL server."""
    with running_server() as started:
        yield started


class Place(NamedTuple):
    """Where a new store may be: a path or a URL, and its spool."""

    path: str
    spool: Path

    def open(self, **options) -> Store:
        return Store(self.path, spool=self.spool, **options)

    def code(self) -> str:
        """What opens it in another process."""
        return f"Store({self.path!r}, spool={str(self.spool)!r})"


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.long)])
def place(request, tmp_path) -> Place:
    """A place for a store in each of the databases."""
    if request.param == "sqlite":
        return Place(str(tmp_path / "store.sqlite"), tmp_path / "spool")
    return Place(request.getfixturevalue("server").new(), tmp_path / "spool")
