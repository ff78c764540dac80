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

_codata = PhysicalConstantsContext("CODATA2014")

BOHR_TO_ANGSTROM: Final[float] = float(_codata.conversion_factor("bohr", "angstrom"))
HARTREE_TO_EV: Final[float] = float(_codata.conversion_factor("hartree", "eV"))
EV_TO_KCAL_MOL: Final[float] = float(_codata.conversion_factor("hartree", "kcal/mol")) / HARTREE_TO_EV
HARTREE_PER_BOHR_TO_EV_PER_ANGSTROM: Final[float] = HARTREE_TO_EV / BOHR_TO_ANGSTROM
HARTREE_TO_WAVENUMBER: Final[float] = float(_codata.conversion_factor("hartree", "wavenumber"))
"""Energy to ν̃ = E / hc in cm⁻¹."""
AMU_TO_ELECTRON_MASS: Final[float] = float(_codata.conversion_factor("amu", "electron_mass"))
