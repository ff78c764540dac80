"""Drug-like molecules of 44 atoms, made by RDKit."""

from functools import cache

import numpy as np
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, conformer_records, to_records

# Of the elements of ANI-2x.
SMILES = {
    "paroxetine": "Fc1ccc(cc1)[C@@H]1CCNC[C@H]1COc1ccc2OCOc2c1",
    "metoprolol": "COCCc1ccc(OCC(O)CNC(C)C)cc1",
    "zolpidem": "Cc1ccc(cc1)-c1nc2ccc(C)cn2c1CC(=O)N(C)C",
    "oxycodone": "COc1ccc2C[C@H]3N(C)CC[C@@]45[C@@H](Oc1c24)C(=O)CC[C@@]35O",
    "amitriptyline": "CN(C)CCC=C1c2ccccc2CCc2ccccc12",
    "amoxicillin": "CC1(C)S[C@@H]2[C@H](NC(=O)[C@H](N)c3ccc(O)cc3)C(=O)N2[C@H]1C(=O)O",
}
N_ATOMS = 44
ETHANOL = "CCO"


def conformers(count: int) -> list[Record]:
    """So many conformers of the six molecules in turn, turned at random."""
    each = -(-count // len(SMILES))
    made = [_embedded(smiles, each) for smiles in SMILES.values()]
    records = [rows[k] for k in range(each) for rows in made][:count]
    assert all(len(record.atomic_numbers) == N_ATOMS for record in records)
    return records


def small(count: int) -> list[Record]:
    """Conformers of ethanol, nine atoms each, some of them repeated."""
    made = _embedded(ETHANOL, 8)
    return [made[k % len(made)] for k in range(count)]


def crowd(atoms: int) -> Record:
    """One record of about so many atoms: copies of small and large molecules on a grid, at a steady density."""
    piece = _embedded(ETHANOL if atoms < N_ATOMS else SMILES["metoprolol"], 1)[0]
    n = len(piece.atomic_numbers)
    copies = max(1, round(atoms / n))
    extent = np.ptp(piece.positions, axis=0) + 2.5
    side = int(np.ceil(copies ** (1 / 3)))
    cells = np.array([(x, y, z) for x in range(side) for y in range(side) for z in range(side)])[:copies]
    positions = (piece.positions[None] + (cells * extent)[:, None]).reshape(-1, 3)
    bonds = np.concatenate([np.add(piece.bonds, (n * k, n * k, 0)) for k in range(copies)]).astype(np.int32)
    return piece._replace(
        atomic_numbers=np.tile(piece.atomic_numbers, copies),
        positions=positions,
        bonds=bonds,
        formal_charges=np.tile(piece.formal_charges, copies),
    )


@cache
def _embedded(smiles: str, count: int) -> list[Record]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    found = AllChem.EmbedMultipleConfs(mol, count, randomSeed=7)
    assert len(found) == count, smiles
    return to_records(conformer_records(mol))
