"""What decides the weights of a member: the hash of its job, of its data and of the code that makes and trains it."""

import functools
import hashlib
import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sddfkit.models.build import locate

_VERSIONED = ("sddfkit", "torch")
"""Packages whose code is counted otherwise: as a whole, and by its version."""


def job_hash(job: Mapping[str, Any]) -> str:
    """sha256 of all that determines the weights: settings, code, seed and the record files' bytes.

    The code is that of :mod:`sddfkit.models` and :mod:`sddfkit.training`, and the files that define a network, loss,
    optimizer or scheduler from elsewhere.

    Raises
    ------
    ValueError
        If a ``_target_`` cannot be imported.
    """
    settings = {key: job.get(key) for key in ("name", "net", "module", "trainer", "references", "stats", "seed")}
    settings["torch"] = torch.__version__
    settings["code"] = _code()
    parts = [job["net"], *(job["module"].get(key) for key in ("optimizer", "scheduler", "loss"))]
    foreign = {path for part in parts if part for path in _foreign_sources(part.get("_target_", ""))}
    if foreign:
        settings["foreign"] = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in foreign)
    for key in ("train_records", "validation_records"):
        settings[key] = hashlib.sha256(Path(job[key]).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """sha256 of the sources that make and train a network: other code may make other weights of the same settings."""
    digest = hashlib.sha256()
    for package in ("models", "training"):
        for path in sorted((Path(__file__).parents[1] / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _foreign_sources(target: str) -> set[Path]:
    """Files that define a target outside sddfkit and torch, its base classes included."""
    if target.partition(".")[0] in _VERSIONED:
        return set()
    found = locate(target)
    kinds = found.__mro__ if inspect.isclass(found) else [found]
    sources = set()
    for kind in kinds:
        if str(getattr(kind, "__module__", "builtins")).partition(".")[0] in (*_VERSIONED, "builtins"):
            continue
        try:
            source = inspect.getsourcefile(kind)
        except TypeError:  # compiled
            continue
        if source is not None and Path(source).is_file():
            sources.add(Path(source))
    return sources
