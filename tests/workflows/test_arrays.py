"""Arrays of a pool: their shapes, and that each is what its name says."""

import numpy as np
import pytest

from sddfkit.active import Pool
from sddfkit.chem.conformers import etkdg
from sddfkit.chem.molecules import molecules_from_smiles
from sddfkit.data.records import conformer_records, to_records
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models.ensemble import EnsemblePrediction
from sddfkit.workflows.arrays import ARRAYS, conformer_order, pool_arrays


class Known:
    """Two members, one of which says half of what the other says."""

    members = ("a", "b")
    references = ReferenceEnergies({1: -13.0, 6: -1000.0, 8: -2000.0}, "made up")

    def __init__(self) -> None:
        self.calls = 0

    def predict(self, records, forces=True):
        self.calls += 1
        energies = np.array([[-1.0], [-2.0]]) + [self.references.total(r.atomic_numbers) for r in records]
        members = [np.stack([record.positions, record.positions / 2]) for record in records] if forces else None
        return EnsemblePrediction(energies.mean(0), energies.std(0), energies, None, members)


@pytest.fixture(scope="module")
def records():
    found = []
    for smiles in ("CCCCO", "CO"):
        (mol,) = molecules_from_smiles(smiles)
        kept = etkdg(mol, 6, np.random.default_rng(0)).mol
        found += to_records(conformer_records(kept))
    return found[::-1]


def test_every_array_goes_into_a_pool(records):
    ensemble = Known()
    arrays = pool_arrays(records, ensemble, ARRAYS, lambda rows: np.full(len(rows), 2.0))
    assert set(arrays) == ARRAYS and ensemble.calls == 1, "the members are asked once"
    Pool([r.record_id for r in records], [r.molecule_id for r in records], arrays)
    np.testing.assert_allclose(arrays["shifted_energies"], [[-1.0] * len(records), [-2.0] * len(records)])
    np.testing.assert_allclose(arrays["member_forces"][0], np.concatenate([r.positions for r in records]))
    assert arrays["maccs"].shape == (len(records), 167)
    assert pool_arrays([], ensemble, ARRAYS, lambda rows: np.empty(len(rows)))["member_forces"].shape == (2, 0, 3)


def test_conformers_of_a_molecule_are_put_in_order(records):
    places = conformer_order(records)
    butanol = [place for place, record in zip(places, records, strict=True) if len(record.atomic_numbers) > 6]
    assert len(butanol) > 1 and sorted(butanol) == list(range(len(butanol)))


def test_minutes_that_nobody_knows_are_no_silent_choice(records):
    with pytest.raises(ValueError, match="expected_minutes"):
        pool_arrays(records, Known(), frozenset({"expected_minutes"}))
