"""Δ-learning: a cheap method taken off the labels for training, and added back by prediction, through one store."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sddfkit import verbs
from sddfkit.chem import etkdg, molecules_from_smiles
from sddfkit.config import SettingsError, load
from sddfkit.data import (
    Record,
    ReferenceEnergies,
    conformer_records,
    fit_reference_energies,
    from_records,
    to_records,
    write_snapshot,
)  # fmt: skip
from sddfkit.factory import Store
from sddfkit.models import Ensemble
from sddfkit.models.build import build_net
from sddfkit.models.ensemble import EnsembleError
from sddfkit.models.graphs import graph, graph_stats
from sddfkit.qc import Level, atom_input, atomic_input, compute, extract
from sddfkit.workflows.baseline import Baseline, Factory, baseline_of, level_card, level_of, refuse_same_level
from sddfkit.workflows.label import ISOLATED_ATOMS, elements
from sddfkit.workflows.predict import predict_known
from sddfkit.workflows.train import Recipe, member_jobs, train_from_snapshot

pytestmark = pytest.mark.xdist_group("baseline")  # one worker computes, once

LABELS = Level(name="GFN1-xTB", method="gfn1-xtb", basis=None, programs={"tblite": {"accuracy": 1.0}})
GFN2 = Level(name="GFN2-xTB", method="gfn2-xtb", basis=None, programs={"tblite": {"accuracy": 1.0}})
SMILES = ["CCO", "CC=O", "CCN", "C1CO1", "C1CC1", "CO", "OO", "NO", "C=O", "COC", "C1CN1", "C#N", "c1ccoc1"]


def at(level: Level, record: Record) -> dict:
    specification = level.specification("tblite")
    job = atomic_input(record.atomic_numbers, record.positions, record.charge, record.multiplicity, specification)
    return extract(compute(job), ("energy", "forces"))


def conformer(smiles: str) -> Record:
    (mol,) = molecules_from_smiles(smiles)
    return to_records(conformer_records(etkdg(mol, 1, np.random.default_rng(0), prune_rmsd=None).mol))[0]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Return a root with a snapshot of real GFN1-xTB labels."""
    root = tmp_path_factory.mktemp("root")
    records = []
    for smiles in SMILES:
        record = conformer(smiles)
        values = at(LABELS, record)
        label = {"level": LABELS.name, "program": "tblite", "result_key": f"label of {record.record_id}"}
        records.append(record._replace(energy=values["energy"], forces=values["forces"], **label))
    write_snapshot(from_records(sorted(records, key=lambda r: r.record_id)), root / "labels")
    atoms = {z: compute(atom_input(z, LABELS.specification("tblite"))) for z in sorted(elements(records))}
    energies = {str(z): float(extract(result, ("energy",))["energy"]) for z, result in atoms.items()}
    (root / "labels" / ISOLATED_ATOMS).write_text(json.dumps(energies))
    return root


def made_up(records: list[Record]) -> list[Record]:
    label = {"level": "L", "program": "P", "energy": -100.0}
    return [r._replace(**label, forces=np.ones_like(r.positions), result_key=f"of {r.record_id}") for r in records]


@contextmanager
def one_thread(folder: Path) -> Iterator[SimpleNamespace]:
    """A cluster of one engine, in this process."""
    yield SimpleNamespace(executor=lambda: (ThreadPoolExecutor(1), 1))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [conformer(smiles) for smiles in ("CO", "C=O", "CC")]


@pytest.fixture(scope="module")
def factory(tmp_path_factory) -> Factory:
    root = tmp_path_factory.mktemp("factory")
    return Factory(partial(Store, root / "store.sqlite"), one_thread, root)


@pytest.fixture(scope="module")
def below(records, factory) -> Baseline:
    """Return GFN2-xTB of the records, by the factory."""
    return Baseline.compute(GFN2, records, factory, factory.root / "runs" / "first")


@pytest.fixture(scope="module")
def model(records, below) -> Ensemble:
    """Return two networks as they are before training, on that baseline."""
    stats = graph_stats([graph(record, 5.0) for record in records])
    net = {"_target_": "sddfkit.models.gen.GEN", "width": 8, "layers": 1, "cutoff": 5.0}
    members = {f"m{seed}": build_net(net, stats, seed=seed) for seed in range(2)}
    references = ReferenceEnergies({1: -0.5, 6: -1.0, 8: -2.0}, "made up")
    return Ensemble(members, references, {"level": "GFN1-xTB", "baseline": dict(below.card)})


