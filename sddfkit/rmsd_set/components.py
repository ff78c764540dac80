"""Molecules of the Chemical Component Dictionary, as the package ``biotite`` ships it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np

HYDROGENS = frozenset({"H", "D", "T"})
MIN_HEAVY = 5
_ORDERS = {"SING": 1, "DOUB": 2, "TRIP": 3}


class RmsdSetError(ValueError):
    """A benchmark set that cannot be made or read as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Component:
    """One molecule of the dictionary; plain values throughout, because it travels as JSON.

    Attributes
    ----------
    id : str
        Its code, such as ``ATP``.
    elements : list of str, length n
        Symbols; deuterium is H, an unknown element ``*``.
    charges : list of int, length n
    bonds : list of (i, j, order)
        Kekulé form, atoms from 0.
    ideal, model : list of n (x, y, z) in Å, or None
        Computed and observed coordinates; None where any is missing.
    """

    id: str
    elements: list[str]
    charges: list[int]
    bonds: list[tuple[int, int, int]]
    ideal: list[list[float]] | None
    model: list[list[float]] | None

    @property
    def heavy(self) -> list[int]:
        """Indices of the atoms that are not hydrogen."""
        return [i for i, element in enumerate(self.elements) if element != "H"]


def graph(component: Component, atoms: Sequence[int]) -> tuple[list[str], list[tuple[int, int]]]:
    """Return elements and bonds of some atoms, renumbered in their order; bond orders are not compared."""
    place = {atom: index for index, atom in enumerate(atoms)}
    bonds = [(place[i], place[j]) for i, j, _ in component.bonds if i in place and j in place]
    return [component.elements[i] for i in atoms], bonds


class Dictionary:
    """The whole dictionary in memory (about 0.5 GB), components by id on request.

    Raises
    ------
    RmsdSetError
        If biotite is not installed.
    """

    def __init__(self) -> None:
        try:
            from biotite.structure.info import get_ccd
        except ImportError as error:
            raise RmsdSetError(f"the dictionary comes with biotite: pip install 'sddfkit[bench]' ({error})") from error
        block = get_ccd()
        atoms, bonds = block["chem_comp_atom"], block["chem_comp_bond"]
        self.version = f"biotite {version('biotite')}"
        self._symbols = _text(atoms, "type_symbol")
        self._names = _text(atoms, "atom_id")
        self._charges = atoms["charge"].as_array(np.int64, masked_value=0)
        self._ideal = _coordinates(atoms, "pdbx_model_Cartn_{}_ideal")
        self._model = _coordinates(atoms, "model_Cartn_{}")
        self._ends = (_text(bonds, "atom_id_1"), _text(bonds, "atom_id_2"))
        self._orders = _text(bonds, "value_order")
        self._rows = _slices(_text(atoms, "comp_id"))
        self._bond_rows = _slices(_text(bonds, "comp_id"))

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self, min_heavy: int = MIN_HEAVY) -> list[str]:
        """Return the sorted ids of components with at least so many heavy atoms."""
        heavy = ~np.isin(self._symbols, sorted(HYDROGENS))
        return sorted(name for name, rows in self._rows.items() if heavy[rows].sum() >= min_heavy)

    def __getitem__(self, identity: str) -> Component:
        """Return a component.

        Raises
        ------
        RmsdSetError
            If there is none of this id, or one of its bonds names an atom that it does not have.
        """
        if identity not in self._rows:
            raise RmsdSetError(f"the dictionary ({self.version}) has no component {identity!r}")
        rows = self._rows[identity]
        place = {str(name): index for index, name in enumerate(self._names[rows])}
        bond_rows = self._bond_rows.get(identity, slice(0, 0))
        first, second = (ends[bond_rows].tolist() for ends in self._ends)
        try:
            bonds = [
                (place[i], place[j], _ORDERS[order])
                for i, j, order in zip(first, second, self._orders[bond_rows].tolist(), strict=True)
            ]
        except KeyError as error:
            raise RmsdSetError(f"{identity}: a bond has the unknown atom or order {error}") from None
        return Component(
            identity,
            [_symbol(symbol) for symbol in self._symbols[rows].tolist()],
            self._charges[rows].tolist(),
            bonds,
            _complete(self._ideal[rows]),
            _complete(self._model[rows]),
        )

    def components(self, ids: Sequence[str]) -> Iterator[Component]:
        """Yield components in the order of their ids."""
        for identity in ids:
            yield self[identity]


def _symbol(written: str) -> str:
    if written in HYDROGENS:
        return "H"
    return "*" if written == "X" else written.capitalize()


def _text(category: Any, name: str) -> np.ndarray:
    return np.asarray(category[name].as_array(str))


def _coordinates(atoms: Any, pattern: str) -> np.ndarray:
    """(n, 3) in Å, NaN where missing."""
    return np.stack([atoms[pattern.format(axis)].as_array(np.float64, masked_value=np.nan) for axis in "xyz"], axis=1)


def _complete(x: np.ndarray) -> list[list[float]] | None:
    return x.tolist() if np.isfinite(x).all() else None


def _slices(names: np.ndarray) -> dict[str, slice]:
    starts = np.flatnonzero(np.concatenate([[True], names[1:] != names[:-1]]))
    ends = np.append(starts[1:], len(names))
    return {str(names[i]): slice(int(i), int(j)) for i, j in zip(starts, ends, strict=True)}
