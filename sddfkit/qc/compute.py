"""One calculation: an `AtomicInput` in, an `AtomicResult` or a `FailedOperation` out."""

from __future__ import annotations

import logging
import traceback

import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation

from sddfkit.qc.errors import error_type, failure
from sddfkit.qc.harnesses import harness, register
from sddfkit.qc.inputs import InputError, check_input
from sddfkit.qc.levels import RESOURCES

logger = logging.getLogger(__name__)

register()


def compute(atomic_input: AtomicInput) -> AtomicResult | FailedOperation:
    """Run one calculation in this process (Psi4: in its own), with no limit on time.

    Parameters
    ----------
    atomic_input : AtomicInput
        From `sddfkit.qc.atomic_input`; the program is the one its specification names.

    Returns
    -------
    AtomicResult or FailedOperation
        In QCSchema's units (bohr, hartree). A failure has an error type of `sddfkit.qc.errors.ErrorType`; a failed
        calculation never raises. QCEngine fills a global on first use: do not call this from several threads.
    """
    try:
        check_input(atomic_input)
    except InputError as error:
        return failure(atomic_input, "input", str(error))
    resources = atomic_input.specification.extras.get(RESOURCES, {})
    task = {"ncores": int(resources.get("threads", 1)), "memory": float(resources.get("memory_gib", 2.0)), "retries": 0}
    try:
        name = harness(atomic_input.specification.program).name
        outcome = qcengine.compute(atomic_input, name, task_config=task, raise_error=False, return_version=2)
    except Exception as error:  # a batch must not stop for one molecule, whatever the program did
        logger.exception("QCEngine raised for %s", atomic_input)
        return failure(atomic_input, "unknown", f"{error!r}\n{traceback.format_exc()}")
    if isinstance(outcome, FailedOperation):
        reason = outcome.error
        return failure(atomic_input, error_type(reason.error_type), reason.error_message, reason.extras)
    return outcome
