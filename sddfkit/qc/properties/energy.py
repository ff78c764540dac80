"""Total electronic energy including nuclear repulsion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sddfkit.qc.properties.base import Property, qcschema_value
from sddfkit.units import HARTREE_TO_EV


def _extract(result: Mapping[str, Any]) -> float:
    return float(qcschema_value(result, "return_energy")) * HARTREE_TO_EV


ENERGY = Property("energy", "float64", "eV", "scalar", _extract)
