import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from sddfkit.chem import conformers
from sddfkit.chem.conformers import FLAGS_PROPERTY, etkdg, given
from sddfkit.chem.connectivity import connectivity_faults
from sddfkit.chem.molecules import molecule_id, molecules_from_smiles
from sddfkit.chem.sources import read_molecules


def embed(smiles, n=6, seed=1, **options):
    (mol,) = molecules_from_smiles(smiles)
    return etkdg(mol, n, np.random.default_rng(seed), **options)


def positions(ensemble):
    return np.array([conformer.GetPositions() for conformer in ensemble.mol.GetConformers()])


def lost(ensemble):
    return {reason: count for reason, count in ensemble.failures.items() if not reason.startswith("attempt: ")}


def test_counts_add_up_and_say_why():
    ensemble = embed("CCCO", n=12)
    pruned = ensemble.failures["pruned within 0.30 Å"]
    assert (ensemble.asked, ensemble.embedded, ensemble.kept) == (12, 12, 12 - pruned)
    assert 1 < ensemble.kept < 12
    assert ensemble.summary() == f"asked 12, kept {12 - pruned}: {pruned} pruned within 0.30 Å"
    assert [conformer.GetId() for conformer in ensemble.mol.GetConformers()] == list(range(ensemble.kept))
    assert ensemble.method == "ETKDGv3"
    assert ensemble.flags == ()


def test_pruning_can_be_left_out_and_may_ignore_hydrogens():
    everything = embed("CCO", prune_rmsd=None)
    assert everything.kept == 6
    assert 1 < embed("CCO").kept < 6, "anti and gauche differ by their hydroxyl hydrogen"
    assert embed("CCO", prune_hydrogens=False).kept == 1, "three heavy atoms have one shape"
    assert embed("[H][H]", prune_hydrogens=False).kept == 1, "hydrogen has nothing else to compare"


def test_the_generator_decides():
    same, again, other = embed("CCCO", seed=1), embed("CCCO", seed=1), embed("CCCO", seed=2)
    np.testing.assert_array_equal(positions(same), positions(again))
    assert positions(same).shape != positions(other).shape or not np.allclose(positions(same), positions(other))


def test_the_given_molecule_is_left_alone_and_hydrogens_are_added():
    mol = Chem.MolFromSmiles("CCO")
    ensemble = etkdg(mol, 1, np.random.default_rng(0))
    assert mol.GetNumConformers() == 0
    assert mol.GetNumAtoms() == 3
    assert ensemble.mol.GetNumAtoms() == 9


def test_stereo_survives():
    ensemble = embed("C[C@H](O)C(=O)O", mmff=True)
    for conformer in ensemble.mol.GetConformers():
        copy = Chem.Mol(ensemble.mol, confId=conformer.GetId())
        Chem.AssignStereochemistryFrom3D(copy)
        assert molecule_id(copy) == "C[C@H](O)C(=O)O"


@pytest.mark.parametrize(
    ("smiles", "cause"),
    [("C1#CC1", "attempt: etk minimization"), ("C[C@@]12C[C@@]3(C)C[C@](C)(C1)C[C@@](C)(C2)C3", "attempt: ")],
)
def test_what_cannot_be_embedded_comes_back_with_reasons(smiles, cause, capfd):
    ensemble = embed(smiles, n=3, max_attempts=5)
    assert (ensemble.embedded, ensemble.kept) == (0, 0)
    assert lost(ensemble) == {"not embedded": 3}
    assert any(reason.startswith(cause) and count > 0 for reason, count in ensemble.failures.items())
    assert ensemble.summary().startswith("asked 3, kept 0: 3 not embedded (")
    assert capfd.readouterr().err == ""


def test_random_coordinates_are_tried_after_distance_geometry(monkeypatch):
    real, used = conformers.rdDistGeom.EmbedMultipleConfs, []

    def failing_at_first(mol, n, params):
        used.append((n, params.useRandomCoords))
        return real(mol, 2 if not params.useRandomCoords else n, params)

    monkeypatch.setattr(conformers.rdDistGeom, "EmbedMultipleConfs", failing_at_first)
    ensemble = embed("CCO", n=5, prune_rmsd=None)
    assert used == [(5, False), (3, True)]
    assert ensemble.kept == 5


