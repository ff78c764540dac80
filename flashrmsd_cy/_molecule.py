"""`Molecule`: a molecular graph, checked and prepared once for any number of conformers."""

from __future__ import annotations

import time
from array import array
from operator import index

from flashrmsd_cy._elements import NUMBERS
from flashrmsd_cy._flatten import flatten
from flashrmsd_cy._graph import Graph, difference
from flashrmsd_cy._pack import first_map, list_blocks, pack
from flashrmsd_cy._plan import PlanLimitError, Planner
from flashrmsd_cy._search import Search
from flashrmsd_cy.errors import NotIsomorphicError, RMSDError, SearchLimitError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from numpy.typing import ArrayLike, NDArray

    from flashrmsd_cy._pack import Blocks, Int, Packed
    from flashrmsd_cy._stereo import Stereo

MAX_LISTED_MAPS = 5000
MOST_MAPS = 4096  # to other molecules that are remembered
MOST_TYPES = 1 << 29
OTHER_STEREO = "elements and bonds agree, configurations do not"
NO_MAPPING = "every atom has a counterpart with like surroundings, but no mapping of all atoms keeps all bonds"


class Molecule:
    """A molecular graph, prepared for comparing conformers.

    Parameters
    ----------
    elements : sequence of int or str, length n
        Atomic numbers or symbols in any case, which are the same here; D and T are hydrogen. Other strings are labels
        of their own. Atoms are only matched to atoms of the same element.
    bonds : array_like of int, shape (m, 2)
        Bonded atoms, indices from 0. Neither the order of the bonds nor that within a bond matters.
    bond_types : array_like of int, shape (m,), optional
        If given, bonds are only matched to bonds of the same type. Two Kekulé forms are then different molecules.
    charges : array_like of int, shape (n,), optional
        If given, atoms are only matched to atoms of the same charge: the O of a carboxylate then differ.
    stereo : Stereo, optional
        If given, mappings keep these configurations.
    hydrogens : bool
        Whether hydrogens are compared. If not, positions are still given for all atoms.

    Raises
    ------
    RMSDError
        If lengths disagree, a bond names a missing atom, joins an atom to itself or is given twice, an entry of
        `stereo` does not fit, or there is no atom to compare.

    Examples
    --------
    >>> water = Molecule(["O", "H", "H"], [(0, 1), (0, 2)])
    >>> water.n_atoms, water.n_automorphisms
    (3, 2)
    >>> Molecule(["O", "H", "D"], [(0, 1), (0, 2)], hydrogens=False).compared
    (0,)
    """

    def __init__(
        self,
        elements: Sequence[int | str] | NDArray,
        bonds: ArrayLike,
        *,
        bond_types: ArrayLike | None = None,
        charges: ArrayLike | None = None,
        stereo: Stereo | None = None,
        hydrogens: bool = True,
    ) -> None:
        numbers = [_element(x) for x in _listed(elements)]
        n = len(numbers)
        all_bonds = _checked_bonds(bonds, bond_types, n)
        labels = _with_charges(numbers, charges)
        self._n_given = n
        self._compared = tuple(range(n)) if hydrogens else tuple(i for i, number in enumerate(numbers) if number != 1)
        if not n:
            raise RMSDError("elements is empty: a molecule has at least one atom")
        if not self._compared:
            raise RMSDError("there is no atom to compare: all are hydrogens, and hydrogens=False")
        kept = all_bonds
        if len(self._compared) < n:
            place = {atom: index for index, atom in enumerate(self._compared)}
            labels = [labels[atom] for atom in self._compared]
            kept = [(place[i], place[j], label) for i, j, label in all_bonds if i in place and j in place]
        # The graph in words of the caller, and the one that is searched, which may have more vertices.
        self._plain = self._graph = Graph(labels, kept)
        if stereo is not None:
            from flashrmsd_cy._stereo import with_stereo

            place = {atom: index for index, atom in enumerate(self._compared)}
            self._graph = Graph(*with_stereo(labels, kept, stereo, n, all_bonds, place))
        self._plan: tuple[Packed, Blocks | None, int] | None = None
        self._maps_to: dict[int, tuple[Molecule, Int]] = {}
        self._searches: list[Search] = []
        # For NumPy, which sees it as an index array; None if all atoms are compared.
        self._places = None if len(self._compared) == n else array("q", self._compared)

    @property
    def n_atoms(self) -> int:
        """Number of atoms, compared or not: the length of `elements` and of positions."""
        return self._n_given

    @property
    def compared(self) -> tuple[int, ...]:
        """Indices of the atoms that are compared."""
        return self._compared

    @property
    def n_automorphisms(self) -> int:
        """Number of ways to map the compared atoms onto themselves; exact, however large."""
        return self._prepared()[2]

    def __repr__(self) -> str:
        return f"Molecule({self.n_atoms} atoms, {self._plain.n_bonds} bonds)"

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_maps_to": {}, "_searches": []}

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
            n = len(self._compared)
            self._plan = pack(flatten(nodes), n), list_blocks(nodes, n, MAX_LISTED_MAPS), nodes[-1].count
        return self._plan

    def _search(self, node_limit: int | None = None, deadline: float | None = None) -> Search:
        """A search for one thread, to be handed back to `_searches` after use. Raises PlanLimitError."""
        try:
            return self._searches.pop()
        except IndexError:
            return Search(*self._prepared(node_limit, deadline)[:2])

    def _map_to(self, other: Molecule, node_limit: int | None = None, deadline: float | None = None) -> Int:
        """(n,) any isomorphism, among compared atoms: raises NotIsomorphicError, SearchLimitError."""
        if other is self:
            return array("i", range(len(self._compared)))
        known = self._maps_to.get(id(other))
        if known is not None:
            return known[1]
        if self._graph.same_as(other._graph):
            mapping = array("i", range(len(self._compared)))
        else:
            mapping = self._first_map(other, node_limit, deadline)
        if len(self._maps_to) >= MOST_MAPS:
            self._maps_to.pop(next(iter(self._maps_to), 0), None)  # another thread may have done the same
        # The other molecule is kept with the map, so that its id cannot be reused while the entry lives.
        self._maps_to[id(other)] = (other, mapping)
        return mapping

    def _first_map(self, other: Molecule, node_limit: int | None, deadline: float | None) -> Int:
        planner = Planner(self._graph, other._graph, first_only=True, node_limit=node_limit, deadline=deadline)
        started = time.monotonic()
        try:
            if planner.build():
                return first_map(planner.nodes, len(self._compared))
        except PlanLimitError:
            raise SearchLimitError(
                f"no mapping between the two molecules ({len(self._compared)} atoms) was found within the limit "
                f"({time.monotonic() - started:.1f} s): raise node_limit or time_limit_s"
            ) from None
        reason = difference(self._plain, other._plain)
        if reason is None and difference(self._graph, other._graph) is not None:
            reason = OTHER_STEREO
        if reason is None:
            reason = NO_MAPPING if self._graph is self._plain else f"{NO_MAPPING} and configurations"
        raise NotIsomorphicError(f"the two molecules are not the same graph: {reason}")


