"""Energy of the lowest unoccupied molecular orbital, of either spin."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sddfkit.qc.properties.base import Property, extras_value
from sddfkit.units import HARTREE_TO_EV


def _extract(result: Mapping[str, Any]) -> float:
    return float(extras_value(result, "lumo_hartree")) * HARTREE_TO_EV


LUMO = Property("lumo", "float64", "eV", "scalar", _extract, needs=("lumo_hartree",))
