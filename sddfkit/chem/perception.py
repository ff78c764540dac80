"""Bonds of atoms in space: from a SMILES that fits them, or perceived by RDKit; how it was done is always said."""

import functools
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import rdDetermineBonds

from sddfkit.chem.molecules import MoleculeError, molecule_id, parse_smiles

STEPS = 10_000
"""Assignments of valences that RDKit may try for one molecule before the orders of its bonds count as unknown."""


class Perceived(NamedTuple):
    """A molecule with explicit hydrogens and one conformer, and what is to be known about its bonds.

    how : "SMILES" (orders and charges are those of the SMILES), "perceived" (by RDKit), or "none"
    doubts : sentences about what does not fit
    """

    mol: Chem.Mol
    how: str
    doubts: tuple[str, ...]


class _Graph(NamedTuple):
    mol: Chem.Mol  # no conformer
    how: str
    doubts: tuple[str, ...]


def perceive(
    atomic_numbers: ArrayLike,
    positions: ArrayLike,
    *,
    charge: int = 0,
    smiles: str = "",
    pairs: ArrayLike | None = None,
) -> Perceived:
    """Find the bonds of atoms in space.

    Which atoms are joined is read off distances (RDKit's connect-the-dots), unless `pairs` tell. Bond orders and formal
    charges are those of the SMILES if it has the same graph; else RDKit finds them for the total charge. Where it
    cannot, the molecule is returned without bonds. Stereo is that of the positions.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions : (n, 3) float64, Å
    charge : total charge, e
    smiles : what the molecule is said to be; hydrogens may be implicit
    pairs : (b, 2) int, atoms that are joined

    Returns
    -------
    Perceived

    Examples
    --------
    >>> water = [[0, 0, 0.12], [0, 0.76, -0.47], [0, -0.76, -0.47]]
    >>> found = perceive([8, 1, 1], water)
    >>> molecule_id(found.mol), found.how, found.doubts
    ('O', 'perceived', ())
    >>> perceive([8, 1, 1], water, smiles="OO").doubts
    ('bonds: the positions do not show those of OO',)
    """
    numbers = np.asarray(atomic_numbers, dtype=np.int64)
    places = np.ascontiguousarray(positions, dtype=np.float64)
    joined = _joined(numbers, places) if pairs is None else _ordered(pairs)
    found = _graph(numbers.tobytes(), joined.tobytes(), charge, smiles)
    mol = placed(found.mol, places)
    Chem.AssignStereochemistryFrom3D(mol)
    doubts = found.doubts
    if found.how == "SMILES" and not _same_stereo(mol, smiles):
        doubts = (*doubts, f"stereo: the positions show {molecule_id(mol)}, not {smiles}")
    return Perceived(mol, found.how, doubts)


def unbonded(atomic_numbers: ArrayLike) -> Chem.RWMol:
    """Atoms without bonds, charges and implicit hydrogens."""
    mol = Chem.RWMol()
    for number in np.asarray(atomic_numbers, dtype=int):
        atom = Chem.Atom(int(number))
        atom.SetNoImplicit(True)  # a missing hydrogen is a radical, never an implicit atom
        mol.AddAtom(atom)
    return mol


def placed(mol: Chem.Mol, positions: NDArray[np.float64]) -> Chem.Mol:
    """A copy of a molecule with these positions (n, 3), Å, as its one conformer."""
    copy = Chem.Mol(mol)
    copy.RemoveAllConformers()
    conformer = Chem.Conformer(copy.GetNumAtoms())
    conformer.SetPositions(np.ascontiguousarray(positions, dtype=np.float64))
    conformer.Set3D(True)
    copy.AddConformer(conformer)
    return copy


def _joined(numbers: NDArray[np.int64], positions: NDArray[np.float64]) -> NDArray[np.int64]:
    mol = placed(unbonded(numbers), positions)
    with rdBase.BlockLogs():
        rdDetermineBonds.DetermineConnectivity(mol)
    return _ordered([(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()])


def _ordered(pairs: ArrayLike) -> NDArray[np.int64]:
    return np.unique(np.sort(np.asarray(pairs, dtype=np.int64).reshape(-1, 2), axis=1), axis=0)


@functools.lru_cache(maxsize=512)  # conformers of a molecule follow each other
def _graph(numbers: bytes, pairs: bytes, charge: int, smiles: str) -> _Graph:
    elements = np.frombuffer(numbers, dtype=np.int64)
    joined = np.frombuffer(pairs, dtype=np.int64).reshape(-1, 2)
    skeleton = unbonded(elements)
    for i, j in joined:
        skeleton.AddBond(int(i), int(j), Chem.BondType.SINGLE)
    doubts: tuple[str, ...] = ()
    if smiles:
        try:
            template = _template(skeleton, parse_smiles(smiles))
        except MoleculeError as error:
            doubts = (f"SMILES: {error}",)
        else:
            if template is not None and Chem.GetFormalCharge(template) == charge:
                return _Graph(template, "SMILES", ())
            reason = f"the positions do not show those of {smiles}"
            if template is not None:
                reason = f"{smiles} has the charge {Chem.GetFormalCharge(template)}, and {charge} is stated"
            doubts = (f"bonds: {reason}",)
    mol = Chem.RWMol(skeleton)
    try:
        with rdBase.BlockLogs():
            rdDetermineBonds.DetermineBondOrders(mol, charge=charge, embedChiral=False, maxIterations=STEPS)
            Chem.SanitizeMol(mol)
    except (ValueError, RuntimeError) as error:
        sentence = f"bonds: left out, RDKit finds none for the charge {charge}: {_first_line(error)}"
        bare = unbonded(elements).GetMol()
        Chem.SanitizeMol(bare)
        return _Graph(bare, "none", (*doubts, sentence))
    return _Graph(mol.GetMol(), "perceived", doubts)


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _template(skeleton: Chem.Mol, named: Chem.Mol) -> Chem.Mol | None:
    """The named molecule with its atoms in the order of the skeleton, or None if their graphs differ."""
    whole = Chem.AddHs(named)
    whole.RemoveAllConformers()
    if whole.GetNumAtoms() != skeleton.GetNumAtoms() or whole.GetNumBonds() != skeleton.GetNumBonds():
        return None
    query = unbonded([atom.GetAtomicNum() for atom in whole.GetAtoms()])
    for bond in whole.GetBonds():
        query.AddBond(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), Chem.BondType.SINGLE)
    with rdBase.BlockLogs():
        match = skeleton.GetSubstructMatch(query)
    if not match:
        return None
    found = Chem.RenumberAtoms(whole, np.argsort(match).tolist())
    for atom in found.GetAtoms():
        atom.SetNoImplicit(True)
        atom.SetAtomMapNum(0)
    return found


def _same_stereo(mol: Chem.Mol, smiles: str) -> bool:
    """Whether all stereo that the SMILES defines is that of the molecule; what it leaves open may be anything."""
    named = _with_stereo(smiles)
    if named is None:
        return True
    with rdBase.BlockLogs():
        return bool(Chem.RemoveHs(mol).HasSubstructMatch(named, useChirality=True))


@functools.lru_cache(maxsize=512)
def _with_stereo(smiles: str) -> Chem.Mol | None:
    """The molecule of a SMILES that defines some stereo, or None."""
    named = Chem.RemoveHs(parse_smiles(smiles))
    defined = any(site.specified == Chem.StereoSpecified.Specified for site in Chem.FindPotentialStereo(named))
    return named if defined else None
