"""Scores within molecules against a slow oracle, exact cases, and published predictions on real conformers."""

from pathlib import Path

import numpy as np
import pytest

from sddfkit.data.conformer_scores import MEASURES, ConformerScores, compare_medians, median_intervals, within_molecule
from sddfkit.units import EV_TO_KCAL_MOL, HARTREE_TO_EV

CONFORMERS = Path(__file__).parents[3] / "shared" / "data" / "conformer_benchmark" / "conformers.npz"


def one_by_one(molecules, target, predictions, minimum=4):
    """The definition, read aloud: molecule by molecule, and NumPy's own correlation."""
    found = {name: {} for name in predictions}
    for molecule in sorted(set(molecules)):
        rows = [i for i, name in enumerate(molecules) if name == molecule]
        rows = [i for i in rows if np.isfinite([target[i], *(p[i] for p in predictions.values())]).all()]
        if len(rows) < minimum:
            continue
        true = target[rows] - target[rows].mean()
        for name, values in predictions.items():
            predicted = values[rows] - values[rows].mean()
            found[name][molecule] = (
                np.abs(predicted - true).mean() * EV_TO_KCAL_MOL,
                np.corrcoef(predicted, true)[0, 1] ** 2,
                1 - ((predicted - true) ** 2).sum() / (true**2).sum(),
            )
    return found


def scores_of(values):
    """Scores of as many molecules as values, each measure these values."""
    return ConformerScores(np.arange(len(values)), values, values, values)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def made(rng):
    """300 conformers of 60 molecules out of order, energies of the size of totals, holes in every column."""
    molecules = rng.permutation(np.repeat([f"m{i}" for i in range(60)], rng.multinomial(300, [1 / 60] * 60)))
    target = -30_000.0 + rng.normal(size=300)
    predictions = {"good": target + 7 + 0.1 * rng.normal(size=300), "poor": rng.normal(size=300)}
    for values in (target, *predictions.values()):
        values[rng.integers(300, size=10)] = np.nan
    return molecules, target, predictions


@pytest.mark.parametrize("minimum", [2, 4])
def test_scores_are_those_of_the_oracle(made, minimum):
    expected = one_by_one(*made, minimum)
    scores = within_molecule(*made, minimum=minimum)
    assert list(scores) == ["good", "poor"]
    for name, of in scores.items():
        assert of.molecules.tolist() == list(expected[name])
        values = np.array([getattr(of, measure) for measure in MEASURES]).T
        np.testing.assert_allclose(values, list(expected[name].values()), rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(list(of.medians().values()), np.median(values, axis=0))


def test_a_column_decides_which_conformers_the_others_are_scored_on(made):
    molecules, target, predictions = made
    alone = within_molecule(molecules, target, {"good": predictions["good"]})["good"]
    beside = within_molecule(molecules, target, predictions)["good"]
    assert len(beside.molecules) < len(alone.molecules)


def test_shifts_between_molecules_do_not_count_and_errors_of_scale_do():
    molecules = np.repeat([1, 2], 4)
    target = np.array([0.0, 0.1, 0.2, 0.5, 0.0, 0.3, 0.1, 0.1])
    scores = within_molecule(molecules, target, {"shifted": target + 9 * molecules, "double": 2 * target})
    np.testing.assert_allclose(scores["shifted"].mae, 0, atol=1e-12)
    np.testing.assert_allclose(scores["shifted"].R2, 1)
    np.testing.assert_allclose(scores["double"].r2, 1)
    np.testing.assert_allclose(scores["double"].R2, 0, atol=1e-12)


def test_equal_predictions_have_no_correlation_and_equal_targets_no_score():
    molecules = np.repeat(["flat", "varied"], 4)
    target = np.array([0.7, 0.7, 0.7, 0.7, 0.1, 0.2, 0.3, 0.7])
    scores = within_molecule(molecules, target, {"mean": np.full(8, -1234.1)})["mean"]
    assert scores.molecules.tolist() == ["varied"]
    assert scores.r2.tolist() == [0.0]
    np.testing.assert_allclose(scores.R2, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target": np.zeros(3)}, r"molecules has shape \(4,\), target \(3,\)"),
        ({"predictions": {}}, "no predictions to score"),
        ({"predictions": {"a": [0.0, 1.0, 2.0, np.inf]}}, r"predictions\['a'\] holds infinite energies"),
        ({"minimum": 5}, "of 1 molecules with complete conformers none has 5"),
        ({"target": np.full(4, np.nan)}, "of 0 molecules"),
        ({"minimum": 1}, "needs 2 conformers or more"),
    ],
)
def test_what_cannot_be_scored_is_refused(changed, message):
    given = {"molecules": [1] * 4, "target": np.arange(4.0), "predictions": {"a": np.arange(4.0)}} | changed
    with pytest.raises(ValueError, match=message):
        within_molecule(**given)


