"""Bounds without a mapping: never above the brute-force RMSD, equal to it where there is no choice."""

import doctest
from array import array

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from flashrmsd_cy import Molecule, _bounds, distinct, neighbours
from flashrmsd_cy._bounds import Profiles, orbits
from flashrmsd_cy._reference import all_mappings, brute_force, in_place, kabsch

GRAPHS = {
    "atom": ([6], []),
    "carbon dioxide": ([8, 6, 8], [(0, 1), (1, 2)]),
    "propane": ([6] * 3 + [1] * 2, [(0, 1), (1, 2), (0, 3), (0, 4)]),
    "benzene ring": ([6] * 6, [(i, (i + 1) % 6) for i in range(6)]),
    "tetrafluoroethane": ([6, 6, 9, 9, 9, 9], [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5)]),
    "neopentane carbons": ([6] * 5, [(0, i) for i in range(1, 5)]),
    "ions": ([11, 11, 8, 8, 6], [(2, 4), (3, 4)]),
    "no symmetry": ([6, 7, 8, 9], [(0, 1), (1, 2), (2, 3)]),
}
SEEDS = st.integers(0, 2**32 - 1)


def _motion(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q), rng.normal(size=3)


def _orbits(labels, bonds):
    pairs = {pair for mapping in all_mappings(labels, bonds, labels, bonds) for pair in enumerate(mapping)}
    return orbits(len(labels), array("i", [i for i, _ in pairs]), array("i", [j for _, j in pairs]))


@st.composite
def conformers(draw, k):
    """A small graph and k shapes of it: at random, flat, on a grid with ties, or nearly alike."""
    labels, bonds = GRAPHS[draw(st.sampled_from(sorted(GRAPHS)))]
    rng = np.random.default_rng(draw(SEEDS))
    x = rng.normal(size=(k, len(labels), 3))
    kind = draw(st.sampled_from(["random", "flat", "line", "grid", "alike", "far"]))
    if kind == "flat":
        x[:, :, 2] = 0
    elif kind == "line":
        x[:, :, 1:] = 0
    elif kind == "grid":
        x = x.round()
    elif kind == "alike":
        x = x[:1] + 1e-3 * x
    elif kind == "far":
        x += 1e3 * rng.normal(size=(k, 1, 3))
    return x, labels, bonds


@given(conformers(2), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_never_above_the_rmsd(case, align, coarse):
    x, labels, bonds = case
    classes = array("i", labels) if coarse else _orbits(labels, bonds)
    least, _ = brute_force(x[0], x[1], labels, bonds, labels, bonds, align=align)
    lower = Profiles(x, classes, align).lower(0, 1)
    assert 0 <= lower <= least + 1e-9 * (1 + abs(x).max())


@given(conformers(1), SEEDS, st.booleans())
@settings(max_examples=100, deadline=None)
def test_zero_for_another_numbering_and_place_of_the_same_shape(case, seed, align):
    x, labels, bonds = case
    rng = np.random.default_rng(seed)
    mappings = list(all_mappings(labels, bonds, labels, bonds))
    again = x[0][mappings[rng.integers(len(mappings))]]
    if align:
        turn, shift = _motion(rng)
        again = again @ turn.T + shift
    profiles = Profiles(np.stack([x[0], again]), _orbits(labels, bonds), align)
    assert profiles.lower(0, 1) <= 1e-9 * (1 + abs(x).max())


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e3])
def test_equals_the_rmsd_where_no_atom_has_a_choice(scale):
    x = scale * np.random.default_rng(1).normal(size=(2, 12, 3))
    classes = array("i", range(12))
    assert Profiles(x, classes, False).lower(0, 1) == pytest.approx(in_place(x[0], x[1]), rel=1e-9)
    assert Profiles(x, classes, True).lower(0, 1) == pytest.approx(kabsch(x[0], x[1])[0], rel=1e-9)


def test_equals_the_rmsd_of_a_swap_on_a_line():
    x = np.zeros((2, 2, 3))
    x[0, :, 0], x[1, :, 0] = (0, 2), (5, 1)
    assert Profiles(x, array("i", [0, 0]), False).lower(0, 1) == pytest.approx(np.sqrt((1 + 9) / 2))
    assert Profiles(x, array("i", [0, 0]), True).lower(0, 1) == pytest.approx(1.0)


