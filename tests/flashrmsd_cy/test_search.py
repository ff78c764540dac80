"""The compiled search, part by part, where `rmsd` would choose another way."""

import threading
import time
from array import array

import numpy as np
import pytest

from flashrmsd_cy import Molecule, SearchLimitError, rmsd, rmsd_matrix, rmsd_table
from flashrmsd_cy._reference import brute_force
from flashrmsd_cy._search import Search

MOLECULES = {
    "tert-butyl twice": ([6] * 8, [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7)]),
    "star": ([6] + [9] * 6, [(0, i) for i in range(1, 7)]),
    "ring": ([6] * 7, [(i, (i + 1) % 7) for i in range(7)]),
    "pairs": ([8, 8] * 4, [(2 * i, 2 * i + 1) for i in range(4)]),
}


def _fit(search, a, b, **limits):
    mapping, rotation, translation = np.empty(len(a), np.int32), np.empty((3, 3)), np.empty(3)
    total, _, exact = search.fit(a, b, mapping, rotation, translation, **limits)
    moved = b[mapping] @ rotation.T + translation
    assert ((a - moved) ** 2).sum() == pytest.approx(total, abs=1e-8)
    return np.sqrt(total / len(a)), exact


@pytest.mark.parametrize("name", MOLECULES)
def test_search_over_rotations_equals_brute_force(name):
    labels, bonds = MOLECULES[name]
    plan, _, _ = Molecule(labels, bonds)._prepared()
    search = Search(plan)  # no list of maps, so rotations are all it has
    for a, b in np.random.default_rng(8).normal(size=(4, 2, len(labels), 3)):
        value, exact = _fit(search, a, b)
        assert exact
        assert value == pytest.approx(brute_force(a, b, labels, bonds, labels, bonds, align=True)[0], abs=1e-7)


def test_search_over_blocks_and_over_rotations_agree():
    # Eight chains of one carbon with three fluorines on a line of distinct atoms: 6^8 mappings.
    labels = [*range(100, 108)] + [6] * 8 + [9] * 24
    bonds = [(i, i + 1) for i in range(7)] + [(i, 8 + i) for i in range(8)] + [(8 + k // 3, 16 + k) for k in range(24)]
    molecule = Molecule(labels, bonds)
    assert molecule.n_automorphisms == 6**8
    plan, blocks, _ = molecule._prepared()
    for a, noise in np.random.default_rng(2).normal(size=(3, 2, len(labels), 3)):
        b = a + 0.5 * noise
        listed, exact = _fit(Search(plan, blocks), a, b)
        rotated, also = _fit(Search(plan), a, b)
        assert exact and also
        assert listed == pytest.approx(rotated, abs=1e-7)


def test_many_pieces_are_assigned_as_scipy_does():
    scipy_optimize = pytest.importorskip("scipy.optimize")
    waters = Molecule([8] * 12, [])
    for a, b in np.random.default_rng(4).normal(size=(5, 2, 12, 3)):
        squares = ((a[:, None] - b[None]) ** 2).sum(-1)
        rows, columns = scipy_optimize.linear_sum_assignment(squares)
        expected = np.sqrt(squares[rows, columns].sum() / 12)
        assert rmsd(a, b, waters, align=False).value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("shape", ["point", "line", "plane"])
def test_degenerate_shapes(shape):
    labels, bonds = MOLECULES["star"]
    molecule = Molecule(labels, bonds)
    flatten = {"point": [0.0, 0.0, 0.0], "line": [1.0, 0.0, 0.0], "plane": [1.0, 1.0, 0.0]}[shape]
    for a, b in np.random.default_rng(9).normal(size=(5, 2, 7, 3)) * flatten:
        expected = brute_force(a, b, labels, bonds, labels, bonds, align=True)[0]
        assert rmsd(a, b, molecule, align=True).value == pytest.approx(expected, abs=2e-7)


def test_the_pair_loop_releases_the_gil():
    """Another thread keeps running while rows are computed."""
    molecule = Molecule(*MOLECULES["star"])
    positions = np.random.default_rng(0).normal(size=(120, 7, 3))
    rmsd_matrix(positions[:2], molecule, align=True)
    ticks, done = 0, threading.Event()

    def compute():
        rmsd_matrix(positions, molecule, align=True)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.is_set():
        time.sleep(0.001)
        ticks += 1
    thread.join()
    assert ticks >= 3


@pytest.mark.parametrize("align", [False, True])
def test_a_time_limit_stops_many_easy_pairs(align):
    """Each of them is over long before the search of a pair looks at the clock."""
    molecule = Molecule([6, 7, 8], [(0, 1), (1, 2)])
    positions = np.random.default_rng(0).normal(size=(20, 3, 3))
    assert molecule.n_automorphisms == 1
    with pytest.raises(SearchLimitError):
        rmsd_matrix(positions, molecule, align=align, time_limit_s=0.0)
    with pytest.raises(SearchLimitError):
        rmsd_table(positions, positions, molecule, align=align, time_limit_s=0.0)


@pytest.mark.parametrize("method", ["matrix_rows", "table_rows", "first_near"])
def test_other_threads_stop_within_a_pair(method):
    """The pair alone would take until the deadline: 24 like atoms in a cloud."""
    molecule = Molecule([6] * 24, [])
    x = np.random.default_rng(1).normal(size=(2, 24, 3))
    search, out, counter = molecule._search(), np.full((2, 2), np.nan), array("q", [0])
    deadline, threshold = time.monotonic() + 60, 0.71
    calls = {
        "matrix_rows": lambda: search.matrix_rows(x, out, counter, True, None, deadline),
        "table_rows": lambda: search.table_rows(x, x[::-1].copy(), out, counter, True, None, deadline),
        "first_near": lambda: search.first_near(x, np.array([0]), 1, threshold, True, deadline, counter),
    }
    threading.Timer(0.2, counter.__setitem__, (0, 1 << 60)).start()
    found = calls[method]()
    assert found == ((-1, False) if method == "first_near" else (1, 0) if method == "matrix_rows" else (0, 0))
    assert time.monotonic() < deadline - 30
