"""SMILES to RDKit molecules, their identity, charge and multiplicity."""

from collections.abc import Iterable
from typing import Any, Final, Literal

from rdkit import Chem, rdBase
from rdkit.Chem.EnumerateStereoisomers import (
    EnumerateStereoisomers,
    GetStereoisomerCount,
    StereoEnumerationOptions,
)

from sddfkit.chem.messages import reason_for

Stereo = Literal["enumerate", "refuse", "keep"]
STEREO_PROPERTY: Final = "sddfkit.stereo"
PLACED_PROPERTY: Final = "sddfkit.placed_hydrogens"
"""Property of a molecule with conformers: how many hydrogens its file lacked, so that RDKit placed them."""
ELEMENTS: Final[frozenset[int]] = frozenset({1, 6, 7, 8, 9, 16, 17})
"""Atomic numbers that the shipped molecule sets cover: H C N O F S Cl."""


class MoleculeError(ValueError):
    """A molecule, or a file of molecules, that cannot be used; the sentence says which and why."""


def molecules_from_smiles(
    smiles: str, *, name: str = "", stereo: Stereo = "enumerate", max_isomers: int = 8
) -> list[Chem.Mol]:
    """Molecules with explicit hydrogens from one SMILES (CXSMILES extensions are understood).

    Standardisation is gentle: what RDKit's sanitisation does, and no more. Counter-ions, charges and the tautomer stay
    as written; atom-map numbers are dropped.

    Parameters
    ----------
    smiles : one SMILES string
    name : title of the molecule (``_Name``); its identity (`molecule_id`) if empty. Enumerated isomers get their
        CIP labels appended, as in ``butan-2-ol (R)``
    stereo : what to do with undefined stereocentres and double bonds: "enumerate" them, "refuse" the molecule, or
        "keep" them undefined, which leaves the choice to the conformer generator
    max_isomers : more isomers than this are sampled, reproducibly; the property says "enumerated, 3 of 16"

    Returns
    -------
    list of rdkit.Chem.Mol
        The property ``sddfkit.stereo`` of each says "none", "specified", "kept undefined" or "enumerated, i of n".

    Raises
    ------
    MoleculeError
        RDKit's own reason; an empty string; a dummy atom; undefined stereo under stereo="refuse".

    Examples
    --------
    >>> [mol.GetProp("_Name") for mol in molecules_from_smiles("CCC(C)O", name="butan-2-ol")]
    ['butan-2-ol (S)', 'butan-2-ol (R)']
    """
    return isomers(parse_smiles(smiles), name=name, stereo=stereo, max_isomers=max_isomers)


def parse_smiles(smiles: str) -> Chem.Mol:
    """RDKit molecule without explicit hydrogens, or MoleculeError with RDKit's reason."""
    text = smiles.strip()
    head, _, tail = text.partition(" ")
    if not head:
        raise MoleculeError("empty SMILES")
    if tail and not tail.lstrip().startswith("|"):
        raise MoleculeError(f"{tail.strip()!r} follows the SMILES {head!r}; give the name separately")
    params: Any = Chem.SmilesParserParams()  # RDKit's stubs mistype its setters
    params.allowCXSMILES = True
    params.strictCXSMILES = params.parseName = False
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text, params)
    if mol is None:
        raise MoleculeError(reason_for(lambda: Chem.MolFromSmiles(text, params)) or "RDKit refuses it without a reason")
    return mol


def isomers(mol: Chem.Mol, *, name: str = "", stereo: Stereo = "enumerate", max_isomers: int = 8) -> list[Chem.Mol]:
    """As `molecules_from_smiles`, from a molecule RDKit has read; a conformer is kept unless stereo was undefined."""
    if stereo not in ("enumerate", "refuse", "keep"):
        raise MoleculeError(f"stereo={stereo!r}; expected 'enumerate', 'refuse' or 'keep'")
    dummy = next((atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() == 0), None)
    if dummy is not None:
        raise MoleculeError(f"atom {dummy} is a dummy or query atom, not an element")
    plain = _without_atom_maps(mol)
    options = StereoEnumerationOptions(onlyUnassigned=True, unique=True, maxIsomers=max_isomers, rand=0)
    found = [plain] if stereo == "keep" else list(EnumerateStereoisomers(plain, options=options))
    if len(found) > 1 and stereo == "refuse":
        raise MoleculeError(f"undefined stereo at {_undefined(plain)}; define it, or use stereo='enumerate'")
    if len(found) > 1:
        total = max(GetStereoisomerCount(plain, options), len(found)) if len(found) == max_isomers else len(found)
        for isomer in found:
            isomer.RemoveAllConformers()
        return [
            _finished(isomer, f"{name} ({_cip(isomer)})" if name else "", f"enumerated, {i} of {total}")
            for i, isomer in enumerate(found, start=1)
        ]
    kind = "kept undefined" if _undefined(plain) and stereo == "keep" else "specified" if _defined(plain) else "none"
    return [_finished(found[0], name, kind)]


