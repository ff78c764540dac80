"""Symmetry-corrected RMSD of RDKit molecules: exact, by `flashrmsd_cy`.

Heavy atoms are compared unless ``hydrogens=True``; deuterium and tritium count as hydrogen. Elements and bonds decide
which atoms correspond. Bond orders and formal charges are not looked at, so that the two O of a carboxylate, or the two
Kekulé forms of a ring, are alike. RMSD in Å.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

import flashrmsd_cy
from flashrmsd_cy import Molecule, Result, RMSDError

Float = NDArray[np.float64]


def compared_atoms(mol: Chem.Mol, *, hydrogens: bool = False) -> list[int]:
    """RDKit indices of the atoms that are compared: all of them, or those that are not hydrogen isotopes.

    Raises
    ------
    RMSDError
        If there is no atom to compare (no heavy atom in H2).
    """
    atoms = [atom.GetIdx() for atom in mol.GetAtoms() if hydrogens or atom.GetAtomicNum() != 1]
    if not atoms:
        what = "no atoms" if mol.GetNumAtoms() == 0 else "no heavy atoms: ask with hydrogens=True"
        raise RMSDError(f"molecule {_name(mol)} has {what}")
    return atoms


def prepare(mol: Chem.Mol, *, hydrogens: bool = False) -> Molecule:
    """The molecular graph of the compared atoms, for use with `flashrmsd_cy` itself."""
    atoms = compared_atoms(mol, hydrogens=hydrogens)
    place = {atom: index for index, atom in enumerate(atoms)}
    ends = ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
    bonds = [(place[i], place[j]) for i, j in ends if i in place and j in place]
    return Molecule([mol.GetAtomWithIdx(atom).GetAtomicNum() for atom in atoms], bonds)


def conformer_positions(mol: Chem.Mol, *, hydrogens: bool = False) -> Float:
    """(k, n, 3) coordinates in Å of the compared atoms in all conformers, in the order of ``mol.GetConformers()``.

    Raises
    ------
    RMSDError
        If the molecule has no conformer.
    """
    atoms = compared_atoms(mol, hydrogens=hydrogens)
    _require_conformers(mol)
    return np.stack([conformer.GetPositions()[atoms] for conformer in mol.GetConformers()])


def rmsd(
    a: Chem.Mol,
    b: Chem.Mol,
    *,
    align: bool,
    hydrogens: bool = False,
    a_conformer: int = -1,
    b_conformer: int = -1,
    time_limit_s: float | None = None,
) -> Result:
    """Symmetry-corrected RMSD of two molecules, whose atoms may be in different orders.

    Parameters
    ----------
    a, b : Chem.Mol
        The same molecule twice, each with a conformer.
    align : bool
        Whether b may be rotated and translated (conformers) or not (docking poses).
    hydrogens : bool
        Compare all atoms instead of the heavy ones.
    a_conformer, b_conformer : int
        Conformer ids; -1 is the first.
    time_limit_s : float, optional
        After this many seconds the result holds bounds.

    Returns
    -------
    flashrmsd_cy.Result
        Its mapping counts compared atoms: ``compared_atoms(b)[mapping[i]]`` is the partner of ``compared_atoms(a)[i]``.

    Raises
    ------
    RMSDError
        If a molecule has no conformer or nothing to compare.
    NotIsomorphicError
        If the molecules differ.

    Examples
    --------
    >>> from rdkit.Chem import AllChem
    >>> acetate = Chem.MolFromSmiles("CC(=O)[O-]")
    >>> _ = AllChem.EmbedMolecule(acetate, randomSeed=1)
    >>> swapped = Chem.RenumberAtoms(acetate, [0, 1, 3, 2])
    >>> round(rmsd(acetate, swapped, align=False).value, 6)
    0.0
    """
    return flashrmsd_cy.rmsd(
        _one_conformer(a, a_conformer, hydrogens),
        _one_conformer(b, b_conformer, hydrogens),
        prepare(a, hydrogens=hydrogens),
        prepare(b, hydrogens=hydrogens),
        align=align,
        time_limit_s=time_limit_s,
    )


def conformer_rmsd_matrix(mol: Chem.Mol, *, align: bool, hydrogens: bool = False) -> Float:
    """(k, k) symmetry-corrected RMSD in Å between all conformers, in the order of ``mol.GetConformers()``.

    Raises
    ------
    RMSDError
        If the molecule has no conformer or nothing to compare.
    """
    x = conformer_positions(mol, hydrogens=hydrogens)
    return flashrmsd_cy.rmsd_matrix(x, prepare(mol, hydrogens=hydrogens), align=align)


def prune_by_rmsd(
    mol: Chem.Mol,
    threshold: float,
    *,
    hydrogens: bool = False,
    align: bool = True,
    order: Sequence[int] | None = None,
) -> list[int]:
    """Ids of the conformers that are no near copies of one kept before; the molecule itself is not changed.

    Parameters
    ----------
    mol : Chem.Mol
    threshold : float
        Å. A conformer is dropped if its RMSD to a kept one is below.
    hydrogens, align : bool
        What is compared, and whether after a fit.
    order : sequence of int, optional
        Conformer ids in the order in which they come, for example by energy; the order in `mol` by default.

    Returns
    -------
    list of int
        Kept conformer ids, first come first kept.

    Raises
    ------
    RMSDError
        If the molecule has no conformer, nothing to compare, or no conformer of a given id.
    """
    x = conformer_positions(mol, hydrogens=hydrogens)
    place = {conformer.GetId(): index for index, conformer in enumerate(mol.GetConformers())}
    ids = list(place) if order is None else list(order)
    unknown = [number for number in ids if number not in place]
    if unknown:
        raise RMSDError(f"molecule {_name(mol)} has no conformer {unknown[0]}; its ids are {sorted(place)}")
    kept = flashrmsd_cy.distinct(
        x[[place[number] for number in ids]], prepare(mol, hydrogens=hydrogens), threshold, align=align
    )
    return [ids[index] for index in kept]


def _one_conformer(mol: Chem.Mol, conformer: int, hydrogens: bool) -> Float:
    _require_conformers(mol)
    atoms = compared_atoms(mol, hydrogens=hydrogens)
    ids = [known.GetId() for known in mol.GetConformers()]
    if conformer != -1 and conformer not in ids:
        raise RMSDError(f"molecule {_name(mol)} has no conformer {conformer}; its ids are {ids}")
    return mol.GetConformer(conformer).GetPositions()[atoms]


def _require_conformers(mol: Chem.Mol) -> None:
    if mol.GetNumConformers() == 0:
        raise RMSDError(
            f"molecule {_name(mol)} has no conformers: embed it first, or read it from a file with coordinates"
        )


def _name(mol: Chem.Mol) -> str:
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    return repr(name or Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False)))
