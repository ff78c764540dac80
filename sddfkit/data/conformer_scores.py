"""How well relative energies of the conformers of one molecule are predicted, and how sure a comparison is.

What ranks conformers is the energy above the mean of their own molecule: shifts between molecules, which total energies
are full of, drop out. Energies go in as eV and come out as kcal/mol.
"""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sddfkit.units import EV_TO_KCAL_MOL

MEASURES: Final = ("mae", "r2", "R2")
"""Fields of `ConformerScores` that hold a number for each molecule."""


class NothingToRankError(ValueError):
    """No molecule has enough conformers with different target energies."""


class ConformerScores(NamedTuple):
    """Scores of one column of predictions within each of m molecules.

    ``molecules`` (m,) as they were named, sorted; ``mae`` (m,) kcal/mol; ``r2`` (m,) squared Pearson correlation, 0 for
    predictions that are all equal; ``R2`` (m,) = 1 − SS_res / SS_tot, at most 1, negative where the mean does better.
    """

    molecules: NDArray
    mae: NDArray[np.float64]
    r2: NDArray[np.float64]
    R2: NDArray[np.float64]

    def medians(self) -> dict[str, float]:
        """Median over the molecules of each of `MEASURES`."""
        return {name: float(np.median(getattr(self, name))) for name in MEASURES}


class Interval(NamedTuple):
    """A median, or a difference of two, with the limits of its bootstrap interval, in the unit of the measure."""

    value: float
    low: float
    high: float


def within_molecule(
    molecules: ArrayLike, target: ArrayLike, predictions: Mapping[str, ArrayLike], *, minimum: int = 4
) -> dict[str, ConformerScores]:
    """Scores of every column of predictions, all on the same conformers.

    A conformer counts if it has the target and all predictions; a molecule counts if at least `minimum` of its
    conformers do and their target energies differ (otherwise there is nothing to predict). From each column the mean
    over the molecule's own conformers is subtracted first.

    Parameters
    ----------
    molecules : (n,) name or number of the molecule of each conformer, in any order
    target : (n,), eV; NaN = missing
    predictions : name → (n,), eV; NaN = missing
    minimum : conformers that a molecule needs, 2 or more

    Returns
    -------
    dict
        Name of the column → `ConformerScores`, in the order of `predictions`, for the same molecules.

    Raises
    ------
    ValueError
        Arrays of different lengths, infinite energies, no predictions, `minimum` below 2.
    NothingToRankError
        No molecule counts.

    Examples
    --------
    >>> target = [0.0, 0.1, 0.2, 0.3]
    >>> scores = within_molecule(["a"] * 4, target, {"half": [7.0, 7.05, 7.1, 7.15]})["half"]
    >>> {name: round(value, 3) for name, value in scores.medians().items()}
    {'mae': 1.153, 'r2': 1.0, 'R2': 0.75}
    """
    if minimum < 2:
        raise ValueError(f"{minimum=}; a difference within a molecule needs 2 conformers or more")
    labels, table = _columns(molecules, target, predictions)
    labels, table = _complete(labels, table, minimum)
    names, group = np.unique(labels, return_inverse=True)
    counts = np.bincount(group)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(group, weights=values) / counts

    true = table[0] - mean(table[0])[group]
    variance = mean(true**2)
    scores = {}
    for name, values in zip(predictions, table[1:], strict=True):
        column = values - mean(values)[group]
        spread = mean(column**2)
        flat = (
            _ranges(values, group, len(names)) == 0
        )  # exactly: what is left of equal values after their mean is rounding, not order
        r2 = np.where(flat, 0.0, mean(column * true) ** 2 / (np.where(flat, 1.0, spread) * variance))
        errors = column - true
        scores[name] = ConformerScores(names, mean(np.abs(errors)) * EV_TO_KCAL_MOL, r2, 1 - mean(errors**2) / variance)
    return scores


