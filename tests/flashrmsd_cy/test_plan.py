"""The plan: it holds every isomorphism once, and stays small where their number does not."""

from itertools import pairwise
from math import prod

import networkx as nx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrmsd_cy._graph import Graph
from flashrmsd_cy._pack import first_map, list_blocks
from flashrmsd_cy._plan import PlanLimitError, Planner
from flashrmsd_cy._reference import all_mappings


def _planned(graph):
    planner = Planner(graph, graph)
    assert planner.build()
    return planner.nodes


@given(st.integers(1, 7), st.data())
@settings(max_examples=150, deadline=None)
def test_counts_and_lists_all_automorphisms(n, data):
    labels = data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    pairs = [(i, j) for i in range(n) for j in range(i)]
    bonds = data.draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    expected = sorted(all_mappings(labels, bonds, labels, bonds))
    nodes = _planned(Graph(labels, [(i, j, 0) for i, j in bonds]))
    assert nodes[-1].count == len(expected)
    blocks = list_blocks(nodes, n, 10**6)
    assert blocks is not None
    assert prod(blocks.n_maps) == len(expected)
    image = first_map(nodes, n).tolist()
    assert image in expected


def _alkane(n):
    """Carbons 0 … n − 1 and their hydrogens."""
    bonds = [(i, i + 1) for i in range(n - 1)]
    hydrogens = [carbon for carbon in range(n) for _ in range(4 - (carbon > 0) - (carbon < n - 1))]
    bonds += [(carbon, n + k) for k, carbon in enumerate(hydrogens)]
    return Graph([6] * n + [1] * len(hydrogens), [(i, j, 0) for i, j in bonds])


@pytest.mark.parametrize("n", [4, 16, 40])
def test_alkanes_stay_polynomial(n):
    nodes = _planned(_alkane(n))
    assert nodes[-1].count == 2 * 6**2 * 2 ** (n - 2)
    assert len(nodes) <= 30 * n


def test_fullerene():
    buckyball = nx.from_edgelist(_buckminsterfullerene())
    nodes = _planned(Graph([6] * 60, [(i, j, 0) for i, j in buckyball.edges]))
    assert nodes[-1].count == 120


def _buckminsterfullerene():
    """Truncate the icosahedron: one atom per directed edge, joined along the edge and around each corner."""
    solid = nx.icosahedral_graph()
    embedding = nx.check_planarity(solid)[1]
    number = {(u, v): k for k, (u, v) in enumerate((u, v) for u in solid for v in solid[u])}
    along = [(number[u, v], number[v, u]) for u, v in solid.edges]
    rings = {u: list(embedding.neighbors_cw_order(u)) for u in solid}
    around = [(number[u, v], number[u, w]) for u, ring in rings.items() for v, w in pairwise([*ring, ring[0]])]
    return along + around


def test_isomorphism_of_regular_graphs_that_refinement_cannot_tell_apart():
    shrikhande = nx.Graph(
        ((i, j), ((i + x) % 4, (j + y) % 4)) for i in range(4) for j in range(4) for x, y in ((1, 0), (0, 1), (1, 1))
    )
    rook = nx.line_graph(nx.complete_bipartite_graph(4, 4))
    graphs = []
    for graph in (shrikhande, rook):
        plain = nx.convert_node_labels_to_integers(graph)
        graphs.append(Graph([6] * 16, [(i, j, 0) for i, j in plain.edges]))
    assert not Planner(*graphs, first_only=True).build()
    assert Planner(graphs[0], graphs[0], first_only=True).build()


def test_a_limit_stops_the_plan():
    with pytest.raises(PlanLimitError):
        Planner(_alkane(10), _alkane(10), node_limit=5).build()
    with pytest.raises(PlanLimitError):
        Planner(_alkane(10), _alkane(10), deadline=0.0).build()
