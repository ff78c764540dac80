import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem
from safetensors.torch import save_file

import sddfkit
from sddfkit import __version__
from sddfkit.data import Record, ReferenceEnergies, conformer_records, from_records, to_records
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


def test_one_file_is_an_ensemble(tmp_path: Path) -> None:
    saved = ensemble()
    path = saved.save(tmp_path / "deep" / "mine.safetensors")
    assert [item.name for item in path.parent.iterdir()] == ["mine.safetensors"]
    loaded = sddfkit.load(path)
    assert np.array_equal(loaded.predict(RECORDS).member_energies, saved.predict(RECORDS).member_energies)
    assert loaded.card["members"] == saved.card["members"]
    run = tmp_path / "run"
    saved.save(run / "ensemble")
    for folder in (run, run / "ensemble"):
        assert list(sddfkit.load(folder).members) == ["m0", "m1", "m2"]
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(EnsembleError, match=r"mine\.safetensors is damaged"):
        sddfkit.load(path)
    save_file({"m0.x": torch.zeros(1)}, path)
    with pytest.raises(EnsembleError, match="holds weights but no card"):
        sddfkit.load(path)
    net = saved.members["m0"]
    older = {key: weight[:1] if key.endswith("element.weight") else weight for key, weight in net.state_dict().items()}
    alone = {"references": REFERENCES.to_dict(), "members": {"m0": saved.card["members"]["m0"]}}
    weights = {f"m0.{key}": weight.contiguous() for key, weight in older.items()}
    save_file(weights, path, {"card.json": json.dumps(saved.card | alone)})
    with pytest.raises(EnsembleError, match=r"the weights of the member m0 .* do not fit .*element.weight"):
        sddfkit.load(path)
    half = Ensemble({"m0": saved.members["m0"]}, REFERENCES, saved.card).save(path)
    with pytest.raises(EnsembleError, match=r"the weights of the member m1 .* are missing"):
        sddfkit.load(half)


def member(folder: Path, name: str, target: str, references: ReferenceEnergies) -> Path:
    """A finished member's folder, as `fit_member` leaves it."""
    config = {"_target_": target, "width": 8, "layers": 1, "cutoff": 5.0}
    stats = graph_stats([graph(r, 5.0) for r in RECORDS])
    card = {
        "name": name, "net": config, "stats": stats.to_dict(), "seed": 1, "references": references.to_dict(),
        "level": "wB97X/6-31G*", "mlflow_run_id": "0" * 32, "warnings": [f"{folder}/checkpoint.ckpt is damaged"],
    }  # fmt: skip
    folder.mkdir(parents=True)
    (folder / "member.json").write_text(json.dumps(card))
    save_file(build_net(config, stats, 1).state_dict(), folder / "weights.safetensors")
    return folder


FRESH = """
import json, sys
import numpy as np
from sddfkit.data import to_records
from sddfkit.models import Ensemble
import pyarrow.parquet as pq
ensemble = Ensemble.load(sys.argv[1])
energies = ensemble.predict(to_records(pq.read_table(sys.argv[2]))).member_energies
print(json.dumps([ensemble.card, energies.tolist(), ensemble.references.to_dict()]))
"""


def test_a_copied_folder_is_all_that_another_machine_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = tmp_path / "here" / "mine"
    own.mkdir(parents=True)
    (own / "carried_net.py").write_text("from sddfkit.models import GEN\nclass Own(GEN):\n    pass\n")
    monkeypatch.syspath_prepend(own)
    odd = ReferenceEnergies({1: -13.6 - 1 / 3, 6: np.nextafter(-1030.0, 0), 8: -2040.0 / 0.7}, "made up")
    folders = [
        member(tmp_path / "here" / name, name, target, odd)
        for name, target in (("gen", "sddfkit.models.gen.GEN"), ("own", "carried_net.Own"))
    ]
    ensemble = Ensemble.from_members(folders, n_train=3)
    saved = ensemble.save(tmp_path / "here" / "ensemble")
    text = (saved / "card.json").read_text()
    assert "/" not in text.replace("eV/\\u00c5", "").replace("wB97X/6-31G*", "")
    pq.write_table(from_records(RECORDS), tmp_path / "records.parquet")

    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(saved, elsewhere / "copy")
    command = [sys.executable, "-c", FRESH, "copy", str(tmp_path / "records.parquet")]
    (tmp_path / "here" / "mine").rename(elsewhere / "code")
    shutil.rmtree(tmp_path / "here")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    failed = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)
    assert "EnsembleError: the member own of copy cannot be rebuilt" in failed.stderr
    assert (
        "install the package carried_net, or put the folder that holds carried_net.py or carried_net/ on PYTHONPATH"
        in (failed.stderr.replace("\n", " "))
    )
    environment["PYTHONPATH"] = "code"
    done = subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True, check=True)
    card, energies, references = json.loads(done.stdout.splitlines()[-1])
    assert np.array_equal(energies, ensemble.predict(RECORDS).member_energies)
    assert references == odd.to_dict()
    assert card["units"] == {"positions": "Å", "energy": "eV", "forces": "eV/Å"}
    assert (card["level"], card["elements"], card["n_train"]) == ("wB97X/6-31G*", ["H", "C", "O"], 3)
    assert (card["sddfkit"], card["torch"]) == (__version__, torch.__version__)


def test_damaged_folders_are_explained(tmp_path: Path) -> None:
    folder = ensemble().save(tmp_path)
    weights = (folder / "m1.safetensors").read_bytes()
    (folder / "m1.safetensors").write_bytes(weights[: len(weights) // 2])
    with pytest.raises(EnsembleError, match=r"m1\.safetensors is damaged .*copy the folder again"):
        Ensemble.load(folder)
    (folder / "card.json").write_text("{")
    with pytest.raises(EnsembleError, match=r"card\.json is damaged"):
        Ensemble.load(folder)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda card: {}, "it lacks members, references"),
        (lambda card: [], "it lacks members, references"),
        (lambda card: {**card, "members": {}}, "it lists no members"),
        (lambda card: {**card, "members": ["m0"]}, "list"),
        (lambda card: {**card, "members": {"m0": {"net": card["members"]["m0"]["net"]}}}, "it lacks stats, seed"),
        (lambda card: {**card, "members": {"m0": {**card["members"]["m0"], "stats": {}}}}, "no 'elements' in it"),
        (lambda card: {**card, "references": {}}, "no 'energies' in it"),
    ],
)
def test_a_card_that_lacks_something_is_damaged(tmp_path: Path, change: Callable, wrong: str) -> None:
    path = ensemble().save(tmp_path) / "card.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(EnsembleError, match=rf"card\.json is damaged \(.*{wrong}.*\); copy the folder again"):
        Ensemble.load(tmp_path)


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
