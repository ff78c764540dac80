"""How good the ensemble of a finished run is on labelled records that it has not seen."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import yaml  # type: ignore[import-untyped]
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem

from sddfkit import __version__
from sddfkit.chem.molecules import without_hydrogens
from sddfkit.chem.scaffolds import scaffold
from sddfkit.data.conformer_scores import NothingToRankError, median_intervals, within_molecule
from sddfkit.data.records import to_records
from sddfkit.data.references import ReferenceEnergies
from sddfkit.data.snapshots import read_manifest, read_snapshot
from sddfkit.models.ensemble import Ensemble
from sddfkit.units import EV_TO_KCAL_MOL
from sddfkit.viz import plots
from sddfkit.viz.evidence import Fold, arrays, derive, within_molecules
from sddfkit.viz.report import plain
from sddfkit.viz.words import count, number
from sddfkit.workflows.baseline import Factory, baseline_of
from sddfkit.workflows.console import say
from sddfkit.workflows.errors import error_metrics, evaluate, show_metrics
from sddfkit.workflows.predict import Predictions, predict_known, write_csv, write_parquet
from sddfkit.workflows.split import SPLIT
from sddfkit.workflows.summary import prediction_rows
from sddfkit.workflows.train import data_hash

SEEN: Final = ("train", "validation", "excluded")
"""Folds whose molecules say nothing about new ones: learnt from, stopped on, or too similar to those."""


def read_split(ensemble: Path) -> dict[str, Any] | None:
    """Return the split by which an ensemble was trained, from its folder or that of its run; None if none was kept."""
    path = _beside(ensemble, SPLIT)
    if path is None:
        return None
    split: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    missing = [fold for fold in ("train", "validation", "test", "excluded") if fold not in split]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is not the split of a run")
    return split


def own_snapshot(ensemble: Path) -> Path:
    """Return the snapshot from which a run's ensemble was trained.

    Raises
    ------
    ValueError
        There is none: the ensemble was copied away from its run, or the snapshot is gone.
    """
    snapshot = _beside(ensemble, "snapshot")
    config = _beside(ensemble, "config.yaml")
    if snapshot is None and config is not None:
        snapshot = Path(
            (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("data") or "nowhere"
        ).expanduser()
    if snapshot is None or not snapshot.is_dir():
        raise ValueError(f"the data that {ensemble} was trained from are not beside it; name a snapshot: data=<folder>")
    return snapshot


def _beside(ensemble: Path, name: str) -> Path | None:
    """Find a file in the folder of an ensemble, or of the run that made it: around it, or named in ``origin.json``."""
    places = [ensemble, ensemble.parent] if ensemble.name == "ensemble" else [ensemble]
    if (ensemble / "origin.json").is_file():
        places.append(ensemble / json.loads((ensemble / "origin.json").read_text())["run"])
    return next((place / name for place in places if (place / name).exists()), None)


def evaluate_run(
    *,
    ensemble: Path,
    snapshot: Path | None,
    folder: Path,
    include_seen: bool = False,
    seed: int = 0,
    factory: Factory | None = None,
) -> Path:
    """Judge a finished run's ensemble on labelled records, and keep numbers, predictions and figures in a folder.

    Molecules that the run's split put into training or validation, or excluded as too similar to those, are left out;
    so are their stereoisomers. On the snapshot of the run itself its test fold is what remains.

    Parameters
    ----------
    ensemble
        Folder of an ensemble, from :func:`sddfkit.workflows.predict.find_ensemble`.
    snapshot
        Folder of labelled records at the ensemble's level of theory; None for that of the run itself.
    folder
        Gets ``evaluation.json``, ``predictions.csv``, ``predictions.parquet`` and ``*.png``.
    include_seen
        Keep the molecules that would be left out; the result is marked.
    seed
        Of the bootstrap intervals.
    factory
        Computes the baseline of an ensemble that has one; others need none.

    Returns
    -------
    Path
        Of ``evaluation.json``: errors in kcal/mol and kcal/mol/Å unless a key names another unit.

    Raises
    ------
    ValueError
        Another level of theory, a run without a split, other data where those of the run were, or nothing left to
        judge on.
    """
    model = Ensemble.load(ensemble)
    if snapshot is None:
        snapshot = own_snapshot(ensemble)
        _check_own(model, ensemble, snapshot)
    level = _checked_level(model, ensemble, snapshot)
    split = read_split(ensemble)
    if split is None and not include_seen:
        raise ValueError(
            f"{ensemble} has no {SPLIT} beside it, so what it was trained on cannot be told from what is new to it: "
            "train again, or add include_seen=true (the result will say so)"
        )
    records = to_records(read_snapshot(snapshot))
    labelled = [record for record in records if record.energy is not None]
    fold_of = _folds({record.molecule_id for record in labelled}, split)
    judged = [record for record in labelled if include_seen or fold_of[record.molecule_id] not in SEEN]
    found = predict_known(model, judged, baseline=baseline_of(model.card, factory, folder))
    folds = {record.molecule_id: fold_of[record.molecule_id] for record in found.records}
    left_out = Counter(fold_of[record.molecule_id] for record in labelled) - Counter(
        fold_of[record.molecule_id] for record in judged
    )
    _say_what(found, folds, left_out, include_seen)
    document = {
        "ensemble": str(ensemble),
        "snapshot": str(snapshot),
        "level": level,
        "sddfkit": __version__,
        "split_hash": None if split is None else split.get("hash"),
        "include_seen": include_seen,
        "seen": any(fold in SEEN or fold == "unknown" for fold in folds.values()),
        "n_records": len(found.records),
        "n_molecules": len(folds),
        "records_by_fold": dict(Counter(fold_of[record.molecule_id] for record in found.records)),
        "records_left_out_by_fold": dict(left_out),
        "records_without_label": len(records) - len(labelled),
        "refused": [{"record_id": key, "reason": reason} for key, reason in sorted(found.refused.items())],
        **_numbers(model, found, folds, split, seed),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluation.json"
    path.write_text(json.dumps(plain(document), indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    rows = _rows(found, folds)
    write_csv(folder / "predictions.csv", list(rows[0]), rows)
    write_parquet(folder / "predictions.parquet", found, ensemble, level)
    _draw(_fold(found, model.composition), level, folder)
    _show(document, model)
    return path


def _check_own(model: Ensemble, ensemble: Path, snapshot: Path) -> None:
    """Refuse a snapshot that stands where the ensemble's own was: the numbers would pass for those of its test fold."""
    if model.card.get("data") not in (None, data_hash(snapshot)):  # what `active` trained from lies in its own folder
        raise ValueError(
            f"{snapshot} is not what {ensemble} was trained from: other data lie there now; bring the training data "
            f"back, or name a snapshot to judge the ensemble on: data=<folder>"
        )


