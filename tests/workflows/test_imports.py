"""``sddfkit store import``: labels of others become finished calculations that everything else works on."""

import json
import zlib

import h5py
import numpy as np
import pytest
import sqlalchemy as sa
from ase import Atoms
from ase.db import connect

from sddfkit.cli import main
from sddfkit.data.readers import Stated
from sddfkit.data.records import to_records
from sddfkit.data.snapshots import read_manifest, read_snapshot
from sddfkit.factory import Store, plan
from sddfkit.factory.store import attempts, calculations, meta
from sddfkit.factory.verify import verify
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.units import HARTREE_TO_EV
from sddfkit.workflows import imports
from sddfkit.workflows.imports import import_labels, sha256_of
from sddfkit.workflows.label import load_snapshot

METHANE = 0.629 * np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
WATER = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
LEVEL = "wB97X/6-31G(d)"


@pytest.fixture
def hdf5(tmp_path):
    """Waters and methanes that breathe, one of them with coinciding atoms, one without energy."""
    path = tmp_path / "set.h5"
    with h5py.File(path, "w") as file:
        for name, shape, species, energy in (
            ("methane", METHANE, [b"C", b"H", b"H", b"H", b"H"], -40.5),
            ("water", WATER, [b"O", b"H", b"H"], -76.4),
        ):
            factors = np.linspace(0.97, 1.05, 12)
            pull = np.array([shape * (f - 1) for f in factors])
            group = file.create_group(name)
            group["coordinates"] = shape + pull
            group["energies"] = energy + 0.15 * (pull**2).sum(axis=(1, 2))
            group["forces"] = -0.3 * pull
            group["species"] = species
        group["energies"][4] = np.nan
        group["coordinates"][7] = 0.1 * WATER
    return path


def run(*argv):
    return main(["store", *map(str, argv)])


def imported(hdf5, store, *more):
    return run(
        "import", hdf5, "--level", LEVEL, "--program", "Gaussian", "--program-version", "09", "--store", store, *more
    )


def test_labels_become_finished_calculations(tmp_path, hdf5, capsys):
    path = tmp_path / "store.sqlite"
    assert imported(hdf5, path) == 0
    said = capsys.readouterr().out
    assert f"ani, 24 frames, {LEVEL} by imported:gaussian 09" in said
    assert "energies in hartree" in said
    assert "22 labels new, 0 known before, 2 frames refused, 0 conflicts" in said
    assert "1 × it has no energy (for example water, frame 4)" in said
    assert "Å apart, closer than 0.5 Å" in said
    with Store(path, read_only=True) as store:
        assert verify(store).problems == []
        frame = store.to_frame()
        assert set(frame.state) == {"done"} and set(frame.program) == {"imported:gaussian"}
        assert frame.attempts.tolist() == [0] * 22, "nobody tried them here"
        row = store.select(sa.select(calculations).where(calculations.c.label == "methane"))[0]
        result = store.result(row["key"])
        assert result["provenance"]["creator"] == "gaussian"
        assert result["provenance"]["routine"] == "imported"
        about = result["extras"]["imported"]
        assert (about["file"], about["sha256"]) == ("set.h5", sha256_of(hdf5))
        assert store.record(row["record_id"])["energy"] is None, "the record is apart from its label"
        assert not store.select(sa.select(attempts))
    assert run("verify", "--store", path) == 0


def test_importing_again_changes_nothing(tmp_path, hdf5, capsys):
    path = tmp_path / "store.sqlite"
    imported(hdf5, path)
    with Store(path, read_only=True) as store:
        before = store.to_frame()
    capsys.readouterr()
    assert imported(hdf5, path) == 0
    assert "0 labels new, 22 known before, 2 frames refused, 0 conflicts" in capsys.readouterr().out
    with Store(path) as store:  # also where nothing was noted about the file
        with store.writing() as connection:
            connection.execute(meta.delete().where(meta.c.name.like("import:%")))
        found = import_labels(store, hdf5, Stated(level=LEVEL), program="gaussian", version="09")
        assert (found.new, found.known, found.conflicts) == (0, 22, [])
        assert store.to_frame().equals(before)


def test_an_interrupted_import_goes_on(tmp_path, hdf5, monkeypatch):
    path = tmp_path / "store.sqlite"
    monkeypatch.setattr(imports, "FRAMES_AT_ONCE", 5)
    made = 0

    def stopping(record, origin, document):
        nonlocal made
        made += 1
        if made == 13:
            raise KeyboardInterrupt
        return row_of(record, origin, document)

    row_of = imports.row_of
    with monkeypatch.context() as patch, Store(path) as store:
        patch.setattr(imports, "row_of", stopping)
        with pytest.raises(KeyboardInterrupt):
            import_labels(store, hdf5, Stated(level=LEVEL))
        assert len(store.to_frame()) == 10, "whole chunks alone"
    seen = []
    monkeypatch.setattr(
        imports, "labelled_record", lambda f, s, real=imports.labelled_record: seen.append(f) or real(f, s)
    )
    with Store(path) as store:
        found = import_labels(store, hdf5, Stated(level=LEVEL))
        assert (found.new, found.known, sum(found.refused.values())) == (12, 10, 2)
        assert len(seen) == 14, "what was read before is passed over"
        assert verify(store).problems == []


