"""Conversion factors, CODATA 2014 (the set ASE uses too).

Inside sddfkit lengths are Å, energies eV, forces eV/Å, dipoles e·Å, masses amu and times fs; QCSchema documents stay
in bohr and hartree; kcal/mol is for screens only.

>>> round(HARTREE_TO_EV, 5)
27.21139
>>> round(EV_TO_KCAL_MOL, 4)
23.0605
"""

from typing import Final

from qcelemental import PhysicalConstantsContext

# The table's own values: `conversion_factor` would load a library of units, half a second in every process that starts.
_codata = PhysicalConstantsContext("CODATA2014")

BOHR_TO_ANGSTROM: Final[float] = float(_codata.bohr2angstroms)
HARTREE_TO_EV: Final[float] = float(_codata.hartree2ev)
EV_TO_KCAL_MOL: Final[float] = float(_codata.hartree2kcalmol) / HARTREE_TO_EV
HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM: Final[float] = HARTREE_TO_EV / BOHR_TO_ANGSTROM
HARTREE_TO_WAVENUMBER: Final[float] = float(_codata.hartree2wavenumbers)
"""Energy to ν̃ = E / hc in cm⁻¹."""
AMU_TO_ELECTRON_MASS: Final[float] = 1.0 / float(_codata.get("electron mass in u"))
BOLTZMANN: Final[float] = float(_codata.get("Boltzmann constant in eV/K"))
"""eV/K."""
_amu = float(_codata.get("atomic mass constant"))
ACCELERATION: Final[float] = float(_codata.get("elementary charge")) / _amu * 1e-10
"""What a force of 1 eV/Å does to 1 amu, Å/fs²; so also 1 eV in amu·Å²/fs²."""
