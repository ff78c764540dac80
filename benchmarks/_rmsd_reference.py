"""Correctness first: our values against stored ones and brute force, with the processor time of each pair.

The stored values lie beside the repository in ``../shared/data/rmsd`` and are no part of it; without them brute force
on small molecules is all. Each of our values is also attained: the mapping that we return keeps elements and bonds,
and a fit by singular values, which shares no code with ours, gives the same RMSD. So where a stored value is above
ours by more than rounding, the stored one is not the least.
"""

import csv
import gzip
import json
import time
from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _rmsd_molecules import KINDS, Example, Float, conformers, from_smiles
from rdkit import Chem

from flashrmsd_cy import Molecule, RMSDError, SearchLimitError, rmsd, rmsd_matrix
from flashrmsd_cy._reference import brute_force, in_place, kabsch

FOLDER = Path(__file__).parents[1].parent / "shared" / "data" / "rmsd"
TOLERANCE = 1e-5  # Å
PAIR_LIMIT_S = 5.0
SMALL = {"propane": "CCC", "neopentane": "CC(C)(C)C", "acetic acid": "CC(=O)O", "cubane": "C12C3C4C1C5C2C3C45"}
MODES = ((False, "sc_rmsd"), (True, "min_sc_rmsd"))


class Stored(NamedTuple):
    """One file of the shared set."""

    name: str
    kind: str
    atoms: str
    example: Example
    positions: Float  # (k, n, 3) Å, in the atom order of `example`
    preparation_s: float
    values: list[dict[str, str]]


def stored(every: int = 1) -> list[tuple[str, str]]:
    """(file, atoms) of the shared set; empty if it is not there. `every` thins it out."""
    if not (FOLDER / "reference.csv").exists():
        return []
    return sorted(_values())[::every]


def _values() -> dict[tuple[str, str], list[dict[str, str]]]:
    values = defaultdict(list)
    with (FOLDER / "reference.csv").open(newline="") as lines:
        for row in csv.DictReader(lines):
            values[row["file"], row["atoms"]].append(row)
    return values


def load(keys: list[tuple[str, str]]) -> list[Stored]:
    """Read files by RDKit, bring all records of each to the atom order of its first one by our mapping."""
    if not keys:
        return []
    values = _values()
    kinds = {entry["file"]: entry["kind"] for entry in json.loads((FOLDER / "index.json").read_text())}
    result = []
    for name, atoms in keys:
        records = [_graph(mol, atoms) for mol in _records(name)]
        start = time.process_time()
        molecules = [Molecule(elements, bonds) for elements, bonds, _ in records]
        assert molecules[0].n_automorphisms
        x = [records[0][2]]
        for molecule, (_, _, positions) in zip(molecules[1:], records[1:], strict=True):
            order = rmsd(x[0], positions, molecules[0], molecule, align=False).mapping
            x.append(positions[order])
        seconds = time.process_time() - start
        elements, bonds, _ = records[0]
        example = Example(kinds[name], name, elements, bonds, x[0])
        result.append(Stored(name, kinds[name], atoms, example, np.array(x), seconds, values[name, atoms]))
    return result


def _records(name: str) -> list[Chem.Mol]:
    with gzip.open(FOLDER / f"{name}.sdf.gz") as file:
        return list(Chem.ForwardSDMolSupplier(file, sanitize=False, removeHs=False))


def _graph(mol: Chem.Mol, atoms: str) -> tuple[list[int], list[tuple[int, int]], Float]:
    kept = [atom.GetIdx() for atom in mol.GetAtoms() if atoms == "all" or atom.GetAtomicNum() != 1]
    place = {old: new for new, old in enumerate(kept)}
    ends = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
    bonds = [(place[i], place[j]) for i, j in ends if i in place and j in place]
    return [mol.GetAtomWithIdx(i).GetAtomicNum() for i in kept], bonds, mol.GetConformer().GetPositions()[kept]


