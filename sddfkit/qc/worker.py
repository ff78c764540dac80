"""The process that computes: ``python -m sddfkit.qc.worker``, started and watched by `sddfkit.qc.supervisor`.

Reads one job per line, ``{"key": str, "input": AtomicInput as dict, "rung": int, "memory_gib": float or None}`` (the
last two may be missing), acknowledges it with ``{"event": "started"}`` and answers ``{"event": "finished", "result":
AtomicResult or FailedOperation as dict, "recipe": name of the rung or None}``. Ends with its input.
"""

from __future__ import annotations

import json
from typing import Any

import qcengine
from qcelemental.models.v2 import AtomicInput

from sddfkit.qc.compute import compute, recipe
from sddfkit.qc.errors import failure
from sddfkit.qc.harnesses.protocol import die_with_parent, send, take_streams


def run_job(job: dict[str, Any]) -> dict[str, Any]:
    """Compute one job; input that cannot be read becomes a `FailedOperation` of type "input".

    Parameters
    ----------
    job : dict
        With the key ``input``; ``rung`` and ``memory_gib`` as `sddfkit.qc.compute` takes them.

    Returns
    -------
    dict
        `AtomicResult` or `FailedOperation`, JSON-able.
    """
    data = job.get("input")
    try:
        if not isinstance(data, dict):
            raise TypeError(f"job['input'] is a {type(data).__name__}, expected an AtomicInput as dict")
        atomic_input = AtomicInput(**data)
    except Exception as error:  # QCElemental's checks raise half a dozen unrelated types
        outcome = failure(data, "input", f"the input is not a valid QCSchema AtomicInput: {error}")
    else:
        outcome = compute(atomic_input, rung=job.get("rung", 0), memory_gib=job.get("memory_gib"))
    return dict(json.loads(outcome.model_dump_json()))


def main() -> None:
    """Answer jobs until the input ends."""
    die_with_parent()
    incoming, outgoing = take_streams()
    qcengine.get_config()  # looks at the processor for a second, once; that second belongs to no calculation
    for line in incoming:
        send(outgoing, {"event": "started"})
        result = run_job(json.loads(line))
        send(outgoing, {"event": "finished", "result": result, "recipe": recipe(result)})


if __name__ == "__main__":
    main()
