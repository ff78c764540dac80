"""Potentials give what their models give, for any batch, and one molecule's failure is a value."""

import numpy as np
import pytest
import torch
from ase.calculators.calculator import CalculationFailed, Calculator
from ase.calculators.emt import EMT
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.dynamics import CalculatorPotential, EnsembleCalculator, EnsemblePotential, HarmonicWells, Sum, tblite
from sddfkit.models import Ensemble, GraphError, graph, graph_stats
from sddfkit.models.build import build_net


def molecule(smiles: str, seed: int = 1) -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(mol, randomSeed=seed)
    return to_records(conformer_records(mol))[0]


RECORDS = [molecule(smiles) for smiles in ("CO", "C[NH3+]", "CCO", "O", "CC(=O)N", "C1CC1")]


def positions(records: list[Record]) -> torch.Tensor:
    return torch.as_tensor(np.concatenate([record.positions for record in records]))


@pytest.fixture(scope="module")
def ensemble() -> Ensemble:
    stats = graph_stats([graph(record, 3.0) for record in RECORDS])
    nets = {"gen": ("gen.GEN", 3.0), "res": ("resgated.ResGated", 2.5)}
    members = {
        name: build_net({"_target_": f"sddfkit.models.{net}", "width": 8, "layers": 1, "cutoff": cutoff}, stats, 3)
        for name, (net, cutoff) in nets.items()
    }
    members = {name: net.double() for name, net in members.items()}
    return Ensemble(members, ReferenceEnergies({1: -13.6, 6: -1030.0, 7: -1480.0, 8: -2040.0}, "made up"), {})


def test_the_numbers_are_those_of_the_ensemble_wherever_the_atoms_go(ensemble: Ensemble) -> None:
    potential = EnsemblePotential(ensemble, chunk=4, skin=0.6)
    rng = np.random.default_rng(0)
    moved = RECORDS
    for size in (0.0, 0.02, 0.05, 0.1, 0.3, 0.05):  # within the skin, and beyond
        moved = [r._replace(positions=r.positions + rng.normal(scale=size, size=r.positions.shape)) for r in moved]
        found, expected = potential(RECORDS, positions(moved)), ensemble.predict(moved)
        np.testing.assert_allclose(found.energies, expected.energy, atol=1e-10, rtol=0)
        np.testing.assert_allclose(found.member_energies, expected.member_energies, atol=1e-10, rtol=0)
        np.testing.assert_allclose(found.forces, np.concatenate(expected.forces), atol=1e-10)
        np.testing.assert_allclose(found.member_forces, np.concatenate(expected.member_forces, axis=1), atol=1e-10)
        assert not found.failures


@settings(max_examples=5, deadline=None)
@given(order=st.permutations(range(len(RECORDS))), count=st.integers(1, len(RECORDS)), chunk=st.integers(1, 4))
def test_an_answer_depends_neither_on_company_nor_on_what_was_asked_before(ensemble, order, count, chunk) -> None:
    some = [RECORDS[k] for k in order[:count]]
    potential = EnsemblePotential(ensemble, chunk=chunk)
    whole = EnsemblePotential(ensemble)(RECORDS, positions(RECORDS))
    parts = whole.forces.split([len(r.atomic_numbers) for r in RECORDS])
    for _ in range(2):
        found = potential(some, positions(some))
        torch.testing.assert_close(found.forces, torch.cat([parts[k] for k in order[:count]]), atol=1e-11, rtol=0)
        torch.testing.assert_close(found.energies, whole.energies[order[:count]], atol=1e-10, rtol=0)
        potential(some, positions(some) + 0.1 * torch.randn(len(positions(some)), 3, dtype=torch.float64))


def test_one_member_alone_can_drive(ensemble: Ensemble) -> None:
    alone = EnsemblePotential(ensemble, members=["res"])(RECORDS, positions(RECORDS))
    both = EnsemblePotential(ensemble)(RECORDS, positions(RECORDS))
    assert len(alone.member_forces) == 1
    torch.testing.assert_close(alone.forces, both.member_forces[1])
    with pytest.raises(ValueError, match="expected some of"):
        EnsemblePotential(ensemble, members=["pna"])


def test_a_broken_geometry_is_a_failure_of_its_molecule_alone(ensemble: Ensemble) -> None:
    potential = EnsemblePotential(ensemble)
    good = potential(RECORDS, positions(RECORDS))
    first, second = len(RECORDS[0].atomic_numbers), len(RECORDS[1].atomic_numbers)
    for wrong, why in ((torch.nan, "NaN"), (0.0, "closer than")):
        places = positions(RECORDS)
        places[first : first + 2] = wrong
        found = potential(RECORDS, places)
        assert list(found.failures) == [1] and why in found.failures[1]
        assert found.energies.isnan().tolist() == [False, True, *[False] * 4]
        assert found.forces[first : first + second].isnan().all()
        torch.testing.assert_close(found.forces[:first], good.forces[:first])
        torch.testing.assert_close(found.forces[first + second :], good.forces[first + second :])
    assert not potential(RECORDS, positions(RECORDS)).failures