def check(file: Stored) -> dict[str, Any]:
    """One row: worst deviation, failures and times of all pairs of one file in both modes."""
    molecule = file.example.molecule()
    row: dict[str, Any] = {
        "file": file.name,
        "kind": file.kind,
        "atoms": file.atoms,
        "n_atoms": molecule.n_atoms,
        "n_automorphisms": molecule.n_automorphisms,
        "preparation_ms": 1e3 * file.preparation_s,
        "problems": [],
    }
    bonds = {frozenset(bond) for bond in file.example.bonds}
    labels = np.array(file.example.elements)
    # A molecule is prepared, and memory touched, before the clock runs.
    rmsd(file.positions[0], file.positions[-1], molecule, align=True, time_limit_s=PAIR_LIMIT_S)
    for align, column in MODES:
        known = {(int(v["i"]), int(v["j"])): float(v[column]) for v in file.values if v[column]}
        mode = "minimised" if align else "fixed"
        times, worst = [], 0.0
        for i, j in combinations(range(len(file.positions)), 2):
            a, b = file.positions[i], file.positions[j]
            start = time.process_time()
            result = rmsd(a, b, molecule, align=align, time_limit_s=PAIR_LIMIT_S)
            times.append(time.process_time() - start)
            moved = b[result.mapping]
            attained = kabsch(a, moved)[0] if align else in_place(a, moved)
            keeps = (labels[result.mapping] == labels).all() and {
                frozenset(result.mapping[list(bond)].tolist()) for bond in bonds
            } == bonds
            if result.status != "exact" or not keeps or abs(attained - result.value) > 1e-6:
                row["problems"].append(
                    f"{mode} {i},{j}: {result.status}, {keeps=}, value - attained = {result.value - attained:.1e}"
                )
            if (i, j) in known:
                deviation = result.value - known[i, j]
                worst = max(worst, abs(deviation))
                if abs(deviation) > TOLERANCE:
                    row["problems"].append(
                        f"{mode} {i},{j}: ours {result.value:.7f}, stored {known[i, j]:.7f}; ours is "
                        + ("below it, and attained" if deviation < 0 else "ABOVE it")
                    )
        row |= {
            f"{mode}_pairs": len(known),
            f"{mode}_worst_deviation": worst,
            f"{mode}_ms": [1e3 * t for t in times],
            f"{mode}_matrix_us": _matrix_us(file, molecule, align, row["problems"]),
        }
    return row


def _matrix_us(file: Stored, molecule: Molecule, align: bool, problems: list[str]) -> float | None:
    """µs per pair of a whole matrix; it must agree with the stored values too."""
    k = len(file.positions)
    start = time.process_time()
    try:
        matrix = rmsd_matrix(file.positions, molecule, align=align, time_limit_s=PAIR_LIMIT_S * k)
    except (RMSDError, SearchLimitError) as error:
        problems.append(f"matrix, {align=}: {error}")
        return None
    seconds = time.process_time() - start
    column = "min_sc_rmsd" if align else "sc_rmsd"
    for v in file.values:
        if v[column] and abs(matrix[int(v["i"]), int(v["j"])] - float(v[column])) > TOLERANCE:
            problems.append(f"matrix {v['i']},{v['j']}, {align=}: {matrix[int(v['i']), int(v['j'])]:.7f}")
    return 1e6 * seconds / (k * (k - 1) / 2)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of the whole set: deviations, failures, slowest pair, the pairs of the most symmetric files."""
    result: dict[str, Any] = {
        "files": len(rows),
        "problems": [f"{r['file']}: {p}" for r in rows for p in r["problems"]],
    }
    top = [row for row in rows if row["kind"] == "top"]
    for mode in ("fixed", "minimised"):
        slowest = max(rows, key=lambda row: max(row[f"{mode}_ms"]))
        result[mode] = {
            "pairs": sum(row[f"{mode}_pairs"] for row in rows),
            **{
                f"worst_deviation_{atoms}": max(
                    (r[f"{mode}_worst_deviation"] for r in rows if r["atoms"] == atoms), default=None
                )
                for atoms in ("heavy", "all")
            },
            "slowest_pair_ms": max(slowest[f"{mode}_ms"]),
            "slowest_pair_file": slowest["file"],
        }
        if top:
            worst = max(top, key=lambda row: np.median(row[f"{mode}_ms"]))
            result[mode] |= {
                "top_files": len(top),
                "top_median_pair_ms": float(np.median([t for row in top for t in row[f"{mode}_ms"]])),
                "top_worst_file_median_ms": float(np.median(worst[f"{mode}_ms"])),
                "top_worst_file": worst["file"],
            }
    result["preparation_ms_median"] = float(np.median([row["preparation_ms"] for row in rows]))
    worst = max(rows, key=lambda row: row["preparation_ms"])
    result["preparation_ms_worst"], result["preparation_worst_file"] = worst["preparation_ms"], worst["file"]
    return result


def brute_force_check() -> float:
    """Worst deviation (Å) from brute force on small molecules, some with hydrogens."""
    worst = 0.0
    for name, smiles in SMALL.items():
        example = from_smiles("small", name, smiles, hydrogens=name in ("propane", "acetic acid"))
        for kind in KINDS:
            a, b = conformers(example, 2, kind)
            for align in (False, True):
                graph = example.elements, example.bonds
                least, count = brute_force(a, b, *graph, *graph, align=align)
                result = rmsd(a, b, example.molecule(), align=align)
                assert result.n_automorphisms == count, f"{name}: {result.n_automorphisms} automorphisms, not {count}"
                worst = max(worst, abs(result.value - least))
    return worst