def test_the_bootstrap_draws_the_same_molecules_for_both(made, rng):
    scores = within_molecule(*made)
    nothing = compare_medians(scores["good"], scores["good"], rng, resamples=50)
    assert set(nothing.values()) == {(0.0, 0.0, 0.0)}
    shifted = scores["good"]._replace(mae=scores["good"].mae + 1)  # unpaired draws would give this a width
    np.testing.assert_allclose(compare_medians(shifted, scores["good"], rng, resamples=50)["mae"], 1.0)


def test_the_bootstrap_interval_covers_as_often_as_it_says(rng):
    """Medians of 40 pairs whose true difference is 0.5: of 100 intervals of 90 %, about 90 hold it."""
    held = 0
    for _ in range(100):
        common = rng.normal(size=40)
        first, second = (scores_of(common + shift + rng.normal(size=40)) for shift in (0.5, 0.0))
        _, low, high = compare_medians(first, second, rng, resamples=150, confidence=0.9)["mae"]
        held += low <= 0.5 <= high
    assert 80 <= held <= 98


def test_the_interval_of_a_median_holds_it_and_shrinks_with_the_molecules(rng):
    few, many = (median_intervals(scores_of(rng.normal(size=m)), rng, resamples=200)["mae"] for m in (20, 2000))
    for value, low, high in (few, many):
        assert low < value < high
    assert few.high - few.low > 4 * (many.high - many.low)
    values = rng.normal(size=21)
    assert median_intervals(scores_of(values), rng, resamples=9)["R2"].value == np.median(values)


def test_the_bootstrap_refuses_scores_of_different_molecules(made, rng):
    scores = within_molecule(*made)["good"]
    with pytest.raises(ValueError, match="different molecules"):
        compare_medians(scores, scores._replace(molecules=scores.molecules[::-1]), rng)
    with pytest.raises(ValueError, match="resamples=0"):
        compare_medians(scores, scores, rng, resamples=0)


@pytest.mark.skipif(not CONFORMERS.exists(), reason="the conformers, ../shared/data/conformer_benchmark, are not here")
def test_published_predictions_reach_what_is_known_of_them(rng):
    with np.load(CONFORMERS) as held:
        columns = {name: held[name] * HARTREE_TO_EV for name in ("wb97x_nod", "ani2x", "b973c")}
        names = held["name"]
    target = columns.pop("wb97x_nod")
    alone = within_molecule(names, target, {"ani2x": columns["ani2x"]})["ani2x"]
    assert len(alone.molecules) == 497
    check_medians(alone, 0.295, 0.70, 0.21)
    both = within_molecule(names, target, columns)  # one molecule less: B97-3c lacks some of its conformers
    assert len(both["b973c"].molecules) == 496
    check_medians(both["b973c"], 0.095, 0.95, 0.91)
    differences = compare_medians(both["b973c"], both["ani2x"], rng, resamples=300)
    assert differences["mae"].high < 0 < min(differences["r2"].low, differences["R2"].low)


def check_medians(scores, mae, r2, R2):
    """The medians round to these numbers."""
    found = scores.medians()
    assert (round(found["mae"], 3), round(found["r2"], 2), round(found["R2"], 2)) == (mae, r2, R2)
