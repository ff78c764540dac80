"""Rows and molecules to each other: `RECORDS` is the one table of columns, a row is one conformer with its label."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rdkit import Chem

from sddfkit.chem.conformers import FLAGS_PROPERTY
from sddfkit.chem.molecules import charge_and_multiplicity, molecule_id
from sddfkit.data.arrays import list_column
from sddfkit.data.schema import BOND_TYPES, GRID, RECORDS, Record, RecordError, record_id, sorted_bonds

__all__ = [
    "RECORDS",
    "Record",
    "RecordError",
    "check_one_level",
    "conformer_records",
    "from_document",
    "from_records",
    "record_id",
    "to_mol",
    "to_records",
]

_ROWS_OF_THREE = ("positions", "bonds", "forces")
_ARRAYS = {
    **dict.fromkeys(("atomic_numbers", "bonds", "formal_charges"), np.int32),
    **dict.fromkeys(("positions", "forces", "dipole"), np.float64),
}


def conformer_records(mol: Chem.Mol, *, name: str = "", origin: str = "etkdg", code_version: str = "") -> pa.Table:
    """Rows for all conformers of a molecule, labels null.

    Parameters
    ----------
    mol : molecule with explicit hydrogens and at least one conformer, Å
    name : its title; ``_Name`` if empty
    origin, code_version : provenance

    Returns
    -------
    pa.Table
        Schema `RECORDS`. A conformer's property ``sddfkit.flags`` becomes its qc_flags.

    Raises
    ------
    RecordError
        No conformer, or hydrogens missing.
    """
    identity = molecule_id(mol)
    if mol.GetNumConformers() == 0:
        raise RecordError(f"{identity} has no conformer; embed it first (sddfkit.chem.etkdg)")
    if any(atom.GetTotalNumHs() for atom in mol.GetAtoms()):
        raise RecordError(f"{identity} lacks explicit hydrogens; use Chem.AddHs(mol, addCoords=True) before embedding")
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int32)
    charges = np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int32)
    bonds = bonds_of(mol)
    charge, multiplicity = charge_and_multiplicity(mol)
    title = name or (mol.GetProp("_Name") if mol.HasProp("_Name") else "")
    rows = []
    for conformer in mol.GetConformers():
        positions = np.rint(conformer.GetPositions() / GRID) * GRID
        key = record_id(numbers, positions, charge, multiplicity, bonds)
        flags = tuple(conformer.GetProp(FLAGS_PROPERTY).split("; ")) if conformer.HasProp(FLAGS_PROPERTY) else ()
        rows.append(
            Record(
                key,
                identity,
                title,
                identity,
                conformer.GetId(),
                charge,
                multiplicity,
                numbers,
                positions,
                bonds,
                charges,
                origin=origin,
                code_version=code_version,
                qc_flags=flags,
            )
        )
    return from_records(rows)


def from_records(records: Sequence[Record]) -> pa.Table:
    """Table with schema `RECORDS` (inverse of `to_records`).

    Raises
    ------
    RecordError
        Array shapes that do not fit the number of atoms, named with their record.
    """
    for record in records:
        _check_shapes(record)
    columns = []
    for field in RECORDS:
        values = [getattr(record, field.name) for record in records]
        if pa.types.is_list(field.type) and field.name != "qc_flags":
            columns.append(list_column(values, field.type))
        else:
            columns.append(pa.array([list(v) if isinstance(v, tuple) else v for v in values], type=field.type))
    return pa.table(columns, schema=RECORDS)


def to_records(table: pa.Table) -> list[Record]:
    """Records of a table, arrays in their shapes.

    Raises
    ------
    RecordError
        Names the columns that are missing.
    """
    missing = [name for name in RECORDS.names if name not in table.column_names]
    if missing:
        raise RecordError(f"the table lacks the columns {missing}; expected those of sddfkit.data.RECORDS")
    columns = {name: _values(table[name]) for name in RECORDS.names}
    return [Record(**{name: _shaped(name, column[i]) for name, column in columns.items()}) for i in range(len(table))]


def from_document(document: Mapping[str, Any]) -> Record:
    """Record of the JSON-able mapping that the store keeps (arrays as nested lists)."""
    values = dict(document)
    for name, kind in _ARRAYS.items():
        if values.get(name) is not None:
            values[name] = np.asarray(values[name], dtype=kind).reshape((-1, 3) if name in _ROWS_OF_THREE else -1)
    return Record(**{**values, "qc_flags": tuple(values.get("qc_flags") or ())})


def check_one_level(table: pa.Table) -> None:
    """Labels of two levels of theory, or of two programs, must never meet in one training set.

    Raises
    ------
    RecordError
        Names the levels and programs that labelled rows mix.
    """
    refuse_mixture(levels_of(table))


def levels_of(table: pa.Table) -> set[tuple[str, str]]:
    """Level and program of the labelled rows."""
    labelled = table.filter(pc.is_valid(table["energy"])) if len(table) else table
    return set(zip(labelled["level"].to_pylist(), labelled["program"].to_pylist(), strict=True))


def refuse_mixture(found: Iterable[tuple[str, str]]) -> None:
    """Raise the RecordError of `check_one_level` for more than one level and program."""
    pairs = sorted(set(found))
    if len(pairs) > 1:
        names = " and ".join(f"{level or 'no level'} ({program or 'no program'})" for level, program in pairs)
        raise RecordError(f"labelled rows mix {names}; keep one and recompute or leave out the others")


def to_mol(record: Record) -> Chem.Mol:
    """RDKit molecule of a record: explicit hydrogens, the record's bonds and one conformer, stereo read off positions.

    Raises
    ------
    RecordError
        RDKit refuses the graph; its reason is quoted.
    """
    mol = Chem.RWMol()
    for number, charge in zip(record.atomic_numbers, record.formal_charges, strict=True):
        atom = Chem.Atom(int(number))
        atom.SetFormalCharge(int(charge))
        atom.SetNoImplicit(True)  # a missing hydrogen is a radical here, never an implicit atom
        mol.AddAtom(atom)
    kinds = {number: kind for kind, number in BOND_TYPES.items()}
    for i, j, kind in record.bonds:
        mol.AddBond(int(i), int(j), kinds[int(kind)])
        if kinds[int(kind)] == Chem.BondType.AROMATIC:
            mol.GetBondBetweenAtoms(int(i), int(j)).SetIsAromatic(True)
            mol.GetAtomWithIdx(int(i)).SetIsAromatic(True)
            mol.GetAtomWithIdx(int(j)).SetIsAromatic(True)
    conformer = Chem.Conformer(len(record.atomic_numbers))
    conformer.SetPositions(np.ascontiguousarray(record.positions))
    conformer.Set3D(True)
    mol.AddConformer(conformer)
    try:
        Chem.SanitizeMol(mol)
    except ValueError as error:
        raise RecordError(f"record {record.record_id} ({record.smiles}): {error}") from error
    Chem.AssignStereochemistryFrom3D(mol)
    finished = mol.GetMol()
    finished.SetProp("_Name", record.name)
    return finished


def bonds_of(mol: Chem.Mol) -> NDArray[np.int32]:
    other = BOND_TYPES[Chem.BondType.UNSPECIFIED]
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), BOND_TYPES.get(b.GetBondType(), other)) for b in mol.GetBonds()]
    return sorted_bonds(np.array(rows, dtype=np.int32).reshape(-1, 3))


def _check_shapes(record: Record) -> None:
    n = len(record.atomic_numbers)
    shapes: Iterable[tuple[str, tuple[int, ...]]] = (
        ("positions", (n, 3)),
        ("forces", (n, 3)),
        ("formal_charges", (n,)),
        ("dipole", (3,)),
        ("bonds", (len(record.bonds), 3)),
    )
    for name, expected in shapes:
        value = getattr(record, name)
        if value is not None and np.shape(value) != expected:
            raise RecordError(f"record {record.record_id}: {name} has shape {np.shape(value)}, expected {expected}")


def _values(column: pa.ChunkedArray) -> list[Any]:
    if pa.types.is_list(column.type) and not pa.types.is_string(column.type.value_type):
        out: list[Any] = []
        for chunk in column.chunks:
            flat, offsets = chunk.values.to_numpy(zero_copy_only=False), chunk.offsets.to_numpy()
            valid = chunk.is_valid().to_numpy(zero_copy_only=False)
            out += [flat[a:b].copy() if ok else None for a, b, ok in zip(offsets[:-1], offsets[1:], valid, strict=True)]
        return out
    return column.to_pylist()


def _shaped(name: str, value: Any) -> Any:
    if name == "qc_flags":
        return tuple(value or ())
    return value.reshape(-1, 3) if name in _ROWS_OF_THREE and value is not None else value
