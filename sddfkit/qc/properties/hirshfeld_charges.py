"""Atomic charges by Hirshfeld's partition (Theor. Chim. Acta 44, 129 (1977), doi:10.1007/BF00549096).

What the molecule's density is compared with are round, neutral, spin-restricted LDA atoms (`sddfkit.qc.proatoms`);
programs with others give charges that differ by some 0.01 e.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, atom_values


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return atom_values(result, "hirshfeld_charges")


HIRSHFELD_CHARGES = Property(
    "hirshfeld_charges", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("hirshfeld_charges",)
)
