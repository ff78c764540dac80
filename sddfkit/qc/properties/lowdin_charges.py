"""Atomic charges of Löwdin's population analysis (J. Chem. Phys. 18, 365 (1950), doi:10.1063/1.1747632).

With Cartesian d functions they turn a little with the molecule: by some 1e-3 e for water in 6-31G(d).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, atom_values


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return atom_values(result, "lowdin_charges")


LOWDIN_CHARGES = Property(
    "lowdin_charges", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("lowdin_charges",)
)
