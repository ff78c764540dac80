"""What calculations are expected to take."""

import numpy as np
import pytest

from sddfkit.factory.costs import CostModel


def learnt(costs, seconds) -> CostModel:
    model = CostModel()
    for cost, wall in zip(costs, seconds, strict=True):
        model.learn("level", "program", float(cost), float(wall))
    return model


def test_nothing_is_expected_before_anything_is_done():
    model = CostModel()
    assert model.seconds("level", "program", 1e6) is None
    model.learn("level", "program", 1e6, None)
    assert model.seconds("level", "program", 1e6) is None
    model.learn("level", "program", 1e6, 30.0)
    assert model.seconds("level", "program", 1e6) == pytest.approx(30.0)
    assert model.seconds("level", "program", 8e6) == pytest.approx(30.0 * 8**0.8), "the usual slope"
    assert model.seconds("level", "other program", 1e6) is None


@pytest.mark.parametrize("slope", [0.3, 0.9, 1.2])
def test_a_power_law_is_found_in_spite_of_noise_and_of_a_busy_machine(slope):
    rng = np.random.default_rng(1)
    costs = np.exp(rng.uniform(np.log(1e4), np.log(1e8), 400))
    seconds = 1e-3 * costs**slope * np.exp(0.1 * rng.normal(size=400))
    seconds[::20] *= 30.0
    model = learnt(costs, seconds)
    (fit,) = model.fits().values()
    assert fit.n == pytest.approx(400, rel=0.2)
    assert fit.b == pytest.approx(slope, abs=0.03)
    for cost in (1e4, 1e6, 1e8):
        assert fit.a + fit.b * np.log(cost) == pytest.approx(np.log(1e-3 * cost**slope), abs=0.15)


def test_only_the_latest_count():
    rng = np.random.default_rng(2)
    costs = np.exp(rng.uniform(np.log(1e4), np.log(1e6), 6000))
    seconds = np.where(np.arange(6000) < 3000, 1.0, 1e-3) * 1e-5 * costs
    (fit,) = learnt(costs, seconds).fits().values()
    assert fit.seconds(1e5) == pytest.approx(1e-3, rel=0.2)
