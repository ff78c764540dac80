import numpy as np
import pytest
from rdkit.Chem import AllChem

from sddfkit.chem.molecules import molecules_from_smiles
from sddfkit.data.quality import energy_scatter, flag
from sddfkit.data.records import conformer_records, to_records
from sddfkit.data.references import ReferenceEnergies

REFERENCES = ReferenceEnergies({1: -16.0, 6: -1035.0}, "by hand")


def pair(n, x):
    """Forces ± x on the two ends along the chain: neither net force nor torque."""
    forces = np.zeros((n, 3))
    forces[0, 0], forces[-1, 0] = x, -x
    return forces


def test_sound_rows_have_no_reasons(chain):
    records = [chain([6, 1], energy=-1051.0 - 0.05 * i, forces=pair(2, 1.0), seed=i) for i in range(10)]
    assert flag(records, REFERENCES) == [()] * 10


def test_force_limits(chain):
    drift = np.full((2, 3), 0.1)
    twist = np.array([[0, 1.0, 0], [0, -1.0, 0]])
    infinite = np.full((2, 3), np.inf)
    records = [chain([6, 1], forces=forces) for forces in (pair(2, 31.0), drift, twist, infinite)]
    assert flag(records) == [
        ("force: largest component 31.0 eV/Å, limit 30",),
        ("net force 0.346 eV/Å, limit 0.1",),
        ("net torque 1.100 eV, limit 0.2",),
        ("force: a component is not finite",),
    ]
    assert flag(records[:1], max_force=40) == [()]


def test_torn_molecule(chain):
    record = chain([6, 6, 1])
    moved = record.positions + np.array([[0, 0, 0], [0, 0, 0], [3.0, 0, 0]])
    (reasons,) = flag([record._replace(positions=moved)])
    assert len(reasons) == 1
    assert reasons[0].startswith("connectivity: bond C1–H2 is 4.1")


def test_energy_outliers(chain):
    energies = [-1051.0 - 0.01 * i for i in range(12)]
    records = [chain([6, 1], energy=energy) for energy in energies]
    records += [chain([6, 1], energy=-1045.0), chain([6, 1], energy=np.nan), chain([6, 1])]
    reasons = flag(records, REFERENCES)
    assert reasons[:12] == [()] * 12
    assert reasons[12][0].startswith("energy: 3.000 eV/atom from its reference, robust z-score ")
    assert reasons[13:] == [("energy: not finite",), ()]
    assert flag(records)[12] == (), "no references, no outlier test"
    assert flag(records[8:13], REFERENCES)[-1] == (), "five labels say nothing about scatter"


def test_an_energy_offset_of_all_rows_is_no_outlier(chain):
    records = [chain([6, 1], energy=-900.0 - 0.01 * i) for i in range(12)]
    assert flag(records, REFERENCES) == [()] * 12


def test_limits_are_those_of_the_whole_set_where_it_is_given(chain):
    energies = [-1051.0 - 0.01 * i for i in range(12)]
    records = [chain([6, 1], energy=energy) for energy in [*energies, -1045.0]]
    whole = energy_scatter([(record.energy + 1051.0) / 2 for record in records])
    assert [bool(reasons) for row in records for reasons in flag([row], REFERENCES, scatter=whole)] == [False] * 12 + [
        True
    ]
    assert flag(records[-1:], REFERENCES) == [()], "one label says nothing about scatter"


def embedded(smiles):
    mol = molecules_from_smiles(smiles)[0]
    assert AllChem.EmbedMolecule(mol, randomSeed=3) == 0
    return to_records(conformer_records(mol))[0]


@pytest.mark.parametrize(
    "smiles",
    ["c1ccc2[nH]ccc2c1", "C[N+](C)(C)CC(=O)[O-]", "O=[N+]([O-])c1ccccc1", "[2H]C([2H])O", "CS(=O)(=O)N", "[CH3]"],
)
def test_bonds_and_smiles_of_one_molecule_agree(smiles):
    assert flag([embedded(smiles)]) == [()]


def test_bonds_that_are_not_those_of_the_smiles():
    record = embedded("CCO")
    (reasons,) = flag([record._replace(smiles="COC")])
    assert reasons == ("connectivity: the bonds are those of CCO, the SMILES says COC",)
    (reasons,) = flag([record._replace(smiles="C(")])
    assert reasons[0].startswith("connectivity: bonds and SMILES cannot be compared: SMILES Parse Error")


def test_a_record_without_bonds_says_so_once():
    record = embedded("CCO")
    (reasons,) = flag([record._replace(bonds=np.zeros((0, 3), np.int32))])
    assert reasons == ("connectivity: no bonds are known, and 8 pairs of atoms stand as if they were bonded",)
