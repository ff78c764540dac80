"""Which atoms of a symmetric molecule change places in the best comparison of two conformers."""

from typing import Final

import numpy as np
from numpy.typing import ArrayLike
from rdkit import Chem

from flashrmsd_cy import Result
from sddfkit.chem.rmsd import compared_atoms
from sddfkit.viz.figures import drawing_of
from sddfkit.viz.notebook import Shown
from sddfkit.viz.page import Markup, element, figure, joined
from sddfkit.viz.panels import SERIES
from sddfkit.viz.words import count, listing, number

WIDTH: Final = 370
HEIGHT: Final = 260
"""Size of each of the two drawings, pixels."""


def swaps(mapping: ArrayLike) -> list[list[int]]:
    """Return the cycles of a mapping: atoms that change places, each list closed.

    Atoms that stay are left out, and so are those that are not compared (−1).

    >>> swaps([0, 2, 1, 3, -1]), swaps([1, 2, 0])
    ([[1, 2]], [[0, 1, 2]])
    """
    to: list[int] = np.asarray(mapping).tolist()
    cycles, seen = [], {-1}
    for start in range(len(to)):
        cycle = []
        at = start if to[start] != -1 else -1
        while at not in seen:
            seen.add(at)
            cycle.append(at)
            at = to[at]
        if len(cycle) > 1:
            cycles.append(cycle)
    return cycles


def draw_mapping(mol: Chem.Mol, result: Result) -> Shown:
    """Draw a molecule twice, with the atoms coloured that the best mapping between two of its conformers swaps.

    Parameters
    ----------
    mol : the molecule; its heavy atoms were compared.
    result : of `sddfkit.chem.rmsd.rmsd` for two conformers of it.

    Raises
    ------
    ValueError
        The mapping is not one of the heavy atoms.
    """
    atoms = compared_atoms(mol)
    if len(result.mapping) != mol.GetNumAtoms() or np.flatnonzero(result.mapping >= 0).tolist() != atoms:
        raise ValueError(
            f"the mapping has {np.count_nonzero(result.mapping >= 0)} atoms, the molecule {len(atoms)} heavy ones: "
            "compare the conformers with hydrogens=False"
        )
    cycles = swaps(result.mapping)
    # The drawing has the heavy atoms alone, numbered from 0.
    place = {atom: i for i, atom in enumerate(atoms)}
    colours = {place[atom]: SERIES[k % len(SERIES)] for k, cycle in enumerate(cycles) for atom in cycle}
    flat = Chem.RemoveAllHs(mol, sanitize=False)
    said = _sentence(result, cycles)
    sides = (
        ("first conformer", {i: str(atoms[i]) for i in colours}),
        ("the atoms of the second that take these places", {i: str(result.mapping[atoms[i]]) for i in colours}),
    )
    drawings = []
    for caption, names in sides:
        drawn = drawing_of(flat, WIDTH, HEIGHT, description=f"{caption}. {said}", colours=colours, names=names)
        box = element("div", figure(Markup(drawn), caption), style=f"width: {WIDTH}px; max-width: 100%")
        drawings.append(box)
    return Shown(joined([element("div", joined(drawings), class_="row"), element("p", said)]))


def _sentence(result: Result, cycles: list[list[int]]) -> str:
    ways = "" if result.n_automorphisms is None else f", the least over {count(result.n_automorphisms, 'numbering')}"
    least = f"RMSD {number(result.value)} Å{ways} of the same molecule"
    if not cycles:
        return f"{least}: every atom is compared with itself."
    moved = listing(["\u00a0↔\u00a0".join(map(str, cycle)) for cycle in cycles])
    return f"{least}. {moved} change places; all others stay."
