import itertools

import numpy as np
import pytest

from sddfkit.chem.molecules import element_symbol
from sddfkit.data.records import Record, record_id


@pytest.fixture
def chain():
    """Makes a record of atoms in a row, bonded at a sensible distance, with the given label."""

    def make(numbers, energy=None, forces=None, seed=0):
        numbers = np.array(numbers, dtype=np.int32)
        n = len(numbers)
        step = {1: 0.35, 6: 0.75, 7: 0.7, 8: 0.65, 16: 1.0}
        x = np.cumsum([0.0, *(step[int(a)] + step[int(b)] for a, b in itertools.pairwise(numbers))])
        positions = np.zeros((n, 3))
        positions[:, 0] = np.round(x + 1e-3 * np.random.default_rng(seed).random(n), 6)
        bonds = np.array([[i, i + 1, 0] for i in range(n - 1)], dtype=np.int32).reshape(-1, 3)
        key = record_id(numbers, positions, 0, 1, bonds)
        smiles = "".join(f"[{element_symbol(a)}]" for a in numbers)
        return Record(
            key, smiles, "x", smiles, 0, 0, 1, numbers, positions, bonds, np.zeros(n, np.int32), energy, forces
        )

    return make
