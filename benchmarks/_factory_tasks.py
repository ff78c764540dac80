"""What engines of other systems run: the same calculation as ours, in the engine itself, and a plain constant."""

import time
from typing import Any


def compute(document: dict[str, Any]) -> dict[str, Any]:
    """Run one calculation as our worker does; returns its whole result, with the wall time inside (s)."""
    from sddfkit.qc.worker import run_job

    begun = time.perf_counter()
    result = run_job({"input": document})
    seconds = time.perf_counter() - begun
    return {"result": result.model_dump(mode="json"), "wall_s": seconds}


def constant(number: int) -> int:
    """What costs nothing."""
    return 2 * number
