"""The process that computes: ``python -m sddfkit.qc.worker``, started and watched by `sddfkit.qc.supervisor`.

Says ``{"event": "ready"}`` once it is. Reads a job per line, ``{"key": str, "input": AtomicInput as dict, "rung": int,
"memory_gib": float or None}`` (the last two may be missing), and acknowledges it with ``{"event": "started"}``. A job
on a rung of its program's ladder is announced by ``{"event": "recipe", "recipe": name of the rung}``. The answer is
``{"event": "finished", "result": AtomicResult or FailedOperation as dict, "recipe": name of the rung or None, "wall_s":
s, "cpu_s": s}``, with the CPU time of this process and of children that have ended. Ends with its input.
"""

from __future__ import annotations

import json
import resource
import time
from typing import Any, TextIO

import qcengine
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation

from sddfkit.qc.compute import compute, recipe
from sddfkit.qc.errors import failure
from sddfkit.qc.harnesses import harness
from sddfkit.qc.harnesses.protocol import adopt_orphans, die_with_parent, send, take_streams


def run_job(job: dict[str, Any]) -> AtomicResult | FailedOperation:
    """Compute one job; input that cannot be read becomes a `FailedOperation` of type "input".

    Parameters
    ----------
    job : dict
        With the key ``input``; ``rung`` and ``memory_gib`` as `sddfkit.qc.compute` takes them.
    """
    data = job.get("input")
    try:
        if not isinstance(data, dict):
            raise TypeError(f"job['input'] is a {type(data).__name__}, expected an AtomicInput as dict")
        atomic_input = AtomicInput(**data)
    except Exception as error:  # QCElemental's checks raise half a dozen unrelated types
        return failure(data, "input", f"the input is not a valid QCSchema AtomicInput: {error}")
    return compute(atomic_input, rung=job.get("rung", 0), memory_gib=job.get("memory_gib"))


def main() -> None:
    """Answer jobs until the input ends."""
    die_with_parent()
    adopt_orphans()
    incoming, outgoing = take_streams()
    qcengine.get_config()  # looks around once; that belongs to no calculation
    send(outgoing, {"event": "ready"})
    for line in incoming:
        send(outgoing, {"event": "started"})
        _answer(outgoing, json.loads(line))


def _answer(outgoing: TextIO, job: dict[str, Any]) -> None:
    if job.get("rung"):
        send(outgoing, {"event": "recipe", "recipe": _rung_name(job)})  # this process may not live to say it later
    wall, cpu = time.monotonic(), _cpu_s()
    outcome = run_job(job)
    about = {"event": "finished", "wall_s": time.monotonic() - wall, "cpu_s": _cpu_s() - cpu, "recipe": recipe(outcome)}
    # The result is JSON already, and may be large: it is not taken apart to be put together again.
    outgoing.write(f'{json.dumps(about)[:-1]}, "result": {outcome.model_dump_json()}}}\n')
    outgoing.flush()


def _rung_name(job: dict[str, Any]) -> str | None:
    try:
        return harness(job["input"]["specification"]["program"]).ladder[job["rung"] - 1].name
    except Exception:  # there is no such rung, program or input: `run_job` says what is wrong
        return None


def _cpu_s() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
