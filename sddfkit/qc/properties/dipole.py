"""Dipole moment about the origin of the input's frame (for an ion it depends on that origin)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, qcschema_value
from sddfkit.units import BOHR_TO_ANGSTROM


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(qcschema_value(result, "scf_dipole_moment"), dtype=np.float64).reshape(3) * BOHR_TO_ANGSTROM


DIPOLE = Property("dipole", "list<float64>", "e·Å", "(3,)", _extract)
