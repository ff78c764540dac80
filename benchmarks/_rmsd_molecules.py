"""Molecules of the RMSD benchmark: families with growing symmetry, drugs, and cheap conformers of either.

The kernels see coordinates alone, so conformers need not be relaxed: `conformers` turns one geometry about its
rotatable bonds and adds noise, either a little ("similar", as neighbours in a trajectory are) or at random
("unrelated").
"""

import math
from collections.abc import Iterator
from itertools import combinations, product
from typing import NamedTuple

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, RDLogger
from rdkit.Chem import rdDistGeom

from flashrmsd_cy import Molecule

RDLogger.DisableLog("rdApp.*")  # it remarks on records without hydrogens, thousands of times
Float = NDArray[np.float64]
SYMBOLS = Chem.GetPeriodicTable()
EXPLICIT = Chem.SmilesParserParams()
EXPLICIT.removeHs = False  # hydrogens that are written stay where they are written
KINDS = ("similar", "unrelated")
BOND = {1: 1.09, 9: 1.35, 14: 1.87, 17: 1.77}
DRUGS = {
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "celecoxib": "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
    "imatinib": "Cc1ccc(NC(=O)c2ccc(CN3CCN(C)CC3)cc2)cc1Nc1nccc(-c2cccnc2)n1",
    "atorvastatin": "CC(C)c1c(C(=O)Nc2ccccc2)c(-c2ccccc2)c(-c2ccc(F)cc2)n1CC[C@@H](O)C[C@@H](O)CC(=O)O",
    "ritonavir": "CC(C)c1nc(cs1)CN(C)C(=O)NC(C(C)C)C(=O)NC(Cc1ccccc1)CC(O)C(Cc1ccccc1)NC(=O)OCc1cncs1",
}


class Example(NamedTuple):
    """One molecule of a family: its graph, and one geometry (n, 3) in Å."""

    family: str
    name: str
    elements: list[int]
    bonds: list[tuple[int, int]]
    geometry: Float

    def molecule(self) -> Molecule:
        """A fresh molecule, of which nothing is prepared yet."""
        return Molecule(self.elements, self.bonds)


def from_smiles(family: str, name: str, smiles: str, hydrogens: bool = False) -> Example:
    """Graph of a SMILES; trees get a random open geometry, molecules with rings an embedded one."""
    mol = Chem.MolFromSmiles(smiles, EXPLICIT)
    if hydrogens:
        mol = Chem.AddHs(mol)
    elements, bonds = _graph(mol)
    if len(bonds) == len(elements) - 1:
        geometry = grown(elements, bonds, np.random.default_rng(len(elements)))
    else:
        if rdDistGeom.EmbedMolecule(mol, useRandomCoords=True, randomSeed=1) < 0:
            raise RuntimeError(f"{name} could not be embedded")
        geometry = mol.GetConformer().GetPositions()
    return Example(family, name, elements, bonds, geometry)


def grown(elements: list[int], bonds: list[tuple[int, int]], rng: np.random.Generator) -> Float:
    """(n, 3) Å: a tree grown bond by bond, neighbours in the corners of a tetrahedron (or evenly round, if more)."""
    graph = nx.Graph(bonds)
    x = np.zeros((len(elements), 3))
    parent: dict[int, int] = {}
    order = [0]
    for atom in order:
        children = [other for other in graph[atom] if other != parent.get(atom)]
        back = x[parent[atom]] - x[atom] if atom in parent else rng.normal(size=3)
        back /= np.linalg.norm(back)
        side = np.cross(back, rng.normal(size=3))
        side /= np.linalg.norm(side)
        third = np.cross(back, side)
        turns = 2 * np.pi * np.arange(len(children)) / max(3, len(children))
        for child, turn in zip(children, turns, strict=True):
            length = BOND.get(elements[child], BOND.get(elements[atom], 1.53))
            direction = -back / 3 + np.sqrt(8) / 3 * (np.cos(turn) * side + np.sin(turn) * third)
            x[child] = x[atom] + length * direction
            parent[child] = atom
            order.append(child)
    return x


