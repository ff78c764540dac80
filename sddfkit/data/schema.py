"""The columns of `RECORDS`: name, type, unit, shape and meaning of each, and the identity of a row."""

import hashlib
from typing import Final, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem

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
    table = sorted_bonds(bonds)
    digest = hashlib.sha256(b"sddfkit record 1")
    for part in (numbers, np.rint(places / GRID).astype("<i8"), np.array([charge, multiplicity]), table):
        digest.update(np.array(part.shape, dtype="<i8").tobytes())
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    return digest.hexdigest()[:20]


def sorted_bonds(bonds: ArrayLike) -> NDArray[np.int32]:
    """Bonds (b, 3) with i < j in each row and rows in order of i, j."""
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
