"""What a calculation is expected to take, learnt from those that are done.

For each level and program, ln(seconds) = a + b · ln(cost) is fitted to the finished calculations, where ``cost`` is
:func:`sddfkit.factory.jobs.estimated_cost`; b = 1 is cubic scaling. It serves to give the longest first where levels
are mixed, to let very short calculations share a message, and to say when a batch will be done.
"""

from collections import deque
from typing import Final, NamedTuple

import numpy as np
import sqlalchemy as sa

from sddfkit.factory.store import Store, attempts, calculations

LATEST: Final = 2000
"""So many finished calculations of a level and program are looked at: machines and limits change."""

_PRIOR_SLOPE: Final = 0.8
_PRIOR_WEIGHT: Final = 4.0
"""A slope is taken for granted like so many calculations whose costs are a factor of e apart."""
_FASTEST_S: Final = 1e-4


class Fit(NamedTuple):
    """ln(seconds) = a + b · ln(cost), with the scatter σ of ln(seconds) about it, from n calculations."""

    a: float
    b: float
    sigma: float
    n: int

    def seconds(self, cost: float) -> float:
        """Expected wall time in seconds: the mean of a log-normal distribution."""
        return float(np.exp(min(self.a + self.b * np.log(max(cost, 1.0)) + min(self.sigma, 1.0) ** 2 / 2, 700.0)))


class CostModel:
    """Expected wall times by level and program; knows nothing until something is finished."""

    def __init__(self) -> None:
        self._points: dict[tuple[str, str], deque[tuple[float, float]]] = {}
        self._fits: dict[tuple[str, str], Fit] = {}
        self._seen: dict[tuple[str, str], int] = {}

    @classmethod
    def fit(cls, store: Store) -> "CostModel":
        """Learn from what a store holds."""
        model = cls()
        groups = sa.select(calculations.c.level, calculations.c.program).where(calculations.c.state == "done")
        for group in store.select(groups.distinct()):
            statement = (
                sa.select(calculations.c.cost, attempts.c.wall_s)
                .select_from(attempts.join(calculations, calculations.c.key == attempts.c.key))
                .where(
                    attempts.c.state == "done",
                    # Not plain columns: by the index on them SQLite would sort all that was ever done, for the latest.
                    calculations.c.level.concat("") == group["level"],
                    calculations.c.program.concat("") == group["program"],
                )
                .order_by(attempts.c.id.desc())
                .limit(LATEST)
            )
            for row in reversed(store.select(statement)):
                model._add(group["level"], group["program"], row["cost"], row["wall_s"])
            model._refit((group["level"], group["program"]))
        return model

    def learn(self, level: str, program: str, cost: float, wall_s: float | None) -> None:
        """Take one more finished calculation into account."""
        group = (level, program)
        self._add(level, program, cost, wall_s)
        if self._seen.get(group, 0) >= 1.2 * (self._fits[group].n if group in self._fits else 0):
            self._refit(group)

    def seconds(self, level: str, program: str, cost: float) -> float | None:
        """Return the expected wall time of a calculation in seconds, or None if nothing like it has been finished."""
        fit = self._fits.get((level, program))
        return None if fit is None else fit.seconds(cost)

    def fits(self) -> dict[tuple[str, str], Fit]:
        """Return what was fitted, by level and program."""
        return dict(self._fits)

    def _add(self, level: str, program: str, cost: float, wall_s: float | None) -> None:
        if wall_s is None:
            return
        group = (level, program)
        point = (float(np.log(max(cost, 1.0))), float(np.log(max(wall_s, _FASTEST_S))))
        self._points.setdefault(group, deque(maxlen=LATEST)).append(point)
        self._seen[group] = self._seen.get(group, 0) + 1

    def _refit(self, group: tuple[str, str]) -> None:
        if group in self._points:
            self._fits[group] = _fitted(np.array(self._points[group]), self._seen[group])


def _fitted(points: np.ndarray, seen: int) -> Fit:
    """Fit a line to (m, 2) points under a prior on its slope; those far off (a busy machine) count once more less."""
    x, y = points.T
    weight = np.ones(len(x))
    for _ in range(3):
        mean_x, mean_y = np.average(x, weights=weight), np.average(y, weights=weight)
        spread = np.sum(weight * (x - mean_x) ** 2)
        slope = (np.sum(weight * (x - mean_x) * (y - mean_y)) + _PRIOR_WEIGHT * _PRIOR_SLOPE) / (spread + _PRIOR_WEIGHT)
        intercept = mean_y - slope * mean_x
        off = np.abs(y - intercept - slope * x)
        scale = max(1.4826 * float(np.median(off)), 0.05)
        weight = 1 / np.maximum(1.0, off / (2 * scale))
    sigma = float(np.sqrt(np.average((y - intercept - slope * x) ** 2, weights=weight)))
    return Fit(float(intercept), float(slope), sigma, seen)
