"""Δ-learning: a cheap method taken off the labels for training, and added back by prediction, through one store."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from sddfkit import verbs
from sddfkit.chem import etkdg, molecules_from_smiles
from sddfkit.config import SettingsError, load
from sddfkit.data import (
    Record,
    conformer_records,
    fit_reference_energies,
    from_records,
    read_snapshot,
    to_records,
    write_snapshot,
)
from sddfkit.factory import Store
from sddfkit.models import Ensemble
from sddfkit.models.ensemble import EnsembleError
from sddfkit.qc import Level, atom_input, atomic_input, compute, extract
from sddfkit.workflows.baseline import Baseline, Factory, level_card, level_of, refuse_same_level
from sddfkit.workflows.label import ISOLATED_ATOMS, elements
from sddfkit.workflows.train import Recipe, member_jobs, train_from_snapshot

pytestmark = pytest.mark.xdist_group("baseline")  # one worker trains, once

LABELS = Level(name="GFN1-xTB", method="gfn1-xtb", basis=None, programs={"tblite": {"accuracy": 1.0}})
GFN2 = Level(name="GFN2-xTB", method="gfn2-xtb", basis=None, programs={"tblite": {"accuracy": 1.0}})
SMILES = ["CCO", "CC=O", "CCN", "C1CO1", "C1CC1", "CO", "OO", "NO", "C=O", "COC", "C1CN1", "C#N", "c1ccoc1"]


def at(level: Level, record: Record) -> dict:
    specification = level.specification("tblite")
    job = atomic_input(record.atomic_numbers, record.positions, record.charge, record.multiplicity, specification)
    return extract(compute(job), ("energy", "forces"))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a root with a snapshot of real GFN1-xTB labels."""
    root = tmp_path_factory.mktemp("root")
    records = []
    for smiles in SMILES:
        (mol,) = molecules_from_smiles(smiles)
        kept = etkdg(mol, 1, np.random.default_rng(0), prune_rmsd=None).mol
        for record in to_records(conformer_records(kept)):
            values = at(LABELS, record)
            label = {"level": LABELS.name, "program": "tblite", "result_key": f"label of {record.record_id}"}
            records.append(record._replace(energy=values["energy"], forces=values["forces"], **label))
    write_snapshot(from_records(sorted(records, key=lambda r: r.record_id)), root / "labels")
    atoms = {z: compute(atom_input(z, LABELS.specification("tblite"))) for z in sorted(elements(records))}
    energies = {str(z): float(extract(result, ("energy",))["energy"]) for z, result in atoms.items()}
    (root / "labels" / ISOLATED_ATOMS).write_text(json.dumps(energies))
    return root


def settings(root: Path, *more: str) -> list[str]:
    nets = ["model=[gen]", "preset=smooth_small", "trainer.max_epochs=1", "cluster.engines=1"]
    return [f"data={root / 'labels'}", f"paths.root={root}", *nets, *more]


@pytest.fixture(scope="module")
def trained(root) -> Path:
    """Return the folder of a run on what GFN2-xTB lacks of GFN1-xTB."""
    verbs.train(load("train", settings(root, "baseline=gfn2")), root / "runs" / "delta")
    return root / "runs" / "delta"


@pytest.fixture(scope="module")
def evaluation(root, trained) -> dict:
    cfg = load("evaluate", [f"run={trained}", f"paths.root={root}", "cluster.engines=1"])
    verbs.evaluate(cfg, root / "runs" / "judged")
    return json.loads((root / "runs" / "judged" / "evaluation.json").read_text())


def labelled(root: Path) -> list[Record]:
    return to_records(read_snapshot(root / "labels"))