def _checked_level(model: Ensemble, ensemble: Path, snapshot: Path) -> str:
    trained, labels = model.card.get("level"), read_manifest(snapshot)["level"]
    if not labels:
        raise ValueError(f"{snapshot} holds no labels: nothing can be compared with it (`sddfkit label` makes them)")
    if trained != labels:
        raise ValueError(
            f"{snapshot} is labelled at {labels}, but {ensemble} was trained at {trained or 'an unknown level'}: "
            "energies of two levels cannot be compared; label the molecules at the level of the ensemble"
        )
    program, other = model.card.get("program"), read_manifest(snapshot)["program"]
    if program != other:
        say(f"labels by {other}, training labels by {program}: small differences are those of the programs")
    return str(labels)


def _folds(molecules: set[str], split: Mapping[str, Any] | None) -> dict[str, str]:
    """Molecule id → fold of the run's split; "new" if it is in none, "unknown" if there is no split.

    A molecule that is in none counts as its stereoisomers: mirror images have the same energies.
    """
    if split is None:
        return dict.fromkeys(molecules, "unknown")
    exact: dict[str, str] = {}
    alike: dict[str, str] = {}
    for fold in (*SEEN, "test"):
        for name in split[fold]:
            exact[name] = fold
            alike.setdefault(_constitution(name), fold)
    return {name: exact.get(name) or alike.get(_constitution(name), "new") for name in molecules}


