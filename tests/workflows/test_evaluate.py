"""A finished run judged again: on its own test fold, and on other data without the molecules that it has seen."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sddfkit import verbs
from sddfkit.chem import etkdg, molecules_from_smiles
from sddfkit.config import load
from sddfkit.data import Record, conformer_records, from_records, read_snapshot, to_records, write_snapshot
from sddfkit.models import Ensemble
from sddfkit.qc import Level, atom_input, atomic_input, compute, extract
from sddfkit.workflows.evaluate import evaluate_run, own_snapshot, read_split
from sddfkit.workflows.label import ISOLATED_ATOMS, elements
from sddfkit.workflows.predict import find_ensemble

pytestmark = pytest.mark.xdist_group("evaluate")  # one worker trains, once

LEVEL = Level(name="GFN2-xTB", method="gfn2-xtb", basis=None, programs={"tblite": {"accuracy": 1.0}})
SMILES = ["CCO", "CC=O", "CC(C)O", "CCN", "C1CO1", "C1CC1", "CO", "OO", "NO", "C=O", "COC", "CNC", "C1CN1", "C#N",
          "NC=O", "c1ccoc1", "CC(=O)O", "C[C@H](N)O"]  # fmt: skip


def labelled(record: Record) -> Record:
    specification = LEVEL.specification("tblite")
    job = atomic_input(record.atomic_numbers, record.positions, record.charge, record.multiplicity, specification)
    values = extract(compute(job), ("energy", "forces"))
    return record._replace(energy=values["energy"], forces=values["forces"], level=LEVEL.name, program="tblite")


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory) -> Path:
    """Return the folder of a real `train` run on GFN2-xTB labels: two networks, two epochs."""
    root = tmp_path_factory.mktemp("root")
    records = []
    for smiles in SMILES:
        (mol,) = molecules_from_smiles(smiles)
        kept = etkdg(mol, 2, np.random.default_rng(0), prune_rmsd=None).mol
        records += [labelled(record) for record in to_records(conformer_records(kept))]
    snapshot = snapshot_of(sorted(records, key=lambda r: r.record_id), root / "labels")
    atoms = {z: compute(atom_input(z, LEVEL.specification("tblite"))) for z in sorted(elements(records))}
    energies = {str(z): float(extract(result, ("energy",))["energy"]) for z, result in atoms.items()}
    (snapshot / ISOLATED_ATOMS).write_text(json.dumps(energies))
    settings = [f"data={snapshot}", f"paths.root={root}", "model=[gen,resgated]", "preset=smooth_small"]
    verbs.train(load("train", [*settings, "trainer.max_epochs=2"]), root / "runs" / "first")
    return root / "runs" / "first"


@pytest.fixture(scope="module")
def evaluation(finished_run, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("evaluation")
    path = evaluate_run(ensemble=find_ensemble("first", finished_run.parents[1]), snapshot=None, folder=folder)
    return folder, json.loads(path.read_text())


def judged(ensemble: Path, folder: Path, **settings) -> dict:
    path = evaluate_run(ensemble=ensemble, folder=folder / "out", **settings)
    return json.loads(path.read_text())


def snapshot_of(records, folder: Path) -> Path:
    write_snapshot(from_records(records), folder)
    return folder


def test_the_own_test_fold_gives_the_numbers_of_the_run(finished_run, evaluation):
    _, found = evaluation
    kept = json.loads((finished_run / "metrics.json").read_text())
    assert found["metrics"] == kept["test"], "bit for bit"
    split = json.loads((finished_run / "split.json").read_text())
    assert found["split_hash"] == split["hash"]
    assert {row["molecule_id"] for row in found["by_molecule"]} <= set(split["test"])
    assert set(found["records_by_fold"]) == {"test"} and not found["seen"]
    labelled = [record.molecule_id for record in to_records(read_snapshot(own_snapshot(finished_run / "ensemble")))]
    assert found["n_records"] == sum(molecule in split["test"] for molecule in labelled)
    assert found["records_left_out_by_fold"]["train"] == sum(molecule in split["train"] for molecule in labelled)


def test_what_is_written_agrees_with_itself(evaluation):
    folder, found = evaluation
    records = to_records(pq.read_table(folder / "predictions.parquet"))
    table = pq.read_table(folder / "predictions.parquet")
    assert table.schema.field("forces_pred").metadata[b"unit"] == "eV/Å".encode()
    error = (table["energy_pred"].to_numpy() - table["energy"].to_numpy()) * 23.0605478
    assert found["metrics"]["ensemble"]["energy_mae_kcal_mol"] == pytest.approx(np.abs(error).mean(), rel=1e-6)
    spread = table["energy_std"].to_numpy() * 23.0605478
    assert found["calibration"]["energy"]["within_1_sigma"] == pytest.approx((np.abs(error) <= spread).mean())
    ratio = np.sqrt((error**2).mean() / (spread**2).mean())
    assert found["calibration"]["energy"]["rms_error_over_rms_spread"] == pytest.approx(ratio, rel=1e-6)
    molecules = np.array([record.molecule_id for record in records])
    off = np.concatenate([error[molecules == m] - error[molecules == m].mean() for m in dict.fromkeys(molecules)])
    assert found["relative_energy"]["mae"] == pytest.approx(np.abs(off).mean(), rel=1e-5)
    for row in found["by_molecule"]:
        mine = error[molecules == row["molecule_id"]]
        assert row["mae"] == pytest.approx(np.abs(mine).mean(), rel=1e-6)
        assert row["relative_energy_mae"] == pytest.approx(np.abs(mine - mine.mean()).mean(), rel=1e-4)
    assert sum(row["n"] for row in found["by_size"]) == found["n_records"] == len(records)
    for name in ("parity-energy", "parity-relative", "parity-forces", "calibration", "error-by-size"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    header, *rows = (folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == len(records) and "energy_label_eV,energy_eV,energy_error_kcal_mol" in header


def test_molecules_that_the_ensemble_has_seen_do_not_count(finished_run, evaluation, tmp_path, capsys):
    """Labels of seen molecules are absurd here: whoever reads one of them is far off."""
    ensemble = finished_run / "ensemble"
    split = read_split(ensemble)
    records = to_records(read_snapshot(own_snapshot(ensemble)))
    absurd = [r._replace(energy=1e6) if r.molecule_id not in split["test"] else r for r in records]
    # An enantiomer of a molecule that was trained on is no new molecule either.
    trained = next(r for r in records if r.molecule_id in split["train"])
    mirrored = trained._replace(molecule_id="[13CH3]" + trained.molecule_id[1:], record_id="mirror", energy=1e6)
    new = next(r for r in records if r.molecule_id in split["test"])
    other = new._replace(molecule_id="CCCCCCO", smiles="CCCCCCO", record_id="new")
    data = snapshot_of([*absurd, mirrored, other], tmp_path / "data")

    _, own = evaluation
    found = judged(ensemble, tmp_path, snapshot=data)
    assert found["records_by_fold"] == {"test": own["n_records"], "new": 1}
    assert found["metrics"]["ensemble"]["energy_mae_kcal_mol"] < 2 * own["metrics"]["ensemble"]["energy_mae_kcal_mol"]
    assert found["records_left_out_by_fold"]["train"] == own["records_left_out_by_fold"]["train"] + 1
    said = capsys.readouterr().out
    assert "train fold (include_seen=true keeps them)" in said and "MARKED" not in said

    everything = judged(ensemble, tmp_path, snapshot=data, include_seen=True)
    assert everything["seen"] and everything["n_records"] == len(records) + 2
    assert everything["metrics"]["ensemble"]["energy_mae_kcal_mol"] > 1e6
    said = capsys.readouterr().out
    assert "MARKED" in said and "SEEN MOLECULES" in said


def test_scaffolds_of_training_molecules_are_counted(finished_run, tmp_path):
    ensemble = finished_run / "ensemble"
    split = read_split(ensemble)
    records = to_records(read_snapshot(own_snapshot(ensemble)))
    one = next(r for r in records if r.molecule_id in split["test"])
    assert "CCO" in split["train"]
    same_skeleton = one._replace(molecule_id="CCF", smiles="CCF", record_id="same skeleton", energy=one.energy + 1.0)
    found = judged(ensemble, tmp_path, snapshot=snapshot_of([one, same_skeleton], tmp_path / "data"))
    familiar = found["familiar_scaffolds"]
    assert (familiar["molecules"], familiar["records"]) == (1, 1)
    key = "energy_mae_kcal_mol"
    both = (familiar["metrics"][key] + familiar["metrics_of_the_others"][key]) / 2
    assert found["metrics"]["ensemble"][key] == pytest.approx(both)
    assert familiar["metrics"][key] != pytest.approx(familiar["metrics_of_the_others"][key])


def test_labels_without_forces_judge_energies(finished_run, evaluation, tmp_path):
    records = [r._replace(forces=None) for r in to_records(read_snapshot(own_snapshot(finished_run / "ensemble")))]
    bare = [r._replace(record_id=f"bare {i}", energy=None, level="") for i, r in enumerate(records)]
    found = judged(finished_run / "ensemble", tmp_path, snapshot=snapshot_of([*records, *bare], tmp_path / "data"))
    assert found["records_without_label"] == len(records)
    ensemble, own = found["metrics"]["ensemble"], evaluation[1]["metrics"]["ensemble"]
    assert ensemble["energy_mae_kcal_mol"] == own["energy_mae_kcal_mol"]
    assert ensemble["force_mae_kcal_mol_A"] is None


def test_another_level_of_theory_is_refused_by_name(finished_run, tmp_path):
    records = [r._replace(level="HF/6-31G") for r in to_records(read_snapshot(own_snapshot(finished_run / "ensemble")))]
    data = snapshot_of(records, tmp_path / "data")
    with pytest.raises(ValueError, match=r"labelled at HF/6-31G, but .* was trained at GFN2-xTB"):
        judged(finished_run / "ensemble", tmp_path, snapshot=data)
    bare = snapshot_of([r._replace(level="", energy=None, forces=None) for r in records], tmp_path / "bare")
    with pytest.raises(ValueError, match="holds no labels"):
        judged(finished_run / "ensemble", tmp_path, snapshot=bare)


def test_conformers_are_ranked_within_their_molecule(finished_run, evaluation, tmp_path):
    """Labels are what is predicted, half as far from the mean: errors as large as the labels' spread, so R² is 0."""
    assert evaluation[1]["within_molecule"] is None, "two conformers a molecule are too few"
    ensemble = finished_run / "ensemble"
    new = next(r for r in to_records(read_snapshot(own_snapshot(ensemble))) if r.smiles in read_split(ensemble)["test"])
    moved = [new._replace(positions=new.positions * scale, record_id=f"{scale}") for scale in (0.97, 0.99, 1.0, 1.02)]
    predicted = Ensemble.load(ensemble).predict(moved)
    half = predicted.energy.mean() + 0.5 * (predicted.energy - predicted.energy.mean())
    data = snapshot_of([r._replace(energy=e) for r, e in zip(moved, half, strict=True)], tmp_path / "data")
    within = judged(ensemble, tmp_path, snapshot=data)["within_molecule"]
    assert within["molecules"] == 1 and within["members"].keys() == {"gen", "resgated"}
    scores = within["ensemble"]
    assert scores["r2"]["median"] == pytest.approx(1.0)
    assert scores["R2"]["median"] == pytest.approx(0.0, abs=1e-6)
    off = np.abs(half - half.mean()).mean() * 23.0605478
    assert scores["mae"]["median"] == pytest.approx(off, rel=1e-6)
    assert scores["mae"]["interval_95"] == pytest.approx([off, off], rel=1e-6), "one molecule can only be drawn again"


