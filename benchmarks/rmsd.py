"""Symmetry-corrected RMSD: ours against RDKit and spyrmsd, in one run on one core.

    python benchmarks/rmsd.py [--quick]

For each drug: conformers embedded once, all pairs by each program, heavy atoms, the molecular graph alone (RDKit gets
single bonds, so that all three answer the same question). Agreement is asserted before anything is timed. With
100 conformers expect us ahead of RDKit by about a hundred times in place and ten times after a fit, and of spyrmsd by
hundreds of times: a molecule is prepared once, after which a pair is a few sums. Preparation is counted; with a handful
of conformers (--quick) it is most of our time.
The last line is one JSON object: microseconds per pair and ratios (theirs / ours).
"""

import argparse
import json
import time
from collections.abc import Callable
from statistics import geometric_mean

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdDistGeom, rdMolAlign
from spyrmsd.rmsd import symmrmsd

from sddfkit.chem.rmsd import conformer_rmsd_matrix

DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "sulfonamide, CF3": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
}
Matrix = NDArray[np.float64]


def embed(smiles: str, n_conformers: int) -> Chem.Mol:
    """Heavy atoms with conformers, all bonds single."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    rdDistGeom.EmbedMultipleConfs(mol, n_conformers, randomSeed=1)
    plain = Chem.RWMol(Chem.RemoveHs(mol))
    for bond in plain.GetBonds():
        bond.SetIsAromatic(False)
        bond.SetBondType(Chem.BondType.SINGLE)
    for atom in plain.GetAtoms():
        atom.SetIsAromatic(False)
    return plain.GetMol()


def rdkit_matrix(mol: Chem.Mol, *, align: bool) -> Matrix:
    """All pairs by RDKit."""
    k = mol.GetNumConformers()
    lower = np.tril_indices(k, -1)
    matrix = np.zeros((k, k))
    if align:
        matrix[lower] = rdMolAlign.GetAllConformerBestRMS(mol, numThreads=1)
        return matrix + matrix.T
    single = [Chem.Mol(mol, confId=conformer.GetId()) for conformer in mol.GetConformers()]
    matrix[lower] = [rdMolAlign.CalcRMS(single[i], single[j]) for i, j in zip(*lower, strict=True)]
    return matrix + matrix.T


def spyrmsd_matrix(mol: Chem.Mol, *, align: bool) -> Matrix:
    """All pairs by spyrmsd, which keeps the isomorphisms of one call."""
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    joined = Chem.GetAdjacencyMatrix(mol)
    x = [conformer.GetPositions() for conformer in mol.GetConformers()]
    matrix = np.zeros((len(x), len(x)))
    for i in range(1, len(x)):
        matrix[i, :i] = symmrmsd(x[i], x[:i], numbers, numbers, joined, joined, minimize=align)
    return matrix + matrix.T


def timed(work: Callable[[], Matrix], repeats: int) -> tuple[Matrix, float]:
    """The result and the least wall time in seconds."""
    least = np.inf
    for _ in range(repeats):
        start = time.perf_counter()
        result = work()
        least = min(least, time.perf_counter() - start)
    return result, least


def compare(name: str, smiles: str, n_conformers: int, align: bool) -> dict:
    """Microseconds per pair of the three programs on one drug; they must agree first."""
    mol = embed(smiles, n_conformers)
    pairs = mol.GetNumConformers() * (mol.GetNumConformers() - 1) / 2
    ours, t_ours = timed(lambda: conformer_rmsd_matrix(mol, align=align), 3)
    row: dict = {"molecule": name, "align": align, "ours_us": 1e6 * t_ours / pairs}
    for peer, matrix in (("rdkit", rdkit_matrix), ("spyrmsd", spyrmsd_matrix)):
        theirs, t_theirs = timed(lambda matrix=matrix: matrix(mol, align=align), 1)
        worst = float(np.abs(ours - theirs).max())
        assert worst < 2e-4, f"{name}, align={align}: {peer} differs by {worst:.2e} Å"
        row[f"{peer}_us"] = 1e6 * t_theirs / pairs
        row[f"{peer}_ratio"] = t_theirs / t_ours
    return row


def main() -> None:
    """Print a table, then one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few conformers: seconds instead of minutes")
    n_conformers = 6 if parser.parse_args().quick else 100
    rows = []
    print(f"{'molecule':20} {'fit':>5} {'ours':>10} {'RDKit':>10} {'spyrmsd':>10}   µs per pair")
    for align in (False, True):
        for name, smiles in DRUGS.items():
            row = compare(name, smiles, n_conformers, align)
            rows.append(row)
            figures = " ".join(f"{row[key]:10.2f}" for key in ("ours_us", "rdkit_us", "spyrmsd_us"))
            print(f"{name:20} {align!s:>5} {figures}")
    summary = {
        f"{peer}_over_ours_{'fit' if align else 'in_place'}": round(
            geometric_mean(row[f"{peer}_ratio"] for row in rows if row["align"] == align), 1
        )
        for peer in ("rdkit", "spyrmsd")
        for align in (False, True)
    }
    rounded = [{k: round(v, 2) if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print(json.dumps({"benchmark": "rmsd", "conformers": n_conformers, **summary, "rows": rounded}))


if __name__ == "__main__":
    main()
