"""Stereochemistry as part of the molecular graph: mappings that keep it are isomorphisms of a larger graph.

A configuration at an atom is an order of its neighbours up to even permutations. Where colour refinement tells the
neighbours apart, their order of colours turns it into a label of the atom, which refines the colours further, and so
on (pseudo-asymmetric centres are settled after those they depend on). What remains, mostly in rings, becomes vertices
without coordinates: a directed arc from u to v is a vertex joined to u by an edge "tail" and to v by an edge "head".
The arcs are chosen so that exactly the even permutations keep them. Everything that follows (refinement, plan, count)
works unchanged, since the image of such a vertex is determined by the images of its atoms.
"""

from __future__ import annotations

from flashrmsd_cy.errors import RMSDError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    Bond = tuple[int, int, int]

CENTRE, TAIL, HEAD, APEX, ARM = -1, -2, -3, -4, -5  # bond labels at the additional vertices
IMPLICIT, DROPPED = -1, -2  # neighbours that are no vertices: not listed (hydrogen, lone pair), or not compared
CIS, TRANS = 1, 2
RELATIONS = {"cis": CIS, "trans": TRANS}


class Stereo:
    """Configurations that mappings must keep.

    Parameters
    ----------
    tetrahedral : sequence of (centre, neighbours, sign)
        `neighbours` are the three or four atoms bonded to `centre`; a fourth that is not listed (implicit hydrogen,
        lone pair) counts as the last. `sign` is that of the triple product
        ``(x[n1] - x[centre]) · ((x[n2] - x[centre]) × (x[n3] - x[centre]))``: +1 if n2, n3, n4 run counter-clockwise
        seen from n1 (``@`` in SMILES), −1 if clockwise.
    double_bonds : sequence of ((x, i, j, y), relation)
        The bond i=j with x bonded to i and y to j; `relation` is "cis" or "trans".

    Notes
    -----
    Atoms without an entry may be mapped either way. Allenes, biaryls and other axes, and centres with more than four
    neighbours, cannot be described.

    Examples
    --------
    The halves of cis-2,3-difluorooxirane are mirror images of each other, those of the trans form are alike:

    >>> from flashrmsd_cy import Molecule
    >>> epoxide = [8, 6, 6, 9, 9], [(0, 1), (0, 2), (1, 2), (1, 3), (2, 4)]
    >>> cis = Stereo(tetrahedral=[(1, (0, 2, 3), 1), (2, (0, 1, 4), -1)])
    >>> trans = Stereo(tetrahedral=[(1, (0, 2, 3), 1), (2, (0, 1, 4), 1)])
    >>> [Molecule(*epoxide, stereo=stereo).n_automorphisms for stereo in (None, cis, trans)]
    [2, 1, 2]
    """

    __slots__ = ("double_bonds", "tetrahedral")

    def __init__(
        self,
        tetrahedral: Iterable[tuple[int, Sequence[int], int]] = (),
        double_bonds: Iterable[tuple[Sequence[int], str]] = (),
    ) -> None:
        self.tetrahedral = tuple(
            (int(centre), tuple(map(int, atoms)), int(sign)) for centre, atoms, sign in tetrahedral
        )
        self.double_bonds = tuple((tuple(map(int, atoms)), relation) for atoms, relation in double_bonds)

    def __repr__(self) -> str:
        return f"Stereo({len(self.tetrahedral)} centres, {len(self.double_bonds)} double bonds)"


class _Centre:
    """A configuration: `around` are its four neighbours in an order of positive sign."""

    __slots__ = ("around", "atom")

    def __init__(self, atom: int, around: tuple[int, ...]) -> None:
        self.atom, self.around = atom, around


class _Ends:
    """A double bond (i, j): all pairs of compared arms of i and j with their relation."""

    __slots__ = ("arms", "bond")

    def __init__(self, bond: tuple[int, int], arms: dict[tuple[int, int], int]) -> None:
        self.bond, self.arms = bond, arms


def with_stereo(
    labels: Sequence[Hashable],
    bonds: Sequence[Bond],
    stereo: Stereo,
    n: int,
    all_bonds: Sequence[Bond],
    place: dict[int, int],
) -> tuple[list[Hashable], list[Bond]]:
    """Labels and bonds of the graph whose isomorphisms keep `stereo`; its first atoms are those of `labels`.

    Parameters
    ----------
    labels, bonds
        The graph of the compared atoms.
    stereo : Stereo
        In terms of all atoms.
    n : int
        Number of all atoms.
    all_bonds
        Bonds between all atoms.
    place : dict
        Index of each compared atom among the compared.

    Raises
    ------
    RMSDError
        If an entry of `stereo` does not fit the molecule.
    """
    bonded: list[list[int]] = [[] for _ in range(n)]
    for i, j, _ in all_bonds:
        bonded[i].append(j)
        bonded[j].append(i)
    centres = [c for entry in stereo.tetrahedral if (c := _centre(entry, bonded, place)) is not None]
    doubles = [d for entry in stereo.double_bonds if (d := _ends(entry, bonded, place)) is not None]
    _require_once([c.atom for c in centres], "centre")
    _require_once([tuple(sorted(d.bond)) for d in doubles], "double bond")
    return _settle(list(labels), {(min(i, j), max(i, j)): label for i, j, label in bonds}, centres, doubles)


