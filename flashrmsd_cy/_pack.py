"""A plan as flat int32 arrays (compressed rows), the form in which the compiled search reads it."""

from __future__ import annotations

from array import array
from itertools import accumulate, chain, permutations, product

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from flashrmsd_cy._plan import Group, Node

    Int = array[int]

MOST_IMAGES = 300_000  # atoms of all maps of a block that is listed


class Packed:
    """The reachable nodes of a plan; ``x_start[i]:x_start[i + 1]`` are the entries of row i in x.

    Shapes: node_start (nodes + 1,) into branches; pair_start and group_start (branches + 1,); pair_i, pair_j (pairs,)
    atoms of a and b; group_size (groups,) and child_start (groups + 1,) into child (k² node indices for each group of
    size k, row by row); node_a, node_b (nodes,) and group_a, group_b (groups,) name sets of atoms, whose members are
    set_a[set_a_start[s]:set_a_start[s + 1]], likewise for b.
    """

    n_atoms: int
    node_start: Int
    pair_start: Int
    group_start: Int
    pair_i: Int
    pair_j: Int
    group_size: Int
    child_start: Int
    child: Int
    node_a: Int
    node_b: Int
    group_a: Int
    group_b: Int
    set_a_start: Int
    set_a: Int
    set_b_start: Int
    set_b: Int

    def __init__(self, n_atoms: int, **arrays: Int) -> None:
        self.n_atoms = n_atoms
        self.__dict__.update(arrays)


class Blocks:
    """All maps of each independent part of the molecule, for molecules where they can be listed.

    fixed_i, fixed_j (m,): the atoms that have one image. Block b has the atoms
    ``atoms[atom_start[b]:atom_start[b + 1]]`` and ``n_maps[b]`` maps; the images of its atoms under map s start at
    ``images[image_start[b] + s * size_b]``.
    """

    fixed_i: Int
    fixed_j: Int
    atom_start: Int
    atoms: Int
    n_maps: Int
    image_start: Int
    images: Int

    def __init__(self, **arrays: Int) -> None:
        self.__dict__.update(arrays)


def _ints(values: Iterable[int]) -> Int:
    return array("i", values)


def _starts(lengths: Iterable[int]) -> Int:
    return array("i", accumulate(lengths, initial=0))


class _Sets:
    """Numbers distinct sets of atoms (sorted indices below n) in the order in which they appear."""

    def __init__(self, n: int) -> None:
        self.n = n
        self.index: dict[tuple[int, ...], int] = {}

    def number(self, vertices: tuple[int, ...]) -> int:
        if vertices[-1] >= self.n:
            vertices = tuple([x for x in vertices if x < self.n])
        return self.index.setdefault(vertices, len(self.index))

    def arrays(self) -> tuple[Int, Int]:
        return _starts(map(len, self.index)), _ints(chain.from_iterable(self.index))


def pack(nodes: Sequence[Node], n: int) -> Packed:
    """Flatten a plan, without nodes that lie on no isomorphism, and without the vertices from the n-th on: no atoms."""
    used = _reachable(nodes, n)
    place = {old: new for new, old in enumerate(used)}
    kept = [nodes[old] for old in used]
    branches = [branch for node in kept for branch in node.branches]
    pairs = [[pair for pair in branch.pairs if pair[0] < n] for branch in branches]
    groups_of = [[group for group in branch.groups if group.atoms_a[0] < n] for branch in branches]
    groups = [group for row in groups_of for group in row]
    sets_a, sets_b = _Sets(n), _Sets(n)
    node_a, node_b = _ints(sets_a.number(x.atoms_a) for x in kept), _ints(sets_b.number(x.atoms_b) for x in kept)
    group_a, group_b = _ints(sets_a.number(g.atoms_a) for g in groups), _ints(sets_b.number(g.atoms_b) for g in groups)
    (set_a_start, set_a), (set_b_start, set_b) = sets_a.arrays(), sets_b.arrays()
    return Packed(
        n_atoms=n,
        node_start=_starts(len(node.branches) for node in kept),
        pair_start=_starts(map(len, pairs)),
        group_start=_starts(map(len, groups_of)),
        pair_i=_ints(i for row in pairs for i, _ in row),
        pair_j=_ints(j for row in pairs for _, j in row),
        group_size=_ints(group.size for group in groups),
        child_start=_starts(group.size**2 for group in groups),
        child=_ints(place[node] for group in groups for node in group.nodes),
        node_a=node_a,
        node_b=node_b,
        group_a=group_a,
        group_b=group_b,
        set_a_start=set_a_start,
        set_a=set_a,
        set_b_start=set_b_start,
        set_b=set_b,
    )


