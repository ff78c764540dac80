r"""Symmetry-corrected RMSD of RDKit molecules: exact, by `flashrmsd_cy`.

For two conformations a, b of one molecule with n compared atoms,

.. math:: \mathrm{RMSD}(a, b) = \min_\pi \min_{U, t} \sqrt{\tfrac1n \sum_i |a_i - (U b_{\pi(i)} + t)|^2},

in Å, over the mappings π that keep the molecule. With ``align=True`` U is any rotation (never a reflection) and t any
translation, which is the question of conformers; with ``align=False`` nothing is moved, which is that of docking poses.

What is compared, and which atoms correspond, is said by four options of every function here:

- ``hydrogens=False``: heavy atoms alone; deuterium and tritium count as hydrogen.
- ``bond_types=False``: elements and bonds decide, not bond orders. With ``bond_types=True`` orders as RDKit has them
  must agree, aromatic being an order of its own.
- ``charges=False``: formal charges are not looked at. With both at False the two O of a carboxylate, or the two Kekulé
  forms of a ring, are alike.
- ``stereo=False``: a mapping may exchange what only the configuration tells apart. With ``stereo=True`` it keeps the
  tetrahedral centres and double bonds that are marked in the molecule, with ``stereo="3d"`` those that the coordinates
  of the (first) conformer show. Unmarked ones, allenes and other axes are free.

The RMSD is a metric: symmetric, zero for equal shapes only, and it fulfils the triangle inequality.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem

import flashrmsd_cy
from flashrmsd_cy import Molecule, Result, RMSDError, Stereo

Float = NDArray[np.float64]
KeepStereo = bool | Literal["3d"]

SIGNS: Final = {Chem.ChiralType.CHI_TETRAHEDRAL_CCW: 1, Chem.ChiralType.CHI_TETRAHEDRAL_CW: -1}
RELATIONS: Final = {
    Chem.BondStereo.STEREOZ: "cis",
    Chem.BondStereo.STEREOCIS: "cis",
    Chem.BondStereo.STEREOE: "trans",
    Chem.BondStereo.STEREOTRANS: "trans",
}


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


def stereo_of(mol: Chem.Mol) -> Stereo:
    """The marked configurations of a molecule: tetrahedral centres and double bonds.

    They are read from the chiral tags and the stereo atoms, and so do not depend on CIP labels. For those that
    coordinates show, call ``Chem.AssignStereochemistryFrom3D`` first.

    Examples
    --------
    >>> stereo_of(Chem.MolFromSmiles("C/C=C/[C@H](F)O"))
    Stereo(1 centres, 1 double bonds)
    """
    centres = [
        (atom.GetIdx(), [bond.GetOtherAtomIdx(atom.GetIdx()) for bond in atom.GetBonds()], SIGNS[atom.GetChiralTag()])
        for atom in mol.GetAtoms()
        if atom.GetChiralTag() in SIGNS
    ]
    double_bonds = []
    for bond in mol.GetBonds():
        if bond.GetStereo() in RELATIONS:
            begin, end = bond.GetStereoAtoms()
            double_bonds.append(
                ((begin, bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), end), RELATIONS[bond.GetStereo()])
            )
    return Stereo(tetrahedral=centres, double_bonds=double_bonds)


def prepare(
    mol: Chem.Mol,
    *,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
) -> Molecule:
    """The molecular graph, for use with `flashrmsd_cy` itself: positions are then those of all atoms of `mol`.

    Raises
    ------
    RMSDError
        If there is no atom to compare, or no conformer for ``stereo="3d"``.

    Examples
    --------
    >>> acetate = Chem.MolFromSmiles("CC(=O)[O-]")
    >>> prepare(acetate).n_automorphisms, prepare(acetate, charges=True).n_automorphisms
    (2, 1)
    """
    return _prepare(mol, _Options(hydrogens, bond_types, charges, stereo))


def conformer_positions(mol: Chem.Mol, *, hydrogens: bool = False) -> Float:
    """(k, n, 3) coordinates in Å of the compared atoms in all conformers, in the order of ``mol.GetConformers()``.

    Raises
    ------
    RMSDError
        If the molecule has no conformer or nothing to compare.
    """
    atoms = compared_atoms(mol, hydrogens=hydrogens)
    return _all_positions(mol)[:, atoms]


def rmsd(
    a: Chem.Mol,
    b: Chem.Mol,
    *,
    align: bool,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
    a_conformer: int = -1,
    b_conformer: int = -1,
    level: Literal[1, 2, 3] | None = None,
    time_limit_s: float | None = None,
) -> Result:
    """Symmetry-corrected RMSD of two molecules, whose atoms may be in different orders.

    Parameters
    ----------
    a, b : Chem.Mol
        The same molecule twice, each with a conformer.
    align : bool
        Whether b may be rotated and translated (conformers) or not (docking poses).
    hydrogens, bond_types, charges, stereo
        What is compared: see the head of this module.
    a_conformer, b_conformer : int
        Conformer ids; -1 is the first.
    level : {1, 2, 3}, optional
        One of the simpler searches of `flashrmsd_cy.rmsd`, for study: as exact, and slow.
    time_limit_s : float, optional
        After this many seconds the result holds bounds.

    Returns
    -------
    flashrmsd_cy.Result
        Its ``mapping[i]`` is the RDKit index in b of the partner of atom i of a; −1 where atom i is not compared.

    Raises
    ------
    RMSDError
        If a molecule has no conformer or nothing to compare.
    NotIsomorphicError
        If the molecules differ.

    Examples
    --------
    >>> from rdkit.Chem import AllChem
    >>> acetate = Chem.AddHs(Chem.MolFromSmiles("CC(=O)[O-]"))
    >>> _ = AllChem.EmbedMolecule(acetate, randomSeed=1)
    >>> swapped = Chem.RenumberAtoms(acetate, [0, 1, 3, 2, 4, 5, 6])
    >>> found = rmsd(acetate, swapped, align=False)
    >>> round(found.value, 6), found.mapping.tolist()
    (0.0, [0, 1, 3, 2, -1, -1, -1])
    """
    options = _Options(hydrogens, bond_types, charges, stereo)
    return flashrmsd_cy.rmsd(
        _one_conformer(a, a_conformer),
        _one_conformer(b, b_conformer),
        _prepare(a, options, a_conformer),
        _prepare(b, options, b_conformer),
        align=align,
        level=level,
        time_limit_s=time_limit_s,
    )


def conformer_rmsd_matrix(
    mol: Chem.Mol | Sequence[Chem.Mol],
    *,
    align: bool,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
    threads: int = 1,
    time_limit_s: float | None = None,
) -> Float:
    """(k, k) symmetry-corrected RMSD in Å between all conformers, in the order of ``mol.GetConformers()``.

    Parameters
    ----------
    mol : Chem.Mol or sequence of Chem.Mol
        A molecule with k conformers; or the same molecule several times, with k conformers in all, whose atoms may be
        in different orders.
    align : bool
        Whether conformers may be rotated and translated; no default, see `rmsd`.
    hydrogens, bond_types, charges, stereo
        What is compared: see the head of this module.
    threads : int
        Threads that share the pairs.
    time_limit_s : float, optional
        Most seconds.

    Raises
    ------
    RMSDError
        If a molecule has no conformer or nothing to compare.
    NotIsomorphicError
        If the molecules differ.
    SearchLimitError
        If the time limit was met.
    """
    x, molecule = _ensemble(mol, _Options(hydrogens, bond_types, charges, stereo))
    return flashrmsd_cy.rmsd_matrix(x, molecule, align=align, threads=threads, time_limit_s=time_limit_s)


def rmsd_table(
    a: Chem.Mol | Sequence[Chem.Mol],
    b: Chem.Mol | Sequence[Chem.Mol],
    *,
    align: bool,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
    threads: int = 1,
    time_limit_s: float | None = None,
) -> Float:
    """(k, m) symmetry-corrected RMSD in Å of the k conformers of a to the m of b, such as poses to a crystal structure.

    Parameters
    ----------
    a, b : Chem.Mol or sequence of Chem.Mol
        The same molecule everywhere, in any order of atoms; all conformers of a molecule count.
    align, hydrogens, bond_types, charges, stereo, threads, time_limit_s
        As for `conformer_rmsd_matrix`, with the same errors.

    Examples
    --------
    >>> from rdkit.Chem import AllChem
    >>> mol = Chem.AddHs(Chem.MolFromSmiles("OCCO"))
    >>> _ = AllChem.EmbedMultipleConfs(mol, 3, randomSeed=1)
    >>> table = rmsd_table(mol, [Chem.RemoveHs(mol), mol], align=True)
    >>> table.shape, bool(table[2, 5] < 1e-6)
    ((3, 6), True)
    """
    options = _Options(hydrogens, bond_types, charges, stereo)
    x, first = _ensemble(a, options)
    y, second = _ensemble(b, options)
    return flashrmsd_cy.rmsd_table(x, y, first, second, align=align, threads=threads, time_limit_s=time_limit_s)


def prune_by_rmsd(
    mol: Chem.Mol,
    threshold: float,
    *,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
    align: bool = True,
    order: Sequence[int] | None = None,
    energies: ArrayLike | None = None,
    time_limit_s: float | None = None,
) -> list[int]:
    """Ids of the conformers that are no near copies of one kept before; the molecule itself is not changed.

    Most pairs are never computed: a bound or the first steps of a search settle on which side of the threshold each is.

    Parameters
    ----------
    mol : Chem.Mol
    threshold : float
        Å. A conformer is dropped if its RMSD to a kept one is below.
    hydrogens, bond_types, charges, stereo
        What is compared: see the head of this module.
    align : bool
        Whether after a fit.
    order : sequence of int, optional
        Conformer ids in the order in which they come; the order in `mol` by default.
    energies : array_like of float, shape (k,), optional
        Of all conformers, in any unit and in the order of ``mol.GetConformers()``: the lowest comes first, of equal
        ones the earlier in `mol`. Instead of `order`.
    time_limit_s : float, optional
        Most seconds.

    Returns
    -------
    list of int
        Kept conformer ids, first come first kept.

    Raises
    ------
    RMSDError
        If the molecule has no conformer, nothing to compare, or no conformer of a given id; if `energies` is of another
        shape, not finite, or given with `order`; if the threshold is negative.
    SearchLimitError
        If the time limit was met.
    """
    x, molecule = _ensemble(mol, _Options(hydrogens, bond_types, charges, stereo))
    place = {conformer.GetId(): index for index, conformer in enumerate(mol.GetConformers())}
    ids = list(place) if order is None else list(order)
    unknown = [number for number in ids if number not in place]
    if unknown:
        raise RMSDError(f"molecule {_name(mol)} has no conformer {unknown[0]}; its ids are {sorted(place)}")
    if energies is not None:
        if order is not None:
            raise RMSDError("order and energies were both given: each says which conformer comes first")
        ids = [ids[index] for index in np.argsort(_energies(energies, len(ids)), kind="stable")]
    kept = flashrmsd_cy.distinct(
        x[[place[number] for number in ids]], molecule, threshold, align=align, time_limit_s=time_limit_s
    )
    return [ids[index] for index in kept]


def butina(
    mol: Chem.Mol,
    threshold: float,
    *,
    hydrogens: bool = False,
    bond_types: bool = False,
    charges: bool = False,
    stereo: KeepStereo = False,
    align: bool = True,
    threads: int = 1,
    time_limit_s: float | None = None,
) -> list[list[int]]:
    """Cluster conformers: the one with the most neighbours and its neighbours, then the same with the rest.

    Neighbours are nearer than `threshold`. Who has how many is counted once, before the first cluster is taken away. Of
    equals the last in `mol` comes first. These are the rules, and hence the clusters, of ``ClusterData`` in RDKit's
    ``rdkit.ML.Cluster.Butina`` on the full matrix (which also takes a distance that equals the threshold as near).

    Parameters
    ----------
    mol : Chem.Mol
    threshold : float
        Å. Which pairs are nearer is decided by bounds where they settle it; few RMSDs are computed.
    hydrogens, bond_types, charges, stereo
        What is compared: see the head of this module.
    align : bool
        Whether after a fit.
    threads : int
        Threads that share the pairs.
    time_limit_s : float, optional
        Most seconds.

    Returns
    -------
    list of list of int
        Conformer ids, the centre of the cluster first, the others in the order of `mol`; every conformer is in one
        cluster.

    Raises
    ------
    RMSDError
        If the molecule has no conformer or nothing to compare; if the threshold is negative.
    SearchLimitError
        If the time limit was met.

    References
    ----------
    Butina, J. Chem. Inf. Comput. Sci. 39, 747 (1999), doi:10.1021/ci9803381.

    Examples
    --------
    >>> from rdkit.Chem import AllChem
    >>> butane = Chem.AddHs(Chem.MolFromSmiles("CCCC"))
    >>> _ = AllChem.EmbedMultipleConfs(butane, 20, randomSeed=1)
    >>> len(butina(butane, 0.3))  # anti, and the two gauche forms, which are mirror images
    3
    """
    x, molecule = _ensemble(mol, _Options(hydrogens, bond_types, charges, stereo))
    near = flashrmsd_cy.neighbours(x, molecule, threshold, align=align, threads=threads, time_limit_s=time_limit_s)
    np.fill_diagonal(near, False)
    ids = [conformer.GetId() for conformer in mol.GetConformers()]
    counts = near.sum(axis=1)
    free = np.ones(len(ids), dtype=bool)
    clusters = []
    for centre in sorted(range(len(ids)), key=lambda index: (counts[index], index), reverse=True):
        if free[centre]:
            free[centre] = False
            members = [centre, *np.flatnonzero(near[centre] & free).tolist()]
            free[members] = False
            clusters.append([ids[index] for index in members])
    return clusters


class _Options(NamedTuple):
    hydrogens: bool
    bond_types: bool
    charges: bool
    stereo: KeepStereo


def _prepare(mol: Chem.Mol, options: _Options, conformer: int = -1) -> Molecule:
    compared_atoms(mol, hydrogens=options.hydrogens)  # for its errors
    if options.stereo not in (False, True, "3d"):
        raise RMSDError(f"stereo is {options.stereo!r}, expected True, False or '3d'")
    marked = mol
    if options.stereo == "3d":
        _one_conformer(mol, conformer)
        marked = Chem.Mol(mol)
        Chem.AssignStereochemistryFrom3D(marked, conformer)
    return Molecule(
        [atom.GetAtomicNum() for atom in mol.GetAtoms()],
        [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()],
        bond_types=[int(bond.GetBondType()) for bond in mol.GetBonds()] if options.bond_types else None,
        charges=[atom.GetFormalCharge() for atom in mol.GetAtoms()] if options.charges else None,
        stereo=stereo_of(marked) if options.stereo else None,
        hydrogens=options.hydrogens,
    )


def _ensemble(given: Chem.Mol | Sequence[Chem.Mol], options: _Options) -> tuple[Float, Molecule]:
    """Positions (k, n_atoms, 3) of all conformers in the atom order of the first molecule, and that molecule."""
    if isinstance(given, Chem.Mol):
        return _all_positions(given), _prepare(given, options)
    mols = list(given)
    if not mols:
        raise RMSDError("no molecules were given")
    first = _prepare(mols[0], options)
    x = [_all_positions(mols[0])]
    for mol in mols[1:]:
        theirs = _all_positions(mol)
        mapping = flashrmsd_cy.best_mapping(x[0][0], theirs[0], first, _prepare(mol, options), align=False)
        ours = np.zeros((len(theirs), *x[0].shape[1:]))
        ours[:, mapping >= 0] = theirs[:, mapping[mapping >= 0]]
        x.append(ours)
    return np.concatenate(x), first


def _all_positions(mol: Chem.Mol) -> Float:
    _require_conformers(mol)
    return np.stack([conformer.GetPositions() for conformer in mol.GetConformers()])


def _one_conformer(mol: Chem.Mol, conformer: int) -> Float:
    _require_conformers(mol)
    ids = [known.GetId() for known in mol.GetConformers()]
    if conformer != -1 and conformer not in ids:
        raise RMSDError(f"molecule {_name(mol)} has no conformer {conformer}; its ids are {ids}")
    return mol.GetConformer(conformer).GetPositions()


def _require_conformers(mol: Chem.Mol) -> None:
    if mol.GetNumConformers() == 0:
        raise RMSDError(
            f"molecule {_name(mol)} has no conformers: embed it first, or read it from a file with coordinates"
        )


def _energies(given: ArrayLike, k: int) -> Float:
    energies = np.asarray(given, dtype=float)
    if energies.shape != (k,) or not np.isfinite(energies).all():
        raise RMSDError(f"energies has shape {energies.shape}, expected ({k},) finite numbers, one for each conformer")
    return energies


def _name(mol: Chem.Mol) -> str:
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    return repr(name or Chem.MolToSmiles(Chem.RemoveHs(mol, sanitize=False)))
