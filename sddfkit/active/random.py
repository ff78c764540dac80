"""Random choice: the control that every strategy has to beat."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np

from sddfkit.active.pool import Pool, check_k


@dataclass(frozen=True)
class Random:
    """Draw conformers uniformly, without replacement."""

    needs: ClassVar[frozenset[str]] = frozenset()
    learns: ClassVar[frozenset[str]] = frozenset()
    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"
    reason: ClassVar[str] = "drawn at random"

    def fit(self, labelled: Pool) -> Self:
        """Learn nothing."""
        del labelled
        return self

    def scores(self, pool: Pool) -> None:
        """Rank by nothing."""
        del pool

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return `k` record ids."""
        check_k(k)
        pool = pool.sorted()
        return [pool.record_ids[i] for i in rng.permutation(len(pool))[:k]]
