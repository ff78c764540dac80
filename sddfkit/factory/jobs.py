"""From records to calculations: what is to be computed, under which key, and what is refused before it starts."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from sddfkit.qc.atoms import atom_input
from sddfkit.qc.inputs import InputError, atomic_input, content_key
from sddfkit.qc.levels import ChosenProgram, Level


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


class Calculation(NamedTuple):
    """One calculation to do.

    ``key`` is the hash of its content, ``input`` the AtomicInput as a JSON-able mapping (bohr), ``cost`` an estimate
    in arbitrary units that orders a queue, ``label`` what a person reads in a table of failures.
    """

    key: str
    record_id: str | None
    level: str
    program: str
    program_version: str
    label: str
    input: dict[str, Any]
    cost: float


class Refusal(NamedTuple):
    """A record that cannot be calculated, and why: found before anything was started."""

    record_id: str
    name: str
    reason: str


def plan(
    structures: Iterable[Structure], level: Level, chosen: ChosenProgram
) -> tuple[list[Calculation], list[Refusal]]:
    """Turn records into calculations at one level by one program.

    Parameters
    ----------
    structures
        Records with ``atomic_numbers`` (n,), ``positions`` (n, 3) in Å, ``charge`` and ``multiplicity``.
    level
        The level of theory.
    chosen
        The program that the level chose.

    Returns
    -------
    calculations, refusals
        In the order of the records.
    """
    specification = level.specification(chosen.program)
    calculations, refusals = [], []
    for item in structures:
        try:
            document = atomic_input(item.atomic_numbers, item.positions, item.charge, item.multiplicity, specification)
        except InputError as error:
            refusals.append(Refusal(item.record_id, item.name, str(error)))
            continue
        calculations.append(
            Calculation(
                key=content_key(document, chosen.version),
                record_id=item.record_id,
                level=level.name,
                program=chosen.program,
                program_version=chosen.version,
                label=item.name,
                input=document.model_dump(mode="json"),
                cost=estimated_cost(item.atomic_numbers),
            )
        )
    return calculations, refusals


def plan_atoms(elements: Iterable[int], level: Level, chosen: ChosenProgram) -> dict[int, Calculation]:
    """Return the calculation of the isolated ground-state atom for each element, by atomic number."""
    specification = level.specification(chosen.program)
    found = {}
    for z in sorted(set(elements)):
        document = atom_input(z, specification)
        found[z] = Calculation(
            key=content_key(document, chosen.version),
            record_id=None,
            level=level.name,
            program=chosen.program,
            program_version=chosen.version,
            label=f"atom {z}",
            input=document.model_dump(mode="json"),
            cost=estimated_cost(np.array([z])),
        )
    return found


def estimated_cost(atomic_numbers: NDArray[np.integer]) -> float:
    """Estimate the relative cost of a DFT calculation: cubic in a rough count of basis functions.

    The count is that of 6-31G(d) with Cartesian d functions: 2 for hydrogen, 15 for the second row, 19 for the third.
    It orders a queue (longest first); it promises no time.
    """
    functions = np.where(atomic_numbers <= 2, 2, np.where(atomic_numbers <= 10, 15, 19)).sum()
    return float(functions) ** 3