def test_without_the_split_nothing_passes_for_new(finished_run, tmp_path):
    snapshot = own_snapshot(finished_run / "ensemble")
    alone = Ensemble.load(finished_run / "ensemble").save(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"alone has no split.json beside it.*include_seen=true"):
        judged(alone, tmp_path, snapshot=snapshot)
    assert judged(alone, tmp_path, snapshot=snapshot, include_seen=True)["seen"]
    with pytest.raises(ValueError, match="not beside it; name a snapshot: data=<folder>"):
        judged(alone, tmp_path, snapshot=None)
    shutil.copy(finished_run / "split.json", alone)
    assert not judged(alone, tmp_path, snapshot=snapshot)["seen"], "a split that travels with the ensemble is as good"


def test_other_data_in_the_place_of_the_training_data_are_refused(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    trained = own_snapshot(run / "ensemble")
    moved = shutil.copytree(trained, tmp_path / "data")
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace(str(trained), str(moved)))
    assert judged(run / "ensemble", tmp_path, snapshot=None)["snapshot"] == str(moved), "a copy is as good"
    card = json.loads((run / "ensemble" / "card.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", card["data"])

    records = to_records(read_snapshot(trained))
    shutil.rmtree(moved)
    other = snapshot_of([records[0]._replace(energy=records[0].energy + 1e-6), *records[1:]], moved)
    with pytest.raises(ValueError, match=r"data is not what .*ensemble was trained from.*data=<folder>"):
        judged(run / "ensemble", tmp_path, snapshot=None)
    assert judged(run / "ensemble", tmp_path, snapshot=other)["n_records"] > 0, "whoever names them wants them"


def test_nothing_left_to_judge_on_is_a_sentence(finished_run, tmp_path):
    split = read_split(finished_run / "ensemble")
    records = to_records(read_snapshot(own_snapshot(finished_run / "ensemble")))
    data = snapshot_of([r for r in records if r.molecule_id in split["train"]], tmp_path / "data")
    with pytest.raises(ValueError, match="no labelled conformer is left"):
        judged(finished_run / "ensemble", tmp_path, snapshot=data)
