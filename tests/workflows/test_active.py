"""The parts of the loop that decide what is learnt from what."""

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sddfkit.active import Pool, Random
from sddfkit.chem import etkdg, molecule_id, molecules_from_smiles
from sddfkit.data import Record, conformer_records, fold_of, strict_scaffold_split, to_records
from sddfkit.workflows import active as module
from sddfkit.workflows.active import LoopSettings, _Run, draw_seed_set, spread
from sddfkit.workflows.console import Stopwatch
from sddfkit.workflows.label import Labels, elements, generator
from sddfkit.workflows.split import split_records

SMILES = ["CCO", "CCN", "CC=O", "C1CC1", "C1CO1", "c1ccoc1", "c1ccsc1", "CCCO", "CC(C)O", "CC(=O)O", "CCS", "C1CCC1",
          "C1CCCC1", "c1cc[nH]c1", "CF", "CCCl"]  # fmt: skip
SPLIT = partial(strict_scaffold_split, fractions={"train": 0.6, "validation": 0.2, "test": 0.2})


@pytest.fixture(scope="module")
def molecules():
    found = [mol for smiles in SMILES for mol in molecules_from_smiles(smiles)]
    return {molecule_id(mol): mol for mol in found}


@pytest.fixture(scope="module")
def records(molecules) -> list[Record]:
    made = []
    for mol in molecules.values():
        kept = etkdg(mol, 3, np.random.default_rng(0), prune_rmsd=None)
        made += to_records(conformer_records(kept.mol))
    return made


def test_folds_share_neither_molecule_nor_scaffold(molecules, records):
    folds = split_records(records, molecules, SPLIT, seed=1)
    rows = {row["molecule_id"]: row for row in folds.table.to_pylist()}
    scaffolds = [
        {rows[record.molecule_id]["scaffold"] for record in part} for part in (folds.pool, folds.validation, folds.test)
    ]
    assert all(scaffolds) and not scaffolds[0] & scaffolds[1] and not scaffolds[0] & scaffolds[2]
    assert not scaffolds[1] & scaffolds[2]
    document = folds.document(records)
    counted = sum(fold["records"] for fold in document["folds"].values())
    assert counted == len(records)
    assert document == split_records(list(reversed(records)), molecules, SPLIT, seed=1).document(records)


def test_elements_that_training_never_has_are_set_aside_and_named(molecules, records):
    folds = split_records(records, molecules, SPLIT, seed=1)
    known = elements(folds.pool)
    assert all(elements([record]) <= known for record in [*folds.validation, *folds.test])
    assert all(not elements([record]) <= known for record in folds.unseen)
    named = {row["molecule_id"] for row in folds.document(records)["excluded"]}
    assert {record.molecule_id for record in folds.unseen} <= named


def test_too_few_scaffolds_are_refused_with_a_sentence(molecules, records):
    few = {key: molecules[key] for key in list(molecules)[:2]}
    with pytest.raises(ValueError, match=r"fold|scaffold"):
        split_records([r for r in records if r.molecule_id in few], few, SPLIT, seed=0)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 60), seed=st.integers(0, 1000))
def test_spread_takes_one_of_each_molecule_before_a_second_of_any(n, seed, records):
    drawn = spread(records, n, np.random.default_rng(seed))
    assert len(drawn) == min(n, len(records)) and len({r.record_id for r in drawn}) == len(drawn)
    counts = [sum(r.molecule_id == m for r in drawn) for m in {r.molecule_id for r in records}]
    assert max(counts) - min(counts) <= 1
    again = spread(list(reversed(records)), n, np.random.default_rng(seed))
    assert [r.record_id for r in drawn] == [r.record_id for r in again]


@settings(max_examples=20, deadline=None)
@given(n=st.integers(0, 20), seed=st.integers(0, 1000))
def test_the_seed_set_has_every_element(n, seed, records):
    drawn = draw_seed_set(records, n, np.random.default_rng(seed))
    assert elements(drawn) == elements(records)
    assert n <= len(drawn) <= n + len(elements(records))
    assert len({r.record_id for r in drawn}) == len(drawn)


def test_generators_depend_on_seed_and_name_alone():
    draws = {(seed, name): generator(seed, name).random() for seed in (0, 1) for name in ("a", "b")}
    assert len(set(draws.values())) == 4
    assert generator(0, "a").random() == draws[0, "a"]


