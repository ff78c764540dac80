"""From arrays in Å to a checked QCSchema input in bohr, and the key under which its result is known."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicInput, AtomicSpecification
from qcelemental.models.v2.molecule import GEOMETRY_NOISE, float_prep

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


class Structure(Protocol):
    """What a calculation needs to know of a record."""

    @property
    def record_id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def charge(self) -> int: ...
    @property
    def multiplicity(self) -> int: ...
    @property
    def atomic_numbers(self) -> NDArray[np.int32]: ...
    @property
    def positions(self) -> NDArray[np.float64]: ...


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
    content = Content.checked(atomic_numbers, positions, charge, multiplicity, specification)
    return AtomicInput(**content.document())


@dataclass(frozen=True, eq=False)
class Content:
    """All that decides a result, as arrays: what a batch plans with, because QCSchema models take a millisecond each.

    atomic_numbers : (n,) int
    bohr : (n, 3) float64, bohr, rounded as QCElemental rounds
    charge : int, e
    multiplicity : int, 2S + 1
    specification : AtomicSpecification
    """

    atomic_numbers: np.ndarray
    bohr: np.ndarray
    charge: int
    multiplicity: int
    specification: AtomicSpecification

    @classmethod
    def checked(
        cls,
        atomic_numbers: Sequence[int] | np.ndarray,
        positions: ArrayLike,
        charge: int,
        multiplicity: int,
        specification: AtomicSpecification,
    ) -> Content:
        """As `atomic_input`, without making the models."""
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
        _check_composition_once(numbers, charge, multiplicity, specification)
        return cls(numbers, float_prep(bohr, GEOMETRY_NOISE), int(charge), int(multiplicity), specification)

    @classmethod
    def unchecked(cls, structures: Sequence[Structure], specification: AtomicSpecification) -> list[Content]:
        """The contents of many structures at once, for their keys: a few microseconds each, and nothing is checked.

        Raises
        ------
        ValueError
            If arrays have the wrong shape or type, or hold NaN: `checked` says of which structure, and what.
        """
        numbers = [np.asarray(item.atomic_numbers) for item in structures]
        positions = [np.asarray(item.positions, dtype=float) for item in structures]
        if any(
            p.shape != (z.size, 3) or z.ndim != 1 or not z.size or z.dtype.kind not in "iu"
            for z, p in zip(numbers, positions, strict=True)
        ):
            raise ValueError("arrays of the wrong shape or type")
        if not positions:
            return []
        together = np.concatenate(positions)
        if not np.isfinite(together).all():
            raise ValueError("positions that are no numbers")
        rounded = float_prep(together / BOHR_TO_ANGSTROM, GEOMETRY_NOISE)
        ends = np.cumsum([z.size for z in numbers])
        return [
            cls(z, bohr, int(item.charge), int(item.multiplicity), specification)
            for item, z, bohr in zip(structures, numbers, np.split(rounded, ends[:-1]), strict=True)
        ]

    @classmethod
    def of(cls, atomic_input: AtomicInput) -> Content:
        """The content of an input that exists."""
        molecule = atomic_input.molecule
        return cls(
            np.asarray(molecule.atomic_numbers),
            np.asarray(molecule.geometry).reshape(-1, 3),
            int(molecule.molecular_charge),
            int(molecule.molecular_multiplicity),
            atomic_input.specification,
        )

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Content:
        """The content of an AtomicInput as a mapping; only its specification is validated.

        Raises
        ------
        Exception
            Of any kind, if it is none.
        """
        molecule = document["molecule"]
        return cls(
            np.array([_number(str(symbol)) for symbol in molecule["symbols"]]),
            np.asarray(molecule["geometry"], dtype=float).reshape(-1, 3),
            _whole("charge", molecule.get("molecular_charge", 0.0)),
            _whole("multiplicity", molecule.get("molecular_multiplicity", 1)),
            _specification(json.dumps(document["specification"], sort_keys=True)),
        )

    def document(self) -> dict[str, Any]:
        """The AtomicInput as a JSON-able mapping; fields that have their default are left out."""
        return {
            "molecule": {
                "symbols": [_symbol(z) for z in self.atomic_numbers.tolist()],
                "geometry": self.bohr.ravel().tolist(),
                "molecular_charge": float(self.charge),
                "molecular_multiplicity": self.multiplicity,
                "fix_com": True,
                "fix_orientation": True,
                "fix_symmetry": "c1",
            },
            "specification": _specification_document(self.specification),
        }

    def key(self, program_version: str) -> str:
        """See `content_key`."""
        geometry = np.rint(self.bohr / _BOHR_PER_KEY_UNIT).astype(np.int64)
        before, between, after = _specification_words(self.specification, program_version)
        # The JSON of a mapping with sorted names, written out: it is made for every record whenever it is asked for.
        text = (
            f'{{"atomic_numbers":{_integers(self.atomic_numbers)},{before},"charge":{float(self.charge)},{between},'
            f'"geometry_1e-8_bohr":{_integers(geometry)},{after[0]},"multiplicity":{self.multiplicity},{after[1]}}}'
        )
        return hashlib.sha256(text.encode()).hexdigest()


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
    return Content.of(atomic_input).key(program_version)


_symbol = functools.cache(periodictable.to_E)
_number = functools.cache(periodictable.to_Z)


@functools.lru_cache(maxsize=1000)
def _specification(document: str) -> AtomicSpecification:
    return AtomicSpecification(**json.loads(document))


def _integers(values: np.ndarray) -> str:
    return str(values.ravel().tolist()).replace(" ", "")


class _ById:
    """What was worked out for an object, for as long as it lives: specifications are models without a hash."""

    def __init__(self) -> None:
        self._found: dict[tuple[Any, ...], tuple[Any, Any]] = {}

    def get(self, thing: Any, rest: tuple[Any, ...], make: Callable[[], Any]) -> Any:
        name = (id(thing), *rest)
        if name not in self._found:
            if len(self._found) > 10_000:
                self._found.clear()
            self._found[name] = (thing, make())  # the reference keeps the id from being used again
        return self._found[name][1]


_documents, _words, _compositions = _ById(), _ById(), _ById()


def _specification_document(specification: AtomicSpecification) -> dict[str, Any]:
    found: dict[str, Any] = _documents.get(
        specification, (), lambda: specification.model_dump(mode="json", exclude_defaults=True)
    )
    return found


def _specification_words(specification: AtomicSpecification, version: str) -> tuple[str, str, tuple[str, str]]:
    """The parts of a key's text that depend on the specification, in the order of their names."""

    def make() -> tuple[str, str, tuple[str, str]]:
        def part(**named: Any) -> str:
            return json.dumps(named, sort_keys=True, separators=(",", ":"), allow_nan=False)[1:-1]

        keywords = _canonical({name.lower(): value for name, value in specification.keywords.items()})
        return (
            part(basis=str(specification.model.basis or "").lower()),
            part(driver=specification.driver.value),
            (
                part(keywords=keywords, method=specification.model.method.lower()),
                part(program=specification.program.lower(), version=".".join(version.split(".")[:2])),
            ),
        )

    found: tuple[str, str, tuple[str, str]] = _words.get(specification, (version,), make)
    return found


def _check_composition_once(
    numbers: np.ndarray, charge: float, multiplicity: float, specification: AtomicSpecification
) -> None:
    """As `_check_composition`; the conformers of a molecule share the answer."""

    def make() -> str | None:
        try:
            _check_composition(numbers, charge, multiplicity, specification)
        except InputError as error:
            return str(error)
        return None

    refused = _compositions.get(specification, (numbers.tobytes(), str(numbers.dtype), charge, multiplicity), make)
    if refused is not None:
        raise InputError(refused)


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
    squares = np.sum((angstrom[:, None] - angstrom[None, :]) ** 2, axis=-1)
    np.fill_diagonal(squares, np.inf)
    if squares.min() < CLOSEST_ANGSTROM**2:
        i, j = np.unravel_index(int(np.argmin(squares)), squares.shape)
        raise InputError(
            f"atoms {i} and {j} are {np.sqrt(squares[i, j]):.3f} Å apart, closer than {CLOSEST_ANGSTROM} Å; "
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
