"""Molecules to predictions, by networks with random weights: that they are made matters here, not what they are."""

import csv
import json
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from sddfkit.chem import conformers, etkdg, molecules_from_smiles
from sddfkit.data import RECORDS, ReferenceEnergies, conformer_records, to_records
from sddfkit.models import Ensemble
from sddfkit.models.build import build_net
from sddfkit.models.graphs import GraphStats
from sddfkit.units import EV_TO_KCAL_MOL
from sddfkit.workflows.predict import NoSuchRunError, find_ensemble, predict_known, predict_molecules

pytestmark = pytest.mark.xdist_group("predict")

NETS = {"gen": "sddfkit.models.gen.GEN", "resgated": "sddfkit.models.resgated.ResGated"}
EMBED = partial(conformers.etkdg, n_conformers=4, max_attempts=5)
LINES = [
    "CCO ethanol",
    "CCBr bromide",
    "C1#CC1 strained",
    "not_a_molecule",
    "OCC twice",
    "C(=O)[O-] formate",
    "O water",
]


@pytest.fixture(scope="module")
def ensemble(tmp_path_factory) -> Path:
    """Return the folder of an ensemble that knows H, C, N and O."""
    stats = GraphStats((1, 6, 7, 8), 3.0, 1.2)
    references = ReferenceEnergies({1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2042.0, 35: -70000.0}, "made up")
    settings = {"width": 16, "layers": 1, "cutoff": 5.0, "n_radial": 6, "n_normals": 2}
    cards = {
        name: {"name": name, "net": {"_target_": target, **settings}, "stats": stats.to_dict(), "seed": seed}
        for seed, (name, target) in enumerate(NETS.items())
    }
    nets = {name: build_net(card["net"], stats, card["seed"]).eval() for name, card in cards.items()}
    folder = tmp_path_factory.mktemp("runs") / "a run" / "ensemble"
    return Ensemble(nets, references, {"level": "GFN2-xTB", "members": cards}).save(folder)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def predicted(ensemble: Path, lines, folder: Path, embed=EMBED, name="new.smi") -> Path:
    (folder / name).write_text("\n".join(lines) + "\n")
    molecules = {"path": str(folder / name), "stereo": "enumerate"}
    return predict_molecules(ensemble=ensemble, molecules=molecules, embed=embed, folder=folder / "out", seed=0)


@pytest.fixture(scope="module")
def prediction(ensemble, tmp_path_factory) -> Path:
    return predicted(ensemble, LINES, tmp_path_factory.mktemp("prediction"))


def test_every_conformer_is_a_row_that_the_ensemble_confirms(ensemble, prediction):
    table = pq.read_table(prediction.with_suffix(".parquet"))
    records, rows = to_records(table), rows_of(prediction)
    assert [row["record_id"] for row in rows] == [record.record_id for record in records]
    assert list(dict.fromkeys(row["molecule"] for row in rows)) == ["ethanol", "formate", "water"]
    found = Ensemble.load(ensemble).predict(records)
    for name in dict.fromkeys(row["molecule"] for row in rows):
        mine = [i for i, row in enumerate(rows) if row["molecule"] == name]
        relative = found.member_energies[:, mine] - found.member_energies[:, [mine[0]]]
        energies = [float(rows[i]["relative_energy_kcal_mol"]) for i in mine]
        assert energies[0] == 0.0 and energies == sorted(energies), "the lowest comes first"
        np.testing.assert_allclose(energies, relative.mean(0) * EV_TO_KCAL_MOL, atol=1e-3)
        stds = [float(rows[i]["relative_energy_std_kcal_mol"]) for i in mine]
        np.testing.assert_allclose(stds, relative.std(0) * EV_TO_KCAL_MOL, atol=1e-3)
    for i, (row, record) in enumerate(zip(rows, records, strict=True)):
        n = len(record.atomic_numbers)
        assert (row["smiles"], int(row["n_atoms"])) == (record.smiles, n)
        assert float(row["energy_eV"]) == pytest.approx(found.energy[i], abs=1e-4)
        assert float(row["energy_std_per_sqrt_atom_eV"]) == pytest.approx(found.energy_std[i] / n**0.5, abs=1e-5)
        assert float(row["force_std_max_eV_A"]) == pytest.approx(found.member_forces[i].std(0).max(), abs=1e-5)
        np.testing.assert_allclose(np.reshape(table["forces_pred"][i].as_py(), (n, 3)), found.forces[i], atol=1e-5)


