"""From molecules to trajectories by the ensemble that a run left behind, and the frames that are worth a label."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from sddfkit.data.records import from_records
from sddfkit.dynamics import (
    EnsemblePotential,
    Potential,
    Trajectory,
    least_confident,
    save_trajectories,
    tblite,
    write_extxyz,
)
from sddfkit.models.ensemble import Ensemble
from sddfkit.workflows.console import progress, say
from sddfkit.workflows.label import Embed
from sddfkit.workflows.predict import Refusal, accepted_molecules, conformers_of, known_elements, write_csv

Move = Callable[..., list[Trajectory]]


def molecular_dynamics(
    *,
    ensemble: Path,
    molecules: Mapping[str, Any],
    embed: Embed,
    move: Move,
    frames: int,
    per_trajectory: int,
    folder: Path,
    seed: int,
) -> Path:
    """Move the conformers of molecules, write what became of them into a folder, and choose frames to label.

    Parameters
    ----------
    ensemble
        Folder of an ensemble, from :func:`sddfkit.workflows.predict.find_ensemble`.
    molecules
        ``path`` and the limits of :func:`sddfkit.chem.sources.read_molecules`.
    embed
        Makes conformers, ``(mol, *, rng) -> Conformers``; each is a trajectory.
    move
        ``(records, potential, *, seed, checkpoint, progress) -> trajectories``, such as
        :func:`sddfkit.dynamics.langevin` with its settings.
    frames, per_trajectory
        How many of the least confident frames are kept, and how many of one trajectory at most.
    folder
        Gets ``trajectories.csv`` (one row each: how long, and why it stopped), ``trajectories.npz`` (all frames, for
        :func:`sddfkit.dynamics.load_trajectories`), ``extxyz/`` (a file for each), ``frames.parquet`` (the chosen
        records, with parent and time), ``failures.csv`` and ``checkpoint.npz``: called again, it goes on from there.
    seed
        Of conformers, temperatures, velocities and noise.

    Returns
    -------
    Path
        Of ``trajectories.csv``.

    Raises
    ------
    ValueError
        There is nothing to move; ``failures.csv`` is there all the same.
    """
    model = Ensemble.load(ensemble)
    say(f"ensemble: {', '.join(model.members)}, from {ensemble}")
    folder.mkdir(parents=True, exist_ok=True)
    accepted, failures = accepted_molecules(**molecules)
    records, refusals = conformers_of(accepted, known_elements(model), embed, seed)
    failures += refusals
    write_csv(folder / "failures.csv", Refusal._fields, [row._asdict() for row in failures])
    if not records:
        reason = failures[0].reason if failures else "there was none"
        raise ValueError(f"no molecule can be moved, see {folder / 'failures.csv'}; the first because {reason}")
    records = list({record.record_id: record for record in records}.values())
    found = move(
        records,
        EnsemblePotential(model, baseline=_baseline(model)),
        seed=seed,
        checkpoint=folder / "checkpoint.npz",
        progress=progress("dynamics"),
    )
    _write(folder, found)
    _choose(folder, found, frames, per_trajectory, len(model.members))
    stopped = Counter(t.stop.rule for t in found if t.stop is not None)
    ends = ", ".join(f"{count} by {rule}" for rule, count in stopped.most_common()) or "none"
    say(f"dynamics: {len(found)} trajectories, {sum(map(len, found))} frames; stopped before their time: {ends}")
    return folder / "trajectories.csv"


def _baseline(model: Ensemble) -> Potential | None:
    """The method under the ensemble, where it has one and tblite computes it."""
    below = model.card.get("baseline")
    if below is None:
        return None
    if below.get("program") != "tblite":
        raise ValueError(f"dynamics above the baseline {below['name']} is for tblite's methods alone")
    return tblite({"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB"}[str(below["method"]).lower()])


def _write(folder: Path, found: Sequence[Trajectory]) -> None:
    save_trajectories(folder / "trajectories.npz", found)
    rows = []
    for k, trajectory in enumerate(found):
        path = folder / "extxyz" / f"{k:05d}.extxyz"
        write_extxyz(path, trajectory)
        record, stop = trajectory.record, trajectory.stop
        rows.append(
            {
                "file": str(path.relative_to(folder)),
                "record_id": record.record_id,
                "name": record.name,
                "smiles": record.smiles,
                "conformer": record.conformer,
                "temperature_K": trajectory.temperature,
                "frames": len(trajectory),
                "time_fs": float(trajectory.times[-1]) if len(trajectory) else 0.0,
                "stopped_by": "" if stop is None else stop.rule,
                "because": "" if stop is None else stop.detail,
                "lowest_confidence": float(np.min(trajectory.scores, initial=np.inf)),
            }
        )
    write_csv(folder / "trajectories.csv", list(rows[0]), rows)


def _choose(folder: Path, found: Sequence[Trajectory], frames: int, per_trajectory: int, members: int) -> None:
    if members < 2:
        say("frames: one member cannot disagree with itself, so none are chosen; all are in trajectories.npz")
        return
    chosen = least_confident(found, frames, per_trajectory=per_trajectory)
    pq.write_table(from_records(chosen), folder / "frames.parquet", compression="zstd")
    say(f"frames: the {len(chosen)} least confident are in {folder / 'frames.parquet'}")
