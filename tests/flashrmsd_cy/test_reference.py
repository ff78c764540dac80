"""The oracle itself: cases small enough to know by heart."""

import numpy as np
import pytest

from flashrmsd_cy._reference import all_mappings, brute_force, kabsch


@pytest.mark.parametrize(
    ("labels", "bonds", "count"),
    [
        ([6], [], 1),
        ([8, 1, 1], [(0, 1), (0, 2)], 2),
        ([6] * 6, [(i, (i + 1) % 6) for i in range(6)], 12),
        ([6, 1, 1, 1, 1], [(0, i) for i in range(1, 5)], 24),
        ([6, 8, 8], [(0, 1, 1), (0, 2, 1)], 2),
        ([6, 8, 8], [(0, 1, 1), (0, 2, 2)], 1),
        ([6] * 6, [(i, (i + 1) % 6, 1 + i % 2) for i in range(6)], 6),
    ],
)
def test_number_of_mappings(labels, bonds, count):
    assert sum(1 for _ in all_mappings(labels, bonds, labels, bonds)) == count


def test_kabsch_undoes_a_known_rotation():
    x = np.random.default_rng(0).normal(size=(9, 3))
    turn = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    value, rotation, translation = kabsch(x, x @ turn.T + 2.0)
    assert value == pytest.approx(0, abs=1e-12)
    assert np.allclose(rotation, turn.T)
    assert np.allclose((x @ turn.T + 2.0) @ rotation.T + translation, x)


def test_different_graphs_have_no_mapping():
    x = np.zeros((3, 3))
    assert brute_force(x, x, [6] * 3, [(0, 1)], [6] * 3, [(0, 1), (1, 2)], align=False) == (np.inf, 0)
