"""Dispersion of ωB97X-D against Psi4, limits and finite differences."""

from __future__ import annotations

import numpy as np
import pytest

from sddfkit.qc import Level
from sddfkit.qc.dispersion import energy_and_gradient
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.units import BOHR_TO_ANGSTROM


def test_water_has_the_energy_that_psi4_prints() -> None:
    positions = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]) / BOHR_TO_ANGSTROM
    assert energy_and_gradient([8, 1, 1], positions)[0] == pytest.approx(-2.72324139e-05, rel=1e-6)


def test_the_gradient_is_the_slope_of_the_energy() -> None:
    rng = np.random.default_rng(1)
    numbers, positions = [6, 17, 1, 35, 26], rng.normal(scale=3.0, size=(5, 3))
    _, gradient = energy_and_gradient(numbers, positions)
    for _ in range(5):
        direction = rng.normal(size=(5, 3))
        up, down = (energy_and_gradient(numbers, positions + step * direction)[0] for step in (1e-4, -1e-4))
        assert np.sum(gradient * direction) == pytest.approx((up - down) / 2e-4, rel=1e-5, abs=1e-12)
    np.testing.assert_allclose(gradient.sum(axis=0), 0.0, atol=1e-15)


def test_it_falls_off_with_the_sixth_power_and_an_atom_has_none() -> None:
    far, farther = (energy_and_gradient([18, 18], [[0.0, 0.0, 0.0], [0.0, 0.0, r]])[0] for r in (30.0, 60.0))
    assert far / farther == pytest.approx(64.0, rel=1e-5)
    assert energy_and_gradient([18], [[0.0, 0.0, 0.0]])[0] == 0.0


def test_an_element_beyond_the_table_is_refused_by_name() -> None:
    specification = Level("x", "wb97x-d", "def2-svp", {"pyscf": {}}).specification("pyscf")
    refused = HARNESSES["pyscf"].refusal(np.array([53, 1]), 0, 1, specification)
    assert refused == "the dispersion of wb97x-d covers H to Kr, the molecule has an atom with Z=53"
    assert HARNESSES["pyscf"].refusal(np.array([17, 1]), 0, 1, specification) is None
