"""The one table of columns: a row is one conformer with, once it is computed, its label."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem

from sddfkit.chem.conformers import FLAGS_PROPERTY
from sddfkit.chem.molecules import charge_and_multiplicity, molecule_id
from sddfkit.data.arrays import list_column

GRID: Final = 1e-6
"""Positions are stored on this grid, Å: a conformer read back and hashed again keeps its record id."""

BOND_TYPES: Final[dict[Chem.BondType, int]] = {
    Chem.BondType.SINGLE: 0,
    Chem.BondType.DOUBLE: 1,
    Chem.BondType.TRIPLE: 2,
    Chem.BondType.AROMATIC: 3,
    Chem.BondType.IONIC: 4,
    Chem.BondType.HYDROGEN: 5,
    Chem.BondType.UNSPECIFIED: 6,
}


class RecordError(ValueError):
    """A table or record that breaks the rules of `RECORDS`."""


class Record(NamedTuple):
    """One row, with arrays in their shapes; columns, units and meaning as in `RECORDS`."""

    record_id: str
    molecule_id: str
    name: str
    smiles: str
    conformer: int
    charge: int
    multiplicity: int
    atomic_numbers: NDArray[np.int32]  # (n,)
    positions: NDArray[np.float64]  # (n, 3) Å
    bonds: NDArray[np.int32]  # (b, 3) i, j, type
    formal_charges: NDArray[np.int32]  # (n,)
    energy: float | None = None  # eV
    forces: NDArray[np.float64] | None = None  # (n, 3) eV/Å
    dipole: NDArray[np.float64] | None = None  # (3,) e·Å
    level: str = ""
    program: str = ""
    program_version: str = ""
    result_key: str = ""
    code_version: str = ""
    al_round: int = -1
    parent: str = ""
    origin: str = ""
    qc_flags: tuple[str, ...] = ()


def _field(name: str, kind: pa.DataType, unit: str, shape: str, description: str, nullable: bool = False) -> pa.Field:
    metadata = {b"unit": unit.encode(), b"shape": shape.encode(), b"description": description.encode()}
    return pa.field(name, kind, nullable=nullable, metadata=metadata)


_INTS, _FLOATS, _STRINGS = pa.list_(pa.int32()), pa.list_(pa.float64()), pa.list_(pa.string())

RECORDS: Final[pa.Schema] = pa.schema(
    [
        _field("record_id", pa.string(), "", "()", "hash of elements, positions, charge, multiplicity and bonds"),
        _field("molecule_id", pa.string(), "", "()", "canonical isomeric SMILES without hydrogens"),
        _field("name", pa.string(), "", "()", "title of the molecule"),
        _field("smiles", pa.string(), "", "()", "same as molecule_id"),
        _field("conformer", pa.int32(), "", "()", "number of the conformer within its molecule, from 0"),
        _field("charge", pa.int32(), "e", "()", "total charge"),
        _field("multiplicity", pa.int32(), "", "()", "2S + 1"),
        _field("atomic_numbers", _INTS, "", "(n,)", "element of each atom, hydrogens included"),
        _field("positions", _FLOATS, "Å", "(n, 3) row by row", "nuclear positions"),
        _field(
            "bonds",
            _INTS,
            "",
            "(b, 3) row by row",
            "atoms i < j and type: 0 single, 1 double, 2 triple, 3 aromatic, 4 ionic, 5 hydrogen, 6 unspecified",
        ),
        _field("formal_charges", _INTS, "e", "(n,)", "formal charge of each atom"),
        _field("energy", pa.float64(), "eV", "()", "total electronic energy", nullable=True),
        _field("forces", _FLOATS, "eV/Å", "(n, 3) row by row", "minus the gradient of the energy", nullable=True),
        _field("dipole", _FLOATS, "e·Å", "(3,)", "dipole moment", nullable=True),
        _field("level", pa.string(), "", "()", "name of the level of theory; empty without a label"),
        _field("program", pa.string(), "", "()", "program that computed the label"),
        _field("program_version", pa.string(), "", "()", "its version"),
        _field("result_key", pa.string(), "", "()", "key of the calculation in the store"),
        _field("code_version", pa.string(), "", "()", "version of sddfkit that made the record"),
        _field("al_round", pa.int32(), "", "()", "active-learning round that chose it; -1 if none did"),
        _field("parent", pa.string(), "", "()", "record it was made from; empty if none"),
        _field("origin", pa.string(), "", "()", 'how the positions came about, such as "etkdg"'),
        _field("qc_flags", _STRINGS, "", "(k,)", "reasons to doubt the row; rows are never dropped"),
    ]
)


def record_id(atomic_numbers: ArrayLike, positions: ArrayLike, charge: int, multiplicity: int, bonds: ArrayLike) -> str:
    """Identity of a conformer: 20 hexadecimal characters of SHA-256 over what determines its calculation and graph.

    Positions count to 1e-6 Å (noise far below that leaves positions that lie on the grid where they are), the order of
    bonds and of the two atoms of a bond does not count, the order of atoms does.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions : (n, 3) float64, Å
    charge, multiplicity : e, 2S + 1
    bonds : (b, 3) int, i, j, type

    Raises
    ------
    RecordError
        Shapes that do not fit, positions that are not finite.
    """
    numbers, places = _checked(atomic_numbers, positions)
    table = _sorted_bonds(bonds)
    digest = hashlib.sha256(b"sddfkit record 1")
    for part in (numbers, np.rint(places / GRID).astype("<i8"), np.array([charge, multiplicity]), table):
        digest.update(np.array(part.shape, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()[:20]


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
    bonds = _bonds(mol)
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


def check_one_level(table: pa.Table) -> None:
    """Labels of two levels of theory, or of two programs, must never meet in one training set.

    Raises
    ------
    RecordError
        Names the levels and programs that labelled rows mix.
    """
    labelled = table.filter(pc.is_valid(table["energy"])) if len(table) else table
    found = sorted(set(zip(labelled["level"].to_pylist(), labelled["program"].to_pylist(), strict=True)))
    if len(found) > 1:
        names = " and ".join(f"{level or 'no level'} ({program or 'no program'})" for level, program in found)
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


def _bonds(mol: Chem.Mol) -> NDArray[np.int32]:
    other = BOND_TYPES[Chem.BondType.UNSPECIFIED]
    rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), BOND_TYPES.get(b.GetBondType(), other)) for b in mol.GetBonds()]
    return _sorted_bonds(np.array(rows, dtype=np.int32).reshape(-1, 3))


def _sorted_bonds(bonds: ArrayLike) -> NDArray[np.int32]:
    table = np.asarray(bonds, dtype=np.int32).reshape(-1, 3)
    table = np.column_stack([table[:, :2].min(axis=1), table[:, :2].max(axis=1), table[:, 2]])
    return table[np.lexsort((table[:, 1], table[:, 0]))]


def _checked(atomic_numbers: ArrayLike, positions: ArrayLike) -> tuple[NDArray, NDArray]:
    numbers, places = np.asarray(atomic_numbers), np.asarray(positions, dtype=np.float64)
    if numbers.ndim != 1 or places.shape != (len(numbers), 3):
        raise RecordError(f"positions has shape {places.shape} for {numbers.shape} atoms, expected (n, 3) in Å")
    if not np.isfinite(places).all():
        raise RecordError("positions holds NaN or infinity")
    return numbers, places


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
    return value.reshape(-1, 3) if name in ("positions", "bonds", "forces") and value is not None else value
