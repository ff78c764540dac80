"""Stored values of 222 molecules (PDB ligands and synthetic families): brute force, or another exact program.

The numbers are read from ``../shared/data/rmsd`` beside the repository: all 309 files, both modes.
"""

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from flashrmsd_cy import Molecule, rmsd, rmsd_matrix

Chem = pytest.importorskip("rdkit.Chem")

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "rmsd"
ROWS: dict[tuple[str, str], list[dict[str, str]]] = defaultdict(list)
if FOLDER.is_dir():
    with (FOLDER / "reference.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            ROWS[row["file"], row["atoms"]].append(row)

pytestmark = pytest.mark.skipif(not ROWS, reason=f"no reference values at {FOLDER}")


def _read(name, atoms):
    """Molecule and coordinates (n, 3) of each record; every record has its own order of atoms and bonds."""
    with gzip.open(FOLDER / f"{name}.sdf.gz") as file:
        for mol in Chem.ForwardSDMolSupplier(file, sanitize=False, removeHs=False):
            kept = [a.GetIdx() for a in mol.GetAtoms() if atoms == "all" or a.GetAtomicNum() != 1]
            place = {old: new for new, old in enumerate(kept)}
            ends = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
            bonds = [(place[i], place[j]) for i, j in ends if i in place and j in place]
            yield (
                Molecule([mol.GetAtomWithIdx(i).GetAtomicNum() for i in kept], bonds),
                mol.GetConformer().GetPositions()[kept],
            )


def _in_one_order(name, atoms):
    molecules, positions = zip(*_read(name, atoms), strict=True)
    first = molecules[0]
    ordered = [
        x[rmsd(positions[0], x, first, molecule, align=False).mapping] if molecule is not first else x
        for molecule, x in zip(molecules, positions, strict=True)
    ]
    return first, np.array(ordered)


def _check(name, atoms, *, align):
    column = "min_sc_rmsd" if align else "sc_rmsd"
    rows = ROWS[name, atoms]
    molecule, positions = _in_one_order(name, atoms)
    assert molecule.n_automorphisms == pytest.approx(float(rows[0]["n_automorphisms"]), rel=1e-5)
    matrix = rmsd_matrix(positions, molecule, align=align)
    for row in rows:
        if row[column]:  # some fits of huge groups have no stored value
            assert matrix[int(row["i"]), int(row["j"])] == pytest.approx(float(row[column]), abs=1e-5), row


@pytest.mark.parametrize("part", range(6))
def test_every_value(part):
    for name, atoms in list(ROWS)[part::6]:
        _check(name, atoms, align=False)
        _check(name, atoms, align=True)


@pytest.mark.parametrize(("name", "atoms"), list(ROWS)[3::60])
def test_records_as_they_are(name, atoms):
    """Each record with its own order of atoms and bonds."""
    records = list(_read(name, atoms))
    for row in ROWS[name, atoms][::7]:
        (first, a), (second, b) = records[int(row["i"])], records[int(row["j"])]
        for align, column in ((False, "sc_rmsd"), (True, "min_sc_rmsd")):
            result = rmsd(a, b, first, second, align=align)
            assert result.status == "exact"
            assert not row[column] or result.value == pytest.approx(float(row[column]), abs=1e-5)