def test_time_out_is_a_reason():
    started = time.perf_counter()
    impossible = embed("C1C[C@H]2CC[C@H]1C2", n=1, max_attempts=10_000_000, timeout_s=0.5)
    assert time.perf_counter() - started < 20
    assert impossible.failures["attempt: exceeded timeout"] > 0
    assert impossible.kept == 0


@pytest.mark.parametrize(
    ("smiles", "options"), [("C1C[C@H]2CC[C@H]1C2", {"max_attempts": 10_000_000}), ("C" * 250, {})]
)
def test_a_molecule_that_takes_too_long_is_given_up(smiles, options):
    hopeless = embed(smiles, n=20, timeout_s=1, **options)
    assert hopeless.failures["attempt: exceeded timeout"] == 2, "one conformer in each of the two runs"
    assert hopeless.failures["attempt: not asked for after exceeded timeout"] == 2 * 19
    assert lost(hopeless) == {"not embedded": 20}


def test_the_first_conformer_alone_changes_nothing():
    (mol,) = molecules_from_smiles("C" * 40)  # more than 100 atoms
    params = rdDistGeom.ETKDGv3()
    params.randomSeed = int(np.random.default_rng(1).integers(1, 2**31 - 1))
    rdDistGeom.EmbedMultipleConfs(mol, 3, params)
    expected = np.array([conformer.GetPositions() for conformer in mol.GetConformers()])
    found = embed("C" * 40, n=3, prune_rmsd=None)
    np.testing.assert_array_equal(positions(found), expected)
    assert found.kept == 3


def test_off_the_main_thread_it_is_the_same():
    found = []
    thread = threading.Thread(target=lambda: found.append(embed("CCCO", mmff=True)))
    thread.start()
    thread.join()
    np.testing.assert_array_equal(positions(found[0]), positions(embed("CCCO", mmff=True)))


@pytest.mark.parametrize("smiles", ["C" * 300, "C" * 1500], ids=["while embedding", "while preparing"])
def test_an_interrupt_does_not_wait_for_rdkit(smiles):
    code = (
        "import signal, sys, numpy as np; from rdkit import Chem; from sddfkit.chem.conformers import etkdg\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # also where a background job ignores it\n"
        "mol = Chem.MolFromSmiles(sys.argv[1]); print('embedding', flush=True)\n"
        "etkdg(mol, 4, np.random.default_rng(0), timeout_s=20)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, smiles], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "embedding\n"
        time.sleep(1.5)
        os.kill(child.pid, signal.SIGINT)
        _, errors = child.communicate(timeout=10)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == -signal.SIGINT and errors.endswith("KeyboardInterrupt\n")


def test_mmff_relaxes_without_breaking_anything():
    raw, relaxed = embed("CCCO", prune_rmsd=None), embed("CCCO", prune_rmsd=None, mmff=True)
    assert relaxed.method == "ETKDGv3 + MMFF94"
    assert np.abs(positions(raw) - positions(relaxed)).max() > 0.01
    assert relaxed.flags == ()


def test_mmff_without_parameters_is_flagged():
    ensemble = embed("BrB(Br)Br", mmff=True, n=2, prune_rmsd=None)
    assert ensemble.kept == 2
    assert "no parameters" in ensemble.flags[0]


def test_bonds_that_change_in_mmff_are_flagged(monkeypatch):
    def tear(mol, **_):
        for conformer in list(mol.GetConformers())[1:2]:
            conformer.SetAtomPosition(0, [9.0, 9.0, 9.0])
        return [(0, 0.0), (0, 0.0), (1, 0.0)]

    monkeypatch.setattr(conformers.rdForceFieldHelpers, "MMFFOptimizeMoleculeConfs", tear)
    ensemble = embed("CCO", n=3, mmff=True, prune_rmsd=None)
    assert any(flag.startswith("conformer 1: bonds changed in MMFF94: bond C0–C1") for flag in ensemble.flags)
    assert "conformer 2: MMFF94 not converged" in ensemble.flags
    assert not ensemble.mol.GetConformer(0).HasProp(FLAGS_PROPERTY)
    assert ensemble.kept == 3, "flagged, not dropped"


def test_fragments_are_placed_apart():
    ensemble = embed("CC(=O)[O-].[Na+]", n=3, prune_rmsd=None)
    assert "fragments" in ensemble.flags[0]
    for conformer in ensemble.mol.GetConformers():
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in ensemble.mol.GetBonds()]
        numbers = [atom.GetAtomicNum() for atom in ensemble.mol.GetAtoms()]
        assert connectivity_faults(numbers, conformer.GetPositions(), bonds) == []