def test_means_on_a_line_do_not_raise_the_bound():
    """Two classes have their means on a line, where the eigenvalue of the fit is a double one."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(1, 30, 3))
    turn, shift = _motion(rng)
    x = np.concatenate([x, x @ turn.T + shift])
    assert Profiles(x, array("i", [0] * 10 + [1] * 20), True).lower(0, 1) < 1e-6


def test_an_inverted_shape_is_not_the_same():
    x = np.random.default_rng(3).normal(size=(1, 6, 3))
    profiles = Profiles(np.concatenate([x, -x]), array("i", range(6)), True)
    assert profiles.lower(0, 1) == pytest.approx(kabsch(x[0], -x[0])[0], rel=1e-9)


@given(conformers(6), st.booleans(), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_rows_and_decisions_hold_the_pairs(case, align, threshold):
    x, labels, bonds = case
    profiles = Profiles(x, _orbits(labels, bonds), align)
    row = np.empty(6)
    profiles.lower_row(3, row)
    assert row.tolist() == [profiles.lower(3, other) for other in range(6)]
    others, left = np.array([5, 4, 1, 0]), np.empty(4, dtype=int)
    found = left[: profiles.undecided(3, others, threshold, left)].tolist()
    sure = 1e-6 * (1 + abs(x).max())
    assert (
        {o for o in others if row[o] < threshold - sure}
        <= set(found)
        <= {o for o in others if row[o] < threshold + sure}
    )
    assert len(set(found)) == len(found)
    if found:
        assert row[found[0]] == pytest.approx(min(row[found]), abs=sure)


@given(conformers(3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_triangle_inequality_of_the_brute_force_values(case, align):
    x, labels, bonds = case
    known = np.zeros((3, 3))
    for i in range(3):
        for j in range(i):
            known[i, j] = known[j, i] = brute_force(x[i], x[j], labels, bonds, labels, bonds, align=align)[0]
    rounding = 1e-9 * (1 + abs(x).max())
    assert abs(known[0, 2] - known[1, 2]) - rounding <= known[0, 1] <= known[0, 2] + known[1, 2] + rounding


@given(conformers(5), st.booleans(), st.floats(0.001, 3), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_pruning_agrees_with_brute_force(case, align, threshold, threads):
    x, labels, bonds = case
    molecule = Molecule(labels, bonds)
    least = [[brute_force(a, b, labels, bonds, labels, bonds, align=align)[0] for b in x] for a in x]
    matrix = np.array(least)[np.ix_([0, 1, 2, 0, 3, 4, 2], [0, 1, 2, 0, 3, 4, 2])]
    assume((abs(matrix - threshold) > 1e-6 * (1 + abs(x).max())).all())
    x = x[[0, 1, 2, 0, 3, 4, 2]]
    near = matrix < threshold
    assert (neighbours(x, molecule, threshold, align=align, threads=threads) == near).all()
    kept = []
    for row in range(len(x)):
        if not near[row, kept].any():
            kept.append(row)
    assert distinct(x, molecule, threshold, align=align) == kept


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_orbits_are_the_images_of_each_atom(name):
    labels, bonds = GRAPHS[name]
    mappings = list(all_mappings(labels, bonds, labels, bonds))
    assert _orbits(labels, bonds).tolist() == [min(m[i] for m in mappings) for i in range(len(labels))]


def test_faults_are_named():
    x = np.zeros((2, 3, 3))
    with pytest.raises(ValueError, match="2 classes for 3 atoms"):
        Profiles(x, array("i", [0, 0]), True)
    profiles = Profiles(x, array("i", [0, 0, 1]), True)
    with pytest.raises(IndexError, match="conformers 0 and 2 of 2"):
        profiles.lower(0, 2)
    with pytest.raises(IndexError, match="conformer -1 of 2"):
        profiles.lower_row(-1, np.zeros(2))
    with pytest.raises(ValueError, match="3 places for 2 conformers"):
        profiles.lower_row(0, np.zeros(3))


def test_no_conformers_are_no_fault():
    assert Profiles(np.zeros((0, 3, 3)), array("i", [0, 0, 1]), True).n_conformers == 0


def test_examples_in_the_docstrings():
    found = doctest.testmod(_bounds)
    assert found.attempted >= 6 and found.failed == 0
