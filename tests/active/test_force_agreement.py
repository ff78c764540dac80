"""The ConfidenceScore against its own definition, written out; its guards; what it does not see."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.spatial.transform import Rotation

from sddfkit.active.force_agreement import FORCE_FLOOR, agreement, confidence_score, magnitude_spread

SHAPES = st.tuples(st.integers(2, 4), st.integers(1, 5), st.just(3))
FORCES = SHAPES.flatmap(lambda shape: arrays(np.float64, shape, elements=st.floats(-10.0, 10.0)))


def published(forces: np.ndarray) -> float:
    """(1/N) Σ_i min_{q≠k} cos∠(F_q, F_k), atom by atom."""
    total = 0.0
    for atom in range(forces.shape[1]):
        a = forces[:, atom]
        total += min(
            a[q] @ a[k] / (np.linalg.norm(a[q]) * np.linalg.norm(a[k]))
            for q in range(len(a))
            for k in range(len(a))
            if q != k
        )
    return total / forces.shape[1]


def test_large_forces_give_the_published_score():
    forces = np.random.default_rng(1).normal(size=(5, 30, 3))
    assert np.linalg.norm(forces, axis=-1).min() > FORCE_FLOOR
    assert confidence_score(forces) == pytest.approx(published(forces), abs=1e-12)


@given(FORCES)
def test_bounds_and_invariance(forces):
    score = agreement(forces)
    assert score.shape == (forces.shape[1],) and (np.abs(score) <= 1.0).all()
    np.testing.assert_allclose(agreement(forces[::-1]), score, atol=1e-12)
    sizes = np.linalg.norm(forces, axis=-1)
    if (np.abs(sizes - FORCE_FLOOR) > 1e-9).all():  # at the floor a rotation's rounding may lead to either side
        turned = forces @ Rotation.random(rng=1).as_matrix()
        np.testing.assert_allclose(agreement(turned), score, atol=1e-9)
        np.testing.assert_allclose(magnitude_spread(turned), magnitude_spread(forces), atol=1e-9)
    # Another member can only find more to disagree about, and a copy of one finds nothing where forces are large.
    assert (agreement(np.concatenate([forces, -forces[:1]])) <= score + 1e-12).all()
    copied = agreement(np.concatenate([forces, forces[:1]]))
    large = (sizes > FORCE_FLOOR).all(axis=0)
    np.testing.assert_allclose(copied[large], score[large], atol=1e-12)


def test_vanishing_forces_are_guarded():
    x = np.array([1.0, 0.0, 0.0])
    half = FORCE_FLOOR / 2
    cases = {
        "both below the floor, opposite": (half * x, -half * x, 1.0),
        "both zero": (0 * x, 0 * x, 1.0),
        "one zero": (0 * x, x, 0.0),
        "one below, opposite": (-half * x, x, -0.5),
        "both above, opposite": (-2 * FORCE_FLOOR * x, x, -1.0),
    }
    for case, (first, second, expected) in cases.items():
        assert agreement(np.array([[first], [second]]))[0] == pytest.approx(expected), case
    assert agreement(np.array([[half * x], [-half * x]]), floor=half / 2)[0] == pytest.approx(-1.0)


def test_the_score_is_blind_to_sizes_and_the_spread_beside_it_is_not():
    forces = np.random.default_rng(2).normal(size=(1, 6, 3)) + 1.0
    members = np.concatenate([forces, 3 * forces])
    assert confidence_score(members) == pytest.approx(1.0)
    np.testing.assert_allclose(magnitude_spread(members), np.linalg.norm(forces[0], axis=-1))


def test_what_is_asked_wrongly_is_explained():
    with pytest.raises(ValueError, match="at least two members"):
        confidence_score(np.ones((1, 4, 3)))
    with pytest.raises(ValueError, match=r"\(4, 3\), expected \(members, atoms, 3\)"):
        agreement(np.ones((4, 3)))
    broken = np.ones((2, 4, 3))
    broken[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="member 1 on atom 2 is not finite"):
        agreement(broken)
    with pytest.raises(ValueError, match="floor is 0"):
        agreement(np.ones((2, 4, 3)), floor=0.0)
