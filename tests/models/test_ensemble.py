import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.models import Ensemble, EnsembleError, GraphError, graph, graph_stats
from sddfkit.models.build import build_net

REFERENCES = ReferenceEnergies({1: -13.6, 6: -1030.0, 8: -2040.0}, "made up")


def record(smiles: str) -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return to_records(conformer_records(mol))[0]


RECORDS = [record(smiles) for smiles in ("CO", "C=O", "CC")]


def ensemble(n_members: int = 3) -> Ensemble:
    stats = graph_stats([graph(r, 5.0) for r in RECORDS])
    config = {"_target_": "sddfkit.models.gen.GEN", "width": 8, "layers": 1, "cutoff": 5.0}
    entries = {f"m{k}": {"net": config, "stats": stats.to_dict(), "seed": k} for k in range(n_members)}
    members = {name: build_net(config, stats, seed=entry["seed"]) for name, entry in entries.items()}
    return Ensemble(members, REFERENCES, {"members": entries})


def test_predictions_are_totals_with_the_spread_of_the_members() -> None:
    prediction = ensemble().predict(RECORDS, batch_size=2)
    total = np.array([REFERENCES.total(r.atomic_numbers) for r in RECORDS])
    assert prediction.member_energies.shape == (3, 3)
    assert np.abs(prediction.energy - total).max() < 10.0
    assert np.allclose(prediction.energy, prediction.member_energies.mean(0))
    assert np.allclose(prediction.energy_std, prediction.member_energies.std(0))
    assert (prediction.energy_std > 0).all()
    assert prediction.forces is not None and prediction.member_forces is not None
    for r, force, members in zip(RECORDS, prediction.forces, prediction.member_forces, strict=True):
        assert members.shape == (3, len(r.atomic_numbers), 3)
        assert np.allclose(force, members.mean(0))
        assert np.allclose(force.sum(0), 0.0, atol=1e-5)


def test_batch_size_and_forces_do_not_change_energies() -> None:
    committee = ensemble()
    one, all_ = committee.predict(RECORDS, batch_size=1), committee.predict(RECORDS, forces=False)
    assert np.allclose(one.energy, all_.energy, rtol=0, atol=1e-5)
    assert all_.forces is None and all_.member_forces is None


def test_no_records_give_empty_predictions() -> None:
    prediction = ensemble().predict([])
    assert prediction.energy.shape == (0,)
    assert prediction.member_energies.shape == (3, 0)
    assert prediction.forces == []


def test_an_unseen_element_is_refused_by_name() -> None:
    references = ReferenceEnergies({**REFERENCES.energies, 17: -12500.0}, "made up")
    chlorine = Ensemble(ensemble().members, references, {})
    with pytest.raises(GraphError, match="never seen Cl"):
        chlorine.predict([record("CCl")])


def test_a_record_without_bonds_is_refused_by_members_trained_with_bonds() -> None:
    bare = RECORDS[0]._replace(bonds=np.zeros((0, 3), dtype=np.int32))
    with pytest.raises(GraphError, match="lists no bonds"):
        ensemble().predict([bare])


def test_save_and_load_round_trip(tmp_path: Path) -> None:
    saved = ensemble()
    loaded = Ensemble.load(saved.save(tmp_path / "deep" / "folder"))
    assert list(loaded.members) == ["m0", "m1", "m2"]
    assert np.array_equal(loaded.predict(RECORDS).member_energies, saved.predict(RECORDS).member_energies)


def test_wrong_folders_are_explained(tmp_path: Path) -> None:
    with pytest.raises(EnsembleError, match=r"holds no card\.json"):
        Ensemble.load(tmp_path)
    (ensemble().save(tmp_path) / "m1.safetensors").unlink()
    with pytest.raises(EnsembleError, match=r"m1\.safetensors are missing"):
        Ensemble.load(tmp_path)
    with pytest.raises(EnsembleError, match=r"holds no member\.json"):
        Ensemble.from_members([tmp_path])


def test_importing_models_stays_light() -> None:
    heavy = ("pytorch_lightning", "mlflow", "hydra", "sqlalchemy", "ipyparallel")
    code = f"import sys, sddfkit.models; print([m for m in {heavy!r} if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found.strip() == "[]"
