"""From the store to the table: the one place where the factory's rows become records with units."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa

from sddfkit.data.records import Record
from sddfkit.factory.jobs import Calculation
from sddfkit.factory.store import Store, calculations
from sddfkit.qc.properties import extract
from sddfkit.units import HARTREE_TO_EV


def labelled(store: Store, asked: Sequence[Calculation], records: Sequence[Record]) -> list[Record]:
    """Return the records whose calculation is done, with energy (eV), forces (eV/Å) and dipole (e·Å) filled in.

    Parameters
    ----------
    store
        The store that ran the calculations.
    asked
        The calculations of the records, at one level by one program.
    records
        The unlabelled records.

    Returns
    -------
    list of Record
        In the order of `records`; those that failed are left out (see :func:`failures`).
    """
    by_record = {item.record_id: item for item in asked}
    done = _states(store, [item.key for item in asked])
    found = []
    for record in records:
        item = by_record.get(record.record_id)
        if item is None or done.get(item.key) != "done":
            continue
        values = extract(store.result(item.key), ("energy", "forces", "dipole"))
        found.append(
            record._replace(
                energy=float(values["energy"]),
                forces=np.asarray(values["forces"]).reshape(-1, 3),
                dipole=np.asarray(values["dipole"]),
                level=item.level,
                program=item.program,
                program_version=item.program_version,
                result_key=item.key,
            )
        )
    return found


def atom_energies(store: Store, asked: dict[int, Calculation]) -> dict[int, float]:
    """Return the energies (eV) of the isolated atoms whose calculation is done, by atomic number."""
    done = _states(store, [item.key for item in asked.values()])
    return {
        z: float(store.result(item.key)["properties"]["return_energy"]) * HARTREE_TO_EV
        for z, item in asked.items()
        if done.get(item.key) == "done"
    }


def failures(store: Store, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the failed calculations among `keys`: record, label, class and message."""
    rows = store.select(
        sa.select(
            calculations.c.key,
            calculations.c.record_id,
            calculations.c.label,
            calculations.c.error_class,
            calculations.c.error_message,
        )
        .where(calculations.c.state.in_(("failed", "held")))
        .order_by(calculations.c.key)
    )
    wanted = set(keys)
    return [dict(row) for row in rows if row["key"] in wanted]


def record_document(record: Record) -> dict[str, Any]:
    """Return a record as a JSON-able mapping, the form in which the store keeps it."""
    document = {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record._asdict().items()
    }
    json.dumps(document)
    return document


def _states(store: Store, keys: Sequence[str]) -> dict[str, str]:
    wanted = set(keys)
    rows = store.select(sa.select(calculations.c.key, calculations.c.state))
    return {row["key"]: row["state"] for row in rows if row["key"] in wanted}
