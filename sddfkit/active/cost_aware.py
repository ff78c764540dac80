"""Cost-aware choice: ask for what teaches most in a minute of the machine."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sddfkit.active.disagreement import Disagreement
from sddfkit.active.pool import Pool, PoolError, Strategy, highest
from sddfkit.active.uncertainty_diversity import scores_of


@dataclass(frozen=True)
class CostAware:
    """Rank conformers by the score of another strategy per expected minute of their calculation.

    It is blind to what many cheap labels cannot teach: large molecules come late, and never where small ones abound.
    `power` softens that.

    Parameters
    ----------
    strategy
        Whose scores are the gain; those below zero count as zero.
    power
        Of the minutes: 1 gives gain per minute, 0 the strategy alone.

    References
    ----------
    B. Settles, M. Craven, L. Friedland, Active learning with real annotation costs, NIPS workshop on cost-sensitive
    learning, 2008.
    """

    strategy: Strategy = field(default_factory=Disagreement)
    power: float = 1.0

    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"

    def __post_init__(self) -> None:
        if not 0.0 <= self.power <= 1.0:
            raise PoolError(f"power is {self.power!r}, expected a number from 0 to 1")

    @property
    def needs(self) -> frozenset[str]:
        """What the gain needs, and the expected minutes."""
        return self.strategy.needs | {"expected_minutes"}

    @property
    def learns(self) -> frozenset[str]:
        """What the gain learns from."""
        return self.strategy.learns

    @property
    def reason(self) -> str:
        """Why something was chosen."""
        return f"much for the time it takes: {self.strategy.reason}, per expected minute"

    def fit(self, labelled: Pool) -> Self:
        """Return the strategy with its gain fitted."""
        return replace(self, strategy=self.strategy.fit(labelled))

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return gain per minute to the power of each conformer, shape (n,)."""
        minutes = np.asarray(pool.feature("expected_minutes"), dtype=np.float64)
        if (minutes <= 0.0).any():
            where = int(np.argmax(minutes <= 0.0))
            raise PoolError(
                f"expected_minutes is {minutes[where]} for the record {pool.record_ids[where]}, not positive"
            )
        # Rounded before the division, as the strategy itself would rank.
        return np.round(np.maximum(scores_of(self.strategy, pool), 0.0), 9) / minutes**self.power

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return the `k` record ids with the largest gain per minute."""
        return highest(pool, self.scores, k, rng)