def conformers(example: Example, n: int, kind: str, seed: int = 1) -> Float:
    """(n, n_atoms, 3) Å: the geometry with its rotatable bonds turned, and noise of 0.05 Å.

    Kind "similar" turns by some 8°, "unrelated" by any angle. Rigid molecules differ by noise alone, which is then
    0.4 Å for "unrelated".
    """
    rng = np.random.default_rng(seed)
    graph = nx.Graph(example.bonds)
    torsions = []
    for i, j in nx.bridges(graph):
        if graph.degree[i] > 1 and graph.degree[j] > 1:
            cut = graph.copy()
            cut.remove_edge(i, j)
            side = nx.node_connected_component(cut, j)
            if len(side) > len(graph) / 2:
                i, j, side = j, i, set(graph) - side
            torsions.append((i, j, np.array(sorted(side))))
    result = np.repeat(example.geometry[None], n, axis=0)
    for x in result:
        for i, j, side in torsions:
            angle = np.radians(8) * rng.normal() if kind == "similar" else rng.uniform(-np.pi, np.pi)
            x[side] = (x[side] - x[j]) @ _rotation(x[j] - x[i], angle).T + x[j]
        x += rng.normal(scale=0.05 if torsions or kind == "similar" else 0.4, size=x.shape)
    return result


def _rotation(axis: Float, angle: float) -> Float:
    """(3, 3) Rodrigues' rotation about `axis` by `angle` in radians."""
    x, y, z = axis / np.linalg.norm(axis)
    k = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * k + (1 - np.cos(angle)) * k @ k


def alkanes(sizes: tuple[int, ...], hydrogens: bool) -> Iterator[Example]:
    """n-Alkanes: |Aut| = 2 of the heavy atoms, 2·6²·2ⁿ⁻² with hydrogens."""
    for n in sizes:
        yield from_smiles("alkane, all atoms" if hydrogens else "alkane", f"C{n}H{2 * n + 2}", "C" * n, hydrogens)


def perfluoroalkanes(sizes: tuple[int, ...]) -> Iterator[Example]:
    """n-Perfluoroalkanes: as alkanes with hydrogens, though of heavy atoms alone."""
    for n in sizes:
        smiles = "FC(F)(F)" + "C(F)(F)" * (n - 2) + "C(F)(F)F"
        yield from_smiles("perfluoroalkane", f"C{n}F{2 * n + 2}", smiles)


def polyphenyls(sizes: tuple[int, ...]) -> Iterator[Example]:
    """p-Phenylenes: each ring turns over by itself, |Aut| = 2·2ⁿ."""
    for n in sizes:
        smiles = "c1ccccc1-" + "".join("c1ccc(cc1)-" for _ in range(n - 2)) + "c1ccccc1"
        yield from_smiles("polyphenyl", f"{n} rings", smiles)


def dendrimers(generations: tuple[int, ...]) -> Iterator[Example]:
    """C(tBu)₄ and on: every end carries three new atoms, so that groups are nested."""
    for g in generations:
        arm = "C"
        for _ in range(g):
            arm = f"C({arm})({arm}){arm}"
        yield from_smiles("tert-butyl dendrimer", f"generation {g}", f"C({arm})({arm})({arm}){arm}")


def cyclodextrins() -> Iterator[Example]:
    """α, β, γ: rings of six to eight glucoses, of which the graph keeps the cyclic group alone."""
    for name, n in (("alpha", 6), ("beta", 7), ("gamma", 8)):
        units = [f"OC%{20 + k}C(O)C(O)C(OC%{20 + k}CO)" for k in range(n)]
        # The O of the first unit closes the large ring with the last acetal carbon.
        smiles = "O%99" + "".join(units)[1:].removesuffix(f"C(OC%{19 + n}CO)") + f"C%99OC%{19 + n}CO"
        yield from_smiles("cyclodextrin", name, smiles)


def buckminsterfullerene() -> Example:
    """C60 from the formula of the truncated icosahedron; |Aut| = 120, one block, no tree about it."""
    phi = (1 + 5**0.5) / 2
    corners = set()
    for base in ((0, 1, 3 * phi), (1, 2 + phi, 2 * phi), (phi, 2, 2 * phi + 1)):
        for signs in product((1, -1), repeat=3):
            point = [s * c + 0.0 for s, c in zip(signs, base, strict=True)]
            corners |= {tuple(np.roll(point, turn).round(9).tolist()) for turn in range(3)}
    x = np.array(sorted(corners))
    bonds = [(i, j) for i, j in combinations(range(60), 2) if np.linalg.norm(x[i] - x[j]) < 2.01]
    return Example("C60", "C60", [6] * 60, bonds, x * 0.71)


