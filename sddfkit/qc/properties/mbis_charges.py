"""Atomic charges by the minimal basis iterative stockholder partition, MBIS.

T. Verstraelen et al., J. Chem. Theory Comput. 12, 3894 (2016), doi:10.1021/acs.jctc.6b00456. How:
`sddfkit.qc.partition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, atom_values


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return atom_values(result, "mbis_charges")


MBIS_CHARGES = Property("mbis_charges", "list<float64>", "e", "(n,)", _extract, turns=False, needs=("mbis_charges",))