def _element(x: object) -> int | str:
    """Atomic number, or the string itself if it names no element."""
    if type(x) is int:
        return x
    if isinstance(x, str):
        name = x.strip()
        return NUMBERS.get(name.capitalize(), name)
    if not _is_integer(x):
        raise RMSDError(f"elements has the entry {x!r}, expected atomic numbers or symbols")
    return int(x)  # type: ignore[call-overload]


def _with_charges(numbers: list[int | str], charges: ArrayLike | None) -> list[Hashable]:
    if charges is None:
        return list(numbers)
    return list(zip(numbers, _integers(charges, "charges", len(numbers), "one per atom"), strict=True))


def _checked_bonds(bonds: ArrayLike, bond_types: ArrayLike | None, n: int) -> list[tuple[int, int, int]]:
    pairs = _listed(bonds)
    types = [0] * len(pairs) if bond_types is None else _integers(bond_types, "bond_types", len(pairs), "one per bond")
    if bond_types is not None and any(abs(kind) >= MOST_TYPES for kind in types):
        raise RMSDError(f"bond_types has the entry {max(types, key=abs)}, expected less than {MOST_TYPES}")
    checked, seen = [], set()
    for pair, kind in zip(pairs, types, strict=True):
        try:
            i, j = pair
            i, j = index(i), index(j)
        except (TypeError, ValueError):
            raise RMSDError(
                f"bonds has the entry {pair!r}, expected two atoms, which are integers from 0 to {n - 1}"
            ) from None
        if not (0 <= i < n and 0 <= j < n):
            raise RMSDError(f"bond ({i}, {j}) names an atom that does not exist: indices run from 0 to {n - 1}")
        if i == j:
            raise RMSDError(f"bond ({i}, {j}) joins an atom to itself")
        if (i, j) in seen:
            raise RMSDError(f"bond ({i}, {j}) is given twice")
        seen.add((i, j))
        seen.add((j, i))
        checked.append((i, j, kind))
    return checked


def _listed(values: object) -> list:
    """A list of Python objects from a sequence or a NumPy array, which need not be loaded for that."""
    return values.tolist() if hasattr(values, "tolist") else list(values)  # type: ignore[call-overload]


def _is_integer(x: object) -> bool:
    return type(x) is int or (hasattr(x, "__index__") and not isinstance(x, bool))


def _integers(values: object, name: str, n: int, what: str) -> list[int]:
    given = _listed(values)
    if len(given) != n:
        raise RMSDError(f"{name} has {len(given)} entries, expected {n}, {what}")
    if not all(map(_is_integer, given)):
        raise RMSDError(f"{name} has the entry {next(x for x in given if not _is_integer(x))!r}, expected integers")
    return list(map(int, given))
