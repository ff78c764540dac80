"""Where Psi4 is: often under another Python than ours, so it is never imported here.

Looked for in this order: the Python named by ``SDDFKIT_PSI4_PYTHON``; the running one; the one in the first line of the
executable ``psi4`` on PATH, with the module path that ``psi4 --psiapi-path`` prints.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, NamedTuple

from sddfkit.qc.child import ONE_THREAD

ENVIRONMENT_VARIABLE: Final = "SDDFKIT_PSI4_PYTHON"
WORKER_SCRIPT: Final = Path(__file__).with_name("psi4_worker.py")
_LOOK_LIMIT_S: Final = 30.0


class Psi4NotUsableError(RuntimeError):
    """Psi4 is missing, or there but broken; the message says which."""


class Psi4BrokenError(Psi4NotUsableError):
    """Psi4 is there but does not work."""


class Installation(NamedTuple):
    """python : interpreter that imports psi4; module_path : its PYTHONPATH or ""; version : of Psi4."""

    python: str
    module_path: str
    version: str

    def environment(self) -> dict[str, str]:
        """Complete environment of a Psi4 process; nothing of our own Python reaches the other one."""
        return _environment(self.module_path)


class Broken(NamedTuple):
    """A Psi4 that does not work, and why, in a sentence."""

    reason: str


def find() -> Installation:
    """Find Psi4 and ask its version; the answer is kept for this process.

    Raises
    ------
    Psi4NotUsableError
        If it is missing; `Psi4BrokenError` if it is there but broken.
    """
    found = _look(os.environ.get(ENVIRONMENT_VARIABLE, ""), os.environ.get("PATH", ""))
    if isinstance(found, Broken):
        raise Psi4BrokenError(found.reason)
    if found is None:
        raise Psi4NotUsableError("Psi4 was not found: no module psi4 here and no executable psi4 on PATH.")
    return found


@functools.lru_cache(maxsize=8)
def _look(named_python: str, search_path: str) -> Installation | Broken | None:
    """What was found; None if there is none."""
    if named_python:
        return _probe(named_python, "", f"{ENVIRONMENT_VARIABLE}={named_python}")
    if importlib.util.find_spec("psi4") is not None:
        return _probe(sys.executable, os.environ.get("PYTHONPATH", ""), f"psi4 of {sys.executable}")
    executable = shutil.which("psi4", path=search_path)
    if executable is None:
        return None
    python = _interpreter(Path(executable))
    if python is None:
        return Broken(f"Psi4 is broken: the first line of {executable} names no Python interpreter.")
    module_path = _module_path(executable)
    if module_path is None:
        return Broken(f"Psi4 is broken: {executable} --psiapi-path prints no PYTHONPATH.")
    return _probe(python, module_path, executable)


def _interpreter(executable: Path) -> str | None:
    with executable.open("rb") as stream:
        first = stream.readline(1000)
    if not first.startswith(b"#!"):
        return None
    words = shlex.split(first[2:].decode("utf-8", "replace"))
    words = [word for word in words if Path(word).name != "env" and not word.startswith("-")]
    return shutil.which(words[0]) if words and "python" in Path(words[0]).name else None


def _module_path(executable: str) -> str | None:
    run = _run([executable, "--psiapi-path"], "")
    match = re.search(r"PYTHONPATH=([^:\s$]+)", run.stdout) if isinstance(run, subprocess.CompletedProcess) else None
    return match.group(1) if match else None


def _probe(python: str, module_path: str, where: str) -> Installation | Broken:
    run = _run([python, str(WORKER_SCRIPT), "--version"], module_path)
    if isinstance(run, str):
        return Broken(f"Psi4 is broken ({where}): {run}.")
    if run.returncode != 0:
        last = (run.stderr.strip().splitlines() or [f"exit code {run.returncode}"])[-1]
        return Broken(f"Psi4 is broken ({where}): {last}.")
    try:
        return Installation(python, module_path, json.loads(run.stdout)["version"])
    except (ValueError, TypeError, KeyError):
        return Broken(f"Psi4 is broken ({where}): asked for its version it answers {run.stdout[:200]!r}.")


def _run(command: list[str], module_path: str) -> subprocess.CompletedProcess[str] | str:
    """Run a short command in a throw-away folder, since Psi4 writes files wherever it is; a sentence if it fails."""
    with tempfile.TemporaryDirectory(prefix="sddfkit-psi4-") as folder:
        try:
            return subprocess.run(
                command,
                cwd=folder,
                env={**_environment(module_path), "PSI_SCRATCH": folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_LOOK_LIMIT_S,
                check=False,
            )
        except OSError as error:
            return str(error)
        except subprocess.TimeoutExpired:
            return f"{command[0]} did not answer within {_LOOK_LIMIT_S:.0f} s"


def _environment(module_path: str) -> dict[str, str]:
    ours = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    if module_path:
        environment["PYTHONPATH"] = module_path
    return {**environment, **ONE_THREAD}
