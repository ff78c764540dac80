"""The verb md: molecules of a file move, what stops has a reason, and the least confident frames are records."""

import csv
from pathlib import Path

import ase.io
import numpy as np
import pyarrow.parquet as pq
import pytest

from sddfkit import verbs
from sddfkit.config import load
from sddfkit.data import RECORDS, ReferenceEnergies, to_records
from sddfkit.dynamics import load_trajectories
from sddfkit.models import Ensemble
from sddfkit.models.build import build_net
from sddfkit.models.graphs import GraphStats

NETS = dict.fromkeys(("one", "other"), "sddfkit.models.gen.GEN")


def ensemble(folder: Path, names: list[str]) -> Path:
    stats = GraphStats((1, 6, 8), 3.0, 1.2)
    references = ReferenceEnergies({1: -13.6, 6: -1030.0, 8: -2042.0}, "made up")
    cards = {
        name: {
            "name": name,
            "net": {"_target_": NETS[name], "width": 8, "layers": 1, "cutoff": 3.0},
            "stats": stats.to_dict(),
            "seed": 1,
        }
        for name in names
    }
    nets = {name: build_net(card["net"], stats, card["seed"]).eval() for name, card in cards.items()}
    for weights in nets[names[-1]].parameters() if len(names) > 1 else ():
        weights.data *= 1.01  # members that agree, or all would stop at once
    return Ensemble(nets, references, {"level": "none", "members": cards}).save(folder / "ensemble")


def md(tmp_path: Path, names: list[str], lines: list[str]) -> Path:
    (tmp_path / "new.smi").write_text("\n".join(lines) + "\n")
    overrides = [
        f"run={ensemble(tmp_path, names)}",
        "molecules=file",
        f"molecules.path={tmp_path / 'new.smi'}",
        f"paths.root={tmp_path / 'root'}",
        "conformers.n_conformers=2",
        "dynamics.duration=5.0",
        "dynamics.frame_every=2.5",
        "frames=3",
    ]
    said = verbs.md(load("md", overrides), tmp_path / "out")
    assert said == f"trajectories: {tmp_path / 'out' / 'trajectories.csv'}"
    return tmp_path / "out"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_molecules_move_and_the_least_confident_frames_become_records(tmp_path: Path) -> None:
    out = md(tmp_path, list(NETS), ["CCO ethanol", "CCBr bromide", "CO methanol"])
    rows, found = rows_of(out / "trajectories.csv"), load_trajectories(out / "trajectories.npz")
    assert [row["name"] for row in rows] == [t.record.name for t in found]
    assert {row["name"] for row in rows} == {"ethanol", "methanol"}
    assert [row["smiles"] for row in rows_of(out / "failures.csv")] == ["CCBr"]
    for row, trajectory in zip(rows, found, strict=True):
        frames = ase.io.read(out / row["file"], ":")
        assert len(frames) == len(trajectory) == int(row["frames"])
        assert np.allclose(frames[-1].positions, trajectory.positions[-1], atol=1e-7)
        assert row["stopped_by"] == ("" if trajectory.stop is None else trajectory.stop.rule)
        assert float(row["lowest_confidence"]) == trajectory.scores.min()
    table = pq.read_table(out / "frames.parquet")
    assert table.schema.names == RECORDS.names
    chosen = to_records(table)
    starts = {t.record.record_id for t in found}
    assert all(record.parent in starts and record.origin.startswith("md ") for record in chosen)
    assert len(chosen) == 3


def test_one_member_chooses_no_frames_and_nothing_to_move_is_a_sentence(tmp_path: Path) -> None:
    out = md(tmp_path, ["one"], ["O water"])
    assert not (out / "frames.parquet").exists()
    assert {row["time_fs"] for row in rows_of(out / "trajectories.csv")} == {"5.0"}
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(ValueError, match=r"no molecule can be moved, see .*failures.csv; the first because"):
        md(other, ["one"], ["CCBr bromide"])
