"""Forces: minus the gradient of the energy, in the frame of the input."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property, qcschema_value
from sddfkit.units import HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM


def _extract(result: Mapping[str, Any]) -> np.ndarray:
    gradient = np.asarray(qcschema_value(result, "return_gradient"), dtype=np.float64).reshape(-1, 3)
    return -gradient * HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM


FORCES = Property("forces", "list<float64>", "eV/Å", "(n, 3)", _extract)
