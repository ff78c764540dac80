"""From a molecular graph to a plan: every isomorphism, folded into a small graph of choices.

A subproblem (node) is "map the connected piece A onto the piece B, given the images of the atoms A hangs on". Colour
refinement tells which atoms have only one possible image; if there are none, one atom of the smallest class is mapped
to each of its candidates in turn (branches). What is left falls into components. Components that may take each other's
place form a group: an assignment problem whose costs are the solved subproblems (component, component). Subproblems are
remembered by (A, B, images of the anchors), so trees, salts and dendrimers need polynomially many although the number
of isomorphisms is exponential (separator dynamic programming). Structure alone decides all this: a plan is made once
per molecule, and a pair of conformers is evaluated by one pass over it from the leaves to the root.
"""

from __future__ import annotations

import time
from collections import Counter
from math import factorial, prod

from flashrmsd_cy._graph import components, initial_colours, refine

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from flashrmsd_cy._graph import Colours, Graph

    Pairs = tuple[tuple[int, int], ...]

NOTHING = -1


class PlanLimitError(Exception):
    """The plan needed more subproblems or more time than it was given."""


class Group:
    """k pieces that may be exchanged: ``nodes[r * k + c]`` is the subproblem (piece r of a, piece c of b)."""

    __slots__ = ("atoms_a", "atoms_b", "nodes", "size")

    def __init__(self, size: int, nodes: tuple[int, ...], atoms_a: frozenset[int], atoms_b: frozenset[int]) -> None:
        self.size, self.nodes, self.atoms_a, self.atoms_b = size, nodes, atoms_a, atoms_b


class Branch:
    """One way to begin a subproblem: these atoms are mapped, these groups remain, independent of each other."""

    __slots__ = ("groups", "pairs")

    def __init__(self, pairs: Pairs, groups: tuple[Group, ...]) -> None:
        self.pairs, self.groups = pairs, groups


class Node:
    """A subproblem: map `atoms_a` onto `atoms_b`; `count` is the number of ways."""

    __slots__ = ("atoms_a", "atoms_b", "branches", "count")

    def __init__(
        self, atoms_a: frozenset[int], atoms_b: frozenset[int], branches: tuple[Branch, ...], count: int
    ) -> None:
        self.atoms_a, self.atoms_b, self.branches, self.count = atoms_a, atoms_b, branches, count


class _Family:
    """Pieces of a (rows) and of b (columns) that hang on the same mapped atoms and are isomorphic to each other."""

    __slots__ = ("anchors", "columns", "rows")

    def __init__(self, anchors: Pairs, rows: list[frozenset[int]], columns: list[frozenset[int]]) -> None:
        self.anchors, self.rows, self.columns = anchors, rows, columns


