"""Fingerprints of molecular graphs as NumPy arrays; hydrogens never count."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, DataStructs
from rdkit.Chem import rdFingerprintGenerator, rdMolDescriptors

from sddfkit.chem.molecules import without_hydrogens

MACCS_BITS = 167
"""RDKit numbers the 166 keys from 1 and leaves bit 0 empty."""


def maccs(smiles_or_mols: Sequence[str | Chem.Mol]) -> NDArray[np.uint8]:
    """MACCS keys (Durant et al., J. Chem. Inf. Comput. Sci. 2002, 42, 1273, doi:10.1021/ci010132r), RDKit's numbering.

    Parameters
    ----------
    smiles_or_mols : n molecules

    Returns
    -------
    (n, 167) uint8
        Column k is key k; column 0 is always 0.

    Raises
    ------
    MoleculeError
        A SMILES that RDKit refuses.

    Examples
    --------
    >>> maccs(["CCO", "c1ccccc1"])[:, 162]
    array([0, 1], dtype=uint8)
    """
    if isinstance(smiles_or_mols, str):
        raise TypeError(
            f"expected a sequence of molecules, got the single string {smiles_or_mols!r}; wrap it in a list"
        )
    bits = np.zeros((len(smiles_or_mols), MACCS_BITS), dtype=np.uint8)
    for row, molecule in zip(bits, smiles_or_mols, strict=True):
        DataStructs.ConvertToNumpyArray(rdMolDescriptors.GetMACCSKeysFingerprint(without_hydrogens(molecule)), row)
    return bits


def morgan_tanimoto(
    queries: Sequence[str | Chem.Mol], references: Sequence[str | Chem.Mol], *, radius: int = 2, bits: int = 2048
) -> NDArray[np.float64]:
    """Tanimoto similarity of Morgan fingerprints.

    Rogers and Hahn, J. Chem. Inf. Model. 2010, 50, 742, doi:10.1021/ci100050t.

    Parameters
    ----------
    queries, references : n and m molecules or SMILES
    radius, bits : of the fingerprint

    Returns
    -------
    (n, m) float64
        From 0 to 1.

    Examples
    --------
    >>> morgan_tanimoto(["CCO"], ["CCO", "CCN"])
    array([[1.  , 0.33]])
    """
    prints = morgan(references, radius=radius, bits=bits)
    rows = [DataStructs.BulkTanimotoSimilarity(one, prints) for one in morgan(queries, radius=radius, bits=bits)]
    return np.array(rows, dtype=np.float64).reshape(len(queries), len(references))


def morgan(
    molecules: Sequence[str | Chem.Mol], *, radius: int = 2, bits: int = 2048
) -> list[DataStructs.ExplicitBitVect]:
    """Morgan fingerprints as RDKit's own bit vectors, for its bulk similarity functions."""
    generator = rdFingerprintGenerator.GetMorganGenerator(radius=radius, fpSize=bits)
    return [generator.GetFingerprint(without_hydrogens(molecule)) for molecule in molecules]
