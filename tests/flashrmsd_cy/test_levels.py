"""The three plain searches: each against the default one, and stopped by limits."""

import os
import signal
import threading
import time

import numpy as np
import pytest

from flashrmsd_cy import Molecule, RMSDError, Stereo, rmsd
from flashrmsd_cy._reference import in_place

MOLECULES = {
    "tert-butyl twice": ([6] * 8, [(0, 1), (0, 2), (0, 3), (0, 4), (4, 5), (4, 6), (4, 7)], None),
    "cubane": ([6] * 8, [(i, i ^ b) for i in range(8) for b in (1, 2, 4) if i < i ^ b], None),
    "salt": ([11, 11, 6, 8, 8, 6, 8, 8], [(2, 3), (2, 4), (5, 6), (5, 7)], None),
    "three arms on a chain": (
        [7, 6, 8, 6, 9, 9, 9, 1, 1, 1, 6, 6],
        [(0, 1), (1, 2), (2, 3), (3, 4), (3, 5), (3, 6), (1, 7), (1, 8), (0, 9), (0, 10), (2, 11)],
        None,
    ),
    "configured ring": (
        [6] * 6 + [8] * 3,
        [(i, (i + 1) % 6) for i in range(6)] + [(0, 6), (2, 7), (4, 8)],
        Stereo([(0, (5, 1, 6), 1), (2, (1, 3, 7), 1), (4, (3, 5, 8), 1)]),
    ),
}


@pytest.mark.parametrize("name", MOLECULES)
@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_agrees_with_the_default(name, align, level):
    elements, bonds, stereo = MOLECULES[name]
    molecule = Molecule(elements, bonds, stereo=stereo)
    for a, b in np.random.default_rng(3).normal(size=(5, 2, len(elements), 3)):
        expected, found = rmsd(a, b, molecule, align=align), rmsd(a, b, molecule, align=align, level=level)
        assert found.status == "exact"
        assert found.value == pytest.approx(expected.value, abs=2e-7)
        assert found.lower == found.upper == found.value
        assert found.n_automorphisms == expected.n_automorphisms
        moved = b[found.mapping] @ found.rotation.T + found.translation
        assert in_place(a, moved) == pytest.approx(found.value, abs=1e-12)
        assert np.linalg.det(found.rotation) == pytest.approx(1.0)


def test_hydrogens_and_another_order_of_atoms():
    elements, bonds, _ = MOLECULES["three arms on a chain"]
    order = np.random.default_rng(1).permutation(len(elements))
    place = np.argsort(order)
    first = Molecule(elements, bonds, hydrogens=False)
    second = Molecule([elements[i] for i in order], [(place[i], place[j]) for i, j in bonds], hydrogens=False)
    x, y = np.random.default_rng(2).normal(size=(2, len(elements), 3))
    expected = rmsd(x, y, first, align=True)
    found = rmsd(x, y[order], first, second, align=True, level=3)
    assert found.value == pytest.approx(expected.value, abs=2e-7)
    assert np.where(found.mapping < 0, -1, order[found.mapping]).tolist() == expected.mapping.tolist()


STAR = Molecule([6] * 9, [])  # 9! mappings


@pytest.mark.parametrize("align", [False, True])
def test_a_limit_leaves_bounds(align):
    a, b = np.random.default_rng(4).normal(size=(2, 9, 3))
    if not align:
        a += np.random.default_rng(5).normal(size=(9, 3)) * 100  # too far apart to prune anything
    exact = rmsd(a, b, STAR, align=align).value
    for level in (1, 2, 3):
        for limit in ({"node_limit": 0}, {"node_limit": 50}, {"time_limit_s": 0.0}):
            bound = rmsd(a, b, STAR, align=align, level=level, **limit)
            assert bound.status == "bound"
            assert bound.lower <= exact + 1e-9 and exact <= bound.upper + 1e-9
            moved = b[bound.mapping] @ bound.rotation.T + bound.translation
            assert in_place(a, moved) == pytest.approx(bound.upper, abs=1e-12)


def test_interrupt_stops_it():
    a, b = np.random.default_rng(4).normal(size=(2, 14, 3))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        rmsd(a, b, Molecule([6] * 14, []), align=True, level=1, time_limit_s=60)
    assert time.monotonic() - started < 30


def test_there_are_three_levels():
    with pytest.raises(RMSDError, match="level is 4"):
        rmsd(np.zeros((9, 3)), np.zeros((9, 3)), STAR, align=False, level=4)
