"""Atomic charges of Mulliken's population analysis (J. Chem. Phys. 23, 1833 (1955), doi:10.1063/1.1740588).

GFN2-xTB's charges are of this kind, in its own minimal basis set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, atom_values


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return atom_values(result, "mulliken_charges")


MULLIKEN_CHARGES = Property(
    "mulliken_charges", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("mulliken_charges",)
)
