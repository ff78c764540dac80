"""What a property is: a name, a column type, a unit, a shape, and how to read it from a result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class PropertyError(ValueError):
    """A result does not hold the property asked for."""


class Property(NamedTuple):
    """One observable of a calculation.

    name : column name in a data set
    arrow_type : Arrow type of that column, as text
    unit : unit of the extracted value
    shape : shape in words, ``n`` is the number of atoms
    extract : from a QCSchema result as JSON-like dict (bohr, hartree) to a float or an array in `unit`
    turns : whether each axis of length 3 turns with the molecule; False for three numbers that are no vector
    needs : what it reads from the result's extras; programs whose harness does not list it in `gives` are refused
    remark : what a reader of the value must know of this result, in a sentence; None if nothing
    """

    name: str
    arrow_type: str
    unit: str
    shape: str
    extract: Callable[[Mapping[str, Any]], float | np.ndarray | str]
    turns: bool = True
    needs: tuple[str, ...] = ()
    remark: Callable[[Mapping[str, Any]], str | None] = lambda result: None


def qcschema_value(result: Mapping[str, Any], key: str) -> Any:
    """``result["properties"][key]``, or a `PropertyError` that names the key."""
    value = result.get("properties", {}).get(key)
    if value is None:
        raise PropertyError(f"the result holds no {key}; ask for the driver or keyword that computes it")
    return value


def extras_value(result: Mapping[str, Any], key: str) -> Any:
    """``result["extras"][key]``, or a `PropertyError` that names the key."""
    value = (result.get("extras") or {}).get(key)
    if value is None:
        raise PropertyError(
            f"the result holds no {key}: its program does not compute it, the molecule has none, or it was computed "
            "without being asked for it"
        )
    return value


def atom_values(result: Mapping[str, Any], key: str) -> np.ndarray:
    """``result["extras"][key]`` as one number per atom, (n,) float64."""
    return np.asarray(extras_value(result, key), dtype=np.float64).reshape(-1)