def molecule_id(mol: Chem.Mol) -> str:
    """Identity of a molecule everywhere in sddfkit: canonical isomeric SMILES without hydrogens and atom maps.

    >>> molecule_id(molecules_from_smiles("C(C)O")[0])
    'CCO'
    """
    return Chem.MolToSmiles(without_hydrogens(mol))


def without_hydrogens(molecule: Chem.Mol | str) -> Chem.Mol:
    """Molecule, or SMILES, with implicit hydrogens and without atom maps and conformers: what identity depends on.

    Raises
    ------
    MoleculeError
        As `parse_smiles`.
    """
    mol = parse_smiles(molecule) if isinstance(molecule, str) else molecule
    bare = Chem.RemoveHs(_without_atom_maps(mol))
    bare.RemoveAllConformers()
    return bare


def charge_and_multiplicity(mol: Chem.Mol) -> tuple[int, int]:
    """Sum of formal charges (e) and 2S + 1 with all radical electrons parallel.

    Lewis structures decide: ``O=O`` counts as a singlet, ``[O][O]`` as a triplet.

    >>> charge_and_multiplicity(Chem.MolFromSmiles("CC(=O)[O-]")), charge_and_multiplicity(Chem.MolFromSmiles("[CH3]"))
    ((-1, 1), (0, 2))
    """
    return Chem.GetFormalCharge(mol), 1 + sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms())


def element_numbers(elements: Iterable[int | str] | None) -> frozenset[int] | None:
    """Atomic numbers of symbols and numbers alike; None means any element.

    >>> sorted(element_numbers(["C", "Cl", 1]))
    [1, 6, 17]
    """
    return None if elements is None else frozenset(element_number(element) for element in elements)


def element_number(element: int | str) -> int:
    """Atomic number of a symbol (numbers pass through).

    Raises
    ------
    MoleculeError
        Not a chemical element.
    """
    try:
        with rdBase.BlockLogs():
            number = element if isinstance(element, int) else Chem.GetPeriodicTable().GetAtomicNumber(element)
    except RuntimeError:  # RDKit's word for an unknown symbol
        number = 0
    if not 0 < number < 119:
        raise MoleculeError(f"{element!r} is not a chemical element; write symbols such as 'Cl' or atomic numbers")
    return number


def element_symbol(number: int) -> str:
    """Symbol of an atomic number."""
    return Chem.GetPeriodicTable().GetElementSymbol(int(number))


def _without_atom_maps(mol: Chem.Mol) -> Chem.Mol:
    copy = Chem.Mol(mol)
    for atom in copy.GetAtoms():
        atom.SetAtomMapNum(0)
    return copy


def _undefined(mol: Chem.Mol) -> str:
    places = [site for site in Chem.FindPotentialStereo(mol) if site.specified == Chem.StereoSpecified.Unspecified]
    return ", ".join(f"{'bond' if 'Bond' in str(site.type) else 'atom'} {site.centeredOn}" for site in places)


def _defined(mol: Chem.Mol) -> bool:
    return any(site.specified == Chem.StereoSpecified.Specified for site in Chem.FindPotentialStereo(mol))


def _cip(mol: Chem.Mol) -> str:
    copy = Chem.Mol(mol)
    Chem.AssignStereochemistry(copy, cleanIt=True, force=True)
    atoms = [atom.GetProp("_CIPCode") for atom in copy.GetAtoms() if atom.HasProp("_CIPCode")]
    names = {Chem.BondStereo.STEREOE: "E", Chem.BondStereo.STEREOZ: "Z"}
    return ",".join(atoms + [names[bond.GetStereo()] for bond in copy.GetBonds() if bond.GetStereo() in names])


def _finished(mol: Chem.Mol, name: str, kind: str) -> Chem.Mol:
    finished = Chem.AddHs(mol, addCoords=mol.GetNumConformers() > 0)
    finished.SetProp("_Name", name or molecule_id(mol))
    finished.SetProp(STEREO_PROPERTY, kind)
    if mol.GetNumConformers() and finished.GetNumAtoms() > mol.GetNumAtoms():
        finished.SetIntProp(PLACED_PROPERTY, finished.GetNumAtoms() - mol.GetNumAtoms())
    return finished