def test_the_parquet_file_holds_records_with_units(prediction):
    table = pq.read_table(prediction.with_suffix(".parquet"))
    assert table.column_names[: len(RECORDS)] == RECORDS.names
    assert table["energy"].null_count == len(table), "a prediction never passes for a label"
    units = {field.name: field.metadata[b"unit"].decode() for field in table.schema}
    assert units["positions"] == "Å" and units["energy_pred"] == units["relative_energy_std"] == "eV"
    assert units["forces_pred"] == units["forces_std"] == "eV/Å"
    assert table.schema.metadata[b"level"] == b"GFN2-xTB"


def test_what_is_refused_has_a_reason_and_stops_nothing(prediction):
    failures = {row["line"]: row for row in rows_of(prediction.with_name("failures.csv"))}
    assert {line: row["stage"] for line, row in failures.items()} == {
        "2": "elements", "3": "conformers", "4": "reading", "5": "reading",
    }  # fmt: skip
    assert failures["2"]["molecule"] == "bromide" and failures["2"]["smiles"] == "CCBr"
    assert failures["2"]["reason"] == "the ensemble has never seen Br; it was trained on H, C, N, O"
    assert failures["3"]["reason"].startswith("asked 4, kept 0: 4 not embedded")
    assert failures["5"]["reason"] == "duplicate of line 1"


def test_nothing_to_predict_is_a_sentence_and_a_file(ensemble, tmp_path):
    with pytest.raises(ValueError, match=r"no conformer could be predicted: 2 refused, see .*never seen Br"):
        predicted(ensemble, ["CCBr", "CBr"], tmp_path)
    assert len(rows_of(tmp_path / "out" / "failures.csv")) == 2
    with pytest.raises(ValueError, match="empty"):
        predicted(ensemble, [""], tmp_path)


def test_conformers_are_taken_from_an_sdf_as_they_are(ensemble, tmp_path):
    def block(smiles, flat=False):
        (mol,) = molecules_from_smiles(smiles, name=smiles)
        placed = etkdg(mol, 1, np.random.default_rng(0)).mol
        if flat:
            placed.RemoveAllConformers()
        return Chem.MolToMolBlock(placed)

    blocks = [block("CCO"), block("CC=O", flat=True), block("NC=O")]
    path = predicted(ensemble, [f"{text}$$$$" for text in blocks], tmp_path, conformers.given, "poses.sdf")
    records = to_records(pq.read_table(path.with_suffix(".parquet")))
    assert [record.name for record in records] == ["CCO", "NC=O"]
    for record, text in zip(records, blocks[::2], strict=True):
        written = Chem.MolFromMolBlock(text, removeHs=False).GetConformer().GetPositions()
        np.testing.assert_allclose(record.positions, written, atol=1e-6)
        assert record.origin == "given"
    (failure,) = rows_of(path.with_name("failures.csv"))
    assert failure["molecule"] == "CC=O" and "without 3D coordinates" in failure["reason"]


def test_a_conformer_that_a_network_refuses_is_found_among_many(ensemble):
    (mol,) = molecules_from_smiles("CCO")
    records = to_records(conformer_records(etkdg(mol, 70, np.random.default_rng(0), prune_rmsd=None).mol))
    broken = [
        record._replace(bonds=record.bonds[:0], record_id=f"bare {i}") if i in (3, 66) else record
        for i, record in enumerate(records)
    ]
    model = Ensemble.load(ensemble)
    found = predict_known(model, broken)
    assert sorted(found.refused) == ["bare 3", "bare 66"]
    assert "lists no bonds" in found.refused["bare 3"]
    kept = [record for i, record in enumerate(records) if i not in (3, 66)]
    assert [record.record_id for record in found.records] == [record.record_id for record in kept]
    np.testing.assert_allclose(found.values.energy, model.predict(kept).energy, atol=1e-4)
    assert [forces.shape for forces in found.values.member_forces] == [(2, 9, 3)] * 68


