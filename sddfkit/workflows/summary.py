"""Everything that a report shows, as one JSON-able document."""

import json
import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem
from rdkit.Chem import GetPeriodicTable

from sddfkit import __version__
from sddfkit.data.records import Record, to_mol
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models.ensemble import EnsemblePrediction
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.units import EV_TO_KCAL_MOL
from sddfkit.workflows.console import Stopwatch
from sddfkit.workflows.label import ConformerSet, Labels, MoleculeSet

EXAMPLES_PER_CLASS = 5


def chosen_rows(
    chosen: Sequence[Record],
    scores: Mapping[str, float],
    reason: str,
    expected: np.ndarray[Any, np.dtype[np.float64]],
    labelled: Mapping[str, Record],
) -> list[dict[str, Any]]:
    """Return what a round chose, best first, with the ensemble's error on it before it was trained on.

    Parameters
    ----------
    chosen
        The records, in the strategy's order.
    scores
        Score by record id; empty for a strategy that ranks by nothing.
    reason
        Why the strategy chooses what it chooses.
    expected : (n,) float64, eV
        Total energies predicted before the labels were known.
    labelled
        All labelled records by id.
    """
    rows = []
    for rank, (record, energy) in enumerate(zip(chosen, expected, strict=True), start=1):
        label = labelled.get(record.record_id)
        error = None if label is None else float(abs(energy - label.energy) * EV_TO_KCAL_MOL)
        rows.append(
            {
                "record_id": record.record_id,
                "molecule_id": record.molecule_id,
                "name": record.name,
                "n_heavy": n_heavy(record),
                "rank": rank,
                "score": float(scores[record.record_id]) if scores else None,
                "reason": reason,
                "energy_error_kcal_mol": error,
            }
        )
    return rows


def prediction_rows(
    truth: Sequence[Record], predicted: EnsemblePrediction, references: ReferenceEnergies
) -> list[dict[str, Any]]:
    """Return labels and predictions side by side, reference energies removed from both (eV, eV/Å)."""
    assert predicted.forces is not None
    rows = []
    for i, record in enumerate(truth):
        assert record.energy is not None  # these are labelled
        zero = references.total(record.atomic_numbers)
        rows.append(
            {
                "record_id": record.record_id,
                "molecule_id": record.molecule_id,
                "name": record.name,
                "n_heavy": n_heavy(record),
                "n_atoms": len(record.atomic_numbers),
                "energy": float(record.energy - zero),
                "energy_pred": float(predicted.energy[i] - zero),
                "energy_std": float(predicted.energy_std[i]),
                "forces": np.asarray(record.forces).ravel().tolist(),
                "forces_pred": predicted.forces[i].ravel().tolist(),
            }
        )
    return rows


def report_document(
    *,
    title: str,
    created: str,
    seed: int,
    strategy: str,
    preset: str,
    members: Sequence[str],
    command: str,
    level: Level,
    chosen: ChosenProgram,
    molecules: MoleculeSet,
    conformers: ConformerSet,
    split: Mapping[str, Any],
    references: ReferenceEnergies,
    rounds: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    labels: Labels,
    watch: Stopwatch,
) -> dict[str, Any]:
    """Put the numbers of a run together; :mod:`sddfkit.viz.report` draws them."""
    table = GetPeriodicTable()
    ensemble = [row["metrics"]["ensemble"] for row in rounds]
    return {
        "title": title,
        "created": created,
        "seed": seed,
        "strategy": strategy,
        "preset": preset,
        "members": list(members),
        "command": command,
        "level": {
            "name": level.name,
            "method": level.method,
            "basis": level.basis,
            "program": chosen.program,
            "version": chosen.version,
            "why": chosen.why,
        },
        "molecules": {
            "source": molecules.source,
            "accepted": len(molecules.molecules),
            "rejected": [
                {"source": r.source, "line": r.line, "text": r.text, "reason": r.reason} for r in molecules.rejected
            ],
        },
        "conformers": conformers.totals(),
        "split": dict(split),
        "references": {table.GetElementSymbol(z): energy for z, energy in sorted(references.energies.items())},
        "rounds": list(rounds),
        "predictions": list(predictions),
        "learning": {
            "n_labelled_train": [row["n_labelled_train"] for row in rounds],
            "energy_mae_kcal_mol": [row["energy_mae_kcal_mol"] for row in ensemble],
            "force_mae_kcal_mol_A": [row["force_mae_kcal_mol_A"] for row in ensemble],
        },
        "failures": _failures_by_class(labels),
        "calculations": {
            "labelled": len(labels.records),
            "known": labels.known,
            "computed": labels.computed,
            "failed": len(labels.failed),
            "core_hours": labels.core_hours,
            "program_wall_s": labels.program_wall_s,
        },
        "timings": [{"stage": stage, "wall_s": seconds} for stage, seconds in watch.seconds.items()],
        "views": _views(rounds, labels.records),
        "environment": _environment(),
    }


def write_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Write ``metrics.json`` into the folder of a run: its errors on the validation and the test fold."""
    found = {"n_labelled_train": row["n_labelled_train"], "validation": row["validation"], "test": row["metrics"]}
    (folder / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")


def molblocks(document: Mapping[str, Any], records: Mapping[str, Record]) -> dict[str, str]:
    """Return the structures that a report shows in 3D, as molblocks by record id."""
    return {view["record_id"]: Chem.MolToMolBlock(to_mol(records[view["record_id"]])) for view in document["views"]}


def n_heavy(record: Record) -> int:
    """Return the number of atoms that are not hydrogen."""
    return int((record.atomic_numbers > 1).sum())


def _views(rounds: Sequence[Mapping[str, Any]], records: Mapping[str, Record]) -> list[dict[str, str]]:
    views = []
    for row in rounds:
        for item in row["selected"]:
            if item["record_id"] not in records:
                continue
            error = item["energy_error_kcal_mol"]
            score = "" if item["score"] is None else f", score {item['score']:.4f}"
            caption = f"chosen in round {row['round']} (rank {item['rank']}{score})"
            if error is not None:
                caption += f"; off by {error:.1f} kcal/mol before it was learnt"
            views.append({"record_id": item["record_id"], "name": item["name"], "caption": caption})
    return views


def _failures_by_class(labels: Labels) -> list[dict[str, Any]]:
    classes: dict[str, list[dict[str, Any]]] = {}
    for _, row in sorted(labels.failed.items(), key=lambda item: str(item[0])):
        classes.setdefault(row["error_class"], []).append(row)
    return [
        {
            "class": name,
            "count": len(rows),
            "examples": [
                {"record_id": row["record_id"], "name": row["label"], "message": row["error_message"]}
                for row in rows[:EXAMPLES_PER_CLASS]
            ],
        }
        for name, rows in sorted(classes.items())
    ]


def _environment() -> dict[str, str]:
    packages = ("rdkit", "qcengine", "torch", "torch-geometric", "pytorch-lightning", "numpy")
    return {
        "sddfkit": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cores": str(os.cpu_count()),
        **{name: version(name) for name in packages},
    }