def equal_size(decades: tuple[int, ...]) -> Iterator[Example]:
    """Six families, in each of which all members share one skeleton and one geometry while |Aut| grows.

    In a chain of groups, k keep their symmetry; the others carry different elements in the same places. |Aut| ≥ 10 to
    the power of the decade: groups side by side (6ᵏ), nested (1296ᵏ), pairs (2ᵏ) and CH₂ (2ᵏ, all atoms). The last
    two are dendrimers about one atom, where no backbone tells how to turn them.
    """
    nested = "C([Si](C(C)(C)C)(C(C)(C)C)C(C)(C)C)", "C([Si](C(C)(F)Cl)(C(C)(F)Br)C(F)(Cl)Br)"
    families = (
        ("t-butyl groups side by side", 6, 20, ("C(C(C)(C)C)", "C(C(C)(F)Cl)")),
        ("tri-t-butylsilyl groups, nested", 1296, 5, nested),
        ("gem-dimethyl groups", 2, 50, ("C(C)(C)C", "C(C)(F)C")),
        ("CH2 of a chain, all atoms", 2, 50, ("C([H])([H])", "C([H])(F)")),
    )
    for family, order, most, (symmetric, marked) in families:
        for decade in decades:
            k = math.ceil(decade / math.log10(order))
            if order**k >= 2 * 10**decade * order or k > most:
                continue
            # The groups that keep their symmetry are spread evenly along the chain.
            kept = {int(i * most / k) for i in range(k)}
            smiles = "O" + "".join(symmetric if i in kept else marked for i in range(most)) + "N"
            yield from_smiles(family, f"{order}^{k}", smiles)
    for name, centres in (("unlike", ("C", "[Si]", "[Ge]", "[Sn]")), ("like", ("C",) * 4)):
        for leaf in ("C(C)(F)Cl", "C(C)(C)F", "C(C)(C)C"):
            arms = [f"{centre}({leaf})({leaf}){leaf}" for centre in centres]
            smiles = f"C({arms[0]})({arms[1]})({arms[2]}){arms[3]}"
            yield from_smiles(f"dendrimer, {name} arms", leaf, smiles)


def drug(name: str, n_conformers: int) -> tuple[Example, Float]:
    """Heavy atoms of a drug with ETKDG conformers (k, n, 3) in Å."""
    mol = Chem.AddHs(Chem.MolFromSmiles(DRUGS[name]))
    rdDistGeom.EmbedMultipleConfs(mol, n_conformers, randomSeed=1)
    mol = Chem.RemoveHs(mol)
    x = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    return Example("drug", name, *_graph(mol), x[0]), x


def whole_drug(name: str) -> Example:
    """A drug with its hydrogens, as files have it."""
    return from_smiles("drug, all atoms", name, DRUGS[name], hydrogens=True)


def sdf(example: Example, x: Float) -> str:
    """SDF (V2000) of conformers x (k, n, 3) in Å, all bonds single."""
    bonds = "".join(f"{i + 1:3d}{j + 1:3d}  1  0\n" for i, j in example.bonds)
    counts = f"{len(example.elements):3d}{len(example.bonds):3d}  0  0  0  0  0  0  0  0999 V2000\n"
    names = [
        f" {SYMBOLS.GetElementSymbol(element):<3} 0  0  0  0  0  0  0  0  0  0  0  0\n" for element in example.elements
    ]
    records = []
    for k, positions in enumerate(x.tolist()):
        atoms = "".join(f"{a:10.4f}{b:10.4f}{c:10.4f}{name}" for (a, b, c), name in zip(positions, names, strict=True))
        records.append(f"{example.name} {k}\n\n\n{counts}{atoms}{bonds}M  END\n$$$$\n")
    return "".join(records)


def _graph(mol: Chem.Mol) -> tuple[list[int], list[tuple[int, int]]]:
    elements = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
    return elements, [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
