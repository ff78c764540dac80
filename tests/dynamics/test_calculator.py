"""The ensemble as an ASE calculator: its numbers are the ensemble's, its forces the slope, its policies kept."""

import numpy as np
import pytest
from ase.calculators.fd import calculate_numerical_forces
from ase.md.verlet import VelocityVerlet
from ase.optimize import LBFGS
from ase.units import fs
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.dynamics import EnsembleCalculator, UncertainError, UncertainWarning, atoms_of
from sddfkit.models import Ensemble, GraphError, graph, graph_stats
from sddfkit.models.build import build_net


def molecule(smiles: str) -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=1)
    return to_records(conformer_records(mol))[0]


METHANOL = molecule("CO")
AMMONIUM = molecule("C[NH3+]")


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    stats = graph_stats([graph(record, 5.0) for record in (METHANOL, AMMONIUM)])
    config = {"_target_": "sddfkit.models.gen.GEN", "width": 8, "layers": 1, "cutoff": 5.0}
    members = {f"m{seed}": build_net(config, stats, seed).double() for seed in range(3)}
    return Ensemble(members, ReferenceEnergies({1: -13.6, 6: -1030.0, 7: -1480.0, 8: -2040.0}, "made up"), {})


@pytest.mark.parametrize("record", [METHANOL, AMMONIUM], ids=lambda record: record.smiles)
def test_the_numbers_are_those_of_the_ensemble_and_forces_are_the_slope(ensemble: Ensemble, record: Record) -> None:
    atoms = atoms_of(record)
    atoms.calc = EnsembleCalculator(ensemble, record)
    expected = ensemble.predict([record])
    assert expected.forces is not None and expected.member_forces is not None
    assert atoms.get_potential_energy() == pytest.approx(expected.energy[0], abs=1e-10)
    assert atoms.calc.results["energy_std"] == pytest.approx(expected.energy_std[0])
    assert np.allclose(atoms.get_forces(), expected.forces[0], atol=1e-12)
    away = np.linalg.norm(expected.member_forces[0] - expected.forces[0], axis=-1)
    assert atoms.calc.results["forces_std_max"] == pytest.approx(np.sqrt((away**2).mean(0)).max())
    assert np.allclose(atoms.get_forces(), calculate_numerical_forces(atoms, eps=1e-4), atol=1e-6)


def test_a_charge_that_matters_is_the_records(ensemble: Ensemble) -> None:
    neutral = AMMONIUM._replace(formal_charges=np.zeros_like(AMMONIUM.formal_charges))
    energies = []
    for record in (AMMONIUM, neutral):
        atoms = atoms_of(record)
        atoms.calc = EnsembleCalculator(ensemble, record)
        energies.append(atoms.get_potential_energy())
    assert abs(energies[0] - energies[1]) > 1e-6


def test_ase_relaxes_and_moves_molecules_and_energy_is_conserved(ensemble: Ensemble) -> None:
    atoms = atoms_of(METHANOL)
    atoms.calc = EnsembleCalculator(ensemble, METHANOL)
    before = atoms.get_potential_energy()
    assert LBFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    assert atoms.get_potential_energy() < before
    atoms.set_momenta(np.random.default_rng(1).normal(scale=0.1, size=(len(atoms), 3)))
    total, kinetic = atoms.get_total_energy(), atoms.get_kinetic_energy()
    VelocityVerlet(atoms, 0.25 * fs).run(40)
    assert abs(atoms.get_total_energy() - total) < 1e-2 * kinetic


def test_uncertain_steps_are_said_stopped_or_collected(ensemble: Ensemble) -> None:
    atoms = atoms_of(METHANOL)
    atoms.calc = EnsembleCalculator(ensemble, METHANOL, limit=1e-9)
    with pytest.warns(UncertainWarning, match=r"disagree about the force on atom \d+ \([HCO]\)") as said:
        for _ in range(3):
            atoms.rattle(0.01, rng=np.random.default_rng(1))
            atoms.get_forces()
    assert len(said) == 1
    atoms.calc = EnsembleCalculator(ensemble, METHANOL, limit=1e-9, policy="stop")
    for _ in range(2):  # and it is not forgotten when it is asked again
        with pytest.raises(UncertainError, match="above the limit of 1e-09"):
            atoms.get_forces()
    atoms.calc = EnsembleCalculator(ensemble, METHANOL, limit=1e-9, policy="collect")
    places = []
    for seed in range(3):
        atoms.rattle(0.01, rng=np.random.default_rng(seed))
        atoms.get_potential_energy()
        places.append(atoms.positions.copy())
    assert [np.array_equal(a.positions, x) for a, x in zip(atoms.calc.collected, places, strict=True)] == [True] * 3
    assert atoms.calc.collected[-1].info["energy"] == atoms.get_potential_energy()
    atoms.calc = EnsembleCalculator(ensemble, METHANOL, limit=1e9, policy="stop")
    assert np.isfinite(atoms.get_forces()).all()


def test_what_is_asked_wrongly_is_explained(ensemble: Ensemble) -> None:
    with pytest.raises(ValueError, match="expected one of warn, stop, collect"):
        EnsembleCalculator(ensemble, METHANOL, policy="go on")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a positive number"):
        EnsembleCalculator(ensemble, METHANOL, limit=0.0)
    atoms = atoms_of(METHANOL)[::-1]
    atoms.calc = EnsembleCalculator(ensemble, METHANOL)
    with pytest.raises(ValueError, match=r"are not those of the record .* atoms_of"):
        atoms.get_potential_energy()
    atoms = atoms_of(METHANOL)
    atoms.calc = EnsembleCalculator(ensemble, METHANOL)
    atoms.pbc = True
    with pytest.raises(ValueError, match="periodic"):
        atoms.get_potential_energy()
    atoms.pbc = False
    atoms.positions[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        atoms.get_potential_energy()
    fluoride = molecule("CF")
    atoms = atoms_of(fluoride)
    atoms.calc = EnsembleCalculator(ensemble, fluoride)
    with pytest.raises((GraphError, ValueError), match="F"):
        atoms.get_potential_energy()
