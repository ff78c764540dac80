"""Plans with fewer, larger steps: small choices are listed, and what moves as one piece is joined.

The search over rotations bounds each branch of a plan by itself, as if every branch could choose a rotation of its own.
The fewer independent terms, the tighter: three hydrogens of a methyl become one choice among six maps, and a cage whose
atoms the planner maps one after the other becomes one choice among its maps.
"""

from __future__ import annotations

from itertools import permutations, product
from math import isqrt, prod

from flashrmsd_cy._plan import Branch, Group, Node

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_MAPS = 24  # of a group of like pieces that are listed with those of the pieces
MOST_ARRANGED = 6  # pieces of a group whose arrangements are listed
MOST_STEPPED = 9  # pieces of a group that are placed one after the other
MOST_BRANCHES = 256  # of a trunk that is joined
MOST_PAIRS = 20_000  # in all branches of a node


def flatten(nodes: Sequence[Node]) -> list[Node]:
    """An equivalent plan, children before parents, the root last."""
    flat = _Flattened()
    place: list[int] = []
    for node in nodes:
        branches = tuple(flat.joined(branch, place) for branch in node.branches)
        place.append(flat.add(Node(node.atoms_a, node.atoms_b, flat.with_trunk(node.atoms_a, branches), node.count)))
    return flat.nodes


class _Flattened:
    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self._listed: dict[tuple[int, ...], int] = {}

    def add(self, node: Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def joined(self, branch: Branch, place: Sequence[int]) -> Branch:
        """The branch with places in the new plan; pieces that have one way to be mapped become part of it."""
        pairs = list(branch.pairs)
        groups: list[Group] = []
        for group in branch.groups:
            children = tuple(place[child] for child in group.nodes)
            if group.size == 1:
                child = self.nodes[children[0]]
                if len(child.branches) == 1:
                    pairs += child.branches[0].pairs
                    groups += child.branches[0].groups
                    continue
            elif group.size <= MOST_ARRANGED:
                children = (self._list(group, children),)
            elif group.size <= MOST_STEPPED:
                children = (self._step(children, group.size, 0, tuple(range(group.size))),)
            groups.append(Group(isqrt(len(children)), children, group.atoms_a, group.atoms_b))
        return Branch(tuple(sorted(pairs)), tuple(groups))

    def with_trunk(self, atoms: tuple[int, ...], branches: tuple[Branch, ...]) -> tuple[Branch, ...]:
        """The branches, where the child that holds most of the atoms is part of each."""
        while True:
            joined: list[Branch] = []
            for branch in branches:
                trunk = self._trunk(atoms, branch)
                if trunk is None:
                    joined.append(branch)
                    continue
                rest = tuple(group for group in branch.groups if group is not trunk)
                joined += [
                    Branch(tuple(sorted(branch.pairs + inner.pairs)), rest + inner.groups)
                    for inner in self.nodes[trunk.nodes[0]].branches
                ]
            if (
                len(joined) == len(branches)
                or len(joined) > MOST_BRANCHES
                or sum(len(branch.pairs) for branch in joined) > MOST_PAIRS
            ):
                return branches
            branches = tuple(joined)

    def _trunk(self, atoms: tuple[int, ...], branch: Branch) -> Group | None:
        for group in branch.groups:
            if group.size == 1 and 2 * len(group.atoms_a) > len(atoms):
                return group
        return None

    def _list(self, group: Group, children: tuple[int, ...]) -> int:
        """A node with all arrangements of a group, or even all its maps where they are few."""
        known = self._listed.get(children)
        if known is None:
            k = group.size
            arrangements = [
                [self.nodes[children[r * k + c]] for r, c in enumerate(columns)] for columns in permutations(range(k))
            ]
            places = [[children[r * k + c] for r, c in enumerate(columns)] for columns in permutations(range(k))]
            if self._are_few(arrangements):
                branches = [
                    Branch(tuple(sorted(pair for part in parts for pair in part.pairs)), ())
                    for pieces in arrangements
                    for parts in product(*(piece.branches for piece in pieces))
                ]
            else:
                branches = [self._side_by_side(pieces) for pieces in places]
            known = self.add(Node(group.atoms_a, group.atoms_b, tuple(branches), len(branches)))
            self._listed[children] = known
        return known

    def _step(self, children: tuple[int, ...], k: int, row: int, columns: tuple[int, ...]) -> int:
        """A node that gives piece `row` one of the places left, and the pieces after it the others."""
        key = (*children, -1, *columns)
        known = self._listed.get(key)
        if known is None:
            branches = []
            for column in columns:
                pieces = [children[row * k + column]]
                if row + 1 < k:
                    pieces.append(self._step(children, k, row + 1, tuple(c for c in columns if c != column)))
                branches.append(self._side_by_side(pieces))
            left = [self.nodes[children[r * k + c]] for r, c in zip(range(row, k), columns, strict=True)]
            atoms_a = tuple(sorted(atom for piece in left for atom in piece.atoms_a))
            atoms_b = tuple(sorted(atom for piece in left for atom in piece.atoms_b))
            known = self._listed[key] = self.add(Node(atoms_a, atoms_b, tuple(branches), len(branches)))
        return known

    def _are_few(self, arrangements: list[list[Node]]) -> bool:
        pieces = arrangements[0]
        return (
            not any(branch.groups for piece in pieces for branch in piece.branches)
            and len(arrangements) * prod(len(piece.branches) for piece in pieces) <= MOST_MAPS
        )

    def _side_by_side(self, pieces: Sequence[int]) -> Branch:
        """One branch that maps all these pieces."""
        pairs: list[tuple[int, int]] = []
        groups: list[Group] = []
        for place in pieces:
            piece = self.nodes[place]
            if len(piece.branches) == 1:
                pairs += piece.branches[0].pairs
                groups += piece.branches[0].groups
            else:
                groups.append(Group(1, (place,), piece.atoms_a, piece.atoms_b))
        return Branch(tuple(sorted(pairs)), tuple(groups))
