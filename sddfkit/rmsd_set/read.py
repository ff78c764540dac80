"""A finished set, read back: graphs, conformers in one order of atoms, and reference values, hashes checked."""

import csv
import gzip
import io
from collections.abc import Collection, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from flashrmsd_cy import Molecule
from sddfkit.rmsd_set.components import RmsdSetError
from sddfkit.rmsd_set.files import atom_orders, sha256
from sddfkit.rmsd_set.manifest import read_manifest


class Reference(NamedTuple):
    """Values of one pair of records, Å; None where a limit stopped the search."""

    i: int
    j: int
    sc_rmsd: float | None
    min_sc_rmsd: float | None
    method_sc: str
    method_min: str


class Entry(NamedTuple):
    """One file of a set.

    Attributes
    ----------
    file : str
        Path in the set without suffix.
    atoms : {"heavy", "all"}
    molecule : flashrmsd_cy.Molecule
        In the order of the dictionary, not of any record.
    positions : ndarray of float64, shape (k, n, 3)
        Å, in that order.
    references : list of Reference
        All pairs i < j.
    """

    file: str
    atoms: str
    molecule: Molecule
    positions: NDArray[np.float64]
    references: list[Reference]


def read_rmsd_set(
    folder: str | Path, *, ids: Collection[str] | None = None, check_hashes: bool = True
) -> Iterator[Entry]:
    """Yield every file of a set with its reference values.

    Parameters
    ----------
    folder
        Of a finished set.
    ids
        Components; all by default.
    check_hashes : bool
        Whether SDF and MOL2 files and the table of values are compared with the manifest's sha256.

    Raises
    ------
    RmsdSetError
        No finished set; a file that is missing or altered; records that are not of one molecule.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    table = folder / manifest["reference"]["path"]
    if check_hashes:
        _check(table, manifest["reference"]["sha256"])
    with table.open(encoding="utf-8", newline="") as stream:
        by_file = groupby(csv.DictReader(stream), key=lambda row: row["file"])
        for row in manifest["components"]:
            for kind, values in row["graphs"].items():
                if not values["method_sc"]:  # counted only
                    continue
                name, rows = next(by_file, ("", iter(())))
                if name != values["file"]:
                    raise RmsdSetError(f"{table} has {name!r} where the manifest has {values['file']!r}")
                if ids is not None and row["id"] not in ids:
                    continue
                files = {item["path"]: item["sha256"] for item in row["files"]}
                for suffix in (".sdf.gz", ".mol2.gz") if check_hashes else ():
                    _check(folder / (name + suffix), files[name + suffix])
                molecule, positions = _read(folder, name, values["n_atoms"], manifest["settings"])
                yield Entry(name, kind, molecule, positions, [_reference(item) for item in rows])


def _read(folder: Path, name: str, n: int, settings: dict[str, Any]) -> tuple[Molecule, NDArray[np.float64]]:
    """Graph and conformers of an SDF file, every record brought back to the dictionary's order."""
    orders = atom_orders(settings["seed"], name, n, settings["conformers"])
    graphs: list[tuple[list[str], list[tuple[int, int]]]] = []
    positions = []
    with gzip.open(folder / f"{name}.sdf.gz") as stream, rdBase.BlockLogs():
        records = Chem.ForwardSDMolSupplier(io.BytesIO(stream.read()), sanitize=False, removeHs=False)
        for order, mol in zip(orders, records, strict=True):
            if mol is None or mol.GetNumAtoms() != n:
                raise RmsdSetError(f"{name}: record {len(graphs)} cannot be read, or has not {n} atoms")
            place = np.argsort(order)
            symbols = [mol.GetAtomWithIdx(int(p)).GetSymbol() for p in place]
            ends = ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
            bonds = sorted((min(order[i], order[j]), max(order[i], order[j])) for i, j in ends)
            graphs.append((symbols, [(int(i), int(j)) for i, j in bonds]))
            positions.append(mol.GetConformer().GetPositions()[place])
            if graphs[-1] != graphs[0]:
                raise RmsdSetError(f"{name}: record {len(graphs) - 1} is not the molecule of record 0")
    return Molecule(*graphs[0]), np.array(positions)


def _reference(row: dict[str, str]) -> Reference:
    sc, least = (float(row[name]) if row[name] else None for name in ("sc_rmsd", "min_sc_rmsd"))
    return Reference(int(row["i"]), int(row["j"]), sc, least, row["method_sc"], row["method_min"])


def _check(path: Path, expected: str) -> None:
    if not path.is_file():
        raise RmsdSetError(f"{path} is missing; the manifest lists it")
    if sha256(path) != expected:
        raise RmsdSetError(f"{path} differs from what was written (sha256): restore it, or build the set again")
