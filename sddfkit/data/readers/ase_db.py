"""SQLite databases of ASE (``ase.db``), also those that SchNetPack and nablaDFT write.

Energy and forces are read from a row's ``data``, or from the calculator's results, which ASE keeps in eV and Å. What
SchNetPack writes into the metadata is heeded: ``_distance_unit``, ``_property_unit_dict`` and ``atomrefs``.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import numpy as np

from sddfkit.data.readers.base import (
    Frame,
    ReaderError,
    Refused,
    Source,
    Stated,
    Units,
    atoms_above,
    level_of,
    names,
    total_energy,
    units,
)
from sddfkit.data.schema import RecordError

ROWS_AT_ONCE: Final = 200
_CONFORMER = ("conformer", "conformer_id", "conformation_id", "conf_id")
_NOT_CONVERGED = ("converged", "scf_converged")


def open_ase(path: Path, stated: Stated) -> Source:
    """Look at the metadata and the first row of a database and return what is known of it.

    Raises
    ------
    ReaderError
        No such database, nothing that is called an energy, or something that must be stated.
    """
    database = _connected(path)
    try:
        metadata: Mapping[str, Any] = database.metadata
        count = database.count()
        first = next(iter(database.select(limit=1)), None)
    except Exception as error:  # of sqlite3, of json, or whatever a damaged file does to ase
        raise ReaderError(f"{path} cannot be read as a database of ASE: {error}") from error
    if first is None:
        raise ReaderError(f"{path} holds no rows")
    column, in_data = _energy_column(path, first, stated.energy)
    said = metadata.get("_property_unit_dict") or {}
    forces = "forces" if column == "energy" else f"{column}_forces"
    if in_data:
        of = units(
            path,
            stated,
            energy=said.get(column),
            length=metadata.get("_distance_unit") or "angstrom",
            force=said.get(forces) or None,
            by="as its metadata say",
        )
    else:
        of = units(path, stated, energy="eV", length="angstrom", by="as ASE keeps a calculator's results")
    level = level_of(path, stated, metadata.get("level") or metadata.get("level_of_theory"))
    listed = (metadata.get("atomrefs") or {}).get(column) or []
    atoms, add = atoms_above(path, stated, of, {z: float(e) for z, e in enumerate(np.ravel(listed)) if z and e})
    where = "data" if in_data else "calculator"

    def frames() -> Iterator[Frame | Refused]:
        for row in _rows(path):
            if isinstance(row, Refused):
                yield row
                continue
            try:
                yield _frame(path, row, (column, forces, in_data), of, stated, (atoms, add))
            except ReaderError:
                raise
            except RecordError as error:
                yield Refused(str(path), f"row {row.id}", str(error))
            except Exception as error:  # ase decodes some of it only now
                yield Refused(str(path), f"row {row.id}", f"it cannot be decoded: {type(error).__name__}: {error}")

    zero = ", those of the isolated atoms added" if add else ""
    about = f"energies {column!r} of each row's {where}{zero}; {of.names}"
    return Source(path, "ase", level, frames, count, atoms, (about,), stated.bonds)


def _connected(path: Path) -> Any:
    try:
        from ase.db import connect
    except ModuleNotFoundError as error:
        raise ReaderError(f"{path}: databases of ASE need ase: pip install 'sddfkit[data]'") from error
    with path.open("rb") as stream:
        if not stream.read(16).startswith(b"SQLite format 3"):
            raise ReaderError(f"{path} is no SQLite database")
    return connect(path, type="db", use_lock_file=False)


def _rows(path: Path) -> Iterator[Any]:
    """Rows in the order of their ids; one that cannot be decoded is refused, and the next one comes."""
    last = 0
    database = _connected(path)
    while True:
        more = False
        try:
            for row in database.select(f"id>{last}", sort="id", limit=ROWS_AT_ONCE):
                last, more = row.id, True
                yield row
        except Exception as error:  # whatever a damaged row does to ase
            at = _next_id(path, last)
            if at is None:
                yield Refused(str(path), f"after row {last}", f"the database is damaged: {error}")
                return
            last, more = at, True
            yield Refused(str(path), f"row {at}", f"it cannot be decoded: {type(error).__name__}: {error}")
        if not more:
            return


def _next_id(path: Path, last: int) -> int | None:
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT min(id) FROM systems WHERE id > ?", (last,)).fetchone()
    except sqlite3.Error:
        return None
    return None if found is None else found[0]


def _energy_column(path: Path, row: Any, asked: str | None) -> tuple[str, bool]:
    """Name of the energy and whether it is in the row's data rather than among the calculator's results."""
    data = row.data if isinstance(row.data, Mapping) else {}
    numbers = [name for name in data if np.size(data[name]) == 1]
    own = row.get("energy") is not None
    name = asked or "energy"
    if name in numbers:
        return name, True
    if name == "energy" and own:
        return name, False
    raise ReaderError(
        f"{path} has no energy named {name!r}; its rows hold {names(numbers + (['energy'] if own else []))}: say which "
        "(--energy)"
    )


def _frame(
    path: Path,
    row: Any,
    column: tuple[str, str, bool],
    of: Units,
    stated: Stated,
    zero: tuple[dict[int, float], bool],
) -> Frame | Refused:
    energy_name, forces_name, in_data = column
    place = f"row {row.id}"
    if np.any(row.pbc):
        return Refused(str(path), place, "it is periodic; sddfkit knows molecules only")
    held: Mapping[str, Any] = row.data if in_data else row
    energy = held.get(energy_name)
    if energy is None:
        return Refused(str(path), place, f"it has no {energy_name!r}")
    forces = held.get(forces_name)
    values = row.key_value_pairs
    numbers = np.asarray(row.numbers)
    conformer = next((values[name] for name in _CONFORMER if isinstance(values.get(name), int)), 0)
    doubts = tuple(
        f"SCF: the file says {name}={values[name]}" for name in _NOT_CONVERGED if name in values and not values[name]
    )
    return Frame(
        place=place,
        name=str(values.get("name") or values.get("smiles") or f"{path.stem} {row.id}"),
        conformer=int(conformer),
        atomic_numbers=numbers,
        positions=np.asarray(row.positions, dtype=np.float64) * of.length,
        energy=total_energy(path, float(np.ravel(energy)[0]) * of.energy, numbers, *zero),
        forces=None if forces is None else np.asarray(forces, dtype=np.float64) * of.force,
        charge=_charge(row) if stated.charge is None else stated.charge,
        multiplicity=stated.multiplicity or int(values.get("multiplicity", 1)),
        smiles=str(values.get("smiles", "")),
        doubts=doubts,
    )


def _charge(row: Any) -> int:
    """Total charge: a value of that name, or the sum of the initial charges."""
    for name in ("charge", "total_charge"):
        if name in row.key_value_pairs:
            return round(float(row.key_value_pairs[name]))
    return round(float(np.sum(row.get("initial_charges", 0.0))))
