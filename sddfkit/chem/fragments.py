"""Where the parts of a salt or complex go, which distance geometry embeds on top of each other."""

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem


def place_fragments(mol: Chem.Mol, rng: np.random.Generator) -> bool:
    """Move fragments apart, in place, in every conformer: each to van der Waals contact with those before it.

    Parameters
    ----------
    mol : molecule with conformers, Å
    rng : the direction of each displacement is drawn from it, uniform on the sphere

    Returns
    -------
    bool
        False if there is one fragment only, and nothing was moved.
    """
    fragments = [np.array(fragment) for fragment in Chem.GetMolFrags(mol)]
    if len(fragments) == 1:
        return False
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRvdw(atom.GetAtomicNum()) for atom in mol.GetAtoms()])
    for conformer in mol.GetConformers():
        positions = conformer.GetPositions()
        placed = fragments[0]
        for fragment in fragments[1:]:
            direction = rng.normal(size=3)
            direction /= np.linalg.norm(direction)
            positions[fragment] += positions[placed].mean(axis=0) - positions[fragment].mean(axis=0)
            contact = radii[fragment][:, None] + radii[placed][None]
            positions[fragment] += direction * _shift(positions[fragment], positions[placed], direction, contact)
            placed = np.concatenate([placed, fragment])
        conformer.SetPositions(np.ascontiguousarray(positions))
    return True


def _shift(a: NDArray, b: NDArray, direction: NDArray, contact: NDArray) -> float:
    """Smallest t ≥ 0 beyond which |a_i + t·d − b_j| ≥ contact_ij for every pair: the largest root of the quadratics."""
    offset = a[:, None] - b[None]
    along = offset @ direction
    discriminant = along**2 - (offset**2).sum(axis=-1) + contact**2
    touching = discriminant > 0
    roots = -along[touching] + np.sqrt(discriminant[touching])
    return max(0.0, float(roots.max())) if roots.size else 0.0
