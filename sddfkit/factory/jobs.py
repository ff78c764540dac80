"""From records to calculations: what is to be computed, under which key, and what is refused before it starts."""

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sddfkit.qc.atoms import atom_input
from sddfkit.qc.inputs import Content, InputError, Structure
from sddfkit.qc.levels import ChosenProgram, Level

Known = Callable[[Collection[str]], Collection[str]]
"""Says which of some keys are known."""

STRUCTURES_AT_ONCE = 1000


class Calculation(NamedTuple):
    """One calculation to do.

    ``key`` is the hash of its content, ``cost`` an estimate in arbitrary units (see :mod:`sddfkit.factory.costs`),
    ``label`` what a person reads in a table of failures.
    """

    key: str
    record_id: str | None
    level: str
    program: str
    program_version: str
    label: str
    cost: float
    content: Content

    @property
    def input(self) -> dict[str, Any]:
        """The AtomicInput as a JSON-able mapping (bohr)."""
        return self.content.document()


class Refusal(NamedTuple):
    """A record that cannot be calculated, and why: found before anything was started."""

    record_id: str
    name: str
    reason: str


def plan(
    structures: Iterable[Structure], level: Level, chosen: ChosenProgram, *, known: Known | None = None
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
    known
        See :func:`planned`.

    Returns
    -------
    calculations, refusals
        In the order of the records.
    """
    calculations, refusals = [], []
    for item in planned(structures, level, chosen, known=known):
        if isinstance(item, Refusal):
            refusals.append(item)
        else:
            calculations.append(item)
    return calculations, refusals


def planned(
    structures: Iterable[Structure], level: Level, chosen: ChosenProgram, *, known: Known | None = None
) -> Iterator[Calculation | Refusal]:
    """As :func:`plan`, one by one, for more records than one would hold at once.

    Parameters
    ----------
    structures, level, chosen
        As there.
    known
        Says which keys a store knows: those were checked when they were added, and are not checked again.
    """
    specification = level.specification(chosen.program)
    hessian = bool(specification.keywords.get("hessian"))
    costs: dict[tuple[bytes, int], float] = {}

    def calculation(item: Structure, content: Content, key: str) -> Calculation:
        composition = (content.atomic_numbers.tobytes(), content.multiplicity)
        if composition not in costs:
            costs[composition] = estimated_cost(content.atomic_numbers, content.multiplicity, hessian=hessian)
        return Calculation(
            key, item.record_id, level.name, chosen.program, chosen.version, item.name, costs[composition], content
        )

    rest = iter(structures)
    while some := list(islice(rest, STRUCTURES_AT_ONCE)):
        found = _known_of(some, specification, chosen.version, known) if known else {}
        for place, item in enumerate(some):
            if place in found:
                yield calculation(item, *found[place])
                continue
            try:
                content = Content.checked(
                    item.atomic_numbers, item.positions, item.charge, item.multiplicity, specification
                )
            except InputError as error:
                yield Refusal(item.record_id, item.name, str(error))
            else:
                yield calculation(item, content, content.key(chosen.version))


def _known_of(
    structures: list[Structure], specification: Any, version: str, known: Known
) -> dict[int, tuple[Content, str]]:
    """Return content and key of the structures whose keys are known, by their place."""
    try:
        contents = Content.unchecked(structures, specification)
    except (ValueError, TypeError):  # which one, and why, is said where each is checked
        return {}
    keys = [content.key(version) for content in contents]
    there = known(keys)
    return {
        place: (content, key) for place, (content, key) in enumerate(zip(contents, keys, strict=True)) if key in there
    }


def plan_atoms(elements: Iterable[int], level: Level, chosen: ChosenProgram) -> dict[int, Calculation]:
    """Return the calculation of the isolated ground-state atom for each element, by atomic number."""
    specification = level.specification(chosen.program)
    found = {}
    for z in sorted(set(elements)):
        content = Content.of(atom_input(z, specification))
        found[z] = Calculation(
            key=content.key(chosen.version),
            record_id=None,
            level=level.name,
            program=chosen.program,
            program_version=chosen.version,
            label=f"atom {z}",
            cost=estimated_cost(content.atomic_numbers, content.multiplicity),
            content=content,
        )
    return found


def estimated_cost(atomic_numbers: NDArray[np.integer], multiplicity: int = 1, *, hessian: bool = False) -> float:
    """Estimate the relative cost of a calculation: cubic in a rough count of basis functions, double for open shells.

    A Hessian counts as the 6n gradients of its central differences.

    The count is that of 6-31G(d) with Cartesian d functions: 2 for hydrogen, 15 for the second row, 19 for the third.
    It orders a queue (longest first); what it means in seconds is fitted (:mod:`sddfkit.factory.costs`).
    """
    functions = np.where(atomic_numbers <= 2, 2, np.where(atomic_numbers <= 10, 15, 19)).sum()
    gradients = 6 * atomic_numbers.size if hessian else 1
    return float(functions) ** 3 * (1.0 if multiplicity == 1 else 2.0) * gradients


def record_document(record: Any) -> dict[str, Any]:
    """Return a record (a named tuple) as a JSON-able mapping, the form in which the store keeps it."""
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in record._asdict().items()
    }
