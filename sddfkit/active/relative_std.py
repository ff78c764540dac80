"""The published disagreement, kept under its own name for comparison."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sddfkit.active.pool import Pool, PoolError, highest


@dataclass(frozen=True)
class RelativeStd:
    r"""Rank conformers by :math:`\operatorname{std}_m E_m / \operatorname{mean}_m E_m`, as published: a control.

    The energies are those above the reference energies of the atoms. **Its fault, kept here:** their mean has a sign
    and crosses zero. Where it is negative, the more the members disagree the *later* the conformer comes; near zero the
    score measures the mean and not the spread; and it changes with the zero of energy. Use
    :class:`~sddfkit.active.disagreement.Disagreement`.

    References
    ----------
    V. Altunyan, Smart Distributed Data Factory, PhD thesis, Yerevan 2025.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"shifted_energies"})
    learns: ClassVar[frozenset[str]] = frozenset()
    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"
    reason: ClassVar[str] = "the members' energies have a large relative standard deviation (as published)"

    def fit(self, labelled: Pool) -> Self:
        """Learn nothing."""
        del labelled
        return self

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return std/mean of each conformer, shape (n,); 0 where all members say 0."""
        energies = np.asarray(pool.feature("shifted_energies"), dtype=np.float64)
        if energies.shape[0] < 2:
            raise PoolError(f"disagreement needs at least two members, the pool has {energies.shape[0]}")
        spread, mean = energies.std(axis=0), energies.mean(axis=0)
        # A mean of exactly zero would give infinity, which nothing could be compared with.
        return spread / np.where(mean == 0.0, np.finfo(np.float64).tiny ** 0.5, mean)

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return the `k` record ids with the largest score."""
        return highest(pool, self.scores, k, rng)