def _reachable(nodes: Sequence[Node], n: int) -> list[int]:
    seen, todo = {len(nodes) - 1}, [len(nodes) - 1]
    while todo:
        for branch in nodes[todo.pop()].branches:
            for group in branch.groups:
                if group.atoms_a[0] < n:
                    todo += {node for node in group.nodes if node not in seen}
                    seen.update(group.nodes)
    return sorted(seen)


def first_map(nodes: Sequence[Node], n: int) -> Int:
    """(n,) image of each atom under the first isomorphism of a plan."""
    image = array("i", bytes(4 * n))
    todo = [nodes[-1]]
    while todo:
        branch = todo.pop().branches[0]
        for i, j in branch.pairs:
            if i < n:
                image[i] = j
        for group in branch.groups:
            todo += [nodes[group.nodes[r * group.size + r]] for r in range(group.size)]
    return image


def list_blocks(nodes: Sequence[Node], n: int, max_maps: int) -> Blocks | None:
    """The independent blocks under the root with all their maps, or None if a block has too many or too long ones."""
    root = nodes[-1]
    if len(root.branches) > 1:
        counts = [(root.count, root.atoms_a)]
    else:
        counts = [(_group_count(nodes, group), group.atoms_a) for group in root.branches[0].groups]
    if any(count > max_maps or count * len(atoms) > MOST_IMAGES for count, atoms in counts):
        return None
    if len(root.branches) > 1:
        fixed: list[tuple[int, int]] = []
        listed = [_node_maps(nodes, n, root)]
    else:
        fixed = [pair for pair in root.branches[0].pairs if pair[0] < n]
        listed = [_group_maps(nodes, n, group) for group in root.branches[0].groups]
        # A block with a single map is no choice at all.
        fixed += [pair for maps in listed if len(maps) == 1 for pair in maps[0].items()]
        listed = [maps for maps in listed if len(maps) > 1]
    atoms = [sorted(maps[0]) for maps in listed]
    sizes = [len(block) * len(maps) for block, maps in zip(atoms, listed, strict=True)]
    images = (m[x] for block, maps in zip(atoms, listed, strict=True) for m in maps for x in block)
    return Blocks(
        fixed_i=_ints(i for i, _ in fixed),
        fixed_j=_ints(j for _, j in fixed),
        atom_start=_starts(map(len, atoms)),
        atoms=_ints(chain.from_iterable(atoms)),
        n_maps=_ints(map(len, listed)),
        image_start=_starts(sizes),
        images=_ints(images),
    )


def _node_maps(nodes: Sequence[Node], n: int, node: Node) -> list[dict[int, int]]:
    maps = []
    for branch in node.branches:
        pairs = [pair for pair in branch.pairs if pair[0] < n]
        for parts in product(*(_group_maps(nodes, n, group) for group in branch.groups)):
            maps.append(dict(chain(pairs, *(part.items() for part in parts))))
    return maps


def _group_maps(nodes: Sequence[Node], n: int, group: Group) -> list[dict[int, int]]:
    k = group.size
    listed = [_node_maps(nodes, n, nodes[index]) for index in group.nodes]
    return [
        dict(chain.from_iterable(part.items() for part in parts))
        for columns in permutations(range(k))
        for parts in product(*(listed[r * k + c] for r, c in enumerate(columns)))
    ]


def _group_count(nodes: Sequence[Node], group: Group) -> int:
    count = 1
    for r in range(group.size):
        count *= (r + 1) * nodes[group.nodes[r * group.size + r]].count
    return count
