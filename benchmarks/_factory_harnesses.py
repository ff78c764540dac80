"""Two programs of the benchmark, named by dotted path as anybody's own harness is: a constant, and plain work."""

import time
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from qcelemental.models.v2 import AtomicInput, AtomicResult
from qcengine.config import TaskConfig

from sddfkit.qc.harnesses.base import Harness, atomic_result

VERSION = "1.0"


class _Toy(Harness):
    """What both are: a program that is always there, one method without a basis set, an energy alone."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "toy",
        "scratch": False,
        "thread_safe": False,
        "thread_parallel": False,
        "node_parallel": False,
        "managed_memory": False,
    }
    own_methods: ClassVar[Mapping[str, frozenset[int]]] = {"toy": frozenset(range(1, 119))}

    def problem(self) -> str | None:
        return None

    def get_version(self) -> str:
        return VERSION

    def _result(self, data: AtomicInput, extras: Mapping[str, Any]) -> AtomicResult:
        gradient = np.zeros((len(data.molecule.symbols), 3)) if data.specification.driver == "gradient" else None
        return atomic_result(
            data,
            program=self.name,
            version=VERSION,
            energy=-1.0,
            gradient=gradient,
            dipole=np.zeros(3),
            properties={},
            extras=extras,
        )


class Constant(_Toy):
    """Returns a constant at once: what is left is the cost of everything around a calculation."""

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        del config
        return self._result(input_data, {})


class Burn(_Toy):
    """Keeps one core busy for so many seconds of processor time: keyword ``seconds``, extra ``program_cpu_s``."""

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        del config
        before = time.process_time()
        end = before + float(input_data.specification.keywords["seconds"])
        numbers = np.arange(1000.0)
        while time.process_time() < end:
            for _ in range(100):
                numbers = np.sqrt(numbers + 1.0)
        return self._result(input_data, {"program_cpu_s": time.process_time() - before})
