"""Harmonic wavenumbers of the vibrations, rising; imaginary ones are negative.

3n − 6 of them (linear: 3n − 5) from the Hessian at this very geometry, which is not optimised: away from a stationary
point they are curvatures, and the remark names the largest force. Masses are those of the commonest isotopes; see
`sddfkit.qc.hessian` (E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations, 1955). Psi4 and tblite need 6 n
gradients for it, PySCF some ten times the time of the energy: give ``level.timeout_s`` accordingly.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from qcelemental import periodictable

from sddfkit.qc.hessian import vibrations
from sddfkit.qc.orbitals import unpack
from sddfkit.qc.properties.base import Property, extras_value
from sddfkit.units import HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM

STATIONARY: Final = 0.02
"""Largest force (eV/Å) on an atom at what passes for a stationary point: Gaussian's 4.5e-4 hartree/bohr."""


def wavenumbers(result: Mapping[str, Any]) -> np.ndarray:
    """Wavenumbers (m,) in cm⁻¹ of a result that holds a Hessian."""
    hessian, molecule = unpack(extras_value(result, "hessian")), result["molecule"]
    masses = np.array([periodictable.to_mass(str(symbol)) for symbol in molecule["symbols"]], dtype=np.float64)
    positions_bohr = np.asarray(molecule["geometry"], dtype=np.float64).reshape(-1, 3)
    return vibrations(hessian, masses, positions_bohr).wavenumbers


def remark(result: Mapping[str, Any]) -> str | None:
    """Whether the geometry is no stationary point, or no minimum."""
    found = []
    gradient = result.get("properties", {}).get("return_gradient")
    if gradient is None:
        found.append("whether the geometry is stationary is not known: no forces were computed")
    else:
        force = np.linalg.norm(np.asarray(gradient, dtype=np.float64).reshape(-1, 3), axis=1).max()
        force *= HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM
        if force > STATIONARY:
            found.append(f"harmonic at a geometry that is not stationary, with forces of up to {force:.2f} eV/Å")
    if imaginary := int(np.sum(wavenumbers(result) < 0.0)):
        found.append(f"{imaginary} imaginary")
    return "; ".join(found) or None


FREQUENCIES = Property(
    "frequencies",
    "list<float64>",
    "cm⁻¹",
    "(modes,)",
    wavenumbers,
    turns=False,
    needs=("hessian",),
    remark=remark,
)
