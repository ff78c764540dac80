"""Scaffolds: the groups whose members must never be torn apart by a data split."""

from rdkit import Chem, rdBase
from rdkit.Chem.MolStandardize import rdMolStandardize
from rdkit.Chem.Scaffolds import MurckoScaffold

from sddfkit.chem.molecules import without_hydrogens


def scaffold(mol: Chem.Mol | str) -> str:
    """Bemis–Murcko scaffold (J. Med. Chem. 1996, 39, 2887, doi:10.1021/jm9602928) of a molecule's largest fragment.

    Free of stereo, charge, isotopes and atom maps, so that stereoisomers, charge states and salts of a molecule share
    it. A molecule without a ring has no Murcko scaffold: its own skeleton stands in (all atoms carbon, bonds single).

    Parameters
    ----------
    mol : molecule or SMILES

    Returns
    -------
    str
        Canonical SMILES.

    Examples
    --------
    >>> scaffold("C[n+]1ccccc1"), scaffold("Cc1ccncc1")
    ('c1ccncc1', 'c1ccncc1')
    >>> scaffold("CC(=O)[O-].[Na+]"), scaffold("CC(N)=S")
    ('CC(C)C', 'CC(C)C')
    """
    main = _largest_fragment(without_hydrogens(mol))
    return _murcko(main) if main.GetRingInfo().NumRings() else _skeleton(main)


def has_ring(mol: Chem.Mol | str) -> bool:
    """Whether the largest fragment holds a ring, and `scaffold` therefore is a Murcko scaffold."""
    main = _largest_fragment(without_hydrogens(mol))  # a name keeps it alive: RDKit's ring info does not
    return main.GetRingInfo().NumRings() > 0


def _largest_fragment(mol: Chem.Mol) -> Chem.Mol:
    fragments = Chem.GetMolFrags(mol, asMols=True)
    if len(fragments) == 1:
        return mol
    return max(fragments, key=lambda part: (part.GetNumHeavyAtoms(), Chem.MolToSmiles(part, isomericSmiles=False)))


def _murcko(mol: Chem.Mol) -> str:
    core = MurckoScaffold.GetScaffoldForMol(mol)
    for atom in core.GetAtoms():
        atom.SetIsotope(0)
    with rdBase.BlockLogs():
        neutral = rdMolStandardize.Uncharger(canonicalOrder=True, force=True).uncharge(core)
        name = Chem.MolToSmiles(neutral, isomericSmiles=False)
        if Chem.MolFromSmiles(name) is not None:
            return name
    return Chem.MolToSmiles(core, isomericSmiles=False)  # cyclopentadienide has no neutral form with these atoms


def _skeleton(mol: Chem.Mol) -> str:
    heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
    skeleton = Chem.RWMol()
    number = {index: skeleton.AddAtom(Chem.Atom(6)) for index in heavy or [0]}  # hydrogen alone: as methane
    for bond in mol.GetBonds():
        i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
        if i in number and j in number:
            skeleton.AddBond(number[i], number[j], Chem.BondType.SINGLE)
    skeleton.UpdatePropertyCache(strict=False)  # SF6: carbon with six neighbours is fine as a name
    return Chem.MolToSmiles(skeleton)
