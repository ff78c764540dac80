"""What must hold of every molecule and every pair of shapes, on random molecules with symmetric parts."""

import os

import networkx as nx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flashrmsd_cy import Molecule, best_mapping, distinct, neighbours, rmsd, rmsd_matrix, rmsd_stream, rmsd_table
from flashrmsd_cy._bounds import Profiles, orbits
from flashrmsd_cy._reference import brute_force, in_place

# More examples on demand: SDDFKIT_EXAMPLES=2000 pytest tests/flashrmsd_cy/test_properties.py
EXAMPLES = int(os.environ.get("SDDFKIT_EXAMPLES", "25"))
examples = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARTS = {
    "methyl": nx.star_graph(3),
    "ring": nx.cycle_graph(6),
    "small ring": nx.cycle_graph(3),
    "chain": nx.path_graph(4),
    "tert-butyl": nx.star_graph(4),
    "tree": nx.balanced_tree(2, 2),
    "biphenyl": nx.Graph([*nx.cycle_graph(5).edges, (0, 5), *((5 + i, 5 + (i + 1) % 5) for i in range(5))]),
    "cubane": nx.cubical_graph(),
    "prism": nx.circular_ladder_graph(3),
    "tetrahedron": nx.complete_graph(4),
    "spiro": nx.Graph([(0, 1), (1, 2), (2, 0), (0, 3), (3, 4), (4, 0)]),
}


@st.composite
def molecules(draw, most=26):
    """Labels and bonds: parts beside each other (salts) or hung onto each other, several times the same."""
    graph = nx.Graph()
    for _ in range(draw(st.integers(1, 2))):
        core = PARTS[draw(st.sampled_from(sorted(PARTS)))]
        arm = PARTS[draw(st.sampled_from(sorted(PARTS)))]
        joined = nx.convert_node_labels_to_integers(core)
        for atom in draw(st.lists(st.sampled_from(sorted(joined)), max_size=4, unique=True)):
            if len(graph) + len(joined) + len(arm) <= most:
                first = len(joined)
                joined = nx.disjoint_union(joined, arm)
                joined.add_edge(atom, first)
        if not graph or len(graph) + len(joined) <= most:
            graph = nx.disjoint_union(graph, joined)
    by_degree = draw(st.dictionaries(st.integers(0, 5), st.sampled_from([6, 7, 8]), max_size=3))
    labels = [by_degree.get(degree, 6) for _, degree in graph.degree]
    if draw(st.booleans()):
        labels[draw(st.integers(0, len(labels) - 1))] = 9
    return labels, list(graph.edges)


