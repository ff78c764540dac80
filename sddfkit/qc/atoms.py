"""Isolated atoms: the zero of a level's atomisation energies."""

from __future__ import annotations

from typing import Final

import numpy as np
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicInput, AtomicSpecification

from sddfkit.qc.inputs import InputError, atomic_input

GROUND_STATE_MULTIPLICITY: Final[dict[int, int]] = {
    **{1: 2, 2: 1},
    **{3: 2, 4: 1, 5: 2, 6: 3, 7: 4, 8: 3, 9: 2, 10: 1},
    **{11: 2, 12: 1, 13: 2, 14: 3, 15: 4, 16: 3, 17: 2, 18: 1},
    **{19: 2, 20: 1, 21: 2, 22: 3, 23: 4, 24: 7, 25: 6, 26: 5, 27: 4, 28: 3, 29: 2, 30: 1},
    **{31: 2, 32: 3, 33: 4, 34: 3, 35: 2, 36: 1, 53: 2},
}
"""2S + 1 of the neutral ground state by atomic number: H to Kr, and I (NIST Atomic Spectra Database, ground levels)."""


def atom_input(z: int, specification: AtomicSpecification) -> AtomicInput:
    """The energy of one neutral atom at the origin in its ground state.

    The driver is "energy" whatever `specification` says: the forces are zero, and Psi4's fitted gradient crashes for
    hydrogen, which has no β electron.

    Parameters
    ----------
    z : int
        Atomic number.
    specification : AtomicSpecification

    Raises
    ------
    InputError
        For an element that is not in the table, or not covered by the level.
    """
    if z not in GROUND_STATE_MULTIPLICITY:
        name = periodictable.to_E(z) if 0 < z < 119 else f"Z={z}"
        raise InputError(f"no ground-state multiplicity is tabulated for {name}; use atomic_input with your own")
    energy = AtomicSpecification(**{**specification.model_dump(), "driver": "energy"})
    return atomic_input([z], np.zeros((1, 3)), 0, GROUND_STATE_MULTIPLICITY[z], energy)