def _constitution(smiles: str) -> str:
    return Chem.MolToSmiles(without_hydrogens(smiles), isomericSmiles=False)


def _say_what(found: Predictions, folds: Mapping[str, str], left_out: Counter[str], include_seen: bool) -> None:
    for fold, n in sorted(left_out.items()):
        say(f"left out: {count(n, 'conformer')} of the ensemble's own {fold} fold (include_seen=true keeps them)")
    if found.refused:
        say(f"refused: {count(len(found.refused), 'conformer')}; {next(iter(found.refused.values()))}")
    if not found.records:
        raise ValueError("no labelled conformer is left to judge the ensemble on: what was left out stands above")
    seen = Counter(fold for fold in folds.values() if fold in SEEN or fold == "unknown")
    if include_seen and seen:
        counts = ", ".join(f"{n} {fold}" for fold, n in sorted(seen.items()))
        say(f"MARKED: of {len(folds)} molecules the ensemble may have seen some ({counts}): no errors on new molecules")


def _numbers(
    model: Ensemble, found: Predictions, folds: Mapping[str, str], split: Mapping[str, Any] | None, seed: int
) -> dict[str, Any]:
    """Everything that is measured, kcal/mol and kcal/mol/Å."""
    members = list(model.members)
    fold = _fold(found, model.composition)
    rows = _prediction_rows(found, model.composition)
    derived = derive({"seed": seed, "predictions": rows, "rounds": []}, fold)
    learnt = {scaffold(name) for part in ("train", "validation") for name in (split or {}).get(part, ())}
    of_molecule = {name: scaffold(name) for name in folds}
    familiar = {name for name in folds if of_molecule[name] in learnt}
    names = {record.molecule_id: record.name for record in found.records}
    relative = _relative_errors(found, fold)
    force_error, force_std = _force_errors(found)
    return {
        "metrics": evaluate(found.values, members, model.composition, found.records),
        "familiar_scaffolds": {
            "molecules": len(familiar) if split is not None else None,
            "records": sum(record.molecule_id in familiar for record in found.records) if split is not None else None,
            "metrics": _part(found, familiar) if split is not None else None,
            "metrics_of_the_others": _part(found, folds.keys() - familiar) if split is not None else None,
        },
        "energy": derived["energy"],
        "relative_energy": derived["relative_energy"],
        "within_molecule": _within_molecule(found, members, seed),
        "calibration": {
            "energy": {**derived["spread"], **_coverage(fold.energy_pred - fold.energy, fold.spread)},
            "forces": _coverage(force_error, force_std),
        },
        "by_size": _by_size(fold),
        "by_molecule": [
            {
                **row,
                "name": names[row["molecule_id"]],
                "fold": folds[row["molecule_id"]],
                "familiar_scaffold": row["molecule_id"] in familiar,
                "relative_energy_mae": relative.get(row["molecule_id"]),
            }
            for row in derived["test_molecules"]
        ],
    }


def _prediction_rows(found: Predictions, references: ReferenceEnergies) -> list[dict[str, Any]]:
    rows = prediction_rows(found.records, found.values, references)
    for row, record in zip(rows, found.records, strict=True):
        if record.forces is None:
            row["forces"] = None
    return rows


def _fold(found: Predictions, references: ReferenceEnergies) -> Fold:
    return arrays(_prediction_rows(found, references))


