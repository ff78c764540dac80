"""From the store to the table: the one place where the factory's rows become records with units."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sddfkit.data.records import Record
from sddfkit.factory.jobs import Calculation
from sddfkit.factory.store import Store
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
    known = store.states(item.key for item in asked)
    found = []
    for record in records:
        item = by_record.get(record.record_id)
        if item is None or item.key not in known or known[item.key]["state"] != "done":
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
    known = store.states(item.key for item in asked.values())
    return {
        z: float(store.result(item.key)["properties"]["return_energy"]) * HARTREE_TO_EV
        for z, item in asked.items()
        if item.key in known and known[item.key]["state"] == "done"
    }


def failures(store: Store, keys: Sequence[str]) -> list[dict[str, Any]]:
    """Return the failed calculations among `keys`: record, label, state, class and message."""
    return [dict(row) for row in store.states(keys).values() if row["state"] in ("failed", "held")]


def record_document(record: Record) -> dict[str, Any]:
    """Return a record as a JSON-able mapping, the form in which the store keeps it."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record._asdict().items()
    }
