"""Loss predictors on MACCS keys: ask for the molecules on which the members are expected to err most."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from sddfkit.active.pool import Pool, PoolError, best, check_k, in_turns

STRENGTHS: Final = np.logspace(-1, 3, 9)
BLOCK: Final = 65536
"""Rows whose keys are unpacked at a time."""


@dataclass(frozen=True)
class LossPredictor:
    """Rank molecules by the mean error that one ridge regression per member predicts from 167 MACCS keys.

    Each regression maps the keys to the member's absolute error on rows that the member had not seen (out of fold:
    errors on a member's own training rows are too small to learn from). It sees one row per molecule, the mean error
    over its conformers weighted by their number, so that the cross-validation that chooses the strength of the ridge
    leaves out whole molecules. No geometry is needed: the same predictor ranks a stream of SMILES
    (:meth:`coefficients`).

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
    learns: ClassVar[frozenset[str]] = frozenset({"maccs", "errors"})
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
        molecules = labelled.molecules()
        counts = np.bincount(molecules)
        firsts = np.unique(molecules, return_index=True)[1]
        means = [np.bincount(molecules, weights=row) / counts for row in errors]
        return replace(self, models=tuple(_regression(keys[firsts], row, counts) for row in means))

    def coefficients(self) -> tuple[NDArray[np.float64], float]:
        """Return the mean of the members' regressions: (167,) eV/atom for each key, and eV/atom for none."""
        if not self.models:
            raise PoolError("the loss predictor has learnt nothing yet: call fit(labelled) and use what it returns")
        weights = np.mean([np.ravel(model.coef_) for model in self.models], axis=0)
        return weights, float(np.mean([model.intercept_ for model in self.models]))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON-able description of what was learnt."""
        weights, constant = self.coefficients()
        return {"unit": "eV/atom", "keys": "MACCS", "weights": weights.tolist(), "constant": constant}

    def scores(self, pool: Pool) -> NDArray[np.float64]:
        """Return the predicted error of each conformer's molecule, shape (n,), eV/atom."""
        weights, constant = self.coefficients()
        keys = pool.feature("maccs")
        blocks = (keys[i : i + BLOCK].astype(np.float64) for i in range(0, len(pool), BLOCK))
        return np.concatenate([block @ weights for block in blocks] or [np.empty(0)]) + constant

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        """Return `k` record ids: conformers of the molecules with the largest predicted error, drawn at random."""
        check_k(k)
        if not len(pool):
            return []
        pool = pool.sorted()
        # Rows of one molecule have one score; rounding keeps them one when the last bits of a sum differ.
        order = best(np.round(self.scores(pool), 9), rng)
        rows = in_turns(order, pool.molecules(), k, per_molecule=self.per_molecule)
        return [pool.record_ids[i] for i in rows]


def _regression(keys: NDArray[np.float64], errors: NDArray[np.float64], counts: NDArray[np.intp]) -> RidgeCV:
    if len(keys) == 1:  # nothing to leave out: the strongest ridge is the mean
        return RidgeCV(alphas=STRENGTHS[-1:]).fit(np.repeat(keys, 2, axis=0), np.repeat(errors, 2))
    return RidgeCV(alphas=STRENGTHS).fit(keys, errors, sample_weight=counts)
