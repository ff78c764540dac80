"""`Molecule`: a molecular graph, checked and prepared once for any number of conformers."""

import time
from collections.abc import Hashable, Sequence
from typing import final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashrmsd_cy._graph import Graph, difference
from flashrmsd_cy._pack import Blocks, Int, Packed, first_map, list_blocks, pack
from flashrmsd_cy._plan import PlanLimitError, Planner
from flashrmsd_cy.errors import NotIsomorphicError, RMSDError, SearchLimitError

MAX_LISTED_MAPS = 5000


@final
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
        elements: Sequence[int | str] | NDArray[np.integer],
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

    def _map_to(self, other: "Molecule", node_limit: int | None = None, deadline: float | None = None) -> Int:
        """(n,) any isomorphism: the atom of `other` for each atom. Raises NotIsomorphicError, SearchLimitError."""
        if other is self:
            return np.arange(self.n_atoms, dtype=np.int32)
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


def _labels(elements: Sequence[int | str] | NDArray[np.integer], charges: ArrayLike | None) -> list[Hashable]:
    labels: list[Hashable] = [x.item() if isinstance(x, np.generic) else x for x in elements]
    if not labels:
        raise RMSDError("elements is empty: a molecule has at least one atom")
    if charges is None:
        return labels
    given = np.asarray(charges)
    if given.shape != (len(labels),):
        raise RMSDError(f"charges has shape {given.shape}, expected ({len(labels)},), one per atom")
    return list(zip(labels, given.tolist(), strict=True))


def _checked_bonds(bonds: ArrayLike, bond_types: ArrayLike | None, n: int) -> list[tuple[int, int, int]]:
    pairs = np.asarray(bonds)
    if pairs.size == 0:
        pairs = np.zeros((0, 2), dtype=int)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or not np.issubdtype(pairs.dtype, np.integer):
        raise RMSDError(f"bonds has shape {pairs.shape} and type {pairs.dtype}, expected (n_bonds, 2) integers")
    types = np.zeros(len(pairs), dtype=int) if bond_types is None else np.asarray(bond_types)
    if len(pairs) == 0 and types.size == 0:
        return []
    if types.shape != (len(pairs),) or not np.issubdtype(types.dtype, np.integer):
        raise RMSDError(f"bond_types has shape {types.shape} and type {types.dtype}, expected ({len(pairs)},) integers")
    checked, seen = [], set()
    for (i, j), label in zip(pairs.tolist(), types.tolist(), strict=True):
        if not (0 <= i < n and 0 <= j < n):
            raise RMSDError(f"bond ({i}, {j}) names an atom that does not exist: indices run from 0 to {n - 1}")
        if i == j:
            raise RMSDError(f"bond ({i}, {j}) joins an atom to itself")
        if frozenset((i, j)) in seen:
            raise RMSDError(f"bond ({i}, {j}) is given twice")
        seen.add(frozenset((i, j)))
        checked.append((i, j, label))
    return checked