def _settle(
    labels: list[Hashable], types: dict[tuple[int, int], int], centres: list[_Centre], doubles: list[_Ends]
) -> tuple[list[Hashable], list[Bond]]:
    labels = [(label, 0) for label in labels]
    types = {bond: 3 * kind for bond, kind in types.items()}
    while True:
        colours = _canonical_colours(labels, types)
        open_centres, open_doubles = [], []
        for centre in centres:
            order = sorted(centre.around, key=lambda x: _colour(x, colours))
            if len({_colour(x, colours) for x in order}) == 4:
                labels[centre.atom] = (labels[centre.atom][0], _parity(centre.around, order))  # type: ignore[index]
            else:
                open_centres.append(centre)
        for double in doubles:
            if _colours_differ(double, colours):
                top = max(double.arms, key=lambda arm: (_colour(arm[0], colours), _colour(arm[1], colours)))
                i, j = double.bond
                types[min(i, j), max(i, j)] += double.arms[top]
            else:
                open_doubles.append(double)
        if (len(open_centres), len(open_doubles)) == (len(centres), len(doubles)):
            break
        centres, doubles = open_centres, open_doubles
    extra = [vertex for centre in centres for vertex in _even_orders(centre, colours)]
    extra += [vertex for double in doubles for vertex in _relations(double)]
    edges = [(i, j, kind) for (i, j), kind in types.items()]
    n = len(labels)
    for vertex, (label, joined) in enumerate(extra, n):
        labels.append(label)
        edges += [(vertex, atom, kind) for atom, kind in joined.items()]
    return labels, edges


def _canonical_colours(labels: Sequence[Hashable], types: dict[tuple[int, int], int]) -> list[int]:
    """Stable colours whose order depends on the graph alone, not on the numbering of its atoms."""
    neighbours: list[list[tuple[int, int]]] = [[] for _ in labels]
    for (i, j), kind in types.items():
        neighbours[i].append((kind, j))
        neighbours[j].append((kind, i))
    signs: list = [repr(label) for label in labels]
    classes = 0
    while True:
        rank = {sign: index for index, sign in enumerate(sorted(set(signs)))}
        colours = [rank[sign] for sign in signs]
        if len(rank) == classes:
            return colours
        classes = len(rank)
        signs = [(colours[i], sorted((kind, colours[j]) for kind, j in row)) for i, row in enumerate(neighbours)]
        signs = [(colour, tuple(row)) for colour, row in signs]


def _colour(atom: int, colours: list[int]) -> int:
    return colours[atom] if atom >= 0 else atom


def _parity(around: Sequence[int], order: Sequence[int]) -> int:
    """Sign of the permutation between two orders of the same atoms."""
    places = [around.index(x) for x in order]
    return (-1) ** sum(places[i] > places[j] for j in range(len(places)) for i in range(j))


def _even_orders(centre: _Centre, colours: list[int]) -> list[tuple[str, dict[int, int]]]:
    """Vertices (label, {atom: bond label}) that are kept by exactly the even permutations of equal neighbours."""
    shades = [_colour(x, colours) for x in centre.around]
    order = sorted(centre.around, key=lambda x: (shades.count(_colour(x, colours)), _colour(x, colours)))
    if _parity(centre.around, order) < 0:
        order[2:] = order[:1:-1]  # these two have the same colour
    p, q, u, v = order
    same = shades.count(_colour(v, colours))
    arcs: list[tuple[tuple[int, int], ...]]
    if same == 4:
        arcs = [
            ((apex, APEX), (tail, TAIL), (head, HEAD))
            for apex, *rest in ((p, q, u, v), (q, p, v, u), (u, v, p, q), (v, u, q, p))
            for tail, head in _cycle(rest)
        ]
    elif same == 3:
        arcs = [((tail, TAIL), (head, HEAD)) for tail, head in _cycle([q, u, v])]
    elif _colour(p, colours) == _colour(q, colours):
        arcs = [((a, TAIL), (b, HEAD), (c, TAIL), (d, HEAD)) for a, b, c, d in ((p, q, u, v), (q, p, v, u))]
    else:
        arcs = [((u, TAIL), (v, HEAD))]
    return [("order", {centre.atom: CENTRE} | {x: kind for x, kind in arc if x >= 0}) for arc in arcs]


