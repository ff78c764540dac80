"""The Hessian by differences of gradients, and harmonic vibrations from a Hessian. NumPy alone, atomic units."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from sddfkit.units import AMU_TO_ELECTRON_MASS, HARTREE_TO_WAVENUMBER

STEP_BOHR: Final = 0.01
"""Step of the differences: the error by the fourth derivative and the noise of SCF and grid are both small with it."""

_LINEAR: Final = 1e-6
"""A smallest principal moment of inertia below this part of the largest one: the molecule is linear."""


class Vibrations(NamedTuple):
    """Normal modes of vibration.

    wavenumbers : (m,) float64, cm⁻¹, rising; imaginary ones are negative
    modes : (m, n, 3) float64, displacements of the atoms, each mode of length 1
    """

    wavenumbers: np.ndarray
    modes: np.ndarray


def by_differences(
    gradient: Callable[[np.ndarray], np.ndarray], positions_bohr: np.ndarray, step_bohr: float = STEP_BOHR
) -> np.ndarray:
    """Second derivatives by central differences of the gradient, made symmetric: 6 n gradients.

    Parameters
    ----------
    gradient : callable
        Positions (n, 3) in bohr to gradient (n, 3) in hartree/bohr.
    positions_bohr : (n, 3) float64
    step_bohr : float

    Returns
    -------
    (3 n, 3 n) float64, hartree/bohr²
    """
    positions = np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3)
    rows = []
    for coordinate in range(positions.size):
        moved = np.zeros(positions.shape)
        moved[divmod(coordinate, 3)] = step_bohr
        rows.append(np.ravel(gradient(positions + moved) - gradient(positions - moved)) / (2 * step_bohr))
    hessian = np.array(rows)
    return 0.5 * (hessian + hessian.T)


def vibrations(hessian: np.ndarray, masses_amu: np.ndarray, positions_bohr: np.ndarray) -> Vibrations:
    """Harmonic vibrations: the mass-weighted Hessian without translations and rotations of the whole molecule.

    They describe the motion about a stationary point. At any other geometry they are the curvature there, and which
    part of it is a rotation depends on the coordinates (E. B. Wilson, J. C. Decius, P. C. Cross, Molecular Vibrations
    (1955); here: Cartesian ones).

    Parameters
    ----------
    hessian : (3 n, 3 n) float64, hartree/bohr²
    masses_amu : (n,) float64
    positions_bohr : (n, 3) float64

    Returns
    -------
    Vibrations
        3 n − 6 of them; 3 n − 5 for a linear molecule, none for an atom.
    """
    masses = np.asarray(masses_amu, dtype=np.float64)
    root = np.sqrt(np.repeat(masses, 3))
    inner = _internal(masses, np.asarray(positions_bohr, dtype=np.float64).reshape(-1, 3))
    weighted = np.asarray(hessian, dtype=np.float64).reshape(len(root), len(root)) / np.outer(root, root)
    eigenvalues, vectors = np.linalg.eigh(inner.T @ weighted @ inner)  # hartree/(bohr² amu)
    quanta = np.sign(eigenvalues) * np.sqrt(np.abs(eigenvalues) / AMU_TO_ELECTRON_MASS)  # ħω in hartree
    modes = (inner @ vectors).T / root
    modes /= np.linalg.norm(modes, axis=1, keepdims=True)
    return Vibrations(quanta * HARTREE_TO_WAVENUMBER, modes.reshape(len(quanta), len(masses), 3))


def _internal(masses: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """An orthonormal basis (3 n, m) of mass-weighted displacements that neither move nor turn the molecule."""
    root = np.sqrt(masses)
    relative = positions - masses @ positions / masses.sum()
    inertia = np.einsum("i,ix,iy->xy", masses, relative, relative)
    moments, axes = np.linalg.eigh(np.trace(inertia) * np.eye(3) - inertia)
    outer = [np.outer(root, axis).ravel() for axis in np.eye(3)]
    outer += [
        (root[:, None] * np.cross(axis, relative)).ravel()
        for moment, axis in zip(moments, axes.T, strict=True)
        if moment > _LINEAR * moments[-1]
    ]
    return np.linalg.qr(np.array(outer).T, mode="complete")[0][:, len(outer) :]
