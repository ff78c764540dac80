import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem

from sddfkit.chem.conformers import FLAGS_PROPERTY, etkdg
from sddfkit.chem.molecules import charge_and_multiplicity, molecule_id, molecules_from_smiles
from sddfkit.chem.sources import read_molecules
from sddfkit.data.records import (
    RECORDS,
    RecordError,
    check_one_level,
    conformer_records,
    from_records,
    record_id,
    to_mol,
    to_records,
)

WATER = ([8, 1, 1], [[0.0, 0.0, 0.117], [0.0, 0.757, -0.467], [0.0, -0.757, -0.467]], 0, 1, [[0, 1, 0], [0, 2, 0]])


def table(smiles="CCO", n=2, **options):
    (mol,) = molecules_from_smiles(smiles, name="title")
    return conformer_records(etkdg(mol, n, np.random.default_rng(0), prune_rmsd=None).mol, **options)


grid = st.integers(-20_000_000, 20_000_000).map(lambda steps: steps * 1e-6)
geometry = st.lists(st.tuples(grid, grid, grid), min_size=2, max_size=6).map(np.array)


@given(geometry, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_record_id_ignores_noise_but_no_move(positions, seed):
    rng = np.random.default_rng(seed)
    numbers = np.full(len(positions), 6)
    key = record_id(numbers, positions, 0, 1, [[0, 1, 0]])
    noise = rng.uniform(-1e-9, 1e-9, size=positions.shape)
    assert record_id(numbers, positions + noise, 0, 1, [[0, 1, 0]]) == key
    moved = positions.copy()
    moved[rng.integers(len(positions)), rng.integers(3)] += rng.choice([-1, 1]) * rng.uniform(2e-6, 1)
    assert record_id(numbers, moved, 0, 1, [[0, 1, 0]]) != key


@pytest.mark.parametrize(
    "change",
    [
        {"atomic_numbers": [8, 1, 3]},
        {"positions": [[0.0, 0.0, 0.118], [0.0, 0.757, -0.467], [0.0, -0.757, -0.467]]},
        {"charge": 1},
        {"multiplicity": 3},
        {"bonds": [[0, 1, 0], [0, 2, 1]]},
        {"bonds": [[0, 1, 0]]},
        {"bonds": np.zeros((0, 3), int)},
    ],
)
def test_record_id_depends_on_everything_that_matters(change):
    names = ("atomic_numbers", "positions", "charge", "multiplicity", "bonds")
    arguments = dict(zip(names, WATER, strict=True))
    key = record_id(**arguments)
    assert len(key) == 20
    assert record_id(**(arguments | change)) != key


def test_record_id_does_not_depend_on_spelling():
    numbers, positions, charge, multiplicity, _ = WATER
    key = record_id(*WATER)
    assert record_id(numbers, positions, charge, multiplicity, [[2, 0, 0], [1, 0, 0]]) == key
    assert record_id(np.array(numbers, np.int8), np.array(positions) * -1.0 * -1.0, 0, 1, np.array(WATER[4])) == key
    assert key == "cbe36788cbc6b5066e5e", "ids are forever: a change here orphans every stored record"


@pytest.mark.parametrize(
    ("positions", "words"), [([[0, 0, 0]], r"shape \(1, 3\)"), ([[0, 0, 0], [0, 0, np.nan]], "NaN")]
)
def test_record_id_refuses(positions, words):
    with pytest.raises(RecordError, match=words):
        record_id([1, 1], positions, 0, 1, [[0, 1, 0]])


def test_rows_of_a_molecule():
    rows = table(n=3, origin="etkdg", code_version="1.0")
    assert rows.schema.equals(RECORDS, check_metadata=True)
    records = to_records(rows)
    assert [record.conformer for record in records] == [0, 1, 2]
    assert len({record.record_id for record in records}) == 3
    first = records[0]
    assert (first.molecule_id, first.smiles, first.name, first.charge, first.multiplicity) == (
        "CCO",
        "CCO",
        "title",
        0,
        1,
    )
    assert first.positions.shape == (9, 3)
    assert first.bonds.shape == (8, 3)
    assert (first.bonds[:, 0] < first.bonds[:, 1]).all()
    assert first.energy is None
    assert first.forces is None
    assert first.al_round == -1
    assert (first.origin, first.code_version) == ("etkdg", "1.0")
    assert first.record_id == record_id(first.atomic_numbers, first.positions, 0, 1, first.bonds)


def test_every_column_explains_itself():
    for field in RECORDS:
        assert set(field.metadata) == {b"unit", b"description", b"shape"}
        assert field.metadata[b"description"]
    units = {field.name: field.metadata[b"unit"].decode() for field in RECORDS}
    assert (units["energy"], units["forces"], units["positions"], units["dipole"]) == ("eV", "eV/Å", "Å", "e·Å")


def test_records_and_tables_are_inverse():
    records = to_records(table())
    labelled = [
        records[0]._replace(
            energy=-1.5, forces=np.arange(27.0).reshape(9, 3), dipole=np.ones(3), level="a", qc_flags=("x", "y")
        ),
        records[1],
    ]
    rows = from_records(labelled)
    assert rows.schema.equals(RECORDS, check_metadata=True)
    again = to_records(pa.concat_tables([rows, rows]).slice(1, 2))  # chunks and offsets that do not start at 0
    for one, other in zip(again, [labelled[1], labelled[0]], strict=True):
        for name, a, b in zip(one._fields, one, other, strict=True):
            assert type(a) is type(b), name
            np.testing.assert_array_equal(a, b)
    assert from_records([]).num_rows == 0
    assert to_records(from_records([])) == []


def test_arrays_of_records_may_be_written_to():
    record = to_records(table())[0]
    record.positions[0, 0] = 5.0


def test_wrong_shapes_and_columns_are_named():
    record = to_records(table())[0]
    with pytest.raises(RecordError, match=r"forces has shape \(3,\), expected \(9, 3\)"):
        from_records([record._replace(forces=np.zeros(3))])
    with pytest.raises(RecordError, match=r"lacks the columns \['energy'\]"):
        to_records(table().drop_columns(["energy"]))


def test_molecules_without_conformers_or_hydrogens_are_refused():
    (mol,) = molecules_from_smiles("CCO")
    with pytest.raises(RecordError, match="no conformer"):
        conformer_records(mol)
    bare = Chem.RemoveHs(etkdg(mol, 1, np.random.default_rng(0)).mol)
    with pytest.raises(RecordError, match="lacks explicit hydrogens"):
        conformer_records(bare)


def test_flags_of_a_conformer_reach_its_row():
    (mol,) = molecules_from_smiles("CCO")
    ensemble = etkdg(mol, 2, np.random.default_rng(0), prune_rmsd=None)
    ensemble.mol.GetConformer(1).SetProp(FLAGS_PROPERTY, "a; b")
    assert [record.qc_flags for record in to_records(conformer_records(ensemble.mol))] == [(), ("a", "b")]


def test_a_molecule_survives_the_table():
    rng = np.random.default_rng(0)
    for mol in read_molecules("demo"):
        record = to_records(conformer_records(etkdg(mol, 1, rng).mol))[0]
        back = to_mol(record)
        assert molecule_id(back) == record.molecule_id == molecule_id(mol)
        np.testing.assert_array_equal(back.GetConformer().GetPositions(), record.positions)
        (again,) = to_records(conformer_records(back))
        assert again.record_id == record.record_id


@pytest.mark.parametrize("smiles", ["[CH3]", "[NH4+].[Cl-]", "C[N+](=O)[O-]", "[O-]C(=O)C[NH3+]", "[C-]#[O+]", "[He]"])
def test_charges_and_radicals_survive(smiles):
    record = to_records(table(smiles, n=1))[0]
    assert charge_and_multiplicity(to_mol(record)) == (record.charge, record.multiplicity)
    assert molecule_id(to_mol(record)) == record.molecule_id


def test_a_graph_that_rdkit_refuses_is_named():
    record = to_records(table("CO", n=1))[0]
    with pytest.raises(RecordError, match=rf"{record.record_id} \(CO\): Explicit valence"):
        to_mol(record._replace(bonds=np.array([[0, 1, 2], *record.bonds[1:]])))


def test_levels_must_not_mix():
    records = to_records(table(n=3))
    one = [record._replace(energy=0.0, level="dft", program="psi4") for record in records[:2]]
    check_one_level(from_records([*one, records[2]]))
    check_one_level(from_records([]))
    with pytest.raises(RecordError, match=r"dft \(psi4\) and dft \(pyscf\)"):
        check_one_level(from_records([*one, records[2]._replace(energy=0.0, level="dft", program="pyscf")]))
    with pytest.raises(RecordError, match=r"dft \(psi4\) and gfn2 \(psi4\)"):
        check_one_level(from_records([*one, records[2]._replace(energy=0.0, level="gfn2", program="psi4")]))
