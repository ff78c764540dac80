"""One calculation: an `AtomicInput` in, an `AtomicResult` or a `FailedOperation` out."""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import time
import traceback
from pathlib import Path
from typing import Any, Final

import cpuinfo
import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation
from qcengine.config import TaskConfig, get_provenance_augments
from qcengine.exceptions import QCEngineException
from qcengine.util import environ_context

from sddfkit.qc.errors import classified_errors, error_type, failure
from sddfkit.qc.harnesses import harness, register
from sddfkit.qc.harnesses.base import Rung, on_rung
from sddfkit.qc.inputs import InputError, check_input
from sddfkit.qc.levels import RESOURCES

logger = logging.getLogger(__name__)

SCF_LADDER: Final = "scf_ladder"
"""Key of a result's or an error's extras: the steps on the ladder, each with rung, name, keywords and converged."""

AS_ASKED: Final = Rung("as asked", {})
"""Rung 0."""

register()


def _know_the_processor() -> None:
    """Read the name of the processor where Linux tells it.

    QCEngine uses that alone of what it asks py-cpuinfo, which takes measurements for a second, in every process.
    """
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            cpuinfo.get_cpu_info = lambda: {"brand_raw": named[1]}


_know_the_processor()


def compute(
    atomic_input: AtomicInput, *, rung: int = 0, climb: bool = False, memory_gib: float | None = None
) -> AtomicResult | FailedOperation:
    """Run one calculation in this process (Psi4: in its own), with no limit on time.

    Parameters
    ----------
    atomic_input : AtomicInput
        From `sddfkit.qc.atomic_input`; the program is the one its specification names.
    rung : int
        Where on the program's ladder of helps for hard SCFs (`sddfkit.qc.harnesses.Harness.ladder`) to start; 0
        computes the input as it is.
    climb : bool
        After a convergence failure go on with the next rung, up to the last one.
    memory_gib : float, optional
        What the program is told it may use, instead of what the specification says.

    Returns
    -------
    AtomicResult or FailedOperation
        In QCSchema's units (bohr, hartree), with the input as it was asked. A failure has an error type of
        `sddfkit.qc.errors.ErrorType`; a failed calculation never raises. Unless the input was computed as it is, the
        extras (those of a failure's error) hold ``scf_ladder``: the steps taken, each with rung, name, keywords and
        converged. QCEngine fills a global on first use: do not call this from several threads.
    """
    try:
        check_input(atomic_input)
        ladder = (AS_ASKED, *harness(atomic_input.specification.program).ladder)
        _check_rung(rung, ladder, atomic_input.specification.program)
    except InputError as error:
        return failure(atomic_input, "input", str(error))
    steps: list[dict[str, Any]] = []
    while True:
        outcome = _compute(_on_rung(atomic_input, ladder[rung], memory_gib))
        steps.append(_step(rung, ladder[rung], outcome))
        unconverged = isinstance(outcome, FailedOperation) and outcome.error.error_type == "convergence"
        if not (climb and unconverged and rung + 1 < len(ladder)):
            return _recorded(outcome, atomic_input, steps)
        rung += 1


def recipe(outcome: AtomicResult | FailedOperation) -> str | None:
    """The name of the last rung that was tried, None for the input as asked."""
    extras = outcome.extras if isinstance(outcome, AtomicResult) else outcome.error.extras
    steps = (extras or {}).get(SCF_LADDER)
    return str(steps[-1]["name"]) if steps and steps[-1]["rung"] > 0 else None


def _check_rung(rung: object, ladder: tuple[Rung, ...], program: str) -> None:
    if isinstance(rung, bool) or not isinstance(rung, int) or not 0 <= rung < len(ladder):
        names = ", ".join(f"{number} ({step.name})" for number, step in enumerate(ladder))
        raise InputError(f"the SCF ladder of {program} has no rung {rung!r}; there are {names}")


def _on_rung(atomic_input: AtomicInput, rung: Rung, memory_gib: float | None) -> AtomicInput:
    """The input as the program gets it."""
    specification = atomic_input.specification
    extras = specification.extras
    if memory_gib is not None:
        extras = {**extras, RESOURCES: {**extras.get(RESOURCES, {}), "memory_gib": memory_gib}}
    changed = {"keywords": on_rung(specification.keywords, rung), "extras": extras}
    return atomic_input.model_copy(update={"specification": specification.model_copy(update=changed)})


def _step(number: int, rung: Rung, outcome: AtomicResult | FailedOperation) -> dict[str, Any]:
    converged = isinstance(outcome, AtomicResult)
    return {"rung": number, "name": rung.name, "keywords": dict(rung.keywords), "converged": converged}


def _recorded(
    outcome: AtomicResult | FailedOperation, asked: AtomicInput, steps: list[dict[str, Any]]
) -> AtomicResult | FailedOperation:
    """The outcome under the input as asked, with the steps that led to it."""
    climbed = {SCF_LADDER: steps} if steps[-1]["rung"] > 0 else {}
    if isinstance(outcome, AtomicResult):
        return outcome.model_copy(update={"input_data": asked, "extras": {**outcome.extras, **climbed}})
    error = outcome.error
    message = error.error_message
    if climbed:
        message = f"on rung {steps[-1]['rung']} of the SCF ladder ({steps[-1]['name']}): {message}"
    return failure(asked, error_type(error.error_type), message, {**(error.extras or {}), **climbed} or None)


def _compute(atomic_input: AtomicInput) -> AtomicResult | FailedOperation:
    """Have a harness compute, by QCEngine's interface and under its settings.

    `qcengine.compute` does the same, but reads all its settings anew and validates the result twice: 3 ms of the 4 ms
    that a calculation costs beside the program.
    """
    begun = time.monotonic()
    try:
        resources = atomic_input.specification.extras.get(RESOURCES, {})
        config = _task_config(int(resources.get("threads", 1)), float(resources.get("memory_gib", 2.0)))
        program = atomic_input.specification.program
        with environ_context(config=config), classified_errors(program):
            result = harness(program).compute(atomic_input, config)
        return _with_provenance(result, time.monotonic() - begun)
    except QCEngineException as error:
        return failure(atomic_input, error_type(error.error_type), error.error_message, error.extras)
    except Exception as error:  # a batch must not stop for one molecule, whatever the program did
        logger.exception("%s raised for %s", atomic_input.specification.program, atomic_input)
        return failure(atomic_input, "unknown", f"{error!r}\n{traceback.format_exc()}")


@functools.lru_cache
def _task_config(threads: int, memory_gib: float) -> TaskConfig:
    return qcengine.get_config(task_config={"ncores": threads, "memory": memory_gib, "retries": 0})


def _with_provenance(result: AtomicResult, wall_s: float) -> AtomicResult:
    about = {**get_provenance_augments(), "wall_time": wall_s}
    return result.model_copy(update={"provenance": result.provenance.model_copy(update=about)})
