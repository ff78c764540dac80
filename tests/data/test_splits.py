from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sddfkit.chem.fingerprints import morgan_tanimoto
from sddfkit.chem.molecules import molecule_id
from sddfkit.chem.scaffolds import scaffold
from sddfkit.chem.sources import read_molecules
from sddfkit.data.splits import (
    SplitError,
    _deal,
    assert_no_leak,
    fold_of,
    split_hash,
    strict_scaffold_split,
)

DEMO = {molecule_id(mol): mol for mol in read_molecules("demo")}
CYCLOALKANES = {s: s for s in ("C1CC1", "C1CCC1", "C1CCCC1", "C1CCCCC1", "C1CCCCCC1")}


def split(molecules=DEMO, seed=0, **options):
    return strict_scaffold_split(molecules, rng=np.random.default_rng(seed), **options)


def replaced(table, molecule, **values):
    rows = [row | values if row["molecule_id"] == molecule else row for row in table.to_pylist()]
    return pa.Table.from_pylist(rows, schema=table.schema)


@pytest.mark.parametrize("seed", range(5))
def test_demo_set_gives_decent_folds(seed):
    table = split(seed=seed)
    assert_no_leak(table)
    count = Counter(table["fold"].to_pylist())
    assert 0.65 <= count["train"] / len(table) <= 0.75
    for fold in ("validation", "test"):
        assert 0.12 <= count[fold] / len(table) <= 0.18
        assert len({row["scaffold"] for row in table.to_pylist() if row["fold"] == fold}) > 1


@given(st.integers(0, 1000), st.randoms(use_true_random=False), st.sets(st.sampled_from(sorted(DEMO)), min_size=25))
@settings(max_examples=25, deadline=None)
def test_invariants(seed, random, names):
    molecules = {name: DEMO[name] for name in sorted(names)}
    shuffled = sorted(molecules)
    random.shuffle(shuffled)
    table = split(molecules, seed)
    assert table.equals(split({name: name for name in shuffled}, seed)), "order does not matter, nor SMILES or Mol"
    folds = fold_of(table)
    assert folds.keys() == molecules.keys()
    assert set(folds.values()) >= {"train", "validation", "test"}
    by_scaffold = {}
    for row in table.to_pylist():
        assert (row["fold"] == "excluded") == bool(row["reason"])
        if row["fold"] != "excluded":
            by_scaffold.setdefault(row["scaffold"], set()).add(row["fold"])
    assert all(len(found) == 1 for found in by_scaffold.values())
    assert_no_leak(table)


def test_seeds_differ_and_repeat():
    assert split(seed=1).equals(split(seed=1))
    assert len({split_hash(split(seed=seed)) for seed in range(6)}) > 1


def test_stereo_charge_and_salt_forms_stay_together():
    family = ["C[C@H](N)C(=O)O", "C[C@@H](N)C(=O)O", "C[C@H]([NH3+])C(=O)[O-]", "C[C@H](N)C(=O)[O-].[Na+]"]
    others = ["c1ccccc1", "C1CCOC1", "CCO", "C1CC1", "CCCCCC", "c1ccsc1", "CC#N"]
    for seed in range(5):
        folds = fold_of(split({s: s for s in family + others}, seed, similarity=1.0))
        assert len({folds[name] for name in family}) == 1


@pytest.fixture(scope="module")
def with_exclusions():
    """One deal each, so that similar cycloalkanes and chains do get separated."""
    molecules = DEMO | CYCLOALKANES | {s: s for s in ("CCCCCCCCO", "CCCCCCCO")}
    tables = [split(molecules, seed, draws=1) for seed in range(12)]
    return [table for table in tables if "excluded" in table["fold"].to_pylist()]


def test_similar_molecules_are_excluded_with_their_neighbour(with_exclusions):
    excluded = [(row, fold_of(table)) for table in with_exclusions for row in table.to_pylist() if row["reason"]]
    assert {row["fold"] for row, _ in excluded} == {"excluded"}
    compared = set()
    for row, folds in excluded:
        neighbour = row["reason"].rsplit(" ", 1)[1]
        assert folds[neighbour] == "train"
        keys = [x if scaffold(x).count("1") == 0 else scaffold(x) for x in (row["molecule_id"], neighbour)]
        value = morgan_tanimoto(keys[:1], keys[1:])[0, 0]
        assert value > 0.7
        assert row["reason"] == f"Tanimoto similarity {value:.2f} > 0.7 to training molecule {neighbour}"
        compared.add("1" in row["scaffold"])
    assert compared == {True, False}, "scaffolds are compared, and whole molecules without a ring"
    for table in with_exclusions:
        assert_no_leak(table)