def test_prediction_adds_the_baseline_back(root, trained):
    model = Ensemble.load(trained / "ensemble")
    bare = Ensemble(model.members, model.references, {**model.card, "baseline": None})
    records = labelled(root)[:3]
    below = [at(GFN2, record) for record in records]
    energies, forces = [v["energy"] for v in below], [v["forces"] for v in below]
    found = model.predict(records, baseline_energies=energies, baseline_forces=forces)
    learnt = bare.predict(records)
    np.testing.assert_allclose(found.energy, learnt.energy + energies, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.member_energies, learnt.member_energies + energies, rtol=0, atol=1e-10)
    for together, alone, added in zip(found.forces, learnt.forces, forces, strict=True):
        np.testing.assert_allclose(together, alone + added, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(found.energy_std, learnt.energy_std)
    labels = [record.energy for record in records]
    assert np.abs(learnt.energy - labels).min() > 10, "the members alone know differences, eV"


def test_the_card_names_the_level_and_makes_it_again(trained):
    card = Ensemble.load(trained / "ensemble").card
    assert card["level"] == "GFN1-xTB"
    about = card["baseline"]
    assert (about["name"], about["method"], about["basis"], about["program"]) == (
        "GFN2-xTB", "gfn2-xtb", None, "tblite",
    )  # fmt: skip
    again = level_of(about)
    asked, expected = again.specification("tblite"), GFN2.specification("tblite")
    assert (asked.model, asked.keywords, asked.program) == (expected.model, expected.keywords, expected.program)
    assert level_card(again, "tblite", about["program_version"]) == about


def test_what_is_missing_for_a_prediction_is_named(root, trained):
    model = Ensemble.load(trained / "ensemble")
    records = labelled(root)[:2]
    with pytest.raises(EnsembleError, match="GFN2-xTB by tblite: predict needs baseline_energies"):
        model.predict(records)
    with pytest.raises(EnsembleError, match="needs baseline_forces"):
        model.predict(records, baseline_energies=[0.0, 0.0])
    with pytest.raises(EnsembleError, match=r"shape \(1,\); expected \(2,\)"):
        model.predict(records, forces=False, baseline_energies=[0.0])
    with pytest.raises(EnsembleError, match="finite"):
        model.predict(records, forces=False, baseline_energies=[0.0, np.nan])
    with pytest.raises(EnsembleError, match=r"baseline_forces must be a finite array \(n_i, 3\)"):
        model.predict(records, baseline_energies=[0.0, 0.0], baseline_forces=[np.zeros((1, 3))] * 2)
    plain = Ensemble(model.members, model.references, {**model.card, "baseline": None})
    with pytest.raises(EnsembleError, match="trained without a baseline"):
        plain.predict(records, forces=False, baseline_energies=[0.0, 0.0])


def test_evaluation_gives_the_numbers_of_the_run(trained, evaluation):
    kept = json.loads((trained / "metrics.json").read_text())
    assert evaluation["metrics"] == kept["test"], "bit for bit"
    assert not evaluation["refused"]


def test_predictions_are_total_energies(root, trained):
    (root / "new.smi").write_text("CCO ethanol\n")
    molecules = ["molecules=file", f"molecules.path={root / 'new.smi'}", "conformers.n_conformers=1"]
    cfg = load("predict", [f"run={trained}", f"paths.root={root}", "cluster.engines=1", *molecules])
    verbs.predict(cfg, root / "runs" / "predicted")
    (row,) = to_records_with(root / "runs" / "predicted" / "predictions.parquet")
    model = Ensemble.load(trained / "ensemble")
    below = at(GFN2, row[0])
    expected = model.predict([row[0]], baseline_energies=[below["energy"]], baseline_forces=[below["forces"]])
    assert row[1] == pytest.approx(float(expected.energy[0]), abs=1e-6)


def to_records_with(path: Path) -> list[tuple[Record, float]]:
    table = pq.read_table(path)
    return list(zip(to_records(table), table["energy_pred"].to_pylist(), strict=True))


def test_a_second_training_computes_nothing(root, trained, capsys):
    with Store(root / "store.sqlite") as store:
        before = len(store.to_frame())
    capsys.readouterr()
    verbs.train(load("train", settings(root, "baseline=gfn2")), root / "runs" / "again")
    assert ", 0 computed, 0 failed" in capsys.readouterr().out
    with Store(root / "store.sqlite") as store:
        assert len(store.to_frame()) == before
    first, again = (
        json.loads((root / "runs" / run / "ensemble" / "card.json").read_text()) for run in ("delta", "again")
    )
    assert first["members"]["gen"]["job_hash"] == again["members"]["gen"]["job_hash"], "found again, not trained"


def test_another_baseline_is_another_member(root, tmp_path):
    records = labelled(root)
    recipe = Recipe({"gen": {"cutoff": 5.0}}, {"module": {}, "threads": 1, "checkpoint_every_s": 30}, tmp_path)
    references = fit_reference_energies(records, dict.fromkeys(elements(records), 0.0))
    learnt = [records]
    for name in ("one", "another"):  # of the same values: what counts is where they are from
        below = {r.record_id: r._replace(energy=0.0, forces=0.0 * r.forces, result_key=name) for r in records}
        learnt.append(Baseline(below, {}, {}, {}).difference(records))
    jobs = [member_jobs(recipe, rows[2:], rows[:2], references, seed=0) for rows in learnt]
    assert len({job["gen"]["folder"] for job in jobs}) == 3


def test_differences_have_keys_of_their_own_and_failures_are_left_out(root):
    first, second = labelled(root)[:2]
    values = at(GFN2, first)
    done = first._replace(energy=values["energy"], forces=values["forces"], result_key="of GFN2-xTB")
    below = Baseline({first.record_id: done}, {1: -10.0}, {second.record_id: "no convergence"}, {})
    (made,) = below.difference([first, second])
    assert made.energy == first.energy - values["energy"]
    np.testing.assert_array_equal(made.forces, first.forces - values["forces"])
    assert made.result_key not in (first.result_key, done.result_key)
    other = Baseline({first.record_id: done._replace(result_key="of another")}, {}, {}, {})
    assert other.difference([first])[0].result_key != made.result_key
    assert below.atom_differences({1: -11.0, 6: -40.0}) == {1: -1.0}


@pytest.mark.parametrize("labels", ["gfn2-XTB", "GFN2-xTB "])
def test_a_baseline_at_the_level_of_the_labels_is_refused(labels):
    with pytest.raises(ValueError, match="nothing would be left to learn"):
        refuse_same_level(GFN2, labels)
    hf = Level(name="mine", method="hf", basis="6-31g(d)", programs={"pyscf": {}})
    with pytest.raises(ValueError, match="nothing would be left to learn"):
        refuse_same_level(hf, "HF/6-31G(d)")
    refuse_same_level(hf, "HF/def2-SVP")
    refuse_same_level(hf, "HF")
    refuse_same_level(GFN2, "GFN1-xTB")


def test_it_is_refused_before_anything_is_computed(root):
    def never(*_):
        raise AssertionError("the factory was asked")

    with pytest.raises(ValueError, match="GFN1-xTB is the level of the labels"):
        train_from_snapshot(
            snapshot=root / "labels", split=never, models={}, trainer={}, tracking={}, root=root, folder=root / "no",
            seed=0, config={}, baseline=(LABELS, Factory(never, never, root)),
        )  # fmt: skip


def test_active_learning_refuses_a_baseline(tmp_path):
    cfg = load("active", ["baseline=gfn2", "experiment=smoke", f"paths.root={tmp_path}"])
    with pytest.raises(SettingsError, match="active learning has no baseline yet"):
        verbs.active(cfg, tmp_path / "run")
