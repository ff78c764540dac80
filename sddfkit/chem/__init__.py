"""Molecules and their conformers: RDKit only.

Concepts
--------
A **molecule** is an `rdkit.Chem.Mol` with explicit hydrogens. It is standardised gently: salts, charges and tautomers
stay as written; undefined stereo is enumerated unless asked otherwise, and the property ``sddfkit.stereo`` records it.
Its **identity** everywhere is `molecule_id`, the canonical isomeric SMILES without hydrogens.

A **source** is a file (``.smi .smiles .txt .csv .sdf``, each also ``.gz``) or the name of a shipped set ("demo",
"smoke"). `read_molecules` streams it and turns every line into a molecule or a `Rejected` with line number and reason.

**Conformers** are the conformers of that Mol, positions (n_atoms, 3) float64 in Å. `etkdg` returns them with the
counts asked, embedded, kept, and the reasons for the difference. Near-duplicates are pruned by exact
symmetry-corrected RMSD (`flashrmsd_cy`); `butina` clusters conformers by it, `rmsd_table` compares two sets of them.

A **scaffold** is a SMILES string that groups molecules which must share a fold of a data split. **Fingerprints** are
(n, bits) uint8 arrays.

Every random draw comes from a `numpy.random.Generator` that the caller passes.

>>> import numpy as np
>>> mol = molecules_from_smiles("CCO", name="ethanol")[0]
>>> ensemble = etkdg(mol, 4, np.random.default_rng(0), prune_rmsd=None)
>>> ensemble.kept, ensemble.mol.GetConformer(0).GetPositions().shape
(4, (9, 3))
"""

from sddfkit.chem.conformers import Conformers, etkdg
from sddfkit.chem.fingerprints import maccs, morgan_tanimoto
from sddfkit.chem.molecules import (
    ELEMENTS,
    MoleculeError,
    charge_and_multiplicity,
    molecule_id,
    molecules_from_smiles,
)
from sddfkit.chem.rmsd import butina, conformer_rmsd_matrix, prune_by_rmsd, rmsd_table
from sddfkit.chem.scaffolds import scaffold
from sddfkit.chem.sources import Rejected, read_molecules, shipped

__all__ = [
    "ELEMENTS",
    "Conformers",
    "MoleculeError",
    "Rejected",
    "butina",
    "charge_and_multiplicity",
    "conformer_rmsd_matrix",
    "etkdg",
    "maccs",
    "molecule_id",
    "molecules_from_smiles",
    "morgan_tanimoto",
    "prune_by_rmsd",
    "read_molecules",
    "rmsd_table",
    "scaffold",
    "shipped",
]
