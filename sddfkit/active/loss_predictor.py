"""Loss predictors on MACCS keys: ask for the molecules on which the members are expected to err most."""

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from sddfkit.active.pool import Pool, PoolError, best, check_k


@dataclass(frozen=True)
class LossPredictor:
    """Rank molecules by the mean error that one ridge regression per member predicts from 167 MACCS keys.

    Each regression maps the keys to the member's absolute error on rows that the member had not seen (out of fold:
    errors on a member's own training rows are too small to learn from). The strength of the ridge is chosen by
    generalised cross-validation. No geometry is needed, so the same predictor can rank a stream of SMILES.

    Parameters
    ----------
    per_molecule
        How many conformers of a molecule may be taken before the next molecule has its turn.

    References
    ----------
    V. Altunyan, Smart Distributed Data Factory, PhD thesis, Yerevan 2025.
    """

    per_molecule: int = 2
    models: tuple[RidgeCV, ...] = ()

    needs: ClassVar[frozenset[str]] = frozenset({"maccs"})
    learns: ClassVar[bool] = True
    ranks: ClassVar[Literal["molecules", "conformers"]] = "molecules"
    reason: ClassVar[str] = "its MACCS keys predict a large error (eV per atom)"

    def __post_init__(self) -> None:
        if self.per_molecule < 1:
            raise PoolError(f"per_molecule is {self.per_molecule}, expected at least 1")

    def fit(self, labelled: Pool) -> Self:
        """Return a strategy with one regression per member, fitted on the labelled rows' ``maccs`` and ``errors``."""
        keys = np.asarray(labelled.feature("maccs"), dtype=np.float64)
        errors = np.asarray(labelled.feature("errors"), dtype=np.float64)
        if len(labelled) < 2:
            raise PoolError(f"a loss predictor needs at least two labelled conformers, got {len(labelled)}")
        strengths = np.logspace(-1, 3, 9)
        return replace(self, models=tuple(RidgeCV(alphas=strengths).fit(keys, row) for row in errors))

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return the predicted error of each conformer's molecule, shape (n,), eV/atom."""
        if not self.models:
            raise PoolError("the loss predictor has learnt nothing yet: call fit(labelled) and use what it returns")
        keys = np.asarray(pool.feature("maccs"), dtype=np.float64)
        return np.mean([model.predict(keys) for model in self.models], axis=0)

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return `k` record ids: conformers of the molecules with the largest predicted error, drawn at random."""
        check_k(k)
        if not len(pool):
            return []
        pool = pool.sorted()
        queues: defaultdict[str, list[str]] = defaultdict(list)
        # Rows of one molecule have one score; rounding keeps them one when the last bits of a sum differ.
        for i in best(np.round(self.scores(pool), 9), rng):
            queues[pool.molecule_ids[i]].append(pool.record_ids[i])
        chosen: list[str] = []
        while len(chosen) < min(k, len(pool)):
            for queue in queues.values():
                chosen += queue[: self.per_molecule]
                del queue[: self.per_molecule]
        return chosen[:k]
