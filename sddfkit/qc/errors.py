"""The seven words that say what went wrong with a calculation, and the exceptions.

The word decides what happens next (:mod:`sddfkit.factory.retry`): an ``input`` stays wrong however often it is tried,
``killed`` is worth one more try, ``disk`` and ``unknown`` say more about the machine than about the calculation.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from qcelemental.models.v2 import ComputeError, FailedOperation
from qcengine.exceptions import QCEngineException

ErrorType = Literal["input", "convergence", "memory", "time", "killed", "disk", "unknown"]

_FROM_QCENGINE: dict[str, ErrorType] = {
    "input_error": "input",
    "resource_error": "unknown",
    "convergence_error": "convergence",
    "memory": "memory",
    "disk": "disk",
    "killed": "killed",
    "convergence": "convergence",
    "input": "input",
    "time": "time",
}


class ProgramMissingError(RuntimeError):
    """No program can compute this level here; the message says how to get one."""


class ProgramBrokenError(ProgramMissingError):
    """A program, or the harness that drives it, is there but does not work; the message says why and what to do."""


class CalculationError(QCEngineException):
    """A calculation failed for a known reason; QCEngine turns it into a `FailedOperation`.

    Parameters
    ----------
    kind : str
        One of the words of `ErrorType`.
    message : str
        What is wrong, where, and what to do.
    extras : dict, optional
        Anything that helps to find the cause, for example the tail of the program's output.
    """

    def __init__(self, kind: ErrorType, message: str, extras: dict[str, Any] | None = None) -> None:
        super().__init__(message, extras)
        self.error_type = kind

    @property
    def error_message(self) -> str:
        """The message alone: QCEngine's headers would only repeat the error type."""
        return str(self.raw_message)


@contextmanager
def classified_errors(program: str) -> Iterator[None]:
    """Give memory and disk troubles that a program raises as plain Python errors their proper word."""
    try:
        yield
    except MemoryError as error:
        raise CalculationError("memory", f"{program} ran out of memory: {error}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise CalculationError("disk", f"{program} could not write its scratch files: {error}") from error
        raise
    except ImportError as error:
        raise CalculationError(
            "unknown", f"{program} is installed but broken: {type(error).__name__}: {error}; install it again"
        ) from error


def error_type(word: str) -> ErrorType:
    """Translate QCEngine's error type into ours.

    >>> error_type("convergence_error"), error_type("random_error")
    ('convergence', 'unknown')
    """
    return _FROM_QCENGINE.get(word, "unknown")


def failure(input_data: Any, kind: ErrorType, message: str, extras: dict[str, Any] | None = None) -> FailedOperation:
    """A `FailedOperation` that holds the input as it came, the error word and the message."""
    return FailedOperation(
        input_data=input_data, error=ComputeError(error_type=kind, error_message=message, extras=extras)
    )
