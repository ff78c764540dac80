"""Labels that were computed elsewhere, as finished calculations: what a file holds becomes rows of the store.

Their program is ``imported:<name>``, so that their keys differ from those of our own calculations, and no imported
energy is ever taken for one that this package computed. They have no attempts: nobody tried them here.
"""

import json
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification, Provenance

from sddfkit.factory.jobs import Structure, estimated_cost
from sddfkit.factory.merge import SAME_ENERGY_HARTREE
from sddfkit.factory.store import KEYS_PER_QUERY, Store, calculations, meta, now, records, results
from sddfkit.qc.inputs import IMPORTED, atomic_input, content_key
from sddfkit.units import BOHR_TO_ANGSTROM, HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM, HARTREE_TO_EV


class Labelled(Structure, Protocol):
    """A structure with its label: eV, eV/Å, e·Å."""

    @property
    def energy(self) -> float | None: ...
    @property
    def forces(self) -> NDArray[np.float64] | None: ...
    @property
    def dipole(self) -> NDArray[np.float64] | None: ...


class Origin(NamedTuple):
    """Where labels come from.

    ``level`` as people write it, such as "wB97X/6-31G(d)"; ``program`` and ``version`` that computed them, as stated;
    ``file`` and ``sha256`` of what they were read from, ``about`` the sentences about its units.
    """

    level: str
    program: str
    version: str
    file: str
    sha256: str
    about: tuple[str, ...] = ()

    @property
    def marked_program(self) -> str:
        """The program as the store knows it."""
        return f"{IMPORTED}{self.program}"

    def specification(self, driver: str) -> AtomicSpecification:
        """The QCSchema specification of the level."""
        method, _, basis = self.level.partition("/")
        return AtomicSpecification(
            program=self.marked_program,
            driver=driver,
            model={"method": method, "basis": basis or None},
            extras={"sddfkit": {"level": self.level}},
        )


class Row(NamedTuple):
    """One label as rows: of calculations and results, and of records (None for an isolated atom)."""

    calculation: dict[str, Any]
    result: dict[str, Any]
    record: dict[str, Any] | None


class Conflict(NamedTuple):
    """A label that was kept out because the store holds another energy for the same calculation."""

    label: str
    reason: str


class Taken(NamedTuple):
    """What happened to some rows: how many results are new, how many were known, and which contradict the store."""

    new: int
    known: int
    conflicts: list[Conflict]


_DRIVERS: Final = ("energy", "gradient")


def row_of(item: Labelled, origin: Origin, document: Mapping[str, Any] | None) -> Row:
    """Turn a label into rows.

    Parameters
    ----------
    item
        Structure and label.
    origin
        Where it comes from.
    document
        The record as the store keeps it, without its label; None for an isolated atom.

    Raises
    ------
    InputError
        For what no calculation of ours would be started on: atoms that coincide, a multiplicity that the electrons do
        not allow.
    """
    driver = _DRIVERS[item.forces is not None]
    asked = atomic_input(
        item.atomic_numbers, item.positions, item.charge, item.multiplicity, origin.specification(driver)
    )
    energy = float(item.energy if item.energy is not None else np.nan) / HARTREE_TO_EV
    key = content_key(asked, origin.version)
    created = now()
    return Row(
        {
            "key": key,
            "record_id": item.record_id if document is not None else None,
            "level": origin.level,
            "program": origin.marked_program,
            "program_version": origin.version,
            "label": item.name,
            "input": json.dumps(asked.model_dump(mode="json")),
            "cost": estimated_cost(item.atomic_numbers),
            "state": "done",
            "created": created,
        },
        {
            "key": key,
            "energy_hartree": energy,
            "document": zlib.compress(json.dumps(_result(asked, item, energy, origin)).encode()),
            "ingested": created,
        },
        None
        if document is None
        else {
            "record_id": item.record_id,
            "molecule_id": document["molecule_id"],
            "name": document["name"],
            "document": json.dumps(document, sort_keys=True),
            "created": created,
        },
    )


