"""What to do with a failed calculation, by the class of its error."""

from typing import Final, Literal

# How often a calculation may be tried again after its first failure of each class. The classes are those of
# ``sddfkit.qc.errors`` and "engine_lost", which is nobody's fault but must not go on for ever.
BUDGET: Final[dict[str, int]] = {
    "input": 0,
    "convergence": 0,
    "time": 0,
    "memory": 0,
    "disk": 0,
    "unknown": 1,
    "killed": 1,
    "engine_lost": 5,
}


# Failures that say more about the machine than about the calculation: asking again tries again.
OPEN_AGAIN: Final[frozenset[str]] = frozenset({"disk", "engine_lost", "unknown"})


def verdict(error_class: str, failures_of_class: int) -> Literal["ready", "failed", "held"]:
    """Return the next state of a calculation after it failed.

    A calculation that killed its process twice is held: it is not tried again until somebody asks for it.

    >>> verdict("input", 1), verdict("killed", 1), verdict("killed", 2)
    ('failed', 'ready', 'held')
    """
    if failures_of_class <= BUDGET.get(error_class, 0):
        return "ready"
    return "held" if error_class == "killed" else "failed"