def test_prediction_adds_the_baseline_back(model, records, below, factory):
    bare = Ensemble(model.members, model.references, {**model.card, "baseline": None})
    direct = [at(GFN2, record) for record in records]
    energies, forces = [v["energy"] for v in direct], [v["forces"] for v in direct]
    learnt = bare.predict(records)
    found = predict_known(model, records, baseline=baseline_of(model.card, factory, factory.root / "runs" / "p")).values
    np.testing.assert_allclose(found.energy, learnt.energy + energies, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.member_energies, learnt.member_energies + energies, rtol=0, atol=1e-6)
    for together, alone, added in zip(found.forces, learnt.forces, forces, strict=True):
        np.testing.assert_allclose(together, alone + added, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(found.energy_std, learnt.energy_std)
    assert np.abs(np.array(energies)).min() > 100, "eV: what is added cannot be overlooked"
    given = model.predict(records, **below.arguments(records))
    np.testing.assert_allclose(given.energy, found.energy, rtol=0, atol=1e-10)
    total = zip(records, given.energy, given.forces, strict=True)
    back = below.difference([record._replace(energy=energy, forces=force) for record, energy, force in total])
    np.testing.assert_allclose([record.energy for record in back], learnt.energy, rtol=0, atol=1e-10)


def test_a_second_time_nothing_is_computed(records, below, factory, capsys):
    capsys.readouterr()
    again = Baseline.compute(GFN2, records, factory, factory.root / "runs" / "second")
    said = capsys.readouterr()
    assert "known before, 0 computed, 0 failed" in said.out + said.err
    assert [again.records[r.record_id].energy for r in records] == [below.records[r.record_id].energy for r in records]


def test_the_card_names_the_level_and_makes_it_again(below):
    about = json.loads(json.dumps(below.card))
    named = about["name"], about["method"], about["basis"], about["program"]
    assert named == ("GFN2-xTB", "gfn2-xtb", None, "tblite")
    assert level_of(about) == replace(GFN2, program="tblite")
    assert level_card(level_of(about), "tblite", about["program_version"]) == about


def test_differences_have_keys_of_their_own_and_failures_are_left_out(records, tmp_path):
    first, second, _ = labels = made_up(records)
    done = first._replace(energy=-98.5, forces=first.forces + 0.5, result_key="of GFN2-xTB")
    below = Baseline({first.record_id: done}, {1: -10.0}, {second.record_id: "no convergence"}, {})
    (made,) = below.difference([first, second])
    assert made.energy == -1.5
    np.testing.assert_array_equal(made.forces, np.full_like(first.positions, -0.5))
    assert made.result_key not in (first.result_key, done.result_key)
    assert below.atom_differences({1: -11.0, 6: -40.0}) == {1: -1.0}

    recipe = Recipe({"gen": {"cutoff": 5.0}}, {"module": {}, "threads": 1, "checkpoint_every_s": 30}, tmp_path)
    references = fit_reference_energies(labels, dict.fromkeys(elements(labels), 0.0))
    learnt = [labels]
    for name in ("one", "another"):  # of the same values: what counts is where they are from
        zero = {r.record_id: r._replace(energy=0.0, forces=0.0 * r.forces, result_key=name) for r in labels}
        learnt.append(Baseline(zero, {}, {}, {}).difference(labels))
    jobs = [member_jobs(recipe, rows[1:], rows[:1], references, seed=0) for rows in learnt]
    assert len({job["gen"]["folder"] for job in jobs}) == 3, "another baseline is another member"


def test_it_is_refused_before_anything_is_computed(records, tmp_path):
    def never(*_):
        raise AssertionError("the factory was asked")

    write_snapshot(from_records([r._replace(level="gfn2-xtb") for r in made_up(records)]), tmp_path / "labels")
    (tmp_path / "labels" / ISOLATED_ATOMS).write_text("{}")
    with pytest.raises(ValueError, match="GFN2-xTB is the level of the labels"):
        train_from_snapshot(
            snapshot=tmp_path / "labels", split=never, models={}, trainer={}, tracking={}, root=tmp_path,
            folder=tmp_path / "no", seed=0, config={}, baseline=(GFN2, Factory(never, never, tmp_path)),
        )  # fmt: skip


def test_what_is_missing_for_a_prediction_is_named(model, records):
    records = records[:2]
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


def test_active_learning_refuses_a_baseline(tmp_path):
    cfg = load("active", ["baseline=gfn2", "experiment=smoke", f"paths.root={tmp_path}"])
    with pytest.raises(SettingsError, match="active learning has no baseline yet"):
        verbs.active(cfg, tmp_path / "run")


@pytest.mark.long
def test_a_run_is_trained_judged_and_found_again(root, capsys):
    nets = ["model=[gen]", "preset=smooth_small", "trainer.max_epochs=1"]
    of_all = [f"paths.root={root}", "cluster.engines=1"]
    asked = [f"data={root / 'labels'}", "baseline=gfn2", *nets, *of_all]
    verbs.train(load("train", asked), root / "runs" / "delta")
    verbs.evaluate(load("evaluate", [f"run={root / 'runs' / 'delta'}", *of_all]), root / "runs" / "judged")
    judged = json.loads((root / "runs" / "judged" / "evaluation.json").read_text())
    kept = json.loads((root / "runs" / "delta" / "metrics.json").read_text())
    assert judged["metrics"] == kept["test"], "bit for bit"
    assert not judged["refused"]
    capsys.readouterr()
    verbs.train(load("train", asked), root / "runs" / "again")
    assert ", 0 computed, 0 failed" in capsys.readouterr().out
    cards = [json.loads((root / "runs" / run / "ensemble" / "card.json").read_text()) for run in ("delta", "again")]
    assert cards[0]["members"] == cards[1]["members"], "found again, not trained"
