"""Ensemble disagreement: ask where the members contradict one another."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from sddfkit.active.pool import Pool, PoolError, highest


@dataclass(frozen=True)
class Disagreement:
    r"""Rank conformers by the spread of the members' relative energies, per :math:`\sqrt{\text{atoms}}`.

    .. math:: s_c = \frac{1}{\sqrt{n_c}} \operatorname{std}_m \left( E_{mc} - \bar E_m \right)

    where :math:`\bar E_m` is member m's mean over the conformers of the same molecule (``relative_to="molecule"``) or
    over the whole pool (``"pool"``). Subtracting it makes the score blind to any energy offset, of one member too;
    the published score (:class:`~sddfkit.active.relative_std.RelativeStd`) is not.

    Parameters
    ----------
    relative_to
        ``"molecule"`` looks at conformational energies, which are what most force fields and models are judged by; a
        molecule with a single conformer in the pool then scores zero. ``"pool"`` ranks such molecules too.
    """

    relative_to: Literal["molecule", "pool"] = "molecule"

    needs: ClassVar[frozenset[str]] = frozenset({"member_energies", "n_atoms"})
    learns: ClassVar[frozenset[str]] = frozenset()
    ranks: ClassVar[Literal["molecules", "conformers"]] = "conformers"
    reason: ClassVar[str] = "the members disagree about its energy (spread in eV per √atom)"

    def __post_init__(self) -> None:
        if self.relative_to not in ("molecule", "pool"):
            raise PoolError(f"relative_to is {self.relative_to!r}, expected 'molecule' or 'pool'")

    def fit(self, labelled: Pool) -> Self:
        """Learn nothing."""
        del labelled
        return self

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return the spread of each conformer, shape (n,), eV per √atom."""
        energies = np.asarray(pool.feature("member_energies"), dtype=np.float64)
        if energies.shape[0] < 2:
            raise PoolError(f"disagreement needs at least two members, the pool has {energies.shape[0]}")
        group = pool.molecules() if self.relative_to == "molecule" else np.zeros(len(pool), np.intp)
        sizes = np.bincount(group)
        means = np.stack([np.bincount(group, weights=row) / sizes for row in energies])
        atoms = np.asarray(pool.feature("n_atoms"), dtype=np.float64)
        return (energies - means[:, group]).std(axis=0) / np.sqrt(atoms)

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return the `k` record ids with the largest spread."""
        # Rounding far below any physical difference keeps ties ties when an offset moves the last bits.
        return highest(pool, lambda rows: np.round(self.scores(rows), 9), k, rng)
