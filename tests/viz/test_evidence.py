"""Numbers derived from predictions, against plain definitions."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as hypothesis_arrays

from sddfkit.units import EV_TO_KCAL_MOL
from sddfkit.viz.evidence import arrays, interval, spearman, within_molecules

stats = pytest.importorskip("scipy.stats", reason="SciPy is the other implementation of Spearman's ρ")

FEW_VALUES = hypothesis_arrays(float, st.integers(3, 30), elements=st.integers(-4, 4).map(float))


@given(FEW_VALUES, st.integers(0, 2**32 - 1))
def test_spearman_agrees_with_scipy_also_with_ties(x, seed):
    y = np.random.default_rng(seed).integers(-4, 4, len(x)).astype(float)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        assert math.isnan(spearman(x, y))
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


@given(FEW_VALUES)
def test_spearman_sees_only_the_order(x):
    if np.ptp(x) > 0:
        assert spearman(x, np.exp(x)) == pytest.approx(1.0)
        assert spearman(x, -3 * x) == pytest.approx(-1.0)


def prediction(molecule: str, energy: float | None, predicted: float, **more) -> dict:
    row = {"record_id": "r", "molecule_id": molecule, "n_heavy": 3, "energy": energy, "energy_pred": predicted}
    return {**row, "energy_std": 0.1, "forces": [1.0, 0.0, 0.0], "forces_pred": [0.5, 0.0, 0.0], **more}


def test_units_are_kcal_per_mol():
    fold = arrays([prediction("C", 1.0, 2.0)])
    assert fold.energy == pytest.approx(EV_TO_KCAL_MOL)
    assert fold.energy_pred == pytest.approx(2 * EV_TO_KCAL_MOL)
    assert fold.forces == pytest.approx([EV_TO_KCAL_MOL, 0, 0])


def test_relative_energies_lose_the_offset_of_a_molecule_and_skip_lone_conformers():
    rows = [prediction("A", e, e + 5.0) for e in (0.0, 1.0, 3.0)] + [prediction("B", 7.0, 0.0)]
    rows += [prediction("A", None, 1.0)]
    reference, predicted, molecule = within_molecules(arrays(rows))
    assert reference == pytest.approx(predicted)
    assert reference.sum() == pytest.approx(0.0)
    assert list(molecule) == [0, 0, 0]


def test_forces_may_be_absent():
    fold = arrays([prediction("C", 1.0, 1.0, forces=None, forces_pred=None)])
    assert fold.forces.shape == (0,)


def test_interval_covers_what_molecules_differ_by_not_what_conformers_do():
    # Ten molecules, each with one error that all of its hundred conformers share: n is ten, not a thousand.
    rng = np.random.default_rng(0)
    molecule = np.repeat(np.arange(10), 100)
    error = np.repeat(rng.normal(size=10), 100)
    low, high = interval(lambda i: float(error[i].mean()), molecule, np.random.default_rng(1))
    assert low < error.mean() < high
    expected = 2 * 1.96 * error[::100].std() / math.sqrt(10)
    assert high - low == pytest.approx(expected, rel=0.25)


def test_no_interval_from_four_molecules():
    assert interval(lambda i: 1.0, np.repeat(np.arange(4), 50), np.random.default_rng(0)) is None