def _result(asked: AtomicInput, item: Labelled, energy: float, origin: Origin) -> dict[str, Any]:
    properties: dict[str, Any] = {"calcinfo_natom": len(item.atomic_numbers), "return_energy": energy}
    returned: Any = energy
    if item.forces is not None:
        returned = -np.asarray(item.forces) / HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        properties["return_gradient"] = returned
    if item.dipole is not None:
        properties["scf_dipole_moment"] = np.asarray(item.dipole) / BOHR_TO_ANGSTROM
    result = AtomicResult(
        input_data=asked,
        molecule=asked.molecule,
        properties=properties,
        return_result=returned,
        provenance=Provenance(creator=origin.program, version=origin.version, routine="imported"),
        extras={"imported": {"file": origin.file, "sha256": origin.sha256, "about": list(origin.about)}},
    )
    document: dict[str, Any] = result.model_dump(mode="json")
    return document


def take(store: Store, rows: Sequence[Row], mark: tuple[str, str] | None = None) -> Taken:
    """Write rows, all or none of them; giving the same again changes nothing.

    Parameters
    ----------
    store
        Opened for writing.
    rows
        From :func:`row_of`.
    mark
        Name and value of a note that is written with them (see :func:`noted`).
    """
    unique: dict[str, Row] = {}
    conflicts = []
    for row in rows:
        first = unique.setdefault(row.calculation["key"], row)
        if first is not row and (said := _differ(first.result["energy_hartree"], row)):
            conflicts.append(Conflict(row.calculation["label"], said))
    there = _energies(store, list(unique))
    fresh = [row for key, row in unique.items() if there.get(key) is None]
    conflicts += [
        Conflict(row.calculation["label"], said)
        for key, row in unique.items()
        if (energy := there.get(key)) is not None and (said := _differ(energy, row))
    ]
    with store.writing() as connection:
        for table, values in (
            (records, [row.record for row in fresh if row.record is not None]),
            (calculations, [row.calculation for row in fresh]),
            (results, [row.result for row in fresh]),
        ):
            if values:
                connection.execute(store.insert(table).on_conflict_do_nothing(), values)
        for row in fresh:
            if row.calculation["key"] in there:  # asked for before, and never done: it cannot be, here
                known = calculations.update().where(calculations.c.key == row.calculation["key"])
                connection.execute(known.values(state="done", error_class=None, error_message=None))
        if mark is not None:
            connection.execute(meta.delete().where(meta.c.name == mark[0]))
            connection.execute(store.insert(meta), [{"name": mark[0], "value": mark[1]}])
    return Taken(len(fresh), len(rows) - len(fresh) - len(conflicts), conflicts)


def noted(store: Store, name: str) -> str | None:
    """Return the value of a note, or None."""
    found = store.select(sa.select(meta.c.value).where(meta.c.name == name))
    return None if not found else str(found[0]["value"])


def _differ(energy: float, row: Row) -> str | None:
    """Say that a label contradicts an energy (hartree), or nothing."""
    if abs(energy - row.result["energy_hartree"]) <= SAME_ENERGY_HARTREE:
        return None
    return (
        f"its energy is {row.result['energy_hartree']:.8f} hartree, and that of the same geometry at the same level by "
        f"the same program is {energy:.8f} in the store"
    )


def _energies(store: Store, keys: Sequence[str]) -> dict[str, float | None]:
    """Energies (hartree; None without a result) of those calculations that the store knows."""
    found: dict[str, float | None] = {}
    for start in range(0, len(keys), KEYS_PER_QUERY):
        statement = (
            sa.select(calculations.c.key, results.c.energy_hartree)
            .select_from(calculations.outerjoin(results, results.c.key == calculations.c.key))
            .where(calculations.c.key.in_(keys[start : start + KEYS_PER_QUERY]))
        )
        found |= {row["key"]: row["energy_hartree"] for row in store.select(statement)}
    return found
