"""Programs behind QCEngine's `ProgramHarness`, one file each.

Every module of this package that defines a subclass of `Harness` is found by itself. A harness outside the package is
named by the dotted path of its class, ``mine.toy.ToyHarness``, wherever a program is named. Importing this package
loads none of the programs; a harness does so when it first computes.

`register` puts ours into QCEngine's table of this process (replacing its own "psi4", which cannot drive Psi4 before
1.4).
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from types import MappingProxyType, ModuleType
from typing import Final

import qcengine

from sddfkit.qc.errors import ProgramBrokenError, ProgramMissingError
from sddfkit.qc.harnesses.base import Harness, Rung

_NO_HARNESS: Final = frozenset({"base", "protocol", "psi4_installation", "psi4_worker"})
"""Modules of this package that serve the others; the Psi4 worker belongs to another Python."""


def _find() -> tuple[dict[str, Harness], dict[str, str]]:
    """Shipped harnesses by program name, and by module name a sentence about each module that cannot be loaded."""
    found: dict[str, Harness] = {}
    unloadable: dict[str, str] = {}
    for name in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        if name in _NO_HARNESS:
            continue
        path = f"{__name__}.{name}"
        try:
            module = importlib.import_module(path)
            for harness_class in _harness_classes(module):
                instance = harness_class()
                found[instance.name] = instance
        except Exception as error:  # one bad file must not take the other programs away
            unloadable[name] = f"the harness module {path} cannot be loaded: {type(error).__name__}: {error}"
    return found, unloadable


def _harness_classes(module: ModuleType) -> list[type[Harness]]:
    """Concrete harness classes that a module defines itself, in the order of their names."""
    return [
        value
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Harness) and value.__module__ == module.__name__ and not inspect.isabstract(value)
    ]


_FOUND, _UNLOADABLE = _find()

HARNESSES: Final[Mapping[str, Harness]] = MappingProxyType(_FOUND)
"""Program name to its harness, of those in this package."""


def harness(name: str) -> Harness:
    """The harness of a program.

    Parameters
    ----------
    name : str
        A key of `HARNESSES`, in any case, or the dotted path of a `Harness` class outside the package.

    Returns
    -------
    Harness
        Known to QCEngine by its `name`; for a dotted path that is the path in lower case.

    Raises
    ------
    ProgramMissingError
        If there is no such harness, or no such module or class.
    ProgramBrokenError
        If its module or class is there, but cannot be loaded.
    """
    if name.lower() in HARNESSES:
        return HARNESSES[name.lower()]
    if name.lower() in _UNLOADABLE:
        raise ProgramBrokenError(f"{_UNLOADABLE[name.lower()]}. Repair it, or choose another program")
    if "." in name:
        return _outside(name)
    near = difflib.get_close_matches(name.lower(), HARNESSES, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    bad = "".join(f"; {sentence}" for sentence in _UNLOADABLE.values())
    raise ProgramMissingError(
        f"there is no harness for {name!r}: {hint}known: {', '.join(HARNESSES)}; one of your own is named by the "
        f"dotted path of its class, such as mine.toy.ToyHarness{bad}"
    )


@functools.cache
def _outside(path: str) -> Harness:
    module_name, _, class_name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever somebody's module does when it is imported
        raise _not_imported(path, module_name, error) from error
    harness_class = getattr(module, class_name, None)
    if not (inspect.isclass(harness_class) and issubclass(harness_class, Harness)):
        there = ", ".join(cls.__name__ for cls in _harness_classes(module)) or "none"
        raise ProgramMissingError(
            f"{module.__file__} has no class {class_name!r} that derives from sddfkit.qc.harnesses.Harness; "
            f"harnesses there: {there}"
        )
    try:
        instance = harness_class(name=path.lower())
    except Exception as error:
        raise ProgramBrokenError(
            f"the harness {path} cannot be made: {type(error).__name__}: {error}. It needs _defaults (with a name), "
            "problem, get_version and compute; sddfkit/qc/harnesses/tblite.py shows how"
        ) from error
    _enter(instance)
    return instance


def _not_imported(path: str, module_name: str, error: Exception) -> ProgramMissingError:
    missing = error.name if isinstance(error, ModuleNotFoundError) else None
    if missing is not None and f"{module_name}.".startswith(f"{missing}."):
        return ProgramMissingError(
            f"there is no module {missing!r}, in which the harness {path!r} was looked for; check the spelling, and "
            "that its folder is on PYTHONPATH"
        )
    reason = (
        f"it needs the module {missing!r}, which is not installed"
        if missing
        else f"importing {module_name} failed with {type(error).__name__}: {error}"
    )
    return ProgramBrokenError(f"the harness {path} cannot be loaded: {reason}. Repair it, or choose another program")


def _enter(instance: Harness) -> None:
    if instance.name in qcengine.list_all_programs():
        qcengine.unregister_program(instance.name)
    qcengine.register_program(instance)


def register() -> None:
    """Make QCEngine use our harnesses; calling it again changes nothing."""
    for instance in HARNESSES.values():
        _enter(instance)


__all__ = ["HARNESSES", "Harness", "Rung", "harness", "register"]