class Planner:
    """Builds the nodes, children before parents; ``nodes[-1]`` is the root."""

    def __init__(
        self,
        a: Graph,
        b: Graph,
        first_only: bool = False,
        node_limit: int | None = None,
        deadline: float | None = None,
    ) -> None:
        self.a, self.b, self.first_only = a, b, first_only
        self.node_limit, self.deadline = node_limit, deadline
        self.nodes: list[Node] = []
        self._known: dict[tuple[frozenset[int], frozenset[int], Pairs], int] = {}
        self._calls = 0
        self._base: tuple[Colours, Colours] = ({}, {})

    def build(self) -> bool:
        """Make all nodes; False if the graphs are not isomorphic.

        Raises
        ------
        PlanLimitError
            If `node_limit` or `deadline` (``time.monotonic()``) is passed.
        """
        colours = initial_colours(self.a, self.b)
        refined = refine(self.a.adjacency, colours[0], self.b.adjacency, colours[1])
        if refined is None:
            return False
        self._base = refined
        everything = frozenset(range(len(self.a)))
        branches = self._expand(everything, everything, refined, {}, connected=False)
        if not branches:
            return False
        self._store(everything, everything, branches)
        return True

    def _solve(self, a: frozenset[int], b: frozenset[int], anchors: Pairs) -> int:
        key = (a, b, anchors)
        known = self._known.get(key)
        if known is None:
            self._check_limits()
            colours = self._colours(a, b, anchors)
            refined = refine(self.a.adjacency, colours[0], self.b.adjacency, colours[1])
            branches = self._expand(a, b, refined, dict(anchors)) if refined is not None else ()
            known = self._known[key] = self._store(a, b, branches) if branches else NOTHING
        return known

    def _colours(self, a: frozenset[int], b: frozenset[int], anchors: Pairs) -> tuple[Colours, Colours]:
        table: dict[tuple, int] = {}
        sides = ((a, self.a.adjacency, self._base[0], 0), (b, self.b.adjacency, self._base[1], 1))
        coloured: list[Colours] = []
        for atoms, adjacency, base, side in sides:
            places = {pair[side]: place for place, pair in enumerate(anchors)}
            colours = {}
            for atom in sorted(atoms):
                bonds = sorted((places[x], label) for x, label in adjacency[atom].items() if x in places)
                colours[atom] = table.setdefault((base[atom], tuple(bonds)), len(table))
            coloured.append(colours)
        return coloured[0], coloured[1]

    def _expand(
        self,
        a: frozenset[int],
        b: frozenset[int],
        colours: tuple[Colours, Colours],
        image: dict[int, int],
        connected: bool = True,
    ) -> tuple[Branch, ...]:
        count = Counter(colours[0].values())
        place_b: dict[int, list[int]] = {}
        for atom, colour in colours[1].items():
            place_b.setdefault(colour, []).append(atom)
        forced = tuple((atom, place_b[c][0]) for atom, c in colours[0].items() if count[c] == 1)
        if forced or (not connected and len(components(self.a.adjacency, a)) > 1):
            starts: Sequence[Pairs] = (forced,)
        else:
            atom = min(a, key=lambda x: (count[colours[0][x]], -len(self.a.adjacency[x]), x))
            starts = [((atom, candidate),) for candidate in sorted(place_b[colours[0][atom]])]
        branches = []
        for pairs in starts:
            branch = self._branch(a, b, colours, image, pairs)
            if branch is not None:
                branches.append(branch)
                if self.first_only:
                    break
        return tuple(branches)

    def _branch(
        self,
        a: frozenset[int],
        b: frozenset[int],
        colours: tuple[Colours, Colours],
        image: dict[int, int],
        pairs: Pairs,
    ) -> Branch | None:
        image = image | dict(pairs)
        targets = set(image.values())
        waiting: dict[tuple, list[frozenset[int]]] = {}
        for piece in components(self.b.adjacency, b.difference(j for _, j in pairs)):
            hangs_on = frozenset(x for atom in piece for x in self.b.adjacency[atom] if x in targets)
            waiting.setdefault((hangs_on, _histogram(piece, colours[1])), []).append(piece)
        families: list[_Family] = []
        for piece in components(self.a.adjacency, a.difference(i for i, _ in pairs)):
            around = {x for atom in piece for x in self.a.adjacency[atom] if x in image}
            anchors = tuple(sorted((x, image[x]) for x in around))
            kind = (frozenset(j for _, j in anchors), _histogram(piece, colours[0]))
            if not self._join(piece, anchors, waiting.get(kind, []), families):
                return None
        if any(len(family.rows) != len(family.columns) for family in families):
            return None
        return Branch(pairs, tuple(group for family in families for group in self._groups(family)))

    def _join(
        self, piece: frozenset[int], anchors: Pairs, candidates: list[frozenset[int]], families: list[_Family]
    ) -> bool:
        """Add a piece of a to the family whose places it can take, or found one; False if it fits nowhere."""
        for family in families:
            if family.anchors == anchors and self._solve(piece, family.columns[0], anchors) != NOTHING:
                family.rows.append(piece)
                return True
        columns = [candidate for candidate in candidates if self._solve(piece, candidate, anchors) != NOTHING]
        if columns:
            families.append(_Family(anchors, [piece], columns))
        return bool(columns)

    def _groups(self, family: _Family) -> list[Group]:
        rows, columns, anchors = family.rows, family.columns, family.anchors
        if self.first_only:
            return [Group(1, (self._solve(r, c, anchors),), r, c) for r, c in zip(rows, columns, strict=True)]
        nodes = tuple(self._solve(r, c, anchors) for r in rows for c in columns)
        return [Group(len(rows), nodes, frozenset().union(*rows), frozenset().union(*columns))]

    def _store(self, a: frozenset[int], b: frozenset[int], branches: tuple[Branch, ...]) -> int:
        # Pieces of one group are isomorphic to each other, so a group has k! arrangements times the ways on a diagonal.
        count = sum(
            prod(
                factorial(g.size) * prod(self.nodes[g.nodes[r * g.size + r]].count for r in range(g.size))
                for g in branch.groups
            )
            for branch in branches
        )
        self.nodes.append(Node(a, b, branches, count))
        return len(self.nodes) - 1

    def _check_limits(self) -> None:
        self._calls += 1
        if self.node_limit is not None and self._calls > self.node_limit:
            raise PlanLimitError
        if self.deadline is not None and time.monotonic() > self.deadline:
            raise PlanLimitError


def _histogram(piece: frozenset[int], colours: Colours) -> tuple[int, ...]:
    return tuple(sorted(colours[atom] for atom in piece))
