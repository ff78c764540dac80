"""Mappings that keep stereochemistry: against brute force, and against the shapes of real molecules."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrmsd_cy import Molecule, NotIsomorphicError, RMSDError, rmsd
from flashrmsd_cy._reference import all_mappings, in_place, kabsch, keeps_double_bonds, keeps_tetrahedral
from flashrmsd_cy._stereo import Stereo


def _all_arms(bonds, doubles):
    """Each given double bond as the list of all its pairs of arms."""
    near = {i: {b if a == i else a for a, b in bonds if i in (a, b)} for bond in bonds for i in bond}
    other = {"cis": "trans", "trans": "cis"}
    listed = []
    for (x, i, j, y), relation in doubles:
        for u in near[i] - {j}:
            for v in near[j] - {i}:
                listed.append(((u, i, j, v), relation if (u == x) == (v == y) else other[relation]))
    return listed


def _oracle(labels, bonds, stereo, labels_b=None, bonds_b=None, stereo_b=None):
    """All mappings that keep the graph and, tested one by one, the configurations."""
    if labels_b is None:
        labels_b, bonds_b, stereo_b = labels, bonds, stereo
    arms, arms_b = _all_arms(bonds, stereo.double_bonds), _all_arms(bonds_b, stereo_b.double_bonds)
    return [
        mapping
        for mapping in all_mappings(labels, bonds, labels_b, bonds_b)
        if keeps_tetrahedral(mapping, stereo.tetrahedral, stereo_b.tetrahedral)
        and keeps_double_bonds(mapping, arms, arms_b)
    ]


@st.composite
def configured(draw):
    """Small symmetric graphs with configurations at random atoms of three or four neighbours and at random bonds."""
    graph = draw(
        st.sampled_from(
            [
                nx.star_graph(4),
                nx.star_graph(3),
                nx.cycle_graph(6),
                nx.cubical_graph(),
                nx.circular_ladder_graph(3),
                nx.complete_graph(4),
                nx.complete_graph(5),
                nx.complete_bipartite_graph(3, 3),
                nx.complete_bipartite_graph(2, 4),
                nx.balanced_tree(2, 2),
                nx.balanced_tree(3, 1),
                nx.barbell_graph(3, 0),
                nx.disjoint_union(nx.star_graph(3), nx.star_graph(3)),
                nx.Graph([(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]),
                nx.Graph([(0, 1), (1, 2), (2, 3), (3, 0), (0, 4), (2, 5), (1, 6), (3, 7)]),
                nx.Graph([(0, 1), (1, 2), (2, 0), (0, 3), (0, 4), (3, 4)]),
            ]
        )
    )
    graph = nx.convert_node_labels_to_integers(graph)
    n = len(graph)
    labels = draw(st.lists(st.sampled_from([6, 6, 6, 8]), min_size=n, max_size=n))
    fit = [atom for atom in graph if graph.degree(atom) in (3, 4)]
    centres = draw(st.lists(st.sampled_from(fit), unique=True)) if fit else []
    tetrahedral = [
        (atom, tuple(draw(st.permutations(sorted(graph[atom])))), draw(st.sampled_from([1, -1]))) for atom in centres
    ]
    possible = [
        (x, i, j, y)
        for i, j in graph.edges
        if max(graph.degree(i), graph.degree(j)) <= 3
        for x in sorted(graph[i])[:1]
        for y in sorted(graph[j])[-1:]
        if x != j and y != i and not set(graph[i]) & set(graph[j])
    ]
    chosen = draw(st.lists(st.sampled_from(possible), unique=True)) if possible else []
    doubles = [(atoms, draw(st.sampled_from(["cis", "trans"]))) for atoms in chosen]
    return labels, list(graph.edges), Stereo(tetrahedral, doubles)


def _renumbered(labels, bonds, stereo, order):
    place = {old: new for new, old in enumerate(order)}
    return (
        [labels[i] for i in order],
        [(place[i], place[j]) for i, j in bonds],
        Stereo(
            [(place[c], [place[x] for x in around], sign) for c, around, sign in stereo.tetrahedral],
            [([place[x] for x in atoms], relation) for atoms, relation in stereo.double_bonds],
        ),
    )


@given(configured(), st.booleans(), st.data())
@settings(max_examples=250, deadline=None)
def test_equals_brute_force(case, align, data):
    labels, bonds, stereo = case
    n = len(labels)
    order = data.draw(st.permutations(range(n)))
    labels_b, bonds_b, stereo_b = _renumbered(labels, bonds, stereo, order)
    expected = _oracle(labels, bonds, stereo, labels_b, bonds_b, stereo_b)
    first, second = Molecule(labels, bonds, stereo=stereo), Molecule(labels_b, bonds_b, stereo=stereo_b)
    assert first.n_automorphisms == len(expected) > 0
    a, b = np.random.default_rng(data.draw(st.integers(0, 99))).normal(size=(2, n, 3))
    result = rmsd(a, b, first, second, align=align)
    assert result.mapping.tolist() in expected
    least = min(kabsch(a, b[m])[0] if align else in_place(a, b[m]) for m in expected)
    assert result.value == pytest.approx(least, abs=2e-7)


@given(configured(), st.data())
@settings(max_examples=250, deadline=None)
def test_other_configurations_are_other_molecules_exactly_if_no_mapping_keeps_them(case, data):
    labels, bonds, stereo = case
    flipped = Stereo(
        [(c, around, sign * data.draw(st.sampled_from([1, -1]))) for c, around, sign in stereo.tetrahedral],
        [(atoms, data.draw(st.sampled_from(["cis", "trans"]))) for atoms, _ in stereo.double_bonds],
    )
    expected = _oracle(labels, bonds, stereo, labels, bonds, flipped)
    first, second = Molecule(labels, bonds, stereo=stereo), Molecule(labels, bonds, stereo=flipped)
    if expected:
        assert list(first._map_to(second)) in expected
    else:
        with pytest.raises(NotIsomorphicError, match="configurations"):
            first._map_to(second)


@given(configured(), st.data())
@settings(max_examples=200, deadline=None)
def test_without_hydrogens_mappings_are_those_that_extend_to_them(case, data):
    """Every heavy-atom mapping is the restriction of one that keeps all configurations, hydrogens included."""
    labels, bonds, stereo = case
    degree = np.bincount(np.array(bonds).ravel(), minlength=len(labels))
    labels = [
        data.draw(st.sampled_from([1, label])) if d == 1 else label for d, label in zip(degree, labels, strict=True)
    ]
    heavy = [i for i, label in enumerate(labels) if label != 1]
    # Hydrogens are not counted in the graph of heavy atoms: tell the molecule their number by way of the charge.
    carried = [sum(labels[b if a == i else a] == 1 for a, b in bonds if i in (a, b)) for i in range(len(labels))]
    # With two hydrogens there is nothing to keep.
    stereo = Stereo(
        [entry for entry in stereo.tetrahedral if carried[entry[0]] < 2],
        [entry for entry in stereo.double_bonds if max(carried[entry[0][1]], carried[entry[0][2]]) < 2],
    )
    expected = {tuple(mapping[i] for i in heavy) for mapping in _oracle(labels, bonds, stereo)}
    molecule = Molecule(labels, bonds, charges=carried, stereo=stereo, hydrogens=False)
    assert molecule.compared == tuple(heavy)
    assert molecule.n_automorphisms == len(expected)


def _from_smiles(smiles, seed=1):
    """Symbols, bonds, positions of an embedded molecule, and its configurations read from the positions alone."""
    Chem = pytest.importorskip("rdkit.Chem")
    AllChem = pytest.importorskip("rdkit.Chem.AllChem")
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    x = mol.GetConformer().GetPositions()
    tetrahedral, doubles = [], []
    for atom in mol.GetAtoms():
        if atom.GetChiralTag() != Chem.ChiralType.CHI_UNSPECIFIED:
            around = [other.GetIdx() for other in atom.GetNeighbors()]
            arms = x[around[:3]] - x[atom.GetIdx()]
            tetrahedral.append((atom.GetIdx(), around, int(np.sign(np.linalg.det(arms)))))
    for bond in mol.GetBonds():
        if bond.GetStereo() != Chem.BondStereo.STEREONONE:
            i, j = bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()
            u = next(a.GetIdx() for a in bond.GetBeginAtom().GetNeighbors() if a.GetIdx() != j)
            v = next(a.GetIdx() for a in bond.GetEndAtom().GetNeighbors() if a.GetIdx() != i)
            axis = (x[j] - x[i]) / np.linalg.norm(x[j] - x[i])
            flat = [arm - axis * (arm @ axis) for arm in (x[u] - x[i], x[v] - x[j])]
            doubles.append(((u, i, j, v), "cis" if flat[0] @ flat[1] > 0 else "trans"))
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()]
    return [a.GetSymbol() for a in mol.GetAtoms()], bonds, Stereo(tetrahedral, doubles)


@pytest.mark.parametrize(
    ("smiles", "free", "kept"),
    [
        ("O[C@H](C(=O)O)[C@@H](O)C(=O)O", 8, 4),  # meso-tartaric acid: its halves are mirror images
        ("O[C@H](C(=O)O)[C@H](O)C(=O)O", 8, 8),  # L-tartaric acid: they are alike
        ("C[C@H]1CC[C@@H](C)CC1", 4, 2),  # proper rotations of a flat ring alone
        ("C[C@H]1CC[C@H](C)CC1", 4, 2),
        ("C[C@H]1CCC[C@@H](C)C1", 2, 1),  # cis-1,3: a mirror plane
        ("C[C@H]1CCC[C@H](C)C1", 2, 2),  # trans-1,3: a twofold axis
        ("O[C@H]1[C@@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", 12, None),
        ("O[C@H]1[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@@H]1O", 12, None),
        ("O[C@@H]1[C@H](O)[C@@H](O)[C@H](O)[C@@H](O)[C@H]1O", 12, None),
        ("C[C@H](O)[C@H](O)[C@@H](C)O", 2, 1),  # pseudo-asymmetric middle
        ("C/C=C/C=C/C", 2, 2),
        ("C/C=C/C=C\\C", 2, 1),
        ("C/C=C\\C=C/C", 2, 2),
        ("C[C@@H]1[C@H](C)[C@@H](C)[C@H]1C", 8, None),
        ("F/C(Cl)=C(/F)Cl", 2, 2),
        ("C12C3C4C1C5C2C3C45", 48, 48),
        ("O=C1[C@H]2CC[C@@H]1C=C2", 4, None),
    ],
)
def test_real_molecules(smiles, free, kept):
    """Numbers of heavy-atom mappings: all of them, and those that keep the configurations of the coordinates."""
    symbols, bonds, stereo = _from_smiles(smiles)
    molecule = Molecule(symbols, bonds, stereo=stereo, hydrogens=False)
    assert Molecule(symbols, bonds, hydrogens=False).n_automorphisms == free
    heavy = list(molecule.compared)
    place = {atom: k for k, atom in enumerate(heavy)}
    inner = [(place[i], place[j]) for i, j in bonds if i in place and j in place]
    # Independent: a hydrogen at a centre takes part as a vertex of its own.
    shown = [atom for atom in range(len(symbols)) if atom in place or _at_centre(atom, bonds, stereo)]
    found = _oracle(*_renumbered_part(symbols, bonds, stereo, shown))
    expected = {tuple(mapping[shown.index(i)] for i in heavy) for mapping in found}
    assert molecule.n_automorphisms == len(expected)
    assert kept is None or kept == len(expected)
    assert len(inner) == len({frozenset(bond) for bond in inner})


def _at_centre(atom, bonds, stereo):
    marked = {c for c, _, _ in stereo.tetrahedral} | {x for (_, i, j, _), _ in stereo.double_bonds for x in (i, j)}
    return any({i, j} - {atom} <= marked for i, j in bonds if atom in (i, j))


def _renumbered_part(labels, bonds, stereo, shown):
    place = {old: new for new, old in enumerate(shown)}
    return (
        [labels[i] for i in shown],
        [(place[i], place[j]) for i, j in bonds if i in place and j in place],
        Stereo(
            [(place[c], [place[x] for x in around], sign) for c, around, sign in stereo.tetrahedral],
            [([place[x] for x in atoms], relation) for atoms, relation in stereo.double_bonds],
        ),
    )


def test_mirror_images_differ_unless_meso():
    for smiles, meso in (("C[C@H](F)Cl", False), ("O[C@H](C(=O)O)[C@@H](O)C(=O)O", True)):
        symbols, bonds, stereo = _from_smiles(smiles)
        mirrored = Stereo([(c, around, -sign) for c, around, sign in stereo.tetrahedral], stereo.double_bonds)
        first, second = (Molecule(symbols, bonds, stereo=s, hydrogens=False) for s in (stereo, mirrored))
        if meso:
            assert len(first._map_to(second)) == len(first.compared)
        else:
            with pytest.raises(NotIsomorphicError, match="configurations"):
                first._map_to(second)


def test_all_pairs_of_inositols_differ():
    """Nine stereoisomers of cyclohexane-1,2,3,4,5,6-hexol, by the sides of the ring on which their O stand."""
    ring = [(i, (i + 1) % 6) for i in range(6)] + [(i, i + 6) for i in range(6)]
    kinds = []
    for mask in range(64):
        signs = [1 if mask >> i & 1 else -1 for i in range(6)]
        stereo = Stereo([(i, ((i - 1) % 6, (i + 1) % 6, i + 6), signs[i]) for i in range(6)])
        molecule = Molecule([6] * 6 + [8] * 6, ring, stereo=stereo)
        if not any(_same(molecule, other) for other in kinds):
            kinds.append(molecule)
    assert len(kinds) == 9
    for a, b in combinations(kinds, 2):
        assert not _same(b, a)


def _same(a, b):
    try:
        a._map_to(b)
    except NotIsomorphicError:
        return False
    return True


@pytest.mark.parametrize(
    ("tetrahedral", "doubles", "message"),
    [
        ([(19, (1, 2, 3), 1)], [], "centre 19, which does not exist"),
        ([(0, (1, 2), 1)], [], "three or four"),
        ([(0, (1, 2, 2), 1)], [], "three or four"),
        ([(0, (1, 2, 5), 1)], [], "three or four"),
        ([(0, (1, 2, 3), 0)], [], "sign 0"),
        ([(0, (1, 2, 3), 1), (0, (1, 2, 3), 1)], [], "two entries for one centre"),
        ([], [((1, 0, 4, 5), "E")], "relation 'E'"),
        ([], [((1, 0, 19, 5), "cis")], "four atoms"),
        ([], [((1, 0, 5, 4), "cis")], r"bonds x-i, i=j, j-y"),
        ([], [((8, 6, 7, 8), "cis")], "common neighbour"),
        ([], [((5, 4, 0, 1), "cis")], "more than three neighbours"),
    ],
)
def test_wrong_entries_are_refused(tetrahedral, doubles, message):
    bonds = [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (6, 7), (7, 8), (6, 8)]
    with pytest.raises(RMSDError, match=message):
        Molecule([6] * 9, bonds, stereo=Stereo(tetrahedral, doubles))