class Spy:
    """Chooses at random and remembers every pool that it was shown."""

    needs = Random.needs
    learns = frozenset({"maccs", "errors"})
    ranks = "conformers"
    reason = "spying"

    def __init__(self) -> None:
        self.pools: list[Pool] = []
        self.labelled: list[Pool] = []

    def fit(self, labelled: Pool) -> "Spy":
        self.labelled.append(labelled)
        return self

    def scores(self, pool: Pool) -> None:
        del pool

    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]:
        self.pools.append(pool)
        return Random()(pool, k, rng)


def test_the_test_fold_reaches_neither_strategy_nor_references_nor_training(molecules, records, monkeypatch):
    """Everything that learns or chooses is watched; labels are made up, and those of the test fold are absurd."""
    folds = split_records(records, molecules, SPLIT, seed=1)
    held_out = {record.record_id for record in [*folds.validation, *folds.test]}
    seen: dict[str, set[str]] = {"references": set(), "train": set(), "validation": set(), "errors": set()}

    class Oracle:
        batch = "test"

        def __init__(self) -> None:
            self.labels = Labels(atoms={z: -100.0 * z for z in elements(records)})

        def label(self, asked, description):
            del description
            for record in asked:
                energy = -1e9 if record.record_id in held_out else -100.0 * float(record.atomic_numbers.sum())
                self.labels.records[record.record_id] = record._replace(
                    energy=energy, forces=np.zeros_like(record.positions), level="L", program="P"
                )

        def open_store(self):
            return NoStore()

    class NoStore:
        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def add_round(self, *row):
            del row

    class Known:
        """An ensemble that answers with the composition."""

        def predict(self, asked, forces=True):
            energies = np.array([-100.0 * float(record.atomic_numbers.sum()) for record in asked])
            zeros = [np.zeros_like(record.positions) for record in asked]
            return module.EnsemblePrediction(
                energies, np.zeros(len(asked)), energies[None], zeros if forces else None,
                [z[None] for z in zeros] if forces else None,
            )  # fmt: skip

    def ids(rows):
        return {row.record_id for row in rows}

    def references(rows, atoms, **settings):
        seen["references"] |= ids(rows)
        return real_references(rows, atoms, **settings)

    def train(trainers, recipe, rows, validation, found, **settings):
        del trainers, recipe, found, settings
        seen["train"] |= ids(rows)
        seen["validation"] |= ids(validation)
        return Known(), {}

    def errors(trainers, recipe, rows, validation, atoms, **settings):
        del trainers, recipe, atoms, settings
        seen["validation"] |= ids(validation)
        seen["errors"] |= ids(rows)
        return np.zeros((1, len(rows)))

    real_references = module.fit_reference_energies
    monkeypatch.setattr(module, "fit_reference_energies", references)
    monkeypatch.setattr(module, "train_ensemble", train)
    monkeypatch.setattr(module, "out_of_fold_errors", errors)

    class Quiet:
        def log_round(self, *row):
            del row

    spy = Spy()
    loop = LoopSettings(
        rounds=2, seed_size=6, round_size=4, validation_size=50, test_size=50, error_folds=2, train_workers=1
    )
    recipe = module.Recipe({"only": {"cutoff": 5.0}}, {}, None)
    run = _Run(folds, Oracle(), None, recipe, spy, loop, Stopwatch(), Quiet(), seed=0)
    rounds = run.all_rounds()

    test = ids(folds.test)
    assert test and len(rounds) == 3
    for who, rows in seen.items():
        assert not rows & test, f"the test fold reached the {who}"
    for what in ("references", "train", "errors"):
        assert seen[what] and not seen[what] & held_out
    for pool in [*spy.pools, *spy.labelled]:
        assert len(pool) and not set(pool.record_ids) & held_out
        assert {record.molecule_id for record in folds.test}.isdisjoint(pool.molecule_ids)
    chosen = [c["record_id"] for row in rounds for c in row["selected"]]
    assert len(chosen) == 8 and len(set(chosen)) == 8, "nothing is asked for twice"
    assert fold_of(folds.table) == fold_of(split_records(records, molecules, SPLIT, seed=1).table)
