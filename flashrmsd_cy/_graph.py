"""Labelled molecular graphs and joint colour refinement (1-WL).

Two atoms may only be exchanged by an isomorphism if they get the same colour. Colours of two graphs are comparable
because both are refined together, with one table of signatures (Weisfeiler & Leman, 1968).
"""

from __future__ import annotations

from collections import Counter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence

    Adjacency = Sequence[Mapping[int, int]]
    Colours = dict[int, int]


class Graph:
    """A molecular graph: one hashable label per atom, one integer label per bond."""

    __slots__ = ("adjacency", "labels")

    def __init__(self, labels: Sequence[Hashable], bonds: Iterable[tuple[int, int, int]]) -> None:
        self.labels = tuple(labels)
        neighbours: list[dict[int, int]] = [{} for _ in self.labels]
        for i, j, label in bonds:
            neighbours[i][j] = neighbours[j][i] = label
        # Sorted, so that nothing afterwards can depend on the order of bond lines.
        self.adjacency: Adjacency = tuple({j: row[j] for j in sorted(row)} for row in neighbours)

    def __len__(self) -> int:
        return len(self.labels)


def refine(a: Adjacency, colours_a: Colours, b: Adjacency, colours_b: Colours) -> tuple[Colours, Colours] | None:
    """Refine the colours of two vertex sets together until they are stable; None if their colour counts differ.

    The keys of ``colours_a`` and ``colours_b`` are the vertex sets; bonds that leave a set are not looked at.
    """
    if a is b and colours_a == colours_b:
        alone = _refine_alone(a, colours_a)
        return alone, alone
    classes = -1
    while True:
        count_a, count_b = Counter(colours_a.values()), Counter(colours_b.values())
        if count_a != count_b:
            return None
        if len(count_a) == classes:
            return colours_a, colours_b
        classes = len(count_a)
        table: dict[tuple[int, tuple[tuple[int, int], ...]], int] = {}
        colours_a, colours_b = _round(a, colours_a, table), _round(b, colours_b, table)


def _refine_alone(adjacency: Adjacency, colours: Colours) -> Colours:
    classes = -1
    while len(set(colours.values())) != classes:
        classes = len(set(colours.values()))
        colours = _round(adjacency, colours, {})
    return colours


def _round(adjacency: Adjacency, colours: Colours, table: dict) -> Colours:
    fresh = {}
    for atom, colour in colours.items():
        around = sorted((label, colours[other]) for other, label in adjacency[atom].items() if other in colours)
        fresh[atom] = table.setdefault((colour, tuple(around)), len(table))
    return fresh


def initial_colours(a: Graph, b: Graph) -> tuple[Colours, Colours]:
    """Colours by atom label and number of neighbours, numbered alike in both graphs."""
    table: dict[tuple[Hashable, int], int] = {}
    return tuple(  # type: ignore[return-value]
        {
            atom: table.setdefault((label, len(graph.adjacency[atom])), len(table))
            for atom, label in enumerate(graph.labels)
        }
        for graph in (a, b)
    )


def components(adjacency: Adjacency, atoms: Collection[int]) -> list[frozenset[int]]:
    """Connected components of the subgraph induced by `atoms`, each found from its smallest atom."""
    left = set(atoms)
    found = []
    for start in sorted(atoms):
        if start not in left:
            continue
        left.discard(start)
        piece, edge = [start], [start]
        while edge:
            for other in adjacency[edge.pop()]:
                if other in left:
                    left.discard(other)
                    piece.append(other)
                    edge.append(other)
        found.append(frozenset(piece))
    return found


def difference(a: Graph, b: Graph) -> str | None:
    """The first plain difference between two graphs in words, or None if counts and colours agree."""
    if len(a) != len(b):
        return f"the first has {len(a)} atoms, the second {len(b)}"
    labels_a, labels_b = Counter(a.labels), Counter(b.labels)
    if labels_a != labels_b:
        label = min((labels_a - labels_b) + (labels_b - labels_a), key=repr)
        return f"the first has {labels_a[label]} atoms labelled {label!r}, the second {labels_b[label]}"
    bonds = [Counter(label for row in g.adjacency for label in row.values()) for g in (a, b)]
    if bonds[0] != bonds[1]:
        label = min(set((bonds[0] - bonds[1]) + (bonds[1] - bonds[0])))
        kind = f" of type {label}" if len(bonds[0] | bonds[1]) > 1 else ""
        return f"the first has {bonds[0][label] // 2} bonds{kind}, the second {bonds[1][label] // 2}"
    colours = initial_colours(a, b)
    if refine(a.adjacency, colours[0], b.adjacency, colours[1]) is None:
        return "elements and bonds agree in number, but atoms have different surroundings (other connectivity)"
    return None
