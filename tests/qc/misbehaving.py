"""A program that does all that programs should not do: the keyword `do` says what, then it answers a constant."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from sddfkit.qc.harnesses.base import Harness, Rung, atomic_result

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult
    from qcengine.config import TaskConfig

MIB = 2**20


class Misbehaving(Harness):
    """Constant energy and gradient."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "misbehaving",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }
    own_methods: ClassVar[Mapping[str, frozenset[int]]] = {"constant": frozenset(range(1, 119))}
    ladder: ClassVar[tuple[Rung, ...]] = (Rung("with more patience", {"patience": 1}),)

    def problem(self) -> str | None:
        return None

    def get_version(self) -> str:
        return "1.0"

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        del config
        for deed in str(input_data.specification.keywords.get("do", "")).split():
            globals()[deed]()
        size = len(input_data.molecule.symbols)
        return atomic_result(
            input_data,
            program="misbehaving",
            version="1.0",
            energy=-1.0,
            gradient=np.zeros((size, 3)),
            dipole=np.zeros(3),
            properties={},
        )


def hang() -> None:
    time.sleep(600)


def rubbish() -> None:
    for _ in range(40):
        os.write(1, b"\xff rubbish" * (MIB // 8))
        time.sleep(0.02)
    print("the last words", file=sys.stderr, flush=True)


def files() -> None:
    assert list(Path().iterdir()) == [], "what an earlier calculation left"
    Path("left").mkdir()
    (Path("left") / "psi.32").write_bytes(b"x" * MIB)
    (Path(os.environ["TMPDIR"]) / "integrals").write_bytes(b"x" * MIB)


def peak() -> None:
    block = b"x" * (300 * MIB)
    del block


def eat() -> None:
    blocks = []
    for _ in range(600):
        blocks.append(b"x" * (2 * MIB))
        time.sleep(0.002)
    time.sleep(60)


def clock() -> None:
    """The clock of this process jumps back an hour whenever somebody looks at it."""
    real, looks = time.time, iter(range(10**6))
    time.time = lambda: real() - 3600.0 * next(looks)


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def children() -> None:
    """One stays in the process group, one leaves it, one leaves everything: also its parent and its environment."""
    tag = os.environ["SLEEPERS"]
    subprocess.Popen(["sleep", f"601.{tag}"])
    subprocess.Popen(["sleep", f"602.{tag}"], start_new_session=True)
    daemon = f"import subprocess; subprocess.Popen(['sleep', '603.{tag}'], start_new_session=True, env={{}})"
    subprocess.run([sys.executable, "-S", "-c", daemon], check=True)
    subprocess.Popen(["sleep", f"604.{tag}"], start_new_session=True, env={**os.environ, "TMPDIR": "/"})


def full() -> None:
    raise OSError(errno.ENOSPC, "No space left on device", "integrals")


def read_only() -> None:
    raise OSError(errno.EROFS, "Read-only file system", "integrals")


def starve() -> None:
    raise MemoryError("3 TiB")


def stumble() -> None:
    raise KeyError("orbital")
