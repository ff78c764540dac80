"""A small labelled data set with an exact, cheap energy: springs between bonded atoms."""

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, ReferenceEnergies, conformer_records, from_records, to_records
from sddfkit.training.tracking import open_experiment

REFERENCES = ReferenceEnergies({1: -13.6, 6: -1030.0, 8: -2040.0}, "made up")


def labelled(smiles: str, seed: int) -> Record:
    """ETKDG conformer with displaced atoms; E = references + Σ_bonds ½ k (d − 1.3 Å)², k = 5 eV/Å²."""
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    record = to_records(conformer_records(mol))[0]
    pos = record.positions + 0.05 * np.random.default_rng(seed).normal(size=record.positions.shape)
    i, j = record.bonds[:, 0], record.bonds[:, 1]
    vector = pos[j] - pos[i]
    length = np.linalg.norm(vector, axis=1, keepdims=True)
    pull = 5.0 * (length - 1.3) * vector / length
    forces = np.zeros_like(pos)
    np.add.at(forces, i, pull)
    np.add.at(forces, j, -pull)
    energy = REFERENCES.total(record.atomic_numbers) + float(2.5 * np.square(length - 1.3).sum())
    return record._replace(positions=pos, energy=energy, forces=forces, level="springs", program="test")


@pytest.fixture(scope="session")
def springs() -> list[Record]:
    return [labelled(smiles, seed) for seed in range(1, 5) for smiles in ("CO", "C=O", "CC")]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow without experiments of ours: making one takes a second."""
    folder = tmp_path_factory.mktemp("mlflow")
    open_experiment(f"sqlite:///{folder}/mlflow.db", str(folder / "artifacts"), "none")
    return folder / "mlflow.db"


@pytest.fixture
def tracking(empty_database: Path, tmp_path: Path) -> dict:
    """Settings of MLflow, with a database that is there."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return {
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "artifacts": str(tmp_path / "artifacts"),
        "experiment": "test",
    }


@pytest.fixture
def fit_job(springs: list[Record], tmp_path: Path) -> dict:
    """A job of a few seconds for :func:`sddfkit.training.fit_member`."""
    pq.write_table(from_records(springs[:9]), tmp_path / "train.parquet")
    pq.write_table(from_records(springs[9:]), tmp_path / "validation.parquet")
    return {
        "name": "gen",
        "net": {"_target_": "sddfkit.models.gen.GEN", "width": 16, "layers": 1, "cutoff": 5.0},
        "module": {
            "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.01},
            "scheduler": {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "steps"},
            "loss": {"_target_": "torch.nn.MSELoss"},
            "energy_weight": 1.0,
            "force_weight": 1.0,
        },
        "trainer": {"max_epochs": 12, "batch_size": 3, "patience": None, "clip": 5.0, "ema_decay": 0.9},
        "train_records": str(tmp_path / "train.parquet"),
        "validation_records": str(tmp_path / "validation.parquet"),
        "references": REFERENCES.to_dict(),
        "stats": None,
        "seed": 5,
        "folder": str(tmp_path / "gen"),
        "threads": 1,
        "mlflow": None,
    }
