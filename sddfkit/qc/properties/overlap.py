"""Overlap of the basis functions, in the order and scale of the program: `ao_basis` says which.

`sddfkit.qc.orbitals` turns matrices of one program into those of another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.orbitals import unpack
from sddfkit.qc.properties.base import Property, extras_value


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return unpack(extras_value(result, "overlap_matrix"))


OVERLAP = Property(
    "overlap", "list<float64>", "1", "(nao, nao)", _extract, turns=False, needs=("overlap_matrix", "ao_basis")
)
