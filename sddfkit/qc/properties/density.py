"""Density matrix in the basis `ao_basis`: of all electrons (s = 1), or of α and β (s = 2) where spins differ.

`sddfkit.qc.orbitals` turns matrices of one program into those of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.orbitals import unpack
from sddfkit.qc.properties.base import Property, extras_value


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return unpack(extras_value(result, "density_matrix"))


DENSITY = Property(
    "density", "list<float64>", "1", "(s, nao, nao)", _extract, turns=False, needs=("density_matrix", "ao_basis")
)
