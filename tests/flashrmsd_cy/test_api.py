"""The public functions against brute force, against each other, and against their own invariances."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashrmsd_cy import (
    Molecule,
    NotIsomorphicError,
    RMSDError,
    SearchLimitError,
    best_mapping,
    distinct,
    rmsd,
    rmsd_matrix,
)
from flashrmsd_cy._reference import brute_force, in_place, kabsch


def _ring(n, start=0):
    return [(start + i, start + (i + 1) % n) for i in range(n)]


SYMMETRIC = {
    "atom": ([6], []),
    "hydrogen": ([1, 1], [(0, 1)]),
    "carbon dioxide": ([8, 6, 8], [(0, 1), (1, 2)]),
    "benzene ring": ([6] * 6, _ring(6)),
    "neopentane carbons": ([6] * 5, [(0, i) for i in range(1, 5)]),
    "ethane": ([6, 6, 1, 1, 1, 1, 1, 1], [(0, 1), (0, 2), (0, 3), (0, 4), (1, 5), (1, 6), (1, 7)]),
    "cubane carbons": ([6] * 8, [(i, i ^ b) for i in range(8) for b in (1, 2, 4) if i < i ^ b]),
    "sulfur hexafluoride": ([16] + [9] * 6, [(0, i) for i in range(1, 7)]),
    "phosphorus": ([15] * 4, [(i, j) for i in range(4) for j in range(i)]),
    "two rings": ([6] * 6, _ring(3) + _ring(3, 3)),
    "salt": ([11, 11, 6, 8, 8, 6, 8, 8], [(2, 3), (2, 4), (5, 6), (5, 7)]),
    "prism beside ring": ([6] * 9, _ring(3) + _ring(3, 3) + [(0, 3), (1, 4), (2, 5)] + _ring(3, 6)),
    "bicyclobutane": ([6] * 4, [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)]),
}


@st.composite
def comparisons(draw):
    """Two numberings of one small graph with coordinates, sometimes on a grid so that ties and flat shapes occur."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        labels, bonds = SYMMETRIC[draw(st.sampled_from(sorted(SYMMETRIC)))]
    else:
        n = draw(st.integers(1, 7))
        labels = draw(st.lists(st.sampled_from([6, 8]), min_size=n, max_size=n))
        pairs = [(i, j) for i in range(n) for j in range(i)]
        bonds = [pair for pair in pairs if rng.random() < draw(st.sampled_from([0.2, 0.4, 0.7]))]
    n = len(labels)
    order = rng.permutation(n)
    labels_b = [labels[i] for i in order]
    place = np.argsort(order)
    bonds_b = [(int(place[i]), int(place[j])) for i, j in bonds]
    rng.shuffle(bonds_b)
    a, b = rng.normal(size=(2, n, 3)) if draw(st.booleans()) else rng.integers(-1, 2, size=(2, n, 3)).astype(float)
    return a, b, labels, bonds, labels_b, bonds_b


