"""The published score, and the fault for which it is not the default."""

import numpy as np
import pytest

from sddfkit.active import Pool, PoolError, RelativeStd


def pool(energies: np.ndarray) -> Pool:
    n = energies.shape[1]
    return Pool([f"r{i}" for i in range(n)], [f"m{i}" for i in range(n)], {"shifted_energies": energies})


def test_it_is_std_over_mean():
    np.testing.assert_allclose(RelativeStd().scores(pool(np.array([[1.0, 4.0], [3.0, 4.0]]))), [0.5, 0.0])


def test_its_fault_where_the_mean_is_negative_what_is_doubted_most_comes_last():
    energies = np.array([[-30.0, -30.0, -30.0], [-30.1, -31.0, -36.0]])  # doubt grows
    assert RelativeStd()(pool(energies), 3, np.random.default_rng(0)) == ["r0", "r1", "r2"]
    assert RelativeStd()(pool(energies + 100.0), 3, np.random.default_rng(0)) == ["r2", "r1", "r0"]


def test_a_mean_of_zero_is_still_a_number():
    assert np.isfinite(RelativeStd().scores(pool(np.array([[1.0, 0.0], [-1.0, 0.0]])))).all()
    with pytest.raises(PoolError, match="at least two members"):
        RelativeStd().scores(pool(np.zeros((1, 2))))
