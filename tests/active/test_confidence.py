import numpy as np
import pytest

from sddfkit.active import LowestConfidence, Pool, PoolError, confidence_score


def test_each_conformer_gets_its_own_confidence_score():
    rng = np.random.default_rng(0)
    forces = [rng.normal(size=(3, n, 3)) for n in (4, 1, 7)]
    features = {"member_forces": np.concatenate(forces, axis=1), "n_atoms": np.array([4, 1, 7])}
    pool = Pool(["a", "b", "c"], ["m", "m", "n"], features)
    expected = [confidence_score(one) for one in forces]
    np.testing.assert_allclose(1.0 - LowestConfidence().scores(pool), expected)
    chosen = LowestConfidence()(pool, 3, rng)
    assert chosen == [pool.record_ids[i] for i in np.argsort(expected)], "the lowest first"


def test_what_cannot_be_is_refused():
    features = {"member_forces": np.ones((1, 4, 3)), "n_atoms": np.array([4])}
    with pytest.raises(PoolError, match="at least two members"):
        LowestConfidence().scores(Pool(["a"], ["m"], features))
    with pytest.raises(PoolError, match=r"member_forces has shape \(1, 4, 3\), expected 5 along axis 1"):
        Pool(["a"], ["m"], {**features, "n_atoms": np.array([5])})
    with pytest.raises(PoolError, match="floor"):
        LowestConfidence(floor=0.0)
