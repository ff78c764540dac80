"""Many calculations, none lost.

Concepts
--------
record
    one conformer of one molecule, known by its ``record_id``; its arrays travel as plain JSON (positions in Å).
calculation
    one record at one level by one program, known by its ``key``: a hash of everything that decides the result. What is
    known is not computed again.
attempt
    one try of one calculation. Every attempt is a row, a failure too.
batch
    the calculations that somebody asked for under one name; :class:`Batch` runs them on an executor.
spool
    a folder where an engine puts a finished result before it says so. Whatever dies, the next opening of the store
    collects what lies there. An engine that does not share the store's disk keeps a spool of its own, which is handed
    over as soon as the engine is reached.
cluster
    where the engines are: on this machine, behind ssh, in a batch queue (:mod:`sddfkit.factory.launchers`), or started
    by somebody else.

Only the process that opened the store for writing changes it; engines never open it. Results stay in atomic units
(bohr, hartree) as QCSchema documents; :func:`sddfkit.factory.export.labelled` converts them.

A notebook needs :class:`Store`, :class:`Batch` and :class:`Cluster`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sddfkit.factory.batch import Batch, BatchOutcome
    from sddfkit.factory.cluster import Cluster, ClusterError
    from sddfkit.factory.jobs import Calculation, Refusal, plan
    from sddfkit.factory.store import Store, StoreError

__all__ = ["Batch", "BatchOutcome", "Calculation", "Cluster", "ClusterError", "Refusal", "Store", "StoreError", "plan"]

_HOMES = {
    "Batch": "batch", "BatchOutcome": "batch",
    "Cluster": "cluster", "ClusterError": "cluster",
    "Calculation": "jobs", "Refusal": "jobs", "plan": "jobs",
    "Store": "store", "StoreError": "store",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Load what is asked for: who only looks at a store waits for no cluster."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