@given(comparisons(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_equals_brute_force(case, align):
    a, b, labels, bonds, labels_b, bonds_b = case
    expected, count = brute_force(a, b, labels, bonds, labels_b, bonds_b, align=align)
    result = rmsd(a, b, Molecule(labels, bonds), Molecule(labels_b, bonds_b), align=align)
    assert result.status == "exact"
    assert result.n_automorphisms == count
    assert result.value == pytest.approx(expected, abs=2e-7)
    assert result.lower == result.upper == result.value


@given(comparisons(), st.booleans(), st.data())
@settings(max_examples=150, deadline=None)
def test_equals_brute_force_with_bond_types(case, align, data):
    """Types are kept, wherever they stand: also where colours alone leave no choice of atoms."""
    a, b, labels, bonds, labels_b, bonds_b = case
    types = data.draw(st.lists(st.integers(1, 2), min_size=len(bonds), max_size=len(bonds)))
    types_b = data.draw(st.permutations(types))
    if data.draw(st.booleans()):
        labels_b, bonds_b, types_b = labels, bonds, types
    typed = [(*bond, kind) for bond, kind in zip(bonds, types, strict=True)]
    typed_b = [(*bond, kind) for bond, kind in zip(bonds_b, types_b, strict=True)]
    expected, count = brute_force(a, b, labels, typed, labels_b, typed_b, align=align)
    first, second = Molecule(labels, bonds, bond_types=types), Molecule(labels_b, bonds_b, bond_types=types_b)
    if count == 0:
        with pytest.raises(NotIsomorphicError):
            rmsd(a, b, first, second, align=align)
    else:
        result = rmsd(a, b, first, second, align=align)
        assert result.n_automorphisms == count
        assert result.value == pytest.approx(expected, abs=2e-7)


@given(comparisons(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_the_mapping_keeps_the_graph_and_the_placement_gives_the_value(case, align):
    a, b, labels, bonds, labels_b, bonds_b = case
    result = rmsd(a, b, Molecule(labels, bonds), Molecule(labels_b, bonds_b), align=align)
    mapping = result.mapping
    assert [labels_b[j] for j in mapping] == list(labels)
    assert {frozenset((mapping[i], mapping[j])) for i, j in bonds} == {frozenset(bond) for bond in bonds_b}
    assert np.linalg.det(result.rotation) == pytest.approx(1.0)
    assert np.allclose(result.rotation @ result.rotation.T, np.eye(3))
    moved = b[mapping] @ result.rotation.T + result.translation
    assert in_place(a, moved) == pytest.approx(result.value, abs=1e-9)


ETHANE = Molecule(*SYMMETRIC["ethane"])
SALT = Molecule(*SYMMETRIC["salt"])


@pytest.fixture
def conformers():
    """Ten shapes of eight atoms, (10, 8, 3)."""
    return np.random.default_rng(5).normal(size=(10, 8, 3))


def _rotation(rng):
    q, r = np.linalg.qr(rng.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.linalg.det(q)


@pytest.mark.parametrize("molecule", [ETHANE, SALT])
@pytest.mark.parametrize("align", [False, True])
class TestInvariances:
    def test_same_to_itself_is_zero(self, molecule, align, conformers):
        assert rmsd(conformers[0], conformers[0], molecule, align=align).value == pytest.approx(0, abs=1e-12)

    def test_direction_does_not_matter(self, molecule, align, conformers):
        forth = rmsd(conformers[0], conformers[1], molecule, align=align).value
        assert rmsd(conformers[1], conformers[0], molecule, align=align).value == pytest.approx(forth, abs=1e-9)

    def test_common_motion_does_not_matter(self, molecule, align, conformers):
        turn = _rotation(np.random.default_rng(1))
        before = rmsd(conformers[0], conformers[1], molecule, align=align).value
        moved = conformers @ turn.T + [10.0, -20.0, 5.0]
        assert rmsd(moved[0], moved[1], molecule, align=align).value == pytest.approx(before, abs=1e-9)

    def test_matrix_holds_the_pairs(self, molecule, align, conformers):
        matrix = rmsd_matrix(conformers, molecule, align=align)
        assert matrix.shape == (10, 10) and (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
        for i in range(10):
            for j in range(i):
                pair = rmsd(conformers[i], conformers[j], molecule, align=align).value
                assert matrix[i, j] == pytest.approx(pair, abs=1e-9)

    def test_triangle_inequality(self, molecule, align, conformers):
        matrix = rmsd_matrix(conformers, molecule, align=align)
        assert (matrix[:, None, :] <= matrix[:, :, None] + matrix[None, :, :] + 1e-9).all()

    def test_distinct_keeps_what_the_matrix_says(self, molecule, align, conformers):
        noisy = np.concatenate([conformers, conformers + 0.05, conformers[::-1] * 1.01])
        matrix = rmsd_matrix(noisy, molecule, align=align)
        for threshold in (0.0, 0.1, 0.9):
            kept = []
            for row in range(len(noisy)):
                if all(matrix[row, other] >= threshold for other in kept):
                    kept.append(row)
            assert distinct(noisy, molecule, threshold, align=align) == kept


def test_a_fit_is_never_worse_than_in_place(conformers):
    assert (rmsd_matrix(conformers, ETHANE, align=True) <= rmsd_matrix(conformers, ETHANE, align=False) + 1e-12).all()


def test_independent_motion_does_not_matter_to_a_fit(conformers):
    turn = _rotation(np.random.default_rng(2))
    before = rmsd(conformers[0], conformers[1], ETHANE, align=True).value
    after = rmsd(conformers[0], conformers[1] @ turn.T + 3.0, ETHANE, align=True)
    assert after.value == pytest.approx(before, abs=1e-9)


def test_no_reflection():
    # CHFClBr-like: four different neighbours, so the mirror image cannot be turned into it.
    chiral = Molecule([6, 1, 9, 17, 35], [(0, i) for i in range(1, 5)])
    x = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.7
    result = rmsd(x, x * [1, 1, -1], chiral, align=True)
    assert result.value > 0.5
    assert result.value == pytest.approx(kabsch(x, x * [1, 1, -1])[0])


def test_disconnected_molecule_with_permuted_atoms_is_found_again(conformers):
    order = np.array([1, 0, 5, 7, 6, 2, 3, 4])
    result = rmsd(conformers[0], conformers[0][order], SALT, align=False)
    assert result.value == 0.0
    assert (order[result.mapping] == np.arange(8)).all()


@pytest.mark.parametrize("align", [False, True])
def test_read_only_and_single_precision(align, conformers):
    frozen = conformers.copy()
    frozen.flags.writeable = False
    value = rmsd(frozen[0], frozen[1], ETHANE, align=align).value
    single = conformers.astype(np.float32)
    assert rmsd(single[0], single[1], ETHANE, align=align).value == pytest.approx(value, abs=1e-6)
    assert rmsd_matrix(frozen, ETHANE, align=align).dtype == np.float64
    assert rmsd(np.asfortranarray(frozen[0]), frozen[1], ETHANE, align=align).value == value


def test_large_offsets_keep_their_digits(conformers):
    far = conformers[0] + 1e4
    assert rmsd(conformers[0], far, ETHANE, align=True).value == pytest.approx(0, abs=1e-9)


def test_best_mapping_is_that_of_the_result(conformers):
    mapping = best_mapping(conformers[0], conformers[1], ETHANE, align=True)
    assert (mapping == rmsd(conformers[0], conformers[1], ETHANE, align=True).mapping).all()


def test_align_must_be_said(conformers):
    with pytest.raises(TypeError, match="align"):
        rmsd(conformers[0], conformers[1], ETHANE)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("a", "message"),
    [
        (np.zeros((8, 2)), r"a_positions has shape \(8, 2\), expected \(n_atoms, 3\) = \(8, 3\) in Å"),
        (np.zeros((7, 3)), r"shape \(7, 3\)"),
        (np.full((8, 3), np.nan), r"nan at index \[0, 0\]"),
        (np.full((8, 3), "x"), "real numbers"),
    ],
)
def test_wrong_positions_are_refused(a, message):
    with pytest.raises(RMSDError, match=message):
        rmsd(a, np.zeros((8, 3)), ETHANE, align=True)


def test_wrong_conformers_and_threshold_are_refused(conformers):
    with pytest.raises(RMSDError, match=r"positions has shape \(8, 3\), expected \(n_conformers, n_atoms, 3\)"):
        rmsd_matrix(conformers[0], ETHANE, align=True)
    with pytest.raises(RMSDError, match="threshold is -1"):
        distinct(conformers, ETHANE, -1, align=True)


class TestLimits:
    """A very symmetric molecule, 31104 mappings: nothing hangs, nothing is silently approximate."""

    arms = Molecule([6] * 17, [(0, i) for i in range(1, 5)] + [(1 + k // 3, 5 + k) for k in range(12)])
    x = np.random.default_rng(0).normal(size=(2, 17, 3))

    @pytest.mark.parametrize("limit", [1, 100, 2000])
    def test_bounds_enclose_the_answer(self, limit):
        exact = rmsd(self.x[0], self.x[1], self.arms, align=True)
        assert exact.status == "exact"
        bound = rmsd(self.x[0], self.x[1], self.arms, align=True, node_limit=limit)
        assert bound.status == "bound"
        assert bound.lower - 1e-7 <= exact.value <= bound.upper + 1e-7
        moved = self.x[1][bound.mapping] @ bound.rotation.T + bound.translation
        assert in_place(self.x[0], moved) == pytest.approx(bound.upper, abs=1e-9)

    @pytest.mark.parametrize("align", [False, True])
    def test_bounds_without_preparation(self, align):
        fresh = Molecule([6] * 17, [(0, i) for i in range(1, 5)] + [(1 + k // 3, 5 + k) for k in range(12)])
        bound = rmsd(self.x[0], self.x[1], fresh, align=align, node_limit=3)
        exact = rmsd(self.x[0], self.x[1], self.arms, align=align).value
        assert bound.status == "bound" and bound.n_automorphisms is None
        assert bound.lower <= exact <= bound.upper

    def test_time_limit(self):
        result = rmsd(self.x[0], self.x[1], self.arms, align=True, time_limit_s=1e-4)
        assert result.status == "bound"

    def test_matrix_has_no_place_for_bounds(self):
        with pytest.raises(SearchLimitError, match="conformers 1 and 0"):
            rmsd_matrix(self.x, self.arms, align=True, node_limit=150)

    def test_distinct_stops_too(self):
        with pytest.raises(SearchLimitError, match="time limit"):
            distinct(self.x, self.arms, 0.9, align=True, time_limit_s=1e-5)
