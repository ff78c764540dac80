"""Conformers of a component, by a ladder of methods; which of them made which conformer is recorded."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers
from rdkit.Geometry import Point3D

from sddfkit.chem.fragments import place_fragments
from sddfkit.rmsd_set.components import Component

Float = NDArray[np.float64]
NOISE = 0.1  # Å, standard deviation of each coordinate
POSE_SHIFT = 0.5  # Å
POSE_TURN = 0.35  # radians
TRIALS = 8
DECIMALS = 4
"""Of the coordinates in the files; reference values are computed from what is written."""
EMBED_ATTEMPTS = 20
FIELD_STEPS = 200


class NoConformersError(ValueError):
    """No method gives conformers of this component; the message says what was tried."""


@dataclass
class Made:
    """Conformers of one component.

    Attributes
    ----------
    positions : ndarray of float64, shape (k, n, 3)
        Å, rounded as in the files; all atoms in the order of the component.
    how : dict
        Method → number of conformers: ``etkdg+mmff``, ``etkdg_rc+mmff`` (random coordinates), ``…+uff``, ``etkdg``
        (relaxed by neither), ``ideal+torsion+noise``.
    notes : list of str
        Why a method was left for the next.
    """

    positions: Float
    how: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def make_conformers(component: Component, k: int, rng: np.random.Generator, *, embed: bool = True) -> Made:
    """Return k conformers, laid over each other as poses in one pocket are: the fixed frame means something.

    ETKDGv3 (Wang et al., J. Chem. Inf. Model. 60, 2044 (2020), doi:10.1021/acs.jcim.0c00025), again from random
    coordinates for those that fail, relaxed with MMFF94, or UFF where MMFF94 has no parameters. What is still missing
    is made from the dictionary's own coordinates by turning bonds and adding noise.

    Parameters
    ----------
    component : Component
    k : int
        Number of conformers.
    rng : numpy.random.Generator
        All is drawn from it.
    embed : bool
        Whether to try distance geometry at all.

    Raises
    ------
    NoConformersError
        If neither gives one.
    """
    notes: list[str] = []
    how: Counter[str] = Counter()
    x = np.empty((0, len(component.elements), 3))
    if embed:
        try:
            x = _embedded(component, k, rng, how, notes)
        except (ValueError, RuntimeError) as error:  # RDKit's sanitisation errors are ValueErrors
            notes.append("RDKit: " + " ".join(str(error).split())[:160])
            how.clear()
    else:
        notes.append("distance geometry was not tried again after it took too long or crashed")
    if len(x) < k:
        start = component.ideal or component.model
        if start is None and not len(x):
            raise NoConformersError("; ".join([*notes, "and the dictionary has no complete coordinates"]))
        base = x[0] if start is None else np.array(start)
        x = np.concatenate([x, [_disturbed(component, base, rng) for _ in range(k - len(x))]])
        how["ideal+torsion+noise" if start is not None else "first+torsion+noise"] += k - sum(how.values())
    return Made(np.round(_as_poses(x, component.heavy, rng), DECIMALS) + 0.0, dict(how), notes)


def to_mol(component: Component) -> Chem.Mol:
    """Return an RDKit molecule; no hydrogens are added, and stereo is that of the dictionary's coordinates.

    Raises
    ------
    ValueError
        If RDKit cannot make sense of the valences.
    """
    mol = Chem.RWMol()
    for element, charge in zip(component.elements, component.charges, strict=True):
        atom = Chem.Atom(element)
        atom.SetFormalCharge(charge)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    kinds = {1: Chem.BondType.SINGLE, 2: Chem.BondType.DOUBLE, 3: Chem.BondType.TRIPLE}
    for i, j, order in component.bonds:
        mol.AddBond(i, j, kinds[order])
    Chem.SanitizeMol(mol)
    coordinates = component.ideal or component.model
    if coordinates is not None:
        conformer = Chem.Conformer(mol.GetNumAtoms())
        for index, (px, py, pz) in enumerate(coordinates):
            conformer.SetAtomPosition(index, Point3D(px, py, pz))
        mol.AddConformer(conformer)
        Chem.AssignStereochemistryFrom3D(mol)
        mol.RemoveAllConformers()
    return mol.GetMol()


def _embedded(component: Component, k: int, rng: np.random.Generator, how: Counter[str], notes: list[str]) -> Float:
    """(up to k, n, 3) by distance geometry and a force field."""
    with rdBase.BlockLogs():
        mol = to_mol(component)
        names: list[str] = []
        for name, random_coordinates in (("etkdg", False), ("etkdg_rc", True)):
            before = mol.GetNumConformers()
            # One first: where that fails the others would, at k times the price.
            if before < k:
                _embed(mol, 1, random_coordinates, rng)
            if before < mol.GetNumConformers() < k:
                _embed(mol, k - before - 1, random_coordinates, rng)
            made = mol.GetNumConformers() - before
            names += [name] * made
            if before + made < k:
                notes.append(f"{name}: {k - before - made} of {k - before} not embedded")
        if not names:
            return np.empty((0, mol.GetNumAtoms(), 3))
        place_fragments(mol, rng)
        suffix = _relax(mol, notes)
    how.update(f"{name}{suffix}" for name in names)
    x = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    if not np.isfinite(x).all() or np.abs(x).max() > 9000:
        raise ValueError("coordinates that no file can hold")
    return x


def _embed(mol: Chem.Mol, missing: int, random_coordinates: bool, rng: np.random.Generator) -> None:
    """Add up to so many conformers."""
    params: Any = rdDistGeom.ETKDGv3()  # RDKit's stubs mistype its setters
    params.randomSeed = int(rng.integers(1, 2**31 - 1))
    params.useRandomCoords = random_coordinates
    params.clearConfs = False
    params.maxIterations = EMBED_ATTEMPTS  # not a time, which would make the outcome depend on the machine
    params.numThreads = 1
    rdDistGeom.EmbedMultipleConfs(mol, missing, params)


def _relax(mol: Chem.Mol, notes: list[str]) -> str:
    """Relax in place; the suffix of the method."""
    for suffix, has, optimize in (
        ("+mmff", rdForceFieldHelpers.MMFFHasAllMoleculeParams, rdForceFieldHelpers.MMFFOptimizeMoleculeConfs),
        ("+uff", rdForceFieldHelpers.UFFHasAllMoleculeParams, rdForceFieldHelpers.UFFOptimizeMoleculeConfs),
    ):
        if has(mol):
            outcome = optimize(mol, numThreads=1, maxIters=FIELD_STEPS)
            unconverged = sum(status != 0 for status, _ in outcome)
            if unconverged:
                notes.append(f"{suffix[1:]}: {unconverged} not converged in {FIELD_STEPS} steps")
            return suffix
        notes.append(f"{suffix[1:]}: no parameters")
    return ""


def _disturbed(component: Component, x: Float, rng: np.random.Generator) -> Float:
    """Turn about every bond that joins two parts, by angles of the trial with the fewest close contacts, add noise."""
    turns = _turnable(component)
    best, widest = x, -1.0
    for _ in range(TRIALS):
        y = x.copy()
        for i, j, side in turns:
            y[side] = _turned(y[side] - y[i], y[j] - y[i], rng.uniform(-np.pi, np.pi)) + y[i]
        gap = np.linalg.norm(y[:, None] - y[None], axis=-1)
        np.fill_diagonal(gap, np.inf)
        if gap.min() > widest:
            best, widest = y, float(gap.min())
    return best + rng.normal(scale=NOISE, size=x.shape)


def _turnable(component: Component) -> list[tuple[int, int, list[int]]]:
    """Single bonds i–j outside rings, with neighbours at both ends, and the atoms on the side of j."""
    neighbours: list[set[int]] = [set() for _ in component.elements]
    for i, j, _ in component.bonds:
        neighbours[i].add(j)
        neighbours[j].add(i)
    found = []
    for i, j, order in component.bonds:
        if order != 1 or len(neighbours[i]) < 2 or len(neighbours[j]) < 2:
            continue
        side, todo = {j}, [j]
        while todo:
            atom = todo.pop()
            for other in neighbours[atom] - side:
                if (atom, other) != (j, i):
                    side.add(other)
                    todo.append(other)
        if i not in side:
            found.append((i, j, sorted(side)))
    return found


def _turned(x: Float, axis: Float, angle: float) -> Float:
    """Turn about an axis through the origin (Rodrigues)."""
    length = np.linalg.norm(axis)
    if length == 0:
        return x
    u = axis / length
    return x * np.cos(angle) + np.cross(u, x) * np.sin(angle) + np.outer(x @ u, u) * (1 - np.cos(angle))


def _as_poses(x: Float, heavy: list[int], rng: np.random.Generator) -> Float:
    """Fit each conformer atom by atom on the first, which is centred, then displace it a little."""
    x = x - x[:, heavy].mean(axis=1, keepdims=True)
    for index in range(1, len(x)):
        left, _, right = np.linalg.svd(x[0, heavy].T @ x[index, heavy])
        rotation = left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right
        axis = rng.normal(size=3)
        x[index] = _turned(x[index] @ rotation.T, axis, rng.normal(scale=POSE_TURN))
        x[index] += rng.normal(scale=POSE_SHIFT, size=3)
    return x
