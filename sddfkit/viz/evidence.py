"""What the predictions on the test fold say: errors, relative conformer energies, and whether the spread knows.

Everything here is derived from the report's own numbers and goes into report.json under "derived".
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sddfkit.units import EV_TO_KCAL_MOL

Floats = NDArray[np.float64]

RESAMPLES: Final = 500
# With fewer molecules a bootstrap interval is narrower than the truth: none is given.
FEWEST_MOLECULES: Final = 5


class Fold(NamedTuple):
    """Arrays over the n conformers of the test fold, and their c force components; kcal/mol and kcal/mol/Å."""

    energy: Floats  # (n,) reference energies removed
    energy_pred: Floats  # (n,)
    spread: Floats  # (n,) standard deviation over the members
    n_heavy: Floats  # (n,)
    molecule: NDArray[np.int64]  # (n,) which molecule a conformer belongs to, 0 … m − 1
    forces: Floats  # (c,)
    forces_pred: Floats  # (c,)


def arrays(predictions: Sequence[Mapping[str, Any]]) -> Fold:
    """Return the report's predictions as arrays; None becomes NaN, and stays visible as a gap."""
    ids = {name: i for i, name in enumerate(dict.fromkeys(p["molecule_id"] for p in predictions))}
    column = {
        key: np.array([p[key] for p in predictions], dtype=float) * EV_TO_KCAL_MOL
        for key in ("energy", "energy_pred", "energy_std")
    }
    pairs = [p for p in predictions if p["forces"] is not None and p["forces_pred"] is not None]
    for p in pairs:
        if np.size(p["forces"]) != np.size(p["forces_pred"]):
            raise ValueError(
                f"record {p['record_id']} has {np.size(p['forces'])} force components and "
                f"{np.size(p['forces_pred'])} predicted ones: they must be of one conformer"
            )
    return Fold(
        energy=column["energy"],
        energy_pred=column["energy_pred"],
        spread=column["energy_std"],
        n_heavy=np.array([p["n_heavy"] for p in predictions], dtype=float),
        molecule=np.array([ids[p["molecule_id"]] for p in predictions], dtype=np.int64),
        forces=_flat(p["forces"] for p in pairs) * EV_TO_KCAL_MOL,
        forces_pred=_flat(p["forces_pred"] for p in pairs) * EV_TO_KCAL_MOL,
    )


