import numpy as np
import pytest

from sddfkit.active import Disagreement, Pool, PoolError


def test_spread_of_relative_energies():
    # two conformers; the members see differences of 1.0 and 3.0 eV, so each conformer is ±0.5 off the members' mean
    energies = np.array([[0.0, 1.0], [10.0, 13.0]])
    pool = Pool(["a", "b"], ["m", "m"], {"member_energies": energies, "n_atoms": np.array([4, 4])})
    np.testing.assert_allclose(Disagreement().scores(pool), [0.5 / 2.0, 0.5 / 2.0])


def test_a_members_own_offset_does_not_count_within_a_molecule():
    rng = np.random.default_rng(0)
    energies = rng.normal(size=(4, 6))
    features = {"member_energies": energies, "n_atoms": np.full(6, 9)}
    pool = Pool(list("abcdef"), ["m"] * 6, features)
    shifted = {**features, "member_energies": energies + np.arange(4)[:, None]}
    moved = Pool(list("abcdef"), ["m"] * 6, shifted)
    np.testing.assert_allclose(Disagreement().scores(pool), Disagreement().scores(moved), atol=1e-12)


def test_a_molecule_alone_in_the_pool_scores_zero_unless_the_pool_is_the_reference():
    features = {"member_energies": np.array([[0.0, 1.0], [0.0, 5.0]]), "n_atoms": np.array([4, 4])}
    pool = Pool(["a", "b"], ["m", "n"], features)
    np.testing.assert_array_equal(Disagreement().scores(pool), [0.0, 0.0])
    assert (Disagreement(relative_to="pool").scores(pool) > 0).all()


def test_one_member_cannot_disagree():
    pool = Pool(["a"], ["m"], {"member_energies": np.zeros((1, 1)), "n_atoms": np.array([3])})
    with pytest.raises(PoolError, match="at least two members"):
        Disagreement().scores(pool)
    with pytest.raises(PoolError, match="relative_to"):
        Disagreement(relative_to="moon")