def test_a_copy_of_the_folder_gives_the_same_numbers_in_a_fresh_process(ensemble, prediction, tmp_path):
    copy = shutil.copytree(ensemble, tmp_path / "carried elsewhere")
    (tmp_path / "new.smi").write_text("\n".join(LINES) + "\n")
    settings = {"molecules": {"path": "new.smi", "stereo": "enumerate"}, "seed": 0}
    code = (
        "import json, sys; from functools import partial; from pathlib import Path\n"
        "from sddfkit.chem.conformers import etkdg\n"
        "from sddfkit.workflows.predict import find_ensemble, predict_molecules\n"
        "embed = partial(etkdg, n_conformers=4, max_attempts=5)\n"
        "predict_molecules(ensemble=find_ensemble(sys.argv[1], Path('nowhere')), embed=embed, folder=Path('out'),\n"
        "                  **json.loads(sys.argv[2]))\n"
    )
    command = [sys.executable, "-c", code, copy.name, json.dumps(settings)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert "3 molecules at GFN2-xTB; 4 refused" in done.stdout
    here, there = rows_of(prediction), rows_of(tmp_path / "out" / "predictions.csv")
    for a, b in zip(here, there, strict=True):
        assert a["record_id"] == b["record_id"] and a["flags"] == b["flags"]
        for column in ("energy_eV", "relative_energy_kcal_mol", "force_std_max_eV_A"):
            assert float(a[column]) == pytest.approx(float(b[column]), abs=1e-5)


def test_a_run_is_found_by_whatever_names_it(ensemble, tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    shutil.copytree(ensemble, runs / "2026-01-01-first" / "ensemble")
    shutil.copytree(ensemble, runs / "2026-01-02-sweep" / "best")
    shutil.copytree(ensemble, runs / "2026-01-02-sweep" / "0" / "ensemble")
    first, best = (runs / "2026-01-01-first" / "ensemble").resolve(), (runs / "2026-01-02-sweep" / "best").resolve()
    for run in ("2026-01-01-first", str(runs / "2026-01-01-first"), str(first)):
        assert find_ensemble(run, tmp_path) == first
    assert find_ensemble("2026-01-02-sweep", tmp_path) == best
    assert find_ensemble("2026-01-02-sweep/0", tmp_path) == (runs / "2026-01-02-sweep" / "0" / "ensemble").resolve()
    monkeypatch.chdir(runs)
    assert find_ensemble("./2026-01-01-first", tmp_path / "elsewhere") == first

    (first / "card.json").touch()
    (runs / "latest").symlink_to(runs / "2026-01-02-sweep")  # the newest report, not the newest ensemble
    assert find_ensemble("latest", tmp_path) == first
    (best / "card.json").touch()
    assert find_ensemble("latest", tmp_path) == best


def test_a_run_that_is_not_there_is_answered_with_those_that_are(ensemble, tmp_path):
    with pytest.raises(NoSuchRunError, match=r"no run with an ensemble below .*sddfkit train"):
        find_ensemble("latest", tmp_path)
    shutil.copytree(ensemble, tmp_path / "runs" / "2026-01-01-demo" / "ensemble")
    with pytest.raises(NoSuchRunError, match=r"are 2026-01-01-demo; did you mean run=2026-01-01-demo\?"):
        find_ensemble("demo", tmp_path)
    with pytest.raises(NoSuchRunError, match=r"did you mean run=latest\?"):
        find_ensemble("lattest", tmp_path)
    (tmp_path / "runs" / "stopped").mkdir()
    with pytest.raises(NoSuchRunError, match=r"stopped holds no ensemble: neither card.json nor"):
        find_ensemble("stopped", tmp_path)
    (tmp_path / "runs" / "stopped" / "config.yaml").touch()
    with pytest.raises(NoSuchRunError, match="did not reach its end"):
        find_ensemble("stopped", tmp_path)
    shutil.copytree(ensemble, tmp_path / "runs" / "sweep" / "3" / "ensemble")
    with pytest.raises(NoSuchRunError, match=r"name one of its jobs, such as run=.*sweep/3"):
        find_ensemble("sweep", tmp_path)


def test_sdf_records_of_one_molecule_are_ranked_against_each_other(ensemble, tmp_path):
    (mol,) = molecules_from_smiles("CCO", name="ethanol")
    placed = etkdg(mol, 3, np.random.default_rng(0), prune_rmsd=None).mol
    blocks = [f"{Chem.MolToMolBlock(placed, confId=i)}$$$$" for i in range(3)]
    rows = rows_of(predicted(ensemble, blocks, tmp_path, conformers.given, "poses.sdf"))
    assert sorted(int(row["conformer"]) for row in rows) == [0, 1, 2]
    above = [float(row["relative_energy_kcal_mol"]) for row in rows]
    assert above[0] == 0.0 < above[1] < above[2]