def median_intervals(
    scores: ConformerScores, rng: np.random.Generator, *, resamples: int = 10_000, confidence: float = 0.95
) -> dict[str, Interval]:
    """Median of each of `MEASURES`, with a bootstrap over molecules.

    Each resample draws m molecules with replacement; the interval holds the middle `confidence` of their medians.

    Raises
    ------
    ValueError
        No resamples, or a confidence that is not between 0 and 1.
    """
    return _intervals([scores], [1.0], rng, resamples, confidence)


def compare_medians(
    first: ConformerScores,
    second: ConformerScores,
    rng: np.random.Generator,
    *,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """Median of `first` minus median of `second` in each of `MEASURES`, with a paired bootstrap over molecules.

    As `median_intervals`, of the difference: each resample holds the same molecules for both.

    Raises
    ------
    ValueError
        Scores of different molecules, no resamples, or a confidence that is not between 0 and 1.
    """
    if not np.array_equal(first.molecules, second.molecules):
        raise ValueError("the two scores are of different molecules; take both from one call of within_molecule")
    return _intervals([first, second], [1.0, -1.0], rng, resamples, confidence)


def _intervals(
    scores: Sequence[ConformerScores],
    weights: Sequence[float],
    rng: np.random.Generator,
    resamples: int,
    confidence: float,
) -> dict[str, Interval]:
    """Weighted sum of the medians of each of `MEASURES`, all from the same draws of molecules."""
    if resamples < 1 or not 0 < confidence < 1:
        raise ValueError(f"{resamples=}, {confidence=}; expected 1 or more, and a number between 0 and 1")
    values = np.array([[getattr(of, name) for name in MEASURES] for of in scores])  # (1 or 2, 3, m)
    m = values.shape[2]
    drawn = np.empty((resamples, len(MEASURES)))
    for row in drawn:  # one at a time: the memory does not grow with the number of resamples
        row[:] = np.asarray(weights) @ np.median(values[:, :, rng.integers(m, size=m)], axis=2)
    tail = (1 - confidence) / 2
    low, high = np.quantile(drawn, [tail, 1 - tail], axis=0)
    whole = np.asarray(weights) @ np.median(values, axis=2)
    found = zip(MEASURES, whole, low, high, strict=True)
    return {name: Interval(*map(float, of)) for name, *of in found}


def _columns(
    molecules: ArrayLike, target: ArrayLike, predictions: Mapping[str, ArrayLike]
) -> tuple[NDArray, NDArray[np.float64]]:
    """Molecules (n,), and target and predictions as rows (1 + k, n), checked."""
    if not predictions:
        raise ValueError("no predictions to score")
    labels = np.asarray(molecules)
    rows = {"target": target, **{f"predictions[{name!r}]": values for name, values in predictions.items()}}
    arrays = {name: np.asarray(values, dtype=np.float64) for name, values in rows.items()}
    for name, values in arrays.items():
        if labels.ndim != 1 or values.shape != labels.shape:
            raise ValueError(f"molecules has shape {labels.shape}, {name} {values.shape}; expected (n,) for both")
        if np.isinf(values).any():
            raise ValueError(f"{name} holds infinite energies; a missing one is NaN")
    return labels, np.stack(list(arrays.values()))


def _complete(labels: NDArray, table: NDArray[np.float64], minimum: int) -> tuple[NDArray, NDArray[np.float64]]:
    """The conformers that have all columns, of molecules that have enough of them and whose targets differ."""
    whole = ~np.isnan(table).any(axis=0)
    labels, table = labels[whole], table[:, whole]
    names, group, counts = np.unique(labels, return_inverse=True, return_counts=True)
    kept = ((counts >= minimum) & (_ranges(table[0], group, len(names)) > 0))[group]
    if not kept.any():
        raise NothingToRankError(
            f"of {len(names)} molecules with complete conformers none has {minimum} of them with different energies"
        )
    return labels[kept], table[:, kept]


def _ranges(values: NDArray[np.float64], group: NDArray[np.intp], groups: int) -> NDArray[np.float64]:
    """Largest minus smallest value (groups,) of each group."""
    lowest, highest = np.full(groups, np.inf), np.full(groups, -np.inf)
    np.minimum.at(lowest, group, values)
    np.maximum.at(highest, group, values)
    return highest - lowest
