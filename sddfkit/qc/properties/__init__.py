"""Observables of a calculation, one file each; `extract` turns a QCSchema result into eV, eV/Å and e·Å.

| name | unit | shape |
|---|---|---|
| energy | eV | scalar |
| forces | eV/Å | (n, 3) |
| dipole | e·Å | (3,) |
| mulliken_charges, lowdin_charges, resp, hirshfeld_charges, cm5_charges, mbis_charges | e | (n,) |
| homo, lumo, gap | eV | scalar |
| frequencies | cm⁻¹ | (modes,) |
| zpe | eV | scalar |
| overlap | 1 | (nao, nao) |
| density, fock | 1, eV | (s, nao, nao), s = 1 or of α and β |
| ao_basis | 1 | JSON text: what the matrices' functions are |

Every module of this package that defines a `Property` is found by itself; one outside the package is named by its
dotted path, ``mine.toy.CHARGES``.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import pkgutil
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from qcelemental.models.v2 import AtomicResult

from sddfkit.qc.properties.base import Property, PropertyError

if TYPE_CHECKING:
    from sddfkit.qc.levels import Level


def _find() -> tuple[dict[str, Property], dict[str, str]]:
    """Shipped properties by name, and by module name a sentence about each module that cannot be loaded."""
    found: dict[str, Property] = {}
    unloadable: dict[str, str] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        try:
            members = vars(importlib.import_module(f"{__name__}.{name}")).values()
        except Exception as error:  # one bad file must not take the other observables away
            unloadable[name] = f"{__name__}.{name} cannot be loaded: {type(error).__name__}: {error}"
            continue
        found.update({member.name: member for member in members if isinstance(member, Property)})
    first = ("energy", "forces", "dipole")  # the order of columns that people expect
    return {name: found[name] for name in (*first, *sorted(set(found) - set(first)))}, unloadable


_FOUND, _UNLOADABLE = _find()

PROPERTIES: Final[Mapping[str, Property]] = MappingProxyType(_FOUND)
"""Name to `Property`, of those in this package."""


def property_named(name: str) -> Property:
    """An observable of this package by its name, or any other by the dotted path of its `Property`.

    Raises
    ------
    PropertyError
        If there is none; the message says what is wrong.

    Examples
    --------
    >>> property_named("forces").unit, property_named("sddfkit.qc.properties.dipole.DIPOLE").shape
    ('eV/Å', '(3,)')
    """
    if name in PROPERTIES:
        return PROPERTIES[name]
    if "." not in name:
        near = difflib.get_close_matches(name, PROPERTIES, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        bad = "".join(f"; {sentence}" for sentence in _UNLOADABLE.values())
        raise PropertyError(
            f"unknown property {name!r}: {hint}known: {', '.join(PROPERTIES)}; one of your own is named by its dotted "
            f"path, such as mine.toy.CHARGES{bad}"
        )
    module_name, _, attribute = name.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever somebody's module does when it is imported
        raise PropertyError(
            f"the property {name!r} cannot be loaded: {type(error).__name__}: {error}; check the spelling, and that "
            "its folder is on PYTHONPATH"
        ) from error
    found = getattr(module, attribute, None)
    if not isinstance(found, Property):
        there = ", ".join(key for key, value in vars(module).items() if isinstance(value, Property)) or "none"
        raise PropertyError(f"{module.__file__} has no Property {attribute!r}; there: {there}")
    return found


def extract(
    result: AtomicResult | Mapping[str, Any], names: Iterable[str] = ("energy", "forces", "dipole")
) -> dict[str, Any]:
    """Read properties from a result.

    Parameters
    ----------
    result : AtomicResult or mapping
        A successful result, as model or as the dict that its JSON gives.
    names : iterable of str
        Any that `property_named` knows.

    Returns
    -------
    dict
        The names as given, to float, float64 array or text, in the unit of each property.

    Raises
    ------
    PropertyError
        For an unknown name, a failed result, or a property that was not computed.
    """
    data = result.model_dump() if isinstance(result, AtomicResult) else result
    if not data.get("success", False):
        raise PropertyError("the calculation failed, so it has no properties; look at its error instead")
    return {name: property_named(name).extract(data) for name in names}


def with_properties(level: Level, program: str, names: Iterable[str]) -> Level:
    """The level with the keywords by which `program` computes what these properties are read from.

    Parameters
    ----------
    level : Level
    program : str
        The one that will compute, from `Level.choose`.
    names : iterable of str
        Any that `property_named` knows.

    Raises
    ------
    PropertyError
        If the program cannot give what a property needs; the message names the programs of the level that can.
    """
    from sddfkit.qc.harnesses import harness

    keywords: dict[str, Any] = {}
    for name in names:
        needs = property_named(name).needs
        given = harness(program).gives
        if missing := [need for need in needs if need not in given]:
            others = [other for other in level.programs if set(needs) <= set(harness(other).gives)]
            raise PropertyError(
                f"{program} does not compute {', '.join(missing)}, from which the property {name!r} is read; "
                + (f"choose level.program={others[0]}" if others else "choose a level of another program")
            )
        for need in needs:
            keywords.update(given[need])
    if not keywords:
        return level
    return dataclasses.replace(level, programs={**level.programs, program: {**level.programs[program], **keywords}})


__all__ = ["PROPERTIES", "Property", "PropertyError", "extract", "property_named", "with_properties"]
