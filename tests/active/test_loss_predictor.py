import numpy as np
import pytest

from sddfkit.active import LossPredictor, Pool, PoolError


def keys(*on: int) -> np.ndarray:
    row = np.zeros(167, dtype=np.uint8)
    row[list(on)] = 1
    return row


def test_it_learns_which_key_goes_with_a_large_error():
    rng = np.random.default_rng(0)
    maccs = rng.integers(0, 2, size=(400, 167)).astype(np.uint8)
    errors = np.stack([0.01 + 0.2 * maccs[:, 40], 0.02 + 0.1 * maccs[:, 40]]) + 0.005 * rng.random((2, 400))
    labelled = Pool([f"l{i}" for i in range(400)], [f"m{i}" for i in range(400)], {"maccs": maccs, "errors": errors})
    fitted = LossPredictor().fit(labelled)
    pool = Pool(["quiet", "loud"], ["a", "b"], {"maccs": np.stack([keys(7), keys(40)])})
    quiet, loud = fitted.scores(pool)
    assert loud - quiet == pytest.approx(0.15, abs=0.05)
    assert fitted(pool, 1, np.random.default_rng(0)) == ["loud"]
    assert LossPredictor().models == (), "fit leaves the original alone"


def test_the_next_molecule_has_its_turn_after_so_many_conformers():
    maccs = np.stack([keys(1)] * 4 + [keys(2)] * 4)
    errors = np.array([[1.0] * 4 + [0.1] * 4])
    molecules = ["bad"] * 4 + ["good"] * 4
    ids = [f"{m}{i}" for i, m in enumerate(molecules)]
    pool = Pool(ids, molecules, {"maccs": maccs, "errors": errors})
    fitted = LossPredictor(per_molecule=2).fit(pool)
    chosen = fitted(pool, 8, np.random.default_rng(0))
    assert [c.rstrip("0123456789") for c in chosen] == ["bad", "bad", "good", "good"] * 2


def test_what_cannot_work_is_refused():
    pool = Pool(["a"], ["m"], {"maccs": np.zeros((1, 167)), "errors": np.zeros((1, 1))})
    with pytest.raises(PoolError, match="learnt nothing"):
        LossPredictor().scores(pool)
    with pytest.raises(PoolError, match="at least two"):
        LossPredictor().fit(pool)
    with pytest.raises(PoolError, match="per_molecule"):
        LossPredictor(per_molecule=0)
