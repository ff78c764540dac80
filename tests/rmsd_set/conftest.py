"""A dictionary of a few molecules, so that most tests need neither biotite nor its half gigabyte."""

import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from sddfkit.rmsd_set import Component, RmsdSetError

SMILES = {
    "ETH": "CCO",
    "BNZ": "c1ccccc1",
    "TBA": "CC(C)(C)N",
    "ACT": "CC(=O)[O-]",
    "DMS": "CS(C)=O",
    "GLY": "NCC(=O)O",
    "TFE": "OCC(F)(F)F",
    "IPA": "CC(C)O",
}


def component(identity, smiles):
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert rdDistGeom.EmbedMolecule(mol, randomSeed=1) == 0
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return Component(
        identity,
        [atom.GetSymbol() for atom in mol.GetAtoms()],
        [atom.GetFormalCharge() for atom in mol.GetAtoms()],
        [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()],
        mol.GetConformer().GetPositions().tolist(),
        None,
    )


class FewMolecules:
    """Stands for :class:`sddfkit.rmsd_set.Dictionary`."""

    version = "a few molecules"

    def __init__(self):
        self.known = {identity: component(identity, smiles) for identity, smiles in SMILES.items()}

    def __len__(self):
        return len(self.known)

    def ids(self):
        return sorted(self.known)

    def __getitem__(self, identity):
        if identity not in self.known:
            raise RmsdSetError(f"there is no component {identity!r}")
        return self.known[identity]


@pytest.fixture(scope="session")
def few():
    return FewMolecules()
