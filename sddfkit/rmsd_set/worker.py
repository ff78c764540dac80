"""The process that builds components: ``python -m sddfkit.rmsd_set.worker``, started by :mod:`.series`.

Reads ``{"folder", "component", "attempt", "settings", "embed"}`` per line, keeps the finished row in a journal of its
own in the folder of the set, and answers ``{"id"}``. Ends with its input, or with its parent.
"""

import json
import traceback
from pathlib import Path
from typing import Any

from sddfkit.qc.harnesses.protocol import die_with_parent, send, take_streams
from sddfkit.rmsd_set.build import Settings, build_component, failed
from sddfkit.rmsd_set.components import Component
from sddfkit.rmsd_set.journal import Journal


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Build one component; what goes wrong is a failure in its row."""
    component = Component(**job["component"])
    try:
        return build_component(component, Settings(**job["settings"]), Path(job["folder"]), embed=job["embed"])
    except Exception as error:  # one component must not stop the rest, and the reason is kept
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        return failed(component.id, "unknown", reason)


def main() -> None:
    """Build what is asked for until the input ends."""
    die_with_parent()
    incoming, outgoing = take_streams()
    journals: dict[str, Journal] = {}
    send(outgoing, {"ready": True})
    for line in incoming:
        job = json.loads(line)
        folder = job["folder"]
        if folder not in journals:
            journals[folder] = Journal(Path(folder))
        journals[folder].add({**work(job), "attempt": job["attempt"]})
        send(outgoing, {"id": job["component"]["id"]})


if __name__ == "__main__":
    main()
