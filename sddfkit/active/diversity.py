"""Diversity: ask for what is unlike all that is known, whatever the members say."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from sddfkit.active.pool import Pool, PoolError, check_k, in_turns

BLOCK: Final = 512
"""Known points that are compared with all candidates at a time."""


@dataclass(frozen=True)
class Diversity:
    """Choose points that cover the space of fingerprints or embeddings, beginning far from what is labelled.

    With ``features="maccs"`` molecules are chosen, and their conformers in turns; with ``"embeddings"`` conformers. A
    control that an uncertainty has to beat, and the half that an uncertainty alone lacks.

    Parameters
    ----------
    features
        The array whose rows are compared, by Euclidean distance.
    method
        ``"farthest_point"``: always the point farthest from all that is chosen and known (a greedy cover, the core-set
        of Sener and Savarese). ``"kmeans++"``: a draw with a probability in proportion to the squared distance (Arthur
        and Vassilvitskii), which is less taken with outliers.
    conformers
        Which conformers of a molecule come first: ``"random"``, or ``"rmsd"`` by the array ``conformer_order``, each
        the farthest by symmetry-corrected RMSD from those before.
    max_candidates
        From a larger pool so many are drawn at random first (never fewer than are asked for): memory and time are
        bounded.

    References
    ----------
    O. Sener, S. Savarese, ICLR 2018, arXiv:1708.00489. D. Arthur, S. Vassilvitskii, SODA 2007, 1027.
    """

    features: Literal["maccs", "embeddings"] = "maccs"
    method: Literal["farthest_point", "kmeans++"] = "farthest_point"
    conformers: Literal["random", "rmsd"] = "random"
    max_candidates: int = 10_000
    known: NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    reason: ClassVar[str] = "it is far from what is labelled and chosen"

    def __post_init__(self) -> None:
        choices = {
            "features": ("maccs", "embeddings"),
            "method": ("farthest_point", "kmeans++"),
            "conformers": ("random", "rmsd"),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise PoolError(f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}")
        if self.max_candidates < 1:
            raise PoolError(f"max_candidates is {self.max_candidates}, expected at least 1")

    @property
    def needs(self) -> frozenset[str]:
        """The features, and the order of conformers where that is not random."""
        return frozenset({self.features} | ({"conformer_order"} if self.conformers == "rmsd" else set()))

    @property
    def learns(self) -> frozenset[str]:
        """The features of what is labelled."""
        return frozenset({self.features})

    @property
    def ranks(self) -> Literal["molecules", "conformers"]:
        """Fingerprints belong to molecules, embeddings to conformers."""
        return "molecules" if self.features == "maccs" else "conformers"

    def fit(self, labelled: Pool) -> Self:
        """Return a strategy that keeps away from the labelled rows."""
        return replace(self, known=np.unique(np.asarray(labelled.feature(self.features), dtype=np.float32), axis=0))

    def scores(self, pool: Pool) -> None:
        """Rank by nothing: what a point is worth depends on those chosen before."""
        del pool

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return `k` record ids in the order in which they were chosen."""
        check_k(k)
        if not len(pool):
            return []
        pool = pool.sorted()
        features = pool.feature(self.features)
        rows = rng.permutation(len(pool))
        if self.conformers == "rmsd":
            rows = rows[np.argsort(pool.feature("conformer_order")[rows], kind="stable")]
        molecules = pool.molecules() if self.ranks == "molecules" else np.arange(len(pool))
        heads = rows[np.sort(np.unique(molecules[rows], return_index=True)[1])]  # the first conformer of each
        heads = rng.permutation(heads)[: max(self.max_candidates, k)]
        points = np.asarray(features[heads], dtype=np.float32)
        chosen = spread_out(points, k, rng, method=self.method, known=self.known)
        rank = np.full(molecules.max() + 1, len(pool), np.intp)
        rank[molecules[heads[chosen]]] = np.arange(len(chosen))
        rows = rows[np.argsort(rank[molecules[rows]], kind="stable")]
        return [pool.record_ids[i] for i in in_turns(rows, molecules, k)]


def spread_out(
    points: NDArray[np.float32],
    k: int,
    rng: np.random.Generator,
    *,
    method: Literal["farthest_point", "kmeans++"] = "farthest_point",
    known: NDArray[np.float32] | None = None,
) -> NDArray[np.intp]:
    """Return the rows of `k` points, or of all, in the order in which they were chosen; one distance to each per step.

    Parameters
    ----------
    points : (n, d)
    k
    rng
        Draws the first point where nothing is known, and all of k-means++; farthest points that are equally far come
        in the order of the rows.
    method
        See :class:`Diversity`.
    known : (l, d)
        Points to keep away from.

    >>> spread_out(np.array([[0.0], [1.0], [9.0]], np.float32), 2, np.random.default_rng(0), known=np.zeros((1, 1)))
    array([2, 1])
    """
    squares = np.einsum("ij,ij->i", points, points)
    nearest = np.full(len(points), np.inf, np.float32)
    if known is not None:
        for start in range(0, len(known), BLOCK):
            block = known[start : start + BLOCK].astype(np.float32)
            products = points @ block.T
            distances = np.einsum("ij,ij->i", block, block) - 2 * products
            np.minimum(nearest, squares + distances.min(axis=1), out=nearest)
    np.maximum(nearest, 0.0, out=nearest)
    free = np.ones(len(points), dtype=bool)
    chosen = np.empty(min(k, len(points)), np.intp)
    with threadpool_limits(1, user_api="blas"):  # each product is short: threads would wait for one another
        for step in range(len(chosen)):
            chosen[step] = i = _next(nearest, free, rng, method)
            free[i] = False
            np.minimum(nearest, np.maximum(squares + squares[i] - 2 * (points @ points[i]), 0.0), out=nearest)
    return chosen


def farthest_order(distances: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return each one's place, shape (n,), in an order that begins in the middle and always takes the farthest next.

    Parameters
    ----------
    distances : (n, n)
        Between the conformers of one molecule, say; a distance that is not known (NaN) counts as none.

    >>> farthest_order(np.array([[0.0, 1.0, 3.0], [1.0, 0.0, 2.0], [3.0, 2.0, 0.0]]))
    array([2, 0, 1])
    """
    known = np.nan_to_num(np.asarray(distances, dtype=np.float64), nan=0.0)
    place = np.zeros(len(known), np.intp)
    i = int(np.argmin(known.sum(axis=1)))
    nearest = known[i].copy()
    for step in range(1, len(known)):
        nearest[i] = -1.0
        i = int(np.argmax(nearest))
        place[i] = step
        nearest = np.where(nearest < 0.0, nearest, np.minimum(nearest, known[i]))
    return place


def _next(nearest: NDArray[np.float32], free: NDArray[np.bool_], rng: np.random.Generator, method: str) -> int:
    if np.isinf(nearest[0]):  # nothing is known, nothing chosen
        return int(rng.integers(len(nearest)))
    if method == "farthest_point":
        return int(np.argmax(np.where(free, nearest, -1.0)))
    weights = np.where(free, nearest, 0.0).astype(np.float64)
    total = np.cumsum(weights)
    if total[-1] == 0.0:  # all that is left stands where something chosen stands
        return int(np.argmax(free))
    return int(np.searchsorted(total, rng.random() * total[-1], side="right"))
