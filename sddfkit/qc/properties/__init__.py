"""Observables of a calculation, one file each; `extract` turns a QCSchema result into eV, eV/Å and e·Å.

| name | unit | shape |
|---|---|---|
| energy | eV | scalar |
| forces | eV/Å | (n, 3) |
| dipole | e·Å | (3,) |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import numpy as np
from qcelemental.models.v2 import AtomicResult

from sddfkit.qc.properties.base import Property, PropertyError
from sddfkit.qc.properties.dipole import DIPOLE
from sddfkit.qc.properties.energy import ENERGY
from sddfkit.qc.properties.gradient import FORCES

PROPERTIES: Final[dict[str, Property]] = {p.name: p for p in (ENERGY, FORCES, DIPOLE)}


def extract(
    result: AtomicResult | Mapping[str, Any], names: Iterable[str] = ("energy", "forces", "dipole")
) -> dict[str, float | np.ndarray]:
    """Read properties from a result.

    Parameters
    ----------
    result : AtomicResult or mapping
        A successful result, as model or as the dict that its JSON gives.
    names : iterable of str
        Any of `PROPERTIES`.

    Returns
    -------
    dict
        Name to float (eV) or array (eV/Å, e·Å).

    Raises
    ------
    PropertyError
        For an unknown name, a failed result, or a property that was not computed.
    """
    data = result.model_dump() if isinstance(result, AtomicResult) else result
    if not data.get("success", False):
        raise PropertyError("the calculation failed, so it has no properties; look at its error instead")
    values: dict[str, float | np.ndarray] = {}
    for name in names:
        if name not in PROPERTIES:
            raise PropertyError(f"unknown property {name!r}; known: {', '.join(PROPERTIES)}")
        values[name] = PROPERTIES[name].extract(data)
    return values


__all__ = ["PROPERTIES", "Property", "PropertyError", "extract"]
