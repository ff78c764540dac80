"""PySCF on Psi4's grid: the same points, the same division of space."""

from __future__ import annotations

import numpy as np
import pytest
from pyscf import gto
from pyscf.dft import gen_grid

from sddfkit.qc.grids import treutler_ahlrichs
from sddfkit.qc.harnesses.pyscf import PSI4_RADII, PyscfKeywords, _take_psi4_radii


@pytest.mark.parametrize("scale", [0.5, 0.84, 1.7])
@pytest.mark.parametrize("exponent", [0.2, 1.0, 2000.0])
def test_the_radial_points_integrate_gaussians(scale: float, exponent: float) -> None:
    points, weights = treutler_ahlrichs(99, scale)
    assert np.all(np.diff(points) > 0) and np.all(weights > 0)
    integral = np.sum(4 * np.pi * points**2 * weights * np.exp(-exponent * points**2))
    assert integral == pytest.approx((np.pi / exponent) ** 1.5, rel=1e-7)


def test_each_element_has_its_own_scale_and_alpha_multiplies_it() -> None:
    mol = gto.M(atom="S 0 0 0; H 0 0 1.35; H 1.3 0 0", basis="sto-3g", verbose=0)
    for alpha in (0.5, 1.0):
        grids = gen_grid.Grids(mol)
        grids.atom_grid, grids.prune = (99, 590), None
        _take_psi4_radii(grids, alpha)
        atoms = grids.gen_atomic_grids(mol, grids.atom_grid, grids.radi_method, prune=None)
        for symbol, z in (("H", 1), ("S", 16)):
            coordinates, _ = atoms[symbol]
            assert len(coordinates) == 99 * 590
            expected = alpha * PSI4_RADII[z - 1] * treutler_ahlrichs(99, 1.0)[0]
            np.testing.assert_allclose(np.unique(np.linalg.norm(coordinates, axis=1).round(9)), expected, atol=1e-8)


def test_the_defaults_are_pyscfs_own_grid() -> None:
    assert PyscfKeywords().psi4_radius_alpha is None
