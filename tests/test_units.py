"""The factors against two other sets: QCElemental's library of units, and ASE's constants."""

import ase.units
import pytest
from qcelemental import PhysicalConstantsContext

from sddfkit import units


def test_factors_are_those_of_the_library_of_units_and_of_ase():
    factor = PhysicalConstantsContext("CODATA2014").conversion_factor
    factors = {
        units.BOHR_TO_ANGSTROM: (factor("bohr", "angstrom"), ase.units.Bohr),
        units.HARTREE_TO_EV: (factor("hartree", "eV"), ase.units.Hartree),
        units.EV_TO_KCAL_MOL: (factor("eV", "kcal/mol"), ase.units.mol / ase.units.kcal),
        units.HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM: (
            factor("hartree/bohr", "eV/angstrom"),
            ase.units.Hartree / ase.units.Bohr,
        ),
        units.HARTREE_TO_WAVENUMBER: (factor("hartree", "wavenumber"), ase.units.Hartree / ase.units.invcm),
        units.AMU_TO_ELECTRON_MASS: (factor("amu", "electron_mass"), ase.units._amu / ase.units._me),
    }
    for ours, others in factors.items():
        assert others == (pytest.approx(ours, rel=1e-8), pytest.approx(ours, rel=1e-8))


def test_what_dynamics_needs_is_as_in_ase():
    assert pytest.approx(ase.units.kB, rel=1e-8) == units.BOLTZMANN
    assert pytest.approx(ase.units.fs**2, rel=1e-8) == units.ACCELERATION
