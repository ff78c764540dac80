"""From the store to the table: the one place where the factory's rows become records with units."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from sddfkit.data.records import Record
from sddfkit.factory.jobs import Calculation
from sddfkit.factory.store import Store
from sddfkit.qc.inputs import IMPORTED
from sddfkit.qc.properties import extract
from sddfkit.units import HARTREE_TO_EV


class Done(Protocol):
    """What a label says of its calculation."""

    @property
    def key(self) -> str: ...
    @property
    def level(self) -> str: ...
    @property
    def program(self) -> str: ...
    @property
    def program_version(self) -> str: ...


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
        found.append(with_label(record, item, store.result(item.key)))
    return found


def with_label(record: Record, item: Done, result: Mapping[str, Any]) -> Record:
    """Return a record with the label that a result (bohr, hartree) holds.

    Forces and dipole are None where an imported result has none; one of ours has both.
    """
    held = result.get("properties") or {}
    parts = {"forces": "return_gradient", "dipole": "scf_dipole_moment"}
    ours = not item.program.startswith(IMPORTED)
    values = extract(result, ["energy", *(name for name, key in parts.items() if ours or held.get(key) is not None)])
    return record._replace(
        energy=float(values["energy"]),
        forces=np.asarray(values["forces"]).reshape(-1, 3) if "forces" in values else None,
        dipole=np.asarray(values["dipole"]) if "dipole" in values else None,
        level=item.level,
        program=item.program,
        program_version=item.program_version,
        result_key=item.key,
    )


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
