"""ConfidenceScore: ask where the members push the atoms in different directions."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sddfkit.active.force_agreement import FORCE_FLOOR, agreement
from sddfkit.active.pool import Pool, PoolError, highest


@dataclass(frozen=True)
class LowestConfidence:
    """Rank conformers by 1 − ConfidenceScore, so that the lowest ConfidenceScores come first.

    See :func:`~sddfkit.active.force_agreement.confidence_score`. It was made for frames of molecular dynamics, where
    forces are large; it looks at their directions alone.

    Parameters
    ----------
    floor : eV/Å
        Forces below it say nothing about a direction.

    References
    ----------
    V. Altunyan, Smart Distributed Data Factory, PhD thesis, Yerevan 2025.
    """

    floor: float = FORCE_FLOOR

    needs: ClassVar[frozenset[str]] = frozenset({"member_forces", "n_atoms"})
    learns: ClassVar[frozenset[str]] = frozenset()
    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"
    reason: ClassVar[str] = "the members' forces point in different directions (1 − ConfidenceScore)"

    def __post_init__(self) -> None:
        if not (self.floor > 0 and np.isfinite(self.floor)):
            raise PoolError(f"floor is {self.floor!r}, expected a positive number of eV/Å")

    def fit(self, labelled: Pool) -> Self:
        """Learn nothing."""
        del labelled
        return self

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return 1 − ConfidenceScore of each conformer, shape (n,), from 0 (all agree) to 2."""
        forces, n_atoms = np.asarray(pool.feature("member_forces")), np.asarray(pool.feature("n_atoms"), dtype=np.intp)
        if not len(pool):
            return np.empty(0)
        if forces.shape[0] < 2:
            raise PoolError(f"the ConfidenceScore needs at least two members, the pool has {forces.shape[0]}")
        starts = np.cumsum(n_atoms) - n_atoms
        return 1.0 - np.add.reduceat(agreement(forces, self.floor), starts) / n_atoms

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return the `k` record ids with the lowest ConfidenceScores."""
        return highest(pool, lambda rows: np.round(self.scores(rows), 9), k, rng)
