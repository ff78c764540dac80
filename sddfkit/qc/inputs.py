"""From arrays in Å to a checked QCSchema input in bohr, and the key under which its result is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicInput, AtomicSpecification, Molecule

from sddfkit.qc import basis_sets
from sddfkit.qc.errors import ProgramMissingError
from sddfkit.qc.harnesses import HARNESSES, harness
from sddfkit.qc.harnesses.base import elements_refusal
from sddfkit.units import BOHR_TO_ANGSTROM

if TYPE_CHECKING:
    from sddfkit.qc.levels import ChosenProgram, Level

CLOSEST_ANGSTROM: Final = 0.5
"""Atoms nearer than this are refused; the shortest bond there is, H–H, has 0.74 Å."""

IMPORTED: Final = "imported:"
"""The program of a calculation that was done elsewhere begins with this, so that it is never taken for one of ours."""

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
    try:
        geometry = np.asarray(positions, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError(f"positions are not ({numbers.size}, 3) numbers in Å: {error}") from None
    if numbers.ndim != 1 or numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        raise InputError(f"atomic_numbers has shape {numbers.shape}, expected (n_atoms,) integers, at least one")
    if geometry.shape != (numbers.size, 3):
        raise InputError(f"positions has shape {geometry.shape}, expected ({numbers.size}, 3) in Å")
    bohr = geometry / BOHR_TO_ANGSTROM
    _check_positions(bohr)
    _check_composition(numbers, charge, multiplicity, specification)
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
    _check_positions(np.asarray(molecule.geometry))
    _check_composition(numbers, molecule.molecular_charge, molecule.molecular_multiplicity, atomic_input.specification)


def refusal(
    atomic_numbers: Sequence[int] | np.ndarray, charge: int, multiplicity: int, level: Level, chosen: ChosenProgram
) -> str | None:
    """Why a molecule of this composition cannot be computed, before it has positions; never raises.

    Parameters
    ----------
    atomic_numbers : (n,) int
        With the hydrogens.
    charge : int, e
    multiplicity : int, 2S + 1
    level : Level
    chosen : ChosenProgram
        From `Level.choose`.

    Returns
    -------
    str or None
        The sentence of the `InputError` that `atomic_input` would raise for every conformer; None if it can be
        computed as far as this shows.

    Examples
    --------
    >>> from sddfkit.qc.levels import ChosenProgram, Level
    >>> level = Level("GFN2-xTB", "gfn2-xtb", None, {"tblite": {}})
    >>> refusal([8, 1], 0, 1, level, ChosenProgram("tblite", "0.8.0", ""))
    'multiplicity 1 is impossible with 9 electrons (charge 0); the lowest possible one is 2'
    """
    numbers = np.asarray(atomic_numbers)
    if numbers.ndim != 1 or numbers.size == 0 or not np.issubdtype(numbers.dtype, np.integer):
        return f"atomic_numbers has shape {numbers.shape}, expected (n_atoms,) integers, at least one"
    try:
        _check_composition(numbers, charge, multiplicity, level.specification(chosen.program))
    except ValueError as error:  # InputError, or a program that the level does not know
        return str(error)
    return None


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


def _check_positions(bohr: np.ndarray) -> None:
    if not np.all(np.isfinite(bohr)):
        atom = int(np.argwhere(~np.isfinite(bohr))[0, 0])
        raise InputError(f"the position of atom {atom} is not a finite number")
    _check_distances(bohr * BOHR_TO_ANGSTROM)


def _check_composition(
    numbers: np.ndarray, charge: float, multiplicity: float, specification: AtomicSpecification
) -> None:
    charge, multiplicity = _whole("charge", charge), _whole("multiplicity", multiplicity)
    _check_electrons(numbers, charge, multiplicity)
    _check_model(numbers, charge, multiplicity, specification)


def _whole(what: str, value: float) -> int:
    expected = "a whole number" if what == "charge" else "1, 2, 3, …"
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):  # None, NaN, infinity
        raise InputError(f"the {what} is {value!r}, expected {expected}") from None
    if number != value:
        raise InputError(f"the {what} is {value!r}, expected {expected}")
    return number


def _check_electrons(numbers: np.ndarray, charge: int, multiplicity: int) -> None:
    if multiplicity < 1:
        raise InputError(f"the multiplicity is {multiplicity}, expected 1, 2, 3, …")
    wrong = sorted(set(numbers.tolist()) - set(range(1, 119)))
    if wrong:
        raise InputError(f"there is no element with Z={wrong[0]}")
    electrons = int(numbers.sum()) - charge
    unpaired = multiplicity - 1
    if electrons < 1:
        raise InputError(f"charge {charge} leaves {electrons} electrons")
    if unpaired > electrons or (electrons - unpaired) % 2:
        lowest = 1 + electrons % 2
        raise InputError(
            f"multiplicity {multiplicity} is impossible with {electrons} electrons (charge {charge}); "
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


def _check_model(numbers: np.ndarray, charge: int, multiplicity: int, specification: AtomicSpecification) -> None:
    if specification.program.startswith(IMPORTED):
        return  # it is done, and what another program can do is not for us to judge
    method, basis = specification.model.method, specification.model.basis
    try:
        program = harness(specification.program)
    except ProgramMissingError as error:
        raise InputError(str(error)) from None
    if method.lower() in program.own_methods:
        if basis:
            raise InputError(f"{method} has its own basis set, but basis {basis!r} is given; leave it out")
        refused = elements_refusal(method, program.own_methods[method.lower()], numbers)
    elif (elsewhere := _own_method_of(method)) is not None:
        raise InputError(f"{specification.program} has no method {method!r}; {elsewhere} has")
    elif program.own_methods and not basis:
        raise InputError(f"{specification.program} has no method {method!r}; known: {', '.join(program.own_methods)}")
    else:
        if not isinstance(basis, str) or not basis:
            raise InputError(
                f"{method} needs the name of a basis set, got {basis!r} (a method that brings its own is listed in "
                f"own_methods of its harness)"
            )
        try:
            known = basis_sets.orbital(basis)
        except KeyError as error:
            raise InputError(str(error.args[0])) from None
        refused = elements_refusal(basis, known.elements, numbers)
    refused = refused or program.refusal(numbers, charge, multiplicity, specification)
    if refused is not None:
        raise InputError(refused)


def _own_method_of(method: str) -> str | None:
    return next((name for name, program in HARNESSES.items() if method.lower() in program.own_methods), None)
