"""Batches that are uncertain and diverse: ask for doubtful conformers that do not all teach the same."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sddfkit.active.disagreement import Disagreement
from sddfkit.active.pool import Pool, PoolError, Strategy, best, check_k


@dataclass(frozen=True)
class UncertaintyDiversity:
    r"""Choose greedily the conformer with the largest uncertainty × distance to what is chosen already.

    .. math:: c^* = \arg\max_c \; u_c \left( \epsilon + \min_{j \in \text{chosen}} \lVert z_c - z_j \rVert \right)

    with the score u of another strategy and rows z of unit length: a farthest-point batch weighted by uncertainty. The
    first is the most uncertain one. ε is what a conformer is worth whose twin is in the batch, so that conformers of
    one molecule (one fingerprint) are not excluded.

    Parameters
    ----------
    strategy
        Whose scores are the uncertainty; those below zero count as zero.
    features
        The array that distances are taken in.
    epsilon
        From 0, against distances from 0 to √2 of rows without negative entries.
    max_candidates
        So many of the most uncertain conformers are looked at (never fewer than are asked for): memory and time are
        bounded.

    References
    ----------
    V. Zaverkin, D. Holzmüller, I. Steinwart, J. Kästner, Digital Discovery 2022, 1, 605 (batches by largest distance);
    J. T. Ash et al., ICLR 2020, arXiv:1906.03671 (vectors whose length is the uncertainty); K. Ghosh et al., J. Chem.
    Phys. 2025, 162, 014103 (uncertainty alone often does not beat random choice, with diversity it does).
    """

    strategy: Strategy = field(default_factory=Disagreement)
    features: Literal["maccs", "embeddings"] = "maccs"
    epsilon: float = 0.1
    max_candidates: int = 10_000

    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"

    def __post_init__(self) -> None:
        if self.features not in ("maccs", "embeddings"):
            raise PoolError(f"features is {self.features!r}, expected 'maccs' or 'embeddings'")
        if not (self.epsilon >= 0 and np.isfinite(self.epsilon)):
            raise PoolError(f"epsilon is {self.epsilon!r}, expected a number from 0")
        if self.max_candidates < 1:
            raise PoolError(f"max_candidates is {self.max_candidates}, expected at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """What the uncertainty needs, and the features."""
        return self.strategy.needs | {self.features}

    @property
    def learns(self) -> frozenset[str]:
        """What the uncertainty learns from."""
        return self.strategy.learns

    @property
    def reason(self) -> str:
        """Why something was chosen."""
        return f"unlike the rest of its batch, and {self.strategy.reason}"

    def fit(self, labelled: Pool) -> Self:
        """Return the strategy with its uncertainty fitted."""
        return replace(self, strategy=self.strategy.fit(labelled))

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return the uncertainty of each conformer, shape (n,), in its strategy's unit."""
        return scores_of(self.strategy, pool)

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return `k` record ids in the order in which they were chosen."""
        check_k(k)
        if not len(pool):
            return []
        pool = pool.sorted()
        uncertainty = np.round(self.scores(pool), 9)
        rows = best(uncertainty, rng)[: max(self.max_candidates, k)]
        points = np.asarray(pool.feature(self.features)[rows], dtype=np.float32)
        points /= np.maximum(np.linalg.norm(points, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        chosen = weighted_farthest(points, np.maximum(uncertainty[rows], 0.0), k, self.epsilon)
        return [pool.record_ids[rows[i]] for i in chosen]


def scores_of(strategy: Strategy, pool: Pool) -> NDArray[np.float64]:
    """Return the scores of a strategy that has any.

    Raises
    ------
    PoolError
        If it ranks by nothing, as random choice does.
    """
    scores = strategy.scores(pool)
    if scores is None:
        raise PoolError(f"{type(strategy).__name__} gives no scores: name a strategy that does, such as Disagreement")
    return scores


def weighted_farthest(
    points: NDArray[np.float32], weights: NDArray[np.float64], k: int, epsilon: float
) -> NDArray[np.intp]:
    """Return the rows of `k` points (or of all) by weight × (ε + distance to those chosen); ties in the order of rows.

    Parameters
    ----------
    points : (n, d), rows of unit length
    weights : (n,), from 0
    k, epsilon

    >>> weighted_farthest(np.eye(3, dtype=np.float32)[[0, 0, 1]], np.array([3.0, 2.9, 1.0]), 3, epsilon=0.1)
    array([0, 2, 1])
    """
    distance = np.full(len(points), np.sqrt(2.0))
    worth = weights.astype(np.float64)  # a copy; nothing is chosen yet
    free = np.ones(len(points), dtype=bool)
    chosen = np.empty(min(k, len(points)), np.intp)
    with threadpool_limits(1, user_api="blas"):  # each product is short: threads would wait for one another
        for step in range(len(chosen)):
            chosen[step] = i = int(np.argmax(np.where(free, worth, -1.0)))
            free[i] = False
            squared = np.maximum(2.0 - 2.0 * (points @ points[i]).astype(np.float64), 0.0)
            # Rounded: a twin's distance is rounding noise, whose root would not be small.
            np.minimum(distance, np.sqrt(np.round(squared, 5)), out=distance)
            worth = weights * (epsilon + distance)
    return chosen
