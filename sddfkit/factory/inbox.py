"""What other processes want of the one that writes the store: a folder of requests, each a file.

A request is a JSON mapping with ``do``: ``"stop"`` (give no more to the engines, wait for what runs, close; with
``"now": true`` do not wait) or ``"retry"`` (``classes`` and ``keys`` as :func:`sddfkit.factory.reopen.reopen` takes
them); ``batch`` names the batch that is meant, without it all are. It is taken out within a second or so while a batch
runs. A request to retry that nobody took is taken by the next process that opens a batch; one to stop is not.
"""

import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sddfkit.qc.spool import write_text

logger = logging.getLogger(__name__)

REQUESTS: Final = ("stop", "retry")


def leave(folder: Path, request: Mapping[str, Any]) -> Path:
    """Leave a request and return its file, which is gone once it has been taken.

    Raises
    ------
    ValueError
        If there is no such request.
    """
    if request.get("do") not in REQUESTS:
        raise ValueError(f"there is no request {request.get('do')!r}, only {', '.join(REQUESTS)}")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.json"
    by = {"host": socket.gethostname(), "pid": os.getpid()}
    write_text(path, json.dumps({**request, "by": by, "at": time.time()}))
    return path


def waits_for(path: Path, seconds: float) -> bool:
    """Wait until a request has been taken; say whether it has."""
    deadline = time.monotonic() + seconds
    while path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def take(folder: Path, batch: str | None = None) -> list[dict[str, Any]]:
    """Take the requests that concern a batch (None: any), oldest first; what cannot be read is thrown away."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            request = _request(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:  # another coordinator was faster
            continue
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("the request %s cannot be read and is thrown away: %r", path, error)
            request = None
        if request is not None and batch is not None and request["batch"] not in (None, batch):
            continue
        path.unlink(missing_ok=True)
        if request is not None:
            found.append(request)
    return found


def _request(document: Any) -> dict[str, Any]:
    """Return a request with all its fields, each of the right type."""
    if document["do"] not in REQUESTS:
        raise ValueError(f"there is no request {document['do']!r}")
    lists = {name: [str(item) for item in document.get(name) or ()] for name in ("classes", "keys")}
    by = {name: document["by"][name] for name in ("host", "pid")}
    return {
        "do": document["do"], "batch": document.get("batch"), "now": bool(document.get("now")),
        "at": float(document["at"]), "by": by, **lists,
    }  # fmt: skip