def test_the_threshold_decides():
    molecules = DEMO | CYCLOALKANES
    assert "excluded" not in fold_of(split(molecules, similarity=1.0, draws=1)).values()
    lost = [Counter(fold_of(split(molecules, similarity=x, draws=1)).values())["excluded"] for x in (0.5, 0.3)]
    assert 0 < lost[0] < lost[1]


def test_more_draws_lose_less():
    def lost(draws):
        return sum(
            split(CYCLOALKANES | DEMO, seed, draws=draws)["fold"].to_pylist().count("excluded") for seed in range(4)
        )

    assert lost(20) <= lost(1)


@given(st.lists(st.integers(1, 50), min_size=3, max_size=30), st.integers(0, 100))
@settings(max_examples=100, deadline=None)
def test_dealing_fills_every_fold(sizes, seed):
    shares = {"train": 0.7, "validation": 0.15, "test": 0.15}
    groups = {f"group {i}": size for i, size in enumerate(sizes)}
    dealt = _deal(groups, shares, np.random.default_rng(seed))
    assert dealt.keys() == groups.keys()
    assert set(dealt.values()) == set(shares)


def test_large_groups_go_to_training():
    dealt = _deal(
        {"big": 40, **{f"small {i}": 1 for i in range(60)}}, {"train": 0.7, "test": 0.3}, np.random.default_rng(0)
    )
    assert dealt["big"] == "train"
    assert Counter(dealt.values()) == {"train": 31, "test": 30}


def test_two_folds_are_enough_if_asked():
    folds = fold_of(split(fractions={"train": 0.8, "test": 0.2}))
    assert set(folds.values()) <= {"train", "test", "excluded"}


@pytest.mark.parametrize(
    ("molecules", "options", "words"),
    [
        (["CO", "CN", "c1ccccc1"], {}, "3 molecules form 2 scaffold groups"),
        (list(CYCLOALKANES), {}, "more diverse molecules"),
        (["CO", "CCO", "CCCO"], {"fractions": {"train": 0.5, "test": 0.4}}, "add up to 1"),
        (["CO", "CCO", "CCCO"], {"fractions": {"train": 0.5, "testing": 0.5}}, r"\['testing'\]; the folds are train"),
        (["CO", "CCO", "CCCO"], {"similarity": 1.5}, "similarity=1.5"),
        (["CO", "CCO", "CCCO"], {"draws": 0}, "draws=0"),
    ],
)
def test_splits_that_cannot_be_made(molecules, options, words):
    with pytest.raises(SplitError, match=words):
        split({name: name for name in molecules}, **options)


def test_hash_freezes_folds_not_row_order():
    table = split()
    backwards = table.take(list(reversed(range(len(table)))))
    assert split_hash(backwards) == split_hash(table)
    first = table["molecule_id"][0].as_py()
    assert split_hash(replaced(table, first, fold="excluded")) != split_hash(table)


def test_leaks_are_found_and_named():
    table = split()
    rows = table.to_pylist()
    shared = next(row for row in rows if row["scaffold"] == "CCC" and row["fold"] == "train")
    with pytest.raises(SplitError, match=r"scaffold CCC is in both"):
        assert_no_leak(replaced(table, shared["molecule_id"], fold="test"))
    with pytest.raises(SplitError, match=rf"{scaffold(shared['molecule_id'])}, not C1CC1"):
        assert_no_leak(replaced(table, shared["molecule_id"], scaffold="C1CC1"))
    with pytest.raises(SplitError, match="listed 2 times"):
        assert_no_leak(pa.concat_tables([table, table.slice(0, 1)]))
    with pytest.raises(SplitError, match="unknown fold 'dev'"):
        assert_no_leak(replaced(table, shared["molecule_id"], fold="dev"))


def test_a_similar_training_molecule_is_a_leak(with_exclusions):
    table = with_exclusions[0]
    victim = next(row["molecule_id"] for row in table.to_pylist() if row["fold"] == "excluded")
    with pytest.raises(SplitError, match=r"Tanimoto similarity .* > 0\.7 to training molecule"):
        assert_no_leak(replaced(table, victim, fold="test"))
