"""Against published numbers: dimers of S66x8 at ωB97X/6-31G(d), as computed with Gaussian 09 for COMP6.

J. S. Smith et al., J. Chem. Phys. 148, 241733 (2018), doi:10.1063/1.5023802; the dimers: J. Řezáč, K. E. Riley,
P. Hobza, J. Chem. Theory Comput. 7, 2427 (2011), doi:10.1021/ct2002946. With ``-s`` each comparison
prints its deviations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from qcelemental import periodictable
from threadpoolctl import threadpool_limits

from sddfkit.qc import Level, atomic_input, compute
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.units import BOHR_TO_ANGSTROM, EV_TO_KCAL_MOL, HARTREE_TO_EV

FILE = Path(__file__).parents[3] / "shared" / "data" / "COMP6" / "s66x8_wb97x6-31gd.h5"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.exists(), reason="the published energies, ../shared/data/COMP6, are not here"),
]

ENERGY = 0.05  # kcal/mol
GRADIENT = 1e-4  # hartree/bohr

MONOMERS = {
    "water": "OHH",
    "methanol": "COHHHH",
    "methylamine": "CNHHHHH",
    "peptide": "CCCNOHHHHHHH",
    "pyridine": "CCCCCNHHHHH",
    "benzene": "CCCCCCHHHHHH",
    "acetic acid": "CCOOHHHH",
    "ethyne": "CCHH",
    "ethene": "CCHHHH",
    "pentane": "CCCCCHHHHHHHHHHHH",
}

DIMERS = {
    "water–water": 0,
    "water–methanol": 1,
    "water–methylamine": 2,
    "water–peptide": 3,
    "methanol–methanol": 4,
    "methanol–methylamine": 5,
    "methanol–peptide": 6,
    "methanol–water": 7,
    "methylamine–methanol": 8,
    "methylamine–methylamine": 9,
    "methylamine–peptide": 10,
    "methylamine–water": 11,
    "peptide–methanol": 12,
    "peptide–methylamine": 13,
    "peptide–water": 15,
    "water–pyridine": 17,
    "acetic acid–acetic acid": 19,
    "ethyne–pentane": 44,
    "ethyne–ethyne": 50,
    "benzene–water": 53,
    "ethyne–water": 58,
    "ethyne–acetic acid": 59,
    "peptide–ethene": 63,
    "pyridine–ethyne": 64,
}
"""Name to number in S66. Of the eight distances, dimer n is taken at distance n modulo 8, so that all occur."""

COARSER = {
    "psi4": {"dft_radial_points": 75, "dft_spherical_points": 302},
    "pyscf": {"atom_grid": [75, 302], "prune": "nwchem"},
}
"""A grid for the quick comparisons, at a quarter of the work; the integrals stay exact."""

QUICK = (
    ("water–water", "pyscf"),
    ("ethyne–water", "pyscf"),
    ("ethyne–ethyne", "psi4"),
    ("water–methanol", "psi4"),
    ("methanol–water", "psi4"),
    ("water–methylamine", "psi4"),
)
"""The six smallest, each by one program; tests/qc/test_two_programs.py holds the programs to each other."""


BEYOND = frozenset(
    {
        "methanol–peptide",
        "peptide–methanol",
        "peptide–water",
        "water–pyridine",
        "pyridine–ethyne",
        "benzene–water",
    }
)
"""Published forces that miss the bar by up to 1.4 times, by Psi4 and PySCF alike, with energies within theirs. Their
quadrature is that of Gaussian's default grid: docs/benchmark-comp6.md."""


class Published(NamedTuple):
    """atomic_numbers (n,), positions (n, 3) Å, energy in hartree, gradient (n, 3) in hartree/bohr."""

    atomic_numbers: list[int]
    positions: np.ndarray
    energy: float
    gradient: np.ndarray


def published(dimer: str) -> Published:
    number = DIMERS[dimer]
    with h5py.File(FILE) as file:
        group = file[f"s66x8/mol{number:02d}"]
        symbols = [symbol.decode() for symbol in group["species"][:]]
        distance = number % len(group["energies"])
        return Published(
            [periodictable.to_Z(symbol) for symbol in symbols],
            group["coordinates"][distance].astype(float),
            float(group["energies"][distance]),
            # what the file calls forces is the slope of the energy, without the minus of a force
            group["forces"][distance].astype(float) * BOHR_TO_ANGSTROM,
        )


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with threadpool_limits(1):
        yield


def assert_agrees(level: Level, program: str, dimer: str) -> None:
    problem = HARNESSES[program].problem()
    if problem is not None:
        pytest.skip(problem)
    known = published(dimer)
    job = atomic_input(known.atomic_numbers, known.positions, 0, 1, level.specification(program, "gradient"))
    result = compute(job)
    assert result.success, result.error
    found = result.properties
    energy = (found.return_energy - known.energy) * HARTREE_TO_EV * EV_TO_KCAL_MOL
    gradient = np.abs(found.return_gradient - known.gradient).max()
    print(f"{dimer:24s} {program:6s} {energy:+8.4f} kcal/mol {gradient:8.1e} hartree/bohr")
    assert abs(energy) <= ENERGY
    if dimer in BEYOND and gradient > GRADIENT:
        pytest.xfail(f"published forces differ by {gradient:.1e} hartree/bohr: docs/benchmark-comp6.md")
    assert gradient <= GRADIENT
    assert np.abs(known.gradient).max() > 20 * GRADIENT, "forces as small as this could not tell"


@pytest.mark.parametrize("dimer", DIMERS)
def test_a_dimer_is_what_its_name_says(dimer: str) -> None:
    first, second = dimer.split("–")
    numbers = published(dimer).atomic_numbers
    assert Counter(periodictable.to_E(z) for z in numbers) == Counter(MONOMERS[first] + MONOMERS[second])
    assert sum(z > 1 for z in numbers) <= 8


@pytest.mark.parametrize(("dimer", "program"), QUICK)
def test_small_dimers_agree(levels: Callable[[str], Level], dimer: str, program: str) -> None:
    level = levels("wb97x_631gd_exact")
    coarser = {name: {**level.programs[name], **COARSER[name]} for name in level.programs}
    assert_agrees(replace(level, programs=coarser), program, dimer)


@pytest.mark.long
@pytest.mark.parametrize("program", ["psi4", "pyscf"])
@pytest.mark.parametrize("dimer", DIMERS)
def test_all_dimers_agree(levels: Callable[[str], Level], dimer: str, program: str) -> None:
    assert_agrees(levels("wb97x_631gd_exact"), program, dimer)
