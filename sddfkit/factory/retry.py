"""What to do with a failed calculation, by the class of its error."""

from collections.abc import Mapping
from typing import Final, Literal

from sddfkit.qc.errors import ProgramMissingError
from sddfkit.qc.harnesses import harness

# How often a calculation may be tried again after its first failure of each class. The classes are those of
# ``sddfkit.qc.errors`` and "engine_lost", which is nobody's fault but must not go on for ever. An SCF that does not
# converge is tried again once for each rung of its program's ladder.
BUDGET: Final[dict[str, int]] = {
    "input": 0,
    "convergence": 0,
    "time": 0,
    "memory": 2,
    "disk": 2,
    "unknown": 1,
    "killed": 1,
    "engine_lost": 5,
}

MORE_MEMORY: Final = 2.0
"""Factor by which the limit grows after a calculation has run out of memory."""

# Failures that say more about the machine than about the calculation: asking again tries again.
OPEN_AGAIN: Final[frozenset[str]] = frozenset({"disk", "engine_lost", "unknown"})


def verdict(error_class: str, failures_of_class: int, rungs: int = 0) -> Literal["ready", "failed", "held"]:
    """Return the next state of a calculation after it failed.

    Parameters
    ----------
    error_class
        Of this failure.
    failures_of_class
        How often it has failed so, this time included.
    rungs
        Length of its program's SCF ladder.

    Notes
    -----
    A calculation that killed its process twice is held: it is not tried again until somebody asks for it.

    >>> verdict("input", 1), verdict("killed", 1), verdict("killed", 2), verdict("convergence", 1, rungs=3)
    ('failed', 'ready', 'held', 'ready')
    """
    budget = rungs if error_class == "convergence" else BUDGET.get(error_class, 0)
    if failures_of_class <= budget:
        return "ready"
    return "held" if error_class == "killed" else "failed"


def rungs_of(program: str) -> int:
    """Return the length of a program's SCF ladder, 0 for a program that is not known here."""
    try:
        return len(harness(program).ladder)
    except ProgramMissingError:
        return 0


def recipe(failures: Mapping[str, int], program: str, memory_gib: float) -> dict[str, float | int | bool]:
    """Return what is done otherwise in the next attempt, after so many failures of each class.

    Returns
    -------
    dict
        ``rung`` of the SCF ladder (0: as asked), ``memory_gib``, and whether to compute ``again`` what lies in a spool:
        it was refused.
    """
    return {
        "again": failures.get("unknown", 0) > 0,
        "rung": min(failures.get("convergence", 0), rungs_of(program)),
        "memory_gib": memory_gib * MORE_MEMORY ** min(failures.get("memory", 0), BUDGET["memory"]),
    }