def test_what_the_members_cannot_know_is_refused(ensemble: Ensemble) -> None:
    fluoride = molecule("CF")
    with pytest.raises(ValueError, match="F"):
        EnsemblePotential(ensemble)([fluoride], positions([fluoride]))
    unknown = RECORDS[0]._replace(bonds=np.zeros((0, 3), dtype=np.int32))
    with pytest.raises(GraphError, match="lists no bonds"):
        EnsemblePotential(ensemble)([unknown], positions([unknown]))


def test_calculators_of_ase_are_asked_one_by_one(ensemble: Ensemble) -> None:
    found = CalculatorPotential(lambda record: EnsembleCalculator(ensemble, record))(RECORDS, positions(RECORDS))
    batched = EnsemblePotential(ensemble)(RECORDS, positions(RECORDS))
    torch.testing.assert_close(found.energies, batched.energies, atol=1e-10, rtol=0)
    torch.testing.assert_close(found.forces, batched.forces, atol=1e-10, rtol=0)


def test_a_calculator_that_fails_is_a_failure_of_its_molecule_and_forgets_nothing() -> None:
    made: list[str] = []

    class Moody(EMT):
        def calculate(self, atoms, properties, system_changes):
            if len(atoms) == 3:
                raise CalculationFailed("not today")
            super().calculate(atoms, properties, system_changes)

    def make(record: Record) -> Calculator:
        made.append(record.smiles)
        return Moody()

    potential = CalculatorPotential(make)
    found = potential(RECORDS, positions(RECORDS))
    assert found.failures == {3: "CalculationFailed: not today"}
    assert found.energies.isnan().tolist() == [k == 3 for k in range(len(RECORDS))]
    potential(RECORDS[:2], positions(RECORDS[:2]))
    assert len(made) == len(RECORDS)


def test_tblite_knows_charge_and_multiplicity() -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    records = [RECORDS[1], RECORDS[3], RECORDS[3]._replace(charge=1, multiplicity=2)]
    found = tblite()(records, positions(records))
    assert not found.failures
    assert float(found.energies[2] - found.energies[1]) > 8.0  # eV, to ionise water
    shifted = positions(records)
    shifted[0, 0] += 1e-3
    back = positions(records)
    back[0, 0] -= 1e-3
    slope = (tblite()(records, shifted).energies[0] - tblite()(records, back).energies[0]) / 2e-3
    assert float(found.forces[0, 0]) == pytest.approx(-float(slope), abs=1e-3)


def test_an_ensemble_above_a_baseline_is_driven_with_it_alone(ensemble: Ensemble) -> None:
    wells = HarmonicWells(dict.fromkeys((1, 6, 7, 8), 2.0))
    above = Ensemble(ensemble.members, ensemble.references, {"baseline": {"name": "wells", "program": "none"}})
    places = positions(RECORDS) + 0.1
    found = EnsemblePotential(above, baseline=wells)(RECORDS, places)
    expected = Sum(EnsemblePotential(ensemble), wells)(RECORDS, places)
    torch.testing.assert_close(found.energies, expected.energies)
    torch.testing.assert_close(found.member_energies, expected.member_energies)
    torch.testing.assert_close(found.forces, expected.forces)
    torch.testing.assert_close(found.member_forces, expected.member_forces)
    with pytest.raises(ValueError, match="differences from wells: give that method"):
        EnsemblePotential(above)
    with pytest.raises(ValueError, match="without a baseline"):
        EnsemblePotential(ensemble, baseline=wells)


def test_a_sum_adds_to_each_member(ensemble: Ensemble) -> None:
    wells = HarmonicWells(dict.fromkeys((1, 6, 7, 8), 2.0))
    places = positions(RECORDS) + 0.1
    one, other = EnsemblePotential(ensemble)(RECORDS, places), wells(RECORDS, places)
    both = Sum(EnsemblePotential(ensemble), wells)(RECORDS, places)
    torch.testing.assert_close(both.forces, one.forces + other.forces)
    torch.testing.assert_close(both.energies, one.energies + other.energies)
    torch.testing.assert_close(both.member_forces, one.member_forces + other.forces)
    torch.testing.assert_close(both.member_forces.mean(0), both.forces)
    with pytest.raises(ValueError, match="at most one"):
        Sum(EnsemblePotential(ensemble), EnsemblePotential(ensemble))(RECORDS, places)
