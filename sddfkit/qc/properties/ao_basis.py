"""The basis functions of `overlap`, `density` and `fock`, in their order: JSON that `sddfkit.qc.orbitals.Basis` reads.

``Basis.from_document(json.loads(text))``; it lists shells with atom, angular momentum, exponents in bohr⁻²,
coefficients, and for each function the powers of x, y, z or the m of a spherical one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sddfkit.qc.properties.base import Property, extras_value


def _extract(result: Mapping[str, Any]) -> str:
    return json.dumps(extras_value(result, "ao_basis"), separators=(",", ":"))


AO_BASIS = Property("ao_basis", "string", "1", "scalar", _extract, turns=False, needs=("ao_basis",))