@st.composite
def shapes(draw, n, k):
    """(k, n, 3) conformers: unrelated or similar, sometimes flat, on a line, on a grid or with coinciding atoms."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["unrelated", "similar", "mirrored", "flat", "line", "grid", "coincident"]))
    x = rng.normal(size=(k, n, 3)) * 2
    if kind in ("similar", "mirrored"):
        x = x[:1] + rng.normal(size=(k, n, 3)) * 0.2
    if kind == "mirrored":
        x[::2, :, 2] *= -1
    if kind == "flat":
        x[..., 2] = 0.0
    if kind == "line":
        x[..., 1:] = 0.0
    if kind == "grid":
        x = np.round(x)
    if kind == "coincident":
        x[:, n // 2 :] = x[:, :1]
    return x


def _turn(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


def _renumbered(rng, labels, bonds):
    """The molecule with its atoms, bond lines and bond ends shuffled, and the order: new atom i was order[i]."""
    order = rng.permutation(len(labels))
    place = np.argsort(order)
    shuffled = [tuple(int(place[i]) for i in rng.permutation(bonds[k])) for k in rng.permutation(len(bonds))]
    return Molecule([labels[i] for i in order], shuffled), order


@given(molecules(), st.booleans(), st.data())
@examples
def test_numbering_bond_lines_and_motion_do_not_matter(case, align, data):
    labels, bonds = case
    a, b = data.draw(shapes(len(labels), 2))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    molecule = Molecule(labels, bonds)
    expected = rmsd(a, b, molecule, align=align)
    assert expected.status == "exact"
    (first, order_a), (second, order_b) = _renumbered(rng, labels, bonds), _renumbered(rng, labels, bonds)
    turn, shift = _turn(rng), rng.normal(size=3) * 5
    result = rmsd(a[order_a] @ turn.T + shift, b[order_b] @ turn.T + shift, first, second, align=align)
    assert result.value == pytest.approx(expected.value, abs=3e-7)
    assert result.n_automorphisms == expected.n_automorphisms == first.n_automorphisms
    mapping = result.mapping
    assert sorted(mapping) == list(range(len(labels)))
    moved = (b[order_b] @ turn.T + shift)[mapping] @ result.rotation.T + result.translation
    assert in_place(a[order_a] @ turn.T + shift, moved) == pytest.approx(result.value, abs=1e-9)


@given(molecules(), st.data())
@examples
def test_distances_are_a_metric_and_all_functions_agree(case, data):
    labels, bonds = case
    x = data.draw(shapes(len(labels), 5))
    molecule = Molecule(labels, bonds)
    matrices = {}
    for align in (False, True):
        matrix = matrices[align] = rmsd_matrix(x, molecule, align=align, threads=2)
        assert (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
        assert (matrix[:, None, :] <= matrix[:, :, None] + matrix[None, :, :] + 1e-6).all()
        assert rmsd(x[0], x[0], molecule, align=align).value == pytest.approx(0, abs=1e-7)
        assert rmsd(x[3], x[1], molecule, align=align).value == pytest.approx(matrix[1, 3], abs=3e-7)
        assert rmsd_table(x[:2], x[1:], molecule, align=align, threads=2) == pytest.approx(matrix[:2, 1:], abs=3e-7)
        rows = list(rmsd_stream(iter(x), x[:2], molecule, align=align, chunk=2))
        assert np.array(rows) == pytest.approx(matrix[:, :2], abs=3e-7)
        plan = molecule._prepared()[0]
        profiles = Profiles(np.ascontiguousarray(x), orbits(plan.n_atoms, plan.pair_i, plan.pair_j), align)
        assert all(profiles.lower(i, j) <= matrix[i, j] + 1e-6 for i in range(5) for j in range(i))
        threshold = float(np.median(matrix)) + 1e-5
        if np.abs(matrix - threshold).min() > 1e-6:
            near = neighbours(x, molecule, threshold, align=align, threads=2)
            assert (near == (matrix < threshold)).all()
            kept = []
            for row in range(5):
                if all(matrix[row, other] >= threshold for other in kept):
                    kept.append(row)
            assert distinct(x, molecule, threshold, align=align) == kept
    assert (matrices[True] <= matrices[False] + 1e-7).all()


@given(molecules(most=10), st.booleans(), st.data())
@examples
def test_all_levels_agree_with_brute_force(case, align, data):
    labels, bonds = case
    a, b = data.draw(shapes(len(labels), 2))
    molecule = Molecule(labels, bonds)
    if molecule.n_automorphisms > 5000:
        return
    expected, count = brute_force(a, b, labels, bonds, labels, bonds, align=align)
    assert molecule.n_automorphisms == count
    for level in (None, 1, 2, 3):
        result = rmsd(a, b, molecule, align=align, level=level)
        assert result.status == "exact"
        assert result.value == pytest.approx(expected, abs=3e-7)
        moved = b[result.mapping] @ result.rotation.T + result.translation
        assert in_place(a, moved) == pytest.approx(result.value, abs=1e-9)


@given(molecules(), st.integers(0, 200), st.booleans(), st.data())
@examples
def test_bounds_enclose_the_answer(case, limit, align, data):
    labels, bonds = case
    a, b = data.draw(shapes(len(labels), 2))
    exact = rmsd(a, b, Molecule(labels, bonds), align=align)
    for level in (None, 1, 2, 3):
        result = rmsd(a, b, Molecule(labels, bonds), align=align, level=level, node_limit=limit)
        assert result.lower - 3e-7 <= exact.value <= result.upper + 3e-7
        assert result.status == "bound" or result.value == pytest.approx(exact.value, abs=3e-7)


@given(molecules(), st.data())
@examples
def test_hydrogens_count_only_if_asked(case, data):
    labels, bonds = case
    degree = np.bincount(np.array(bonds, dtype=int).ravel(), minlength=len(labels))
    labels = [data.draw(st.sampled_from([1, "H", "D"])) if d == 1 else x for d, x in zip(degree, labels, strict=True)]
    heavy = [i for i, label in enumerate(labels) if label not in (1, "H", "D")]
    if not heavy:
        return
    a, b = data.draw(shapes(len(labels), 2))
    place = {atom: k for k, atom in enumerate(heavy)}
    inner = [(place[i], place[j]) for i, j in bonds if i in place and j in place]
    expected = rmsd(a[heavy], b[heavy], Molecule([labels[i] for i in heavy], inner), align=True)
    molecule = Molecule(labels, bonds, hydrogens=False)
    assert molecule.compared == tuple(heavy)
    result = rmsd(a, b, molecule, align=True)
    assert result.value == pytest.approx(expected.value, abs=3e-7)
    assert [j for j in result.mapping if j >= 0] == [heavy[j] for j in expected.mapping]
    assert [i for i, j in enumerate(result.mapping) if j >= 0] == heavy
    assert (best_mapping(a, b, molecule, align=True) == result.mapping).all()
    as_one = Molecule([1 if label in ("H", "D") else label for label in labels], bonds)
    assert Molecule(labels, bonds).n_automorphisms == as_one.n_automorphisms
