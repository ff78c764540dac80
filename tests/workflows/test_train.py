"""What the networks are trained on, and what they are not."""

from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sddfkit.chem import etkdg, molecules_from_smiles
from sddfkit.data import Record, conformer_records, fit_reference_energies, to_records
from sddfkit.workflows import train as module
from sddfkit.workflows.train import Recipe, Trainers, member_jobs, molecule_folds, out_of_fold_errors

ATOMS = {1: -13.6, 6: -1030.0, 7: -1485.0, 8: -2042.0}
NETS = {"gen": {"cutoff": 5.0}, "pna": {"cutoff": 5.0}}


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Return labelled conformers of six molecules; the labels are made up."""
    rng = np.random.default_rng(0)
    made = []
    for smiles in ("CO", "CN", "CC", "C=O", "CCO", "C#N"):
        for mol in molecules_from_smiles(smiles):
            for record in to_records(conformer_records(etkdg(mol, 2, rng, prune_rmsd=None).mol)):
                energy = sum(ATOMS[int(z)] for z in record.atomic_numbers) - rng.uniform(5, 30)
                forces = rng.normal(size=record.positions.shape)
                made.append(record._replace(energy=energy, forces=forces, level="L", program="P"))
    return made


def recipe(tmp_path) -> Recipe:
    return Recipe(NETS, {"module": {}, "threads": 1, "checkpoint_every_s": 30, "max_epochs": 2}, tmp_path)


@given(folds=st.integers(2, 5), seed=st.integers(0, 1000))
def test_a_molecule_lies_in_one_fold(folds, seed, records):
    fold = molecule_folds(records, folds, np.random.default_rng(seed))
    by_molecule = {r.molecule_id: {f for s, f in zip(records, fold, strict=True) if s.molecule_id == r.molecule_id}
                   for r in records}  # fmt: skip
    assert all(len(found) == 1 for found in by_molecule.values())
    assert set(fold) == set(range(folds))


def test_too_few_molecules_for_the_folds_are_refused(records):
    with pytest.raises(ValueError, match="7 folds cannot be made of 6 labelled molecules"):
        molecule_folds(records, 7, np.random.default_rng(0))


def jobs_of(records, tmp_path, monkeypatch) -> dict:
    """Return the jobs by which out-of-fold errors are found."""
    seen = {}
    known = SimpleNamespace(predict=lambda rows, forces: SimpleNamespace(member_energies=np.zeros((2, len(rows)))))
    monkeypatch.setattr(module, "_run", lambda trainers, jobs, description: seen.update(jobs))
    monkeypatch.setattr(module.Ensemble, "from_members", lambda folders: known)
    errors = out_of_fold_errors(
        Trainers(1), recipe(tmp_path), records, records[:2], ATOMS,
        folds=3, seed=0, rng=np.random.default_rng(1), description="",
    )  # fmt: skip
    expected = np.abs([r.energy for r in records]) / [len(r.atomic_numbers) for r in records]
    np.testing.assert_allclose(errors, [expected, expected])
    return seen


def test_the_held_out_fold_reaches_neither_training_nor_references(records, tmp_path, monkeypatch):
    fold = molecule_folds(records, 3, np.random.default_rng(1))
    before = jobs_of(records, tmp_path, monkeypatch)
    assert sorted(before) == [f"{net}/{held_out}" for net in NETS for held_out in range(3)]
    for name, job in before.items():
        held_out = {r.record_id for r, f in zip(records, fold, strict=True) if f == int(name[-1])}
        trained = set(pq.read_table(job["train_records"])["record_id"].to_pylist())
        assert trained and held_out and not trained & held_out
        assert job["mlflow"] is None

    target = int(fold[4])
    shifted = [r._replace(energy=r.energy + 100.0) if i == 4 else r for i, r in enumerate(records)]
    after = jobs_of(shifted, tmp_path, monkeypatch)
    for name in before:
        same = before[name]["references"] == after[name]["references"]
        assert same == (name.endswith(f"/{target}")), f"{name}: a label moved the references of its own fold's models"


def test_a_job_is_named_after_all_that_decides_its_weights(records, tmp_path):
    references = fit_reference_energies(records, ATOMS)
    first = member_jobs(recipe(tmp_path), records[:8], records[8:], references, seed=0)
    again = member_jobs(recipe(tmp_path), records[:8][::-1], records[8:], references, seed=0)
    assert first == again, "the order of the rows is irrelevant"
    other_seed = member_jobs(recipe(tmp_path), records[:8], records[8:], references, seed=1)
    other_rows = member_jobs(recipe(tmp_path), records[:7], records[8:], references, seed=0)
    folders = {jobs["gen"]["folder"] for jobs in (first, other_seed, other_rows)} | {first["pna"]["folder"]}
    assert len(folders) == 4


def test_levels_are_never_mixed(records, tmp_path):
    mixed = [records[0]._replace(level="another"), *records[1:]]
    with pytest.raises(ValueError, match="another"):
        member_jobs(recipe(tmp_path), mixed, records[:1], fit_reference_energies(records, ATOMS), seed=0)
