"""The search over rotations and choices, against trying all maps of molecules that have few enough."""

import time

import networkx as nx
import numpy as np
import pytest

from flashrmsd_cy import Molecule
from flashrmsd_cy._search import Search


def _joined(core, arm, at):
    """`arm` hung by its node 0 onto each of these nodes of `core`."""
    graph = nx.convert_node_labels_to_integers(core)
    for atom in at:
        first = len(graph)
        graph = nx.disjoint_union(graph, arm)
        graph.add_edge(atom, first)
    return graph


GRAPHS = {
    "star of 5": nx.star_graph(5),
    "star of 6": nx.star_graph(6),
    "two stars of 3": _joined(nx.path_graph(2), nx.star_graph(3), [0, 1]),
    "two centres, four ligands each": nx.Graph(
        [(0, 1), (0, 2), *((c, 3 + 4 * (c - 1) + k) for c in (1, 2) for k in range(4))]
    ),
    "cube": nx.cubical_graph(),
    "cube with arms": _joined(nx.cubical_graph(), nx.path_graph(1), range(8)),
    "octahedron": nx.octahedral_graph(),
    "ring of 6 with pairs": _joined(nx.cycle_graph(6), nx.star_graph(2), [0, 3]),
    "dendrimer": nx.balanced_tree(2, 3),
    "four arms in pairs": _joined(nx.star_graph(4), nx.star_graph(2), [1, 2, 3]),
    "three rings": nx.disjoint_union_all([nx.cycle_graph(3)] * 3),
    "salt of three": nx.disjoint_union_all([nx.star_graph(2)] * 4),
}
KINDS = ("unrelated", "similar", "mirrored", "flat", "on a line", "on a grid", "turned")


def _pair(kind, graph, rng):
    n = len(graph)
    a = rng.normal(size=(n, 3)) * 2
    if kind == "unrelated":
        return a, rng.normal(size=(n, 3)) * 2
    if kind == "similar":
        return a, a + 0.2 * rng.normal(size=(n, 3))
    if kind == "mirrored":
        return a, a * [1, 1, -1]
    if kind == "flat":
        return a * [1, 1, 0], rng.normal(size=(n, 3)) * [1, 1, 0]
    if kind == "on a line":
        return a * [1, 0, 0], rng.normal(size=(n, 3)) * [1, 0, 0]
    if kind == "on a grid":
        return a.round(), rng.normal(size=(n, 3)).round()
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return a, a[rng.permutation(n)] @ (turn * np.sign(np.linalg.det(turn))).T


def _fit(search, a, b, **limits):
    mapping, rotation, translation = np.empty(len(a), np.int32), np.empty((3, 3)), np.empty(3)
    total, lower, exact = search.fit(a, b, mapping, rotation, translation, **limits)
    moved = b[mapping] @ rotation.T + translation
    assert ((a - moved) ** 2).sum() == pytest.approx(total, abs=1e-8)
    return np.sqrt(total / len(a)), np.sqrt(lower / len(a)), exact


@pytest.mark.parametrize("name", GRAPHS)
def test_equals_the_best_of_all_maps(name):
    graph = GRAPHS[name]
    molecule = Molecule([6] * len(graph), list(graph.edges))
    plan, blocks, count = molecule._prepared()
    assert blocks is not None and count <= 6000
    listed, rotated = Search(plan, blocks), Search(plan)
    rng = np.random.default_rng(len(name))
    for kind in KINDS:
        for _ in range(6):
            a, b = _pair(kind, graph, rng)
            # A node limit of its own keeps the first search to its list.
            expected, _, exact = _fit(listed, a, b, step_limit=100_000)
            assert exact
            found, lower, exact = _fit(rotated, a, b)
            assert exact
            assert found == pytest.approx(expected, abs=2e-7), kind
            stopped, lower, _ = _fit(rotated, a, b, step_limit=3)
            assert lower - 2e-7 <= expected <= stopped + 2e-7, kind


@pytest.mark.parametrize("name", GRAPHS)
def test_decisions_agree_with_values(name):
    graph = GRAPHS[name]
    molecule = Molecule([6] * len(graph), list(graph.edges))
    plan, *_ = molecule._prepared()
    search = Search(plan)
    rng = np.random.default_rng(len(name))
    for kind in KINDS:
        a, b = _pair(kind, graph, rng)
        value, *_ = _fit(search, a, b)
        both, first = np.array([a, b]), np.array([0], np.intp)
        for threshold in (0.7 * value, value - 1e-5, value + 1e-5, 1.4 * value + 1e-5):
            if threshold > 0:
                near, finished = search.first_near(both, first, 1, threshold, True)
                assert finished
                assert (near == 0) == (value < threshold), (kind, threshold)
                if near == 0:
                    assert value - 2e-7 <= search.nearest < threshold


@pytest.mark.parametrize("n", [30, 120])
def test_stops_in_time_where_nothing_is_bonded(n):
    plan, _, _ = Molecule([18] * n, [])._prepared()
    rng = np.random.default_rng(n)
    a, b = rng.normal(size=(2, n, 3))
    started = time.monotonic()
    upper, lower, exact = _fit(Search(plan), a, b, deadline=started + 0.2)
    assert not exact and lower <= upper
    assert time.monotonic() - started < 20