def _cycle(atoms: Sequence[int]) -> list[tuple[int, int]]:
    return [(atoms[0], atoms[1]), (atoms[1], atoms[2]), (atoms[2], atoms[0])]


def _colours_differ(double: _Ends, colours: list[int]) -> bool:
    sides = ({arm[side] for arm in double.arms} for side in (0, 1))
    return all(len({_colour(x, colours) for x in side}) == len(side) for side in sides)


def _relations(double: _Ends) -> list[tuple[str, dict[int, int]]]:
    """A vertex for each cis pair of arms; for the trans pair, if there is no cis pair of compared arms."""
    kept = [arm for arm, relation in double.arms.items() if relation == CIS] or list(double.arms)
    label = "cis" if CIS in double.arms.values() else "trans"
    ends = dict.fromkeys(double.bond, CENTRE)
    return [(label, ends | {x: ARM for x in arm if x >= 0}) for arm in kept]


def _centre(entry: tuple[int, tuple[int, ...], int], bonded: list[list[int]], place: dict[int, int]) -> _Centre | None:
    """The configuration in terms of compared atoms; None if it does not restrict them."""
    atom, listed, sign = entry
    if not 0 <= atom < len(bonded):
        raise RMSDError(f"stereo names centre {atom}, which does not exist: indices run from 0 to {len(bonded) - 1}")
    if len(listed) not in (3, 4) or len(set(listed)) != len(listed) or not set(listed) <= set(bonded[atom]):
        raise RMSDError(
            f"stereo lists the neighbours {listed} of centre {atom}, expected three or four of {bonded[atom]}"
        )
    if len(bonded[atom]) > 4:
        raise RMSDError(f"stereo centre {atom} has {len(bonded[atom])} neighbours, at most four can be described")
    if sign not in (1, -1):
        raise RMSDError(f"stereo has the sign {sign} at centre {atom}, expected 1 or -1")
    around = [place.get(x, DROPPED) for x in listed] + [place.get(x, DROPPED) for x in bonded[atom] if x not in listed]
    if atom not in place or around.count(DROPPED) > 1:
        return None
    if len(around) == 3:
        around.append(IMPLICIT)
    if sign < 0:
        around[2:] = around[:1:-1]
    return _Centre(place[atom], tuple(around))


def _ends(entry: tuple[tuple[int, ...], str], bonded: list[list[int]], place: dict[int, int]) -> _Ends | None:
    """The double bond in terms of compared atoms; None if it does not restrict them."""
    atoms, relation = entry
    if relation not in RELATIONS:
        raise RMSDError(f"stereo has the relation {relation!r} at double bond {atoms}, expected 'cis' or 'trans'")
    if len(atoms) != 4 or not all(0 <= x < len(bonded) for x in atoms):
        raise RMSDError(f"stereo has the double bond {atoms}, expected four atoms (x, i, j, y)")
    x, i, j, y = atoms
    if x not in bonded[i] or j not in bonded[i] or y not in bonded[j] or x == j or y == i:
        raise RMSDError(f"stereo has the double bond {atoms}, expected (x, i, j, y) with bonds x-i, i=j, j-y")
    if set(bonded[i]) & set(bonded[j]):
        raise RMSDError(f"stereo double bond {atoms}: atoms {i} and {j} have a common neighbour, so that both are cis")
    sides = []
    for end, other, arm in ((i, j, x), (j, i, y)):
        arms = [arm, *(z for z in bonded[end] if z not in (other, arm))]
        if len(arms) > 2:
            raise RMSDError(f"stereo double bond {atoms}: atom {end} has more than three neighbours")
        # True for the arm to which the relation refers. Arms that are not compared count if there are no others.
        compared = {place[z]: z == arm for z in arms if z in place}
        if not compared and len(arms) == 2:
            return None
        sides.append(compared or {DROPPED: True})
    if i not in place or j not in place:
        return None
    given = RELATIONS[relation]
    arms_of = {
        (u, v): given if refers_u == refers_v else CIS + TRANS - given
        for u, refers_u in sides[0].items()
        for v, refers_v in sides[1].items()
    }
    return _Ends((place[i], place[j]), arms_of)


def _require_once(entries: list, what: str) -> None:
    for entry in entries:
        if entries.count(entry) > 1:
            raise RMSDError(f"stereo has two entries for one {what}")
