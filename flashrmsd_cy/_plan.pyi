from flashrmsd_cy._graph import Graph
from flashrmsd_cy._graph import PlanLimitError as PlanLimitError

Pairs = tuple[tuple[int, int], ...]

class Group:
    """k pieces that may be exchanged: ``nodes[r * k + c]`` is the subproblem (piece r of a, piece c of b)."""

    size: int
    nodes: tuple[int, ...]
    atoms_a: tuple[int, ...]
    atoms_b: tuple[int, ...]
    def __init__(
        self, size: int, nodes: tuple[int, ...], atoms_a: tuple[int, ...], atoms_b: tuple[int, ...]
    ) -> None: ...

class Branch:
    """One way to begin a subproblem: these atoms are mapped, these groups remain, independent of each other."""

    pairs: Pairs
    groups: tuple[Group, ...]
    def __init__(self, pairs: Pairs, groups: tuple[Group, ...]) -> None: ...

class Node:
    """A subproblem: map `atoms_a` onto `atoms_b` (sorted); `count` is the number of ways."""

    atoms_a: tuple[int, ...]
    atoms_b: tuple[int, ...]
    branches: tuple[Branch, ...]
    count: int
    def __init__(
        self, atoms_a: tuple[int, ...], atoms_b: tuple[int, ...], branches: tuple[Branch, ...], count: int
    ) -> None: ...

class Planner:
    """Builds the nodes, children before parents; ``nodes[-1]`` is the root."""

    nodes: list[Node]
    def __init__(
        self,
        a: Graph,
        b: Graph,
        first_only: bool = False,
        node_limit: int | None = None,
        deadline: float | None = None,
    ) -> None: ...
    def build(self) -> bool: ...
