"""`Molecule`: a molecular graph, checked and prepared once for any number of conformers."""

from __future__ import annotations

import time
from array import array

from flashrmsd_cy._graph import Graph, difference
from flashrmsd_cy._pack import first_map, list_blocks, pack
from flashrmsd_cy._plan import PlanLimitError, Planner
from flashrmsd_cy.errors import NotIsomorphicError, RMSDError, SearchLimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from flashrmsd_cy._pack import Blocks, Int, Packed

MAX_LISTED_MAPS = 5000


class Molecule:
    """A molecular graph, prepared for comparing conformers.

    Parameters
    ----------
    elements : sequence of int or str, length n
        Atomic numbers or symbols; atoms are only matched to atoms with an equal entry.
    bonds : array_like of int, shape (m, 2)
        Bonded atoms, indices from 0. Neither the order of the bonds nor that within a bond matters.
    bond_types : array_like of int, shape (m,), optional
        If given, bonds are only matched to bonds of the same type. Two Kekulé forms are then different molecules.
    charges : array_like of int, shape (n,), optional
        If given, atoms are only matched to atoms of the same charge: the O of a carboxylate then differ.

    Raises
    ------
    RMSDError
        If lengths disagree, a bond names a missing atom, joins an atom to itself or is given twice.

    Examples
    --------
    >>> water = Molecule(["O", "H", "H"], [(0, 1), (0, 2)])
    >>> water.n_atoms, water.n_automorphisms
    (3, 2)
    """

    def __init__(
        self,
        elements: Sequence[int | str] | NDArray,
        bonds: ArrayLike,
        *,
        bond_types: ArrayLike | None = None,
        charges: ArrayLike | None = None,
    ) -> None:
        labels = _labels(elements, charges)
        self._graph = Graph(labels, _checked_bonds(bonds, bond_types, len(labels)))
        self._plan: tuple[Packed, Blocks | None, int] | None = None
        self._maps_to: dict[int, tuple[Molecule, Int]] = {}

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self._graph)

    @property
    def n_automorphisms(self) -> int:
        """Number of ways to map the molecule onto itself; exact, however large."""
        return self._prepared()[2]

    def __repr__(self) -> str:
        return f"Molecule({self.n_atoms} atoms, {sum(map(len, self._graph.adjacency)) // 2} bonds)"

    def __getstate__(self) -> dict:
        return {"_graph": self._graph, "_plan": self._plan, "_maps_to": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    def _prepared(
        self, node_limit: int | None = None, deadline: float | None = None
    ) -> tuple[Packed, Blocks | None, int]:
        """Plan, listed blocks and number of automorphisms, made at the first use. Raises PlanLimitError."""
        if self._plan is None:
            planner = Planner(self._graph, self._graph, node_limit=node_limit, deadline=deadline)
            planner.build()
            nodes = planner.nodes
            self._plan = pack(nodes), list_blocks(nodes, MAX_LISTED_MAPS), nodes[-1].count
        return self._plan

    def _map_to(self, other: Molecule, node_limit: int | None = None, deadline: float | None = None) -> Int:
        """(n,) any isomorphism: the atom of `other` for each atom. Raises NotIsomorphicError, SearchLimitError."""
        if other is self:
            return array("i", range(self.n_atoms))
        known = self._maps_to.get(id(other))
        if known is not None:
            return known[1]
        reason = difference(self._graph, other._graph)
        if reason is not None:
            raise NotIsomorphicError(f"the two molecules are not the same graph: {reason}")
        planner = Planner(self._graph, other._graph, first_only=True, node_limit=node_limit, deadline=deadline)
        started = time.monotonic()
        try:
            found = planner.build()
        except PlanLimitError:
            raise SearchLimitError(
                f"no mapping between the two molecules ({self.n_atoms} atoms) was found within the limit "
                f"({time.monotonic() - started:.1f} s): raise node_limit or time_limit_s"
            ) from None
        if not found:
            raise NotIsomorphicError(
                "the two molecules are not the same graph: every atom has a counterpart with like surroundings, "
                "but no mapping of all atoms keeps all bonds"
            )
        mapping = first_map(planner.nodes)
        # The other molecule is kept with the map, so that its id cannot be reused while the entry lives.
        self._maps_to[id(other)] = (other, mapping)
        return mapping


def _labels(elements: Sequence[int | str] | NDArray, charges: ArrayLike | None) -> list[Hashable]:
    labels: list[Hashable] = _listed(elements)
    if not labels:
        raise RMSDError("elements is empty: a molecule has at least one atom")
    if charges is None:
        return labels
    return list(zip(labels, _integers(charges, "charges", len(labels), "one per atom"), strict=True))


def _checked_bonds(bonds: ArrayLike, bond_types: ArrayLike | None, n: int) -> list[tuple[int, int, int]]:
    pairs = _listed(bonds)
    types = [0] * len(pairs) if bond_types is None else _integers(bond_types, "bond_types", len(pairs), "one per bond")
    checked, seen = [], set()
    for pair, label in zip(pairs, types, strict=True):
        ends = _listed(pair) if hasattr(pair, "__len__") else ()
        if len(ends) != 2 or not all(map(_is_integer, ends)):
            raise RMSDError(f"bonds has the entry {pair!r}, expected two atoms, which are integers from 0 to {n - 1}")
        i, j = map(int, ends)
        if not (0 <= i < n and 0 <= j < n):
            raise RMSDError(f"bond ({i}, {j}) names an atom that does not exist: indices run from 0 to {n - 1}")
        if i == j:
            raise RMSDError(f"bond ({i}, {j}) joins an atom to itself")
        if (i, j) in seen:
            raise RMSDError(f"bond ({i}, {j}) is given twice")
        seen |= {(i, j), (j, i)}
        checked.append((i, j, label))
    return checked


def _listed(values: object) -> list:
    """A list of Python objects from a sequence or a NumPy array, which need not be loaded for that."""
    return values.tolist() if hasattr(values, "tolist") else [_item(x) for x in values]  # type: ignore[attr-defined]


def _item(x: object) -> object:
    return x.item() if hasattr(x, "item") and not hasattr(x, "__len__") else x


def _is_integer(x: object) -> bool:
    return hasattr(x, "__index__") and not isinstance(x, bool)


def _integers(values: object, name: str, n: int, what: str) -> list[int]:
    given = _listed(values)
    if len(given) != n:
        raise RMSDError(f"{name} has {len(given)} entries, expected {n}, {what}")
    if not all(map(_is_integer, given)):
        raise RMSDError(f"{name} has the entry {next(x for x in given if not _is_integer(x))!r}, expected integers")
    return given