def within_molecules(fold: Fold) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Return (reference, predicted, molecule) energies minus their molecule's mean, for molecules with ≥ 2 conformers.

    This is what ranks conformers; the offset of a molecule, often most of the error, drops out.
    """
    known = np.isfinite(fold.energy) & np.isfinite(fold.energy_pred)
    reference, predicted, molecule = fold.energy[known], fold.energy_pred[known], fold.molecule[known]
    sizes = np.bincount(molecule, minlength=1)
    keep = sizes[molecule] > 1
    reference, predicted, molecule = reference[keep], predicted[keep], molecule[keep]
    n = np.maximum(np.bincount(molecule, minlength=1), 1)
    means = [(np.bincount(molecule, weights=values, minlength=1) / n)[molecule] for values in (reference, predicted)]
    return reference - means[0], predicted - means[1], molecule


def spearman(x: Floats, y: Floats) -> float:
    """Return Spearman's rank correlation of two (n,) arrays; NaN if n < 3 or one of them is constant.

    >>> spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 4.0, 9.0, 16.0]))
    1.0
    """
    if len(x) < 3:
        return math.nan
    a, b = _ranks(x), _ranks(y)
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def interval(
    statistic: Callable[[NDArray[np.int64]], float],
    molecule: NDArray[np.int64],
    rng: np.random.Generator,
) -> list[float] | None:
    """Return a 95 % bootstrap interval that draws molecules, since conformers of one molecule are not independent.

    Parameters
    ----------
    statistic : takes (k,) indices of conformers, returns a number.
    molecule : (n,) int, the molecule of each conformer.
    rng : source of the resamples.

    Returns
    -------
    [low, high], or None with fewer than five molecules. Field and Welsh, J. R. Stat. Soc. B 69, 369 (2007),
    doi:10.1111/j.1467-9868.2007.00593.x.
    """
    members = [np.flatnonzero(molecule == m) for m in np.unique(molecule)]
    if len(members) < FEWEST_MOLECULES:
        return None
    draws = rng.integers(len(members), size=(RESAMPLES, len(members)))
    values = np.array([statistic(np.concatenate([members[i] for i in draw])) for draw in draws])
    values = values[np.isfinite(values)]
    return [float(q) for q in np.percentile(values, [2.5, 97.5])] if values.size else None


def derive(report: Mapping[str, Any], fold: Fold) -> dict[str, Any]:
    """Return the numbers that the report adds to its input; intervals are drawn from the run's own seed."""
    rng = np.random.default_rng(int(report["seed"]))
    error = fold.energy_pred - fold.energy
    known = np.isfinite(error)
    error, molecule = error[known], fold.molecule[known]
    relative_reference, relative_predicted, relative_molecule = within_molecules(fold)
    relative_error = relative_predicted - relative_reference
    return {
        "unit": "kcal/mol, forces in kcal/mol/Å",
        "energy": {
            **_size(error),
            "mae_interval": interval(lambda i: float(np.abs(error[i]).mean()), molecule, rng),
            "molecules": len(np.unique(molecule)),
        },
        "relative_energy": {
            **_size(relative_error),
            "mae_if_all_equal": _mean(np.abs(relative_reference)),
            "molecules": len(np.unique(relative_molecule)),
        },
        "forces": _size(fold.forces_pred - fold.forces),
        "spread": _spread(fold, rng),
        "test_molecules": _by_molecule(report["predictions"], fold),
        "rounds": [
            {"round": r["round"], "chosen": len(r["selected"]), "chosen_error_before": _error_before(r["selected"])}
            for r in report["rounds"]
        ],
    }


def _spread(fold: Fold, rng: np.random.Generator) -> dict[str, Any]:
    error = np.abs(fold.energy_pred - fold.energy)
    known = np.isfinite(error) & np.isfinite(fold.spread)
    error, spread, molecule = error[known], fold.spread[known], fold.molecule[known]
    rms = math.sqrt(_mean(spread**2)) if spread.size else math.nan
    return {
        "spearman": spearman(spread, error),
        "spearman_interval": interval(lambda i: spearman(spread[i], error[i]), molecule, rng),
        "n": len(error),
        "molecules": len(np.unique(molecule)),
        "rms_error_over_rms_spread": math.sqrt(_mean(error**2)) / rms if rms > 0 else math.nan,
    }


def _by_molecule(predictions: Sequence[Mapping[str, Any]], fold: Fold) -> list[dict[str, Any]]:
    """Return each test molecule with a finite error, worst first."""
    error = fold.energy_pred - fold.energy
    rows = []
    for m in np.unique(fold.molecule):
        mine = np.flatnonzero((fold.molecule == m) & np.isfinite(error))
        if not mine.size:
            continue
        first = predictions[mine[0]]
        rows.append(
            {
                "molecule_id": first["molecule_id"],
                "n_heavy": first["n_heavy"],
                "n": len(mine),
                "mean_error": float(error[mine].mean()),
                "mae": float(np.abs(error[mine]).mean()),
                "spread": _mean(fold.spread[mine]),
            }
        )
    return sorted(rows, key=lambda row: -row["mae"])


def _size(error: Floats) -> dict[str, Any]:
    finite = error[np.isfinite(error)]
    return {"mae": _mean(np.abs(finite)), "rmse": math.sqrt(_mean(finite**2)), "n": len(finite)}


def _error_before(selected: Sequence[Mapping[str, Any]]) -> float:
    errors = np.array([s["energy_error_kcal_mol"] for s in selected], dtype=float)
    return _mean(np.abs(errors[np.isfinite(errors)]))


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else math.nan


def _flat(rows: Any) -> Floats:
    parts = [np.asarray(row, dtype=float).ravel() for row in rows]
    return np.concatenate(parts) if parts else np.zeros(0)


def _ranks(values: Floats) -> Floats:
    """Return ranks from 0, ties sharing their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts + 1) / 2)[inverse]
