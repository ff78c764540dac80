"""Commands of Python in processes that need not import torch and the like again.

``run`` does what :func:`subprocess.run` does with ``[sys.executable, "-m", module, …]``, or with the path of a script:
it runs in a process of its own, with its own folder, environment and output. But that process is a fork of one that has
loaded the large libraries (and nothing of this project), which takes ten seconds each time otherwise.
"""

import atexit
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LIBRARIES = (
    "torch", "torch_geometric.data", "pytorch_lightning", "mlflow.tracking", "sklearn.linear_model", "sqlalchemy",
    "rdkit.Chem.AllChem", "hydra", "ipyparallel", "pyarrow.parquet", "qcengine", "matplotlib.figure", "pandas",
)  # fmt: skip

_server: subprocess.Popen[str] | None = None


def run(
    program: str, *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, timeout: float = 600.0
) -> subprocess.CompletedProcess[str]:
    """Run a module or script to its end, or kill it when it takes too long; its output and its exit code."""
    server = _started()
    assert server.stdin is not None and server.stdout is not None
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {
            "argv": [program, *arguments],
            "cwd": str(cwd),
            "env": dict(os.environ if env is None else env),
            "out": str(out),
            "err": str(err),
        }
        print(json.dumps(request), file=server.stdin, flush=True)
        pid = int(server.stdout.readline())
        late = threading.Timer(timeout, os.kill, (pid, signal.SIGKILL))
        late.start()
        status = int(server.stdout.readline())
        late.cancel()
        said = (out.read_text(errors="replace"), err.read_text(errors="replace"))
    return subprocess.CompletedProcess([program, *arguments], status, *said)


def _started() -> subprocess.Popen[str]:
    global _server
    if _server is None or _server.poll() is not None:
        _server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # No threads before the fork; the command's own environment holds for what it does.
            env={**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"},
        )
        atexit.register(_server.kill)
    return _server


def _serve() -> None:
    """Fork for each request, and answer with the number of the process, then with how it ended."""
    for name in LIBRARIES:
        importlib.import_module(name)
    assert threading.active_count() == 1, "a fork would leave threads behind"
    for line in sys.stdin:
        request = json.loads(line)
        if (pid := os.fork()) == 0:
            _become(request)
            return
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _become(request: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    for descriptor, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, request["out"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
        (2, request["err"], os.O_WRONLY | os.O_CREAT | os.O_APPEND),
    ):
        opened = os.open(path, flags, 0o600)
        os.dup2(opened, descriptor)
        os.close(opened)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", buffering=1, closefd=False)
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    found: Sequence[str] = request["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.argv = request["argv"]
    script = sys.argv[0].endswith(".py")
    sys.path[:1] = [str(Path(sys.argv[0]).parent) if script else request["cwd"], *filter(None, found)]
    if script:
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _serve()
