"""Harmonic zero-point vibrational energy, ½ Σ h c ν̃; imaginary vibrations count for nothing.

From the `frequencies` at this very geometry, with all that is said there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.properties.base import Property
from sddfkit.qc.properties.frequencies import remark, wavenumbers
from sddfkit.units import HARTREE_TO_EV, HARTREE_TO_WAVENUMBER


def _extract(result: Mapping[str, Any]) -> float:
    return 0.5 * float(np.maximum(wavenumbers(result), 0.0).sum()) / HARTREE_TO_WAVENUMBER * HARTREE_TO_EV


ZPE = Property("zpe", "float64", "eV", "scalar", _extract, needs=("hessian",), remark=remark)