def _part(found: Predictions, molecules: set[str]) -> dict[str, float] | None:
    """Errors of the ensemble on some of the molecules; None if there are none."""
    assert found.values.forces is not None
    rows = [i for i, record in enumerate(found.records) if record.molecule_id in molecules]
    if not rows:
        return None
    return error_metrics(
        found.values.energy[rows], [found.values.forces[i] for i in rows], [found.records[i] for i in rows]
    )


def _force_errors(found: Predictions) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Errors and spreads of all labelled force components, (c,) each, kcal/mol/Å."""
    assert found.values.forces is not None
    labelled = [i for i, record in enumerate(found.records) if record.forces is not None]
    error = [found.values.forces[i] - np.asarray(found.records[i].forces) for i in labelled]
    spread = found.force_std
    flat = [
        np.concatenate([np.zeros(0), *(part.ravel() for part in parts)])
        for parts in (error, [spread[i] for i in labelled])
    ]
    return flat[0] * EV_TO_KCAL_MOL, flat[1] * EV_TO_KCAL_MOL


def _coverage(error: ArrayLike, spread: ArrayLike) -> dict[str, float]:
    """Share of errors within one and two spreads σ (of a calibrated Gaussian 0.683 and 0.954), and their RMS ratio.

    >>> _coverage([1.0, -3.0], [1.0, 2.0])["within_1_sigma"]
    0.5
    """
    size, sigma = np.abs(np.asarray(error, dtype=float)), np.asarray(spread, dtype=float)
    if not size.size:
        return {
            "within_1_sigma": float("nan"),
            "within_2_sigma": float("nan"),
            "rms_error_over_rms_spread": float("nan"),
        }
    rms = float(np.sqrt((sigma**2).mean()))
    return {
        "within_1_sigma": float((size <= sigma).mean()),
        "within_2_sigma": float((size <= 2 * sigma).mean()),
        "rms_error_over_rms_spread": float(np.sqrt((size**2).mean())) / rms if rms > 0 else float("nan"),
    }


def _within_molecule(found: Predictions, members: Sequence[str], seed: int) -> dict[str, Any] | None:
    """Medians over molecules of the scores of `within_molecule`, of the ensemble with their intervals.

    None where no molecule has the conformers that it takes.
    """
    columns = {"ensemble": found.values.energy, **dict(zip(members, found.values.member_energies, strict=True))}
    target = [float("nan") if record.energy is None else record.energy for record in found.records]
    try:
        scores = within_molecule([record.molecule_id for record in found.records], target, columns)
    except NothingToRankError:
        return None
    ensemble = scores.pop("ensemble")
    return {
        "molecules": len(ensemble.molecules),
        "ensemble": {
            name: {"median": value, "interval_95": [low, high]}
            for name, (value, low, high) in median_intervals(ensemble, np.random.default_rng(seed)).items()
        },
        "members": {name: of.medians() for name, of in scores.items()},
    }


def _relative_errors(found: Predictions, fold: Fold) -> dict[str, float]:
    """Molecule id → MAE of its conformer energies, each relative to the mean of the molecule."""
    reference, predicted, molecule = within_molecules(fold)
    names = list(dict.fromkeys(record.molecule_id for record in found.records))
    error = np.abs(predicted - reference)
    return {names[m]: float(error[molecule == m].mean()) for m in np.unique(molecule)}


def _by_size(fold: Fold) -> list[dict[str, Any]]:
    error = np.abs(fold.energy_pred - fold.energy)
    return [
        {
            "n_heavy": int(size),
            "n": int((fold.n_heavy == size).sum()),
            "energy_mae": float(error[fold.n_heavy == size].mean()),
            "spread": float(fold.spread[fold.n_heavy == size].mean()),
        }
        for size in np.unique(fold.n_heavy)
    ]


def _rows(found: Predictions, folds: Mapping[str, str]) -> list[dict[str, Any]]:
    assert found.values.forces is not None
    spread = found.force_std
    rows = []
    for i, record in enumerate(found.records):
        force = None if record.forces is None else float(np.abs(found.values.forces[i] - record.forces).mean())
        rows.append(
            {
                "molecule": record.name,
                "smiles": record.smiles,
                "record_id": record.record_id,
                "fold": folds[record.molecule_id],
                "n_atoms": len(record.atomic_numbers),
                "energy_label_eV": record.energy,
                "energy_eV": float(found.values.energy[i]),
                "energy_error_kcal_mol": float((found.values.energy[i] - record.energy) * EV_TO_KCAL_MOL),
                "energy_std_kcal_mol": float(found.values.energy_std[i] * EV_TO_KCAL_MOL),
                "force_mae_kcal_mol_A": "" if force is None else force * EV_TO_KCAL_MOL,
                "force_std_max_eV_A": float(spread[i].max()),
                "flags": "; ".join(record.qc_flags),
            }
        )
    return rows


def _draw(fold: Fold, level: str, folder: Path) -> None:
    """Write the figures as PNG."""
    reference, predicted, _ = within_molecules(fold)
    error = fold.energy_pred - fold.energy
    figures = {
        "parity-energy": plots.parity(
            fold.energy, fold.energy_pred, quantity="energy", unit="kcal/mol", source=level, spread=fold.spread
        ),
        "parity-relative": plots.parity(
            reference,
            predicted,
            quantity="relative energy",
            unit="kcal/mol",
            source=level,
            empty="no molecule with two conformers",
        ),
        "parity-forces": plots.parity(fold.forces, fold.forces_pred, quantity="force", unit="kcal/mol/Å", source=level),
        "calibration": plots.spread_vs_error(fold.spread, error, unit="kcal/mol"),
        "error-by-size": plots.error_by_size(fold.n_heavy, error, unit="kcal/mol"),
    }
    for name, figure in figures.items():
        figure.patch.set(alpha=1.0, facecolor="white")  # transparent in a report, whose page has its own colour
        figure.savefig(folder / f"{name}.png", dpi=150)


def _show(document: Mapping[str, Any], model: Ensemble) -> None:
    row = {
        "round": model.card.get("round", 0),
        "n_labelled_train": model.card.get("n_train", "–"),
        "metrics": document["metrics"],
    }
    mark = ", SEEN MOLECULES AMONG THEM" if document["seen"] else ""
    show_metrics(
        [row],
        f"mean absolute errors on {document['n_records']} conformers of {document['n_molecules']} molecules{mark}",
    )
    relative, spread = document["relative_energy"], document["calibration"]["energy"]
    if relative["n"]:
        say(
            f"relative energies of conformers: MAE {number(relative['mae'])} kcal/mol on {relative['n']} conformers of "
            f"{relative['molecules']} molecules ({number(relative['mae_if_all_equal'])} if all were guessed equal)"
        )
    if within := document["within_molecule"]:
        mae, r2, of_mean = (within["ensemble"][name] for name in ("mae", "r2", "R2"))
        low, high = map(number, mae["interval_95"])
        say(
            f"within a molecule, medians over {count(within['molecules'], 'molecule')} with 4 conformers or more: "
            f"MAE {number(mae['median'])} kcal/mol (95 % interval {low} to {high}), r² {number(r2['median'])}, "
            f"R² {number(of_mean['median'])}"
        )
    say(
        f"spread against error: RMS error {number(spread['rms_error_over_rms_spread'])} times the RMS spread, "
        f"{100 * spread['within_1_sigma']:.0f} % of energies within 1 σ (68 % if calibrated), "
        f"rank correlation {number(spread['spearman'])}"
    )
    familiar = document["familiar_scaffolds"]["molecules"]
    if familiar and not document["seen"]:
        say(f"{familiar} of {document['n_molecules']} molecules share a scaffold with training molecules")