@pytest.mark.parametrize("options", [{"n": 0}, {"prune_rmsd": -0.1}, {"timeout_s": 0}])
def test_arguments_out_of_range(options):
    with pytest.raises(ValueError, match="expected"):
        embed("CCO", **options)


@pytest.mark.parametrize("mmff", [False, True])
def test_every_shipped_molecule_embeds_with_sound_bonds(mmff):
    rng = np.random.default_rng(0)
    for mol in read_molecules("demo"):
        ensemble = etkdg(mol, 3, rng, mmff=mmff, prune_rmsd=None)
        assert ensemble.kept == 3, ensemble.summary()
        bonds = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds()]
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        for where in positions(ensemble):
            assert connectivity_faults(numbers, where, bonds) == []


def given_of(mol):
    return given(mol, rng=np.random.default_rng(0))


def test_given_takes_all_conformers_of_an_sdf_record_as_they_are(tmp_path):
    ethanol = embed("CCO", n=1).mol
    path = tmp_path / "one.sdf"
    path.write_text(Chem.MolToMolBlock(ethanol) + "$$$$\n")
    (read,) = read_molecules(path)
    found = given_of(read)
    assert (found.asked, found.embedded, found.kept, found.failures, found.flags) == (1, 1, 1, {}, ())
    assert found.method == "given"
    written = Chem.MolFromMolBlock(path.read_text(), removeHs=False).GetConformer().GetPositions()
    np.testing.assert_array_equal(found.mol.GetConformer().GetPositions(), written)

    many = embed("CCCO", n=5, prune_rmsd=None).mol
    for conformer in list(many.GetConformers())[1:4:2]:
        many.RemoveConformer(conformer.GetId())
    places = [conformer.GetPositions() for conformer in many.GetConformers()]
    several = given_of(many)
    assert several.kept == 3 and [c.GetId() for c in several.mol.GetConformers()] == [0, 1, 2]
    np.testing.assert_array_equal(positions(several), places)


def test_given_refuses_what_has_no_place(tmp_path):
    bare = given_of(molecules_from_smiles("CCO")[0])
    assert (bare.kept, bare.summary()) == (
        0, "asked 1, kept 0: 1 without 3D coordinates (conformers=etkdg makes some)",
    )  # fmt: skip
    heavy = Chem.RemoveHs(embed("CCO", n=2).mol)
    assert given_of(heavy).summary() == "asked 2, kept 0: 2 without positions of 6 hydrogens"
    assert heavy.GetNumConformers() == 2, "the given molecule is left alone"
    path = tmp_path / "heavy.sdf"
    path.write_text(Chem.MolToMolBlock(heavy) + "$$$$\n")
    (read,) = read_molecules(path)  # RDKit places the hydrogens: not what was given
    assert given_of(read).summary() == "asked 1, kept 0: 1 without positions of 6 hydrogens"

    mol = embed("CCO", n=4, prune_rmsd=None).mol
    for atom in (4, 7):
        mol.GetConformer(1).SetAtomPosition(atom, [0.0, 0.0, 0.0])
    mol.GetConformer(2).SetAtomPosition(3, [float("nan"), 0.0, 0.0])
    mol.GetConformer(3).Set3D(False)
    some = given_of(mol)
    assert (some.asked, some.kept) == (4, 1)
    assert some.failures == {
        "with atoms 4 and 7 at one place": 1,
        "with coordinates that are no numbers": 1,
        "flat (a 2D drawing)": 1,
    }
    np.testing.assert_array_equal(positions(some)[0], mol.GetConformer(0).GetPositions())
