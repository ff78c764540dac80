"""From arrays in Å to a checked QCSchema input in bohr, and the key under which its result is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicInput, AtomicSpecification, Molecule

from sddfkit.qc import basis_sets
from sddfkit.units import BOHR_TO_ANGSTROM

CLOSEST_ANGSTROM: Final = 0.5
"""Atoms nearer than this are refused; the shortest bond there is, H–H, has 0.74 Å."""

SEMIEMPIRICAL: Final = frozenset({"gfn2-xtb", "gfn1-xtb"})
"""Methods that bring their own basis set."""

_XTB_ELEMENTS: Final = frozenset(range(1, 87))
_BOHR_PER_KEY_UNIT: Final = 1e-8


class InputError(ValueError):
    """A calculation that cannot be right is asked for; the message says what to change."""


def atomic_input(
    atomic_numbers: Sequence[int] | np.ndarray,
    positions: ArrayLike,
    charge: int,
    multiplicity: int,
    specification: AtomicSpecification,
) -> AtomicInput:
    """Build the input of one calculation; the frame of `positions` is kept, so forces come back in it.

    Parameters
    ----------
    atomic_numbers : (n,) int
    positions : (n, 3) float64, Å
    charge : int, e
    multiplicity : int, 2S + 1
    specification : AtomicSpecification
        From `Level.specification`.

    Returns
    -------
    AtomicInput
        QCSchema 2; QCElemental rounds the geometry to 1e-8 bohr, and components below 5e-7 bohr to zero.

    Raises
    ------
    InputError
        For arrays of the wrong shape, NaN, atoms closer than 0.5 Å, a multiplicity that the number of electrons does
        not allow, an element or a basis set that the level does not know.
    """
    numbers = np.asarray(atomic_numbers)
    geometry = np.asarray(positions, dtype=float)
    if numbers.ndim != 1 or numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"atomic_numbers has shape {numbers.shape}, expected (n_atoms,) integers, at least one")
    if geometry.shape != (numbers.size, 3):
        raise InputError(f"positions has shape {geometry.shape}, expected ({numbers.size}, 3) in Å")
    bohr = geometry / BOHR_TO_ANGSTROM
    _check_molecule(numbers, bohr, charge, multiplicity)
    _check_model(numbers, specification)
    molecule = Molecule(
        symbols=[periodictable.to_E(int(z)) for z in numbers],
        geometry=bohr,
        molecular_charge=charge,
        molecular_multiplicity=multiplicity,
        fix_com=True,
        fix_orientation=True,
        fix_symmetry="c1",
    )
    return AtomicInput(molecule=molecule, specification=specification)


def check_input(atomic_input: AtomicInput) -> None:
    """Apply the same checks to an input that came from elsewhere, for example as JSON.

    Raises
    ------
    InputError
        As `atomic_input`; also for ghost atoms and for a molecule whose frame a program may turn.
    """
    molecule = atomic_input.molecule
    if not np.all(molecule.real):
        raise InputError("the molecule has ghost atoms; sddfkit computes real atoms only")
    if not (molecule.fix_com and molecule.fix_orientation):
        raise InputError(
            "set fix_com and fix_orientation: programs turn the molecule, and with it the forces, otherwise"
        )
    numbers = np.asarray(molecule.atomic_numbers)
    _check_molecule(numbers, np.asarray(molecule.geometry), molecule.molecular_charge, molecule.molecular_multiplicity)
    _check_model(numbers, atomic_input.specification)


def content_key(atomic_input: AtomicInput, program_version: str) -> str:
    """The identity of a calculation: equal content has an equal key, in any process, on any machine.

    Threads, memory and names play no part. The geometry counts to 1e-8 bohr, the program to major.minor.

    Parameters
    ----------
    atomic_input : AtomicInput
    program_version : str
        For example ``"2.14.0"``.

    Returns
    -------
    str
        SHA-256 as 64 hexadecimal digits.
    """
    molecule, specification = atomic_input.molecule, atomic_input.specification
    geometry = np.rint(np.asarray(molecule.geometry) / _BOHR_PER_KEY_UNIT).astype(np.int64)
    content = {
        "atomic_numbers": [int(z) for z in molecule.atomic_numbers],
        "geometry_1e-8_bohr": geometry.ravel().tolist(),
        "charge": round(float(molecule.molecular_charge), 4),
        "multiplicity": int(molecule.molecular_multiplicity),
        "method": specification.model.method.lower(),
        "basis": str(specification.model.basis or "").lower(),
        "keywords": _canonical({name.lower(): value for name, value in specification.keywords.items()}),
        "driver": specification.driver.value,
        "program": specification.program.lower(),
        "version": ".".join(program_version.split(".")[:2]),
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    """1, 1.0 and np.float64(1) are one keyword value; tuples are lists."""
    if isinstance(value, Mapping):
        return {str(k): _canonical(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_canonical(v) for v in value]
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool):
        return float(value)
    return value


def _check_molecule(numbers: np.ndarray, bohr: np.ndarray, charge: float, multiplicity: float) -> None:
    if not np.all(np.isfinite(bohr)):
        atom = int(np.argwhere(~np.isfinite(bohr))[0, 0])
        raise InputError(f"the position of atom {atom} is not a finite number")
    _check_distances(bohr * BOHR_TO_ANGSTROM)
    if charge != int(charge):
        raise InputError(f"the charge is {charge}, expected a whole number")
    if multiplicity != int(multiplicity) or multiplicity < 1:
        raise InputError(f"the multiplicity is {multiplicity}, expected 1, 2, 3, …")
    electrons = int(numbers.sum()) - int(charge)
    unpaired = int(multiplicity) - 1
    if electrons < 1:
        raise InputError(f"charge {int(charge)} leaves {electrons} electrons")
    if unpaired > electrons or (electrons - unpaired) % 2:
        lowest = 1 + electrons % 2
        raise InputError(
            f"multiplicity {int(multiplicity)} is impossible with {electrons} electrons (charge {int(charge)}); "
            f"the lowest possible one is {lowest}"
        )


def _check_distances(angstrom: np.ndarray) -> None:
    if len(angstrom) < 2:
        return
    distance = np.linalg.norm(angstrom[:, None] - angstrom[None, :], axis=-1)
    np.fill_diagonal(distance, np.inf)
    i, j = np.unravel_index(int(np.argmin(distance)), distance.shape)
    if distance[i, j] < CLOSEST_ANGSTROM:
        raise InputError(
            f"atoms {i} and {j} are {distance[i, j]:.3f} Å apart, closer than {CLOSEST_ANGSTROM} Å; "
            "check that positions are in Å"
        )


def _check_model(numbers: np.ndarray, specification: AtomicSpecification) -> None:
    method, basis = specification.model.method, specification.model.basis
    if method.lower() in SEMIEMPIRICAL:
        if basis:
            raise InputError(f"{method} has its own basis set, but basis {basis!r} is given; leave it out")
        _check_elements(numbers, _XTB_ELEMENTS, method)
        return
    if not isinstance(basis, str) or not basis:
        raise InputError(f"{method} needs the name of a basis set, got {basis!r}")
    try:
        known = basis_sets.orbital(basis)
    except KeyError as error:
        raise InputError(str(error.args[0])) from None
    _check_elements(numbers, known.elements, basis)
    for value in specification.keywords.values():
        if isinstance(value, str) and value.lower() in basis_sets.AUXILIARY:
            _check_elements(numbers, basis_sets.AUXILIARY[value.lower()], value)


def _check_elements(numbers: np.ndarray, covered: frozenset[int], what: str) -> None:
    missing = sorted(set(numbers.tolist()) - covered)
    if missing:
        names = ", ".join(periodictable.to_E(z) if 0 < z < 119 else f"Z={z}" for z in missing)
        raise InputError(f"{what} has no functions for {names} that all programs share; choose another level")
