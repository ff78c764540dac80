"""Fock (or Kohn–Sham) matrix in the basis `ao_basis`: one (s = 1), or those of α and β (s = 2) where spins differ.

`sddfkit.qc.orbitals` turns matrices of one program into those of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.orbitals import unpack
from sddfkit.qc.properties.base import Property, extras_value
from sddfkit.units import HARTREE_TO_EV


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return unpack(extras_value(result, "fock_matrix")) * HARTREE_TO_EV


FOCK = Property(
    "fock", "list<float64>", "eV", "(s, nao, nao)", _extract, turns=False, needs=("fock_matrix", "ao_basis")
)
