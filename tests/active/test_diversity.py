import numpy as np
import pytest

from sddfkit.active import CostAware, Disagreement, Diversity, Pool, PoolError, Random, UncertaintyDiversity
from sddfkit.active.diversity import farthest_order, spread_out
from sddfkit.active.uncertainty_diversity import weighted_farthest


def plain_farthest(points: np.ndarray, known: np.ndarray, k: int) -> list[int]:
    chosen: list[int] = []
    for _ in range(k):
        have = np.concatenate([known, points[chosen]])
        distance = np.array([np.linalg.norm(have - point, axis=1).min() for point in points])
        distance[chosen] = -1.0
        chosen.append(int(np.argmax(distance)))
    return chosen


def test_farthest_points_are_those_of_the_plain_definition():
    rng = np.random.default_rng(0)
    points, known = rng.normal(size=(60, 5)).astype(np.float32), rng.normal(size=(1100, 5)).astype(np.float32)
    assert spread_out(points, 12, rng, known=known).tolist() == plain_farthest(points, known, 12)


def test_kmeans_draws_by_the_squared_distance():
    points = np.array([[0.0], [1.0], [3.0]], np.float32)  # beside what is known at 0: squares 0, 1, 9
    rng = np.random.default_rng(0)
    firsts = [spread_out(points, 1, rng, method="kmeans++", known=points[:1])[0] for _ in range(300)]
    assert np.bincount(firsts, minlength=3) / 300 == pytest.approx([0.0, 0.1, 0.9], abs=0.05)
    assert sorted(spread_out(np.zeros((4, 2), np.float32), 9, rng, method="kmeans++")) == [0, 1, 2, 3]


def test_a_cover_is_tighter_than_chance():
    rng = np.random.default_rng(1)
    points = rng.random(size=(500, 2)).astype(np.float32)

    def radius(rows: np.ndarray) -> float:
        return float(np.linalg.norm(points[:, None] - points[rows], axis=2).min(axis=1).max())

    chance = min(radius(rng.choice(500, 30, replace=False)) for _ in range(20))
    assert radius(spread_out(points, 30, rng)) < chance


def test_what_is_labelled_is_kept_away_from_and_conformers_take_turns():
    keys = np.zeros((6, 167), np.uint8)
    keys[0:2, :3] = 1  # as the labelled one
    keys[2:4, 10:14] = 1
    keys[4:6, 20:40] = 1
    ids = ["a0", "a1", "b0", "b1", "c0", "c1"]
    pool = Pool(ids, [name[0] for name in ids], {"maccs": keys, "conformer_order": np.array([1, 0] * 3)})
    fitted = Diversity(conformers="rmsd").fit(Pool(["x"], ["x"], {"maccs": keys[:1]}))
    assert fitted(pool, 6, np.random.default_rng(0)) == ["c1", "b1", "a1", "c0", "b0", "a0"]
    assert Diversity().known is None, "fit leaves the original alone"


def test_conformers_far_from_each_other_come_first():
    line = np.array([0.0, 1.0, 5.0, 9.0])
    # Their distances sum to 15, 13, 13 and 21: the second begins (8 to the last, 4 to the third, 1 to the first).
    assert farthest_order(np.abs(line[:, None] - line)).tolist() == [3, 0, 2, 1]
    unknown = np.array([[0.0, np.nan], [np.nan, 0.0]])
    assert sorted(farthest_order(unknown)) == [0, 1]


def test_a_large_pool_is_thinned_and_what_is_asked_for_still_comes():
    rng = np.random.default_rng(2)
    pool = Pool([f"r{i}" for i in range(50)], [f"m{i}" for i in range(50)], {"maccs": rng.integers(0, 2, (50, 167))})
    assert len(set(Diversity(max_candidates=5)(pool, 20, rng))) == 20


def test_a_batch_is_worth_its_uncertainty_times_its_distance():
    points = np.eye(4, dtype=np.float32)[[0, 0, 1, 2]]
    weights = np.array([3.0, 2.9, 1.0, 0.2])
    # worth after the first: 2.9 · 0.1, 1.0 · (0.1 + √2), 0.2 · (0.1 + √2); then 0.29 against 0.30
    assert weighted_farthest(points, weights, 4, 0.1).tolist() == [0, 2, 3, 1]
    assert weighted_farthest(points, weights, 4, 100.0).tolist() == [0, 1, 2, 3], "a large ε leaves the uncertainty"


def test_a_batch_does_not_hold_the_same_molecule_over_and_over():
    rng = np.random.default_rng(3)
    n = 20  # all conformers of the first molecule are doubted most
    energies = np.zeros((2, 2 * n))
    energies[1, :n] = rng.normal(0.0, 3.0, n)
    energies[1, n:] = rng.normal(0.0, 1.0, n)
    molecules = ["a"] * n + [f"b{i % 5}" for i in range(n)]
    kinds = {name: rng.integers(0, 2, 167) for name in set(molecules)}
    features = {
        "member_energies": energies,
        "n_atoms": np.full(2 * n, 9),
        "maccs": np.stack([kinds[name] for name in molecules]),
        "expected_minutes": np.full(2 * n, 2.0),
    }
    pool = Pool([f"r{i:02d}" for i in range(2 * n)], molecules, features)
    of = dict(zip(pool.record_ids, pool.molecule_ids, strict=True))
    alone = {of[name] for name in Disagreement()(pool, 6, rng)}
    together = {of[name] for name in UncertaintyDiversity()(pool, 6, rng)}
    assert len(together) > len(alone)


def test_gain_per_minute():
    features = {
        "member_energies": np.array([[0.0, 0.0, 0.0], [0.0, 1.0, 3.0]]),
        "n_atoms": np.full(3, 4),
        "expected_minutes": np.array([1.0, 1.0, 100.0]),
    }
    pool = Pool(["a", "b", "c"], ["m", "m", "m"], features)
    gain = Disagreement().scores(pool)
    np.testing.assert_allclose(CostAware().scores(pool), gain / [1.0, 1.0, 100.0])
    np.testing.assert_allclose(CostAware(power=0.0).scores(pool), gain)
    assert CostAware()(pool, 3, np.random.default_rng(0))[-1] == "c"
    with pytest.raises(PoolError, match=r"expected_minutes is 0\.0 for the record b"):
        free = {**features, "expected_minutes": np.array([1.0, 0.0, 2.0])}
        CostAware().scores(Pool(pool.record_ids, pool.molecule_ids, free))


def test_settings_that_cannot_be_are_refused():
    for make in (
        lambda: Diversity(features="smell"),
        lambda: Diversity(method="best"),
        lambda: Diversity(max_candidates=0),
        lambda: UncertaintyDiversity(features="smell"),
        lambda: UncertaintyDiversity(epsilon=-1.0),
        lambda: UncertaintyDiversity(max_candidates=0),
        lambda: CostAware(power=2.0),
        lambda: CostAware(Random()).scores(Pool(["a"], ["m"], {"expected_minutes": np.ones(1)})),
    ):
        with pytest.raises(PoolError):
            make()