def test_imported_labels_are_never_ours(tmp_path, hdf5):
    level = Level(LEVEL, "wb97x", "6-31G(d)", {"psi4": {}, "gaussian": {}})
    with Store(tmp_path / "store.sqlite") as store:
        import_labels(store, hdf5, Stated(level=LEVEL), program="psi4", version="1.9.1")
        records = [r for r in imports.open_labels(hdf5, Stated(level=LEVEL)).records() if hasattr(r, "energy")]
        ours, _ = plan(records, level, ChosenProgram("psi4", "1.9.1", ""))
        assert len(ours) == 22 and store.states(item.key for item in ours) == {}


def test_another_energy_for_the_same_geometry_is_kept_out(tmp_path, hdf5, capsys):
    path = tmp_path / "store.sqlite"
    imported(hdf5, path, "--limit", 3)
    with h5py.File(hdf5, "a") as file:
        file["methane/energies"][1] += 0.01
    capsys.readouterr()
    assert imported(hdf5, path) == 1
    said = capsys.readouterr().out
    assert "19 labels new, 2 known before, 2 frames refused, 1 conflicts" in said
    assert "kept out methane: its energy is -40." in said
    with Store(path, read_only=True) as store:
        assert verify(store).problems == []


def test_isolated_atoms_come_with_a_set_that_has_them(tmp_path, capsys):
    path = tmp_path / "set.db"
    with connect(path, append=False) as rows:
        references = np.zeros(9)
        references[[1, 8]] = -0.5, -75.0
        rows.metadata = {
            "_property_unit_dict": {"energy": "Hartree", "forces": "Hartree/Ang"},
            "atomrefs": {"energy": references.tolist()},
        }
        for k in range(3):
            rows.write(Atoms("OHH", WATER * (1 + 0.01 * k)), data={"energy": [-0.35], "forces": np.zeros((3, 3))})
    store = tmp_path / "store.sqlite"
    assert run("import", path, "--level", "wB97X-D/def2-SVP", "--store", store) == 1
    assert "does not say whether they were removed" in capsys.readouterr().err
    assert run("import", path, "--level", "wB97X-D/def2-SVP", "--zero", "above-atoms", "--store", store) == 0
    assert run("verify", "--store", store) == 0
    assert run("export", tmp_path / "out", "--store", store) == 0
    records, atoms = load_snapshot(tmp_path / "out")
    assert atoms == pytest.approx({1: -0.5 * HARTREE_TO_EV, 8: -75.0 * HARTREE_TO_EV})
    assert [r.energy for r in records] == pytest.approx([-76.35 * HARTREE_TO_EV] * 3)


def test_export_and_its_manifest(tmp_path, hdf5):
    store = tmp_path / "store.sqlite"
    imported(hdf5, store)
    assert run("export", tmp_path / "out", "--store", store, "--licence", "MIT", "--citation", "Doe 2020") == 0
    table = read_snapshot(tmp_path / "out")
    records = to_records(table)
    assert len(records) == 22
    methane = [r for r in records if r.name == "methane"]
    assert methane[0].forces.shape == (5, 3) and methane[0].dipole is None
    np.testing.assert_allclose(sum(r.forces.sum() for r in methane), 0, atol=1e-9)
    assert {(r.level, r.program, r.program_version) for r in records} == {(LEVEL, "imported:gaussian", "09")}
    manifest = read_manifest(tmp_path / "out")
    assert (manifest["licence"], manifest["citation"]) == ("MIT", "Doe 2020")
    assert manifest["program_versions"] == ["09"]
    assert manifest["sources"] == [{"file": "set.h5", "sha256": sha256_of(hdf5)}]


def test_energies_alone_are_exported_without_forces(tmp_path, hdf5):
    with h5py.File(hdf5, "a") as file:
        for group in file.values():
            del group["forces"]
    store = tmp_path / "store.sqlite"
    assert imported(hdf5, store) == 0
    assert run("verify", "--store", store) == 0
    assert run("export", tmp_path / "out", "--store", store) == 0
    assert {r.forces is None for r in to_records(read_snapshot(tmp_path / "out"))} == {True}


def test_wrong_use(tmp_path, hdf5, capsys):
    store = tmp_path / "store.sqlite"
    assert run("import", tmp_path / "none.h5", "--store", store) == 2
    assert not store.exists(), "nothing is made for a command that is wrong"
    assert run("import", hdf5, "--store", store) == 1
    assert "does not name its level of theory; state it (--level)" in capsys.readouterr().err
    bad = tmp_path / "atoms.json"
    bad.write_text(json.dumps({"Hx": 1}))
    assert imported(hdf5, store, "--isolated-atoms", bad) == 1
    assert "expected a JSON object such as" in capsys.readouterr().err


def test_a_result_that_was_altered_is_noticed(tmp_path, hdf5):
    store = tmp_path / "store.sqlite"
    imported(hdf5, store)
    with Store(store) as opened, opened.writing() as connection:
        key, document = connection.execute(sa.text("SELECT key, document FROM results LIMIT 1")).one()
        content = json.loads(zlib.decompress(document))
        content["input_data"]["molecule"]["geometry"][0] += 0.1
        changed = zlib.compress(json.dumps(content).encode())
        connection.execute(sa.text("UPDATE results SET document = :d WHERE key = :k"), {"d": changed, "k": key})
    assert run("verify", "--store", store) == 1
