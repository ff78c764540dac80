"""The public functions against brute force, against each other, and against their own invariances."""

import threading

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
    neighbours,
    rmsd,
    rmsd_matrix,
    rmsd_stream,
    rmsd_table,
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
        assert bound.lower > 0

    def test_time_limit(self):
        result = rmsd(self.x[0], self.x[1], self.arms, align=True, time_limit_s=1e-4)
        assert result.status == "bound"

    def test_matrix_has_no_place_for_bounds(self):
        with pytest.raises(SearchLimitError, match="conformers 1 and 0"):
            rmsd_matrix(self.x, self.arms, align=True, node_limit=150)

    def test_distinct_stops_too(self):
        with pytest.raises(SearchLimitError, match="time limit"):
            distinct(self.x, self.arms, 0.9, align=True, time_limit_s=1e-5)


class TestManyPairs:
    """Matrices, tables and streams hold what `rmsd` says of each pair."""

    @pytest.mark.parametrize("align", [False, True])
    @pytest.mark.parametrize("threads", [1, 3])
    def test_threads_share_the_pairs(self, align, threads):
        x = np.random.default_rng(11).normal(size=(40, 8, 3))
        matrix = rmsd_matrix(x, ETHANE, align=align, threads=threads)
        assert (matrix == matrix.T).all()
        for i, j in [(1, 0), (39, 0), (39, 38), (20, 7)]:
            assert matrix[i, j] == pytest.approx(rmsd(x[i], x[j], ETHANE, align=align).value, abs=1e-9)
        table = rmsd_table(x[:7], x, ETHANE, align=align, threads=threads)
        assert table.shape == (7, 40) and table == pytest.approx(matrix[:7], abs=1e-7)

    @pytest.mark.parametrize("align", [False, True])
    def test_each_conformer_may_have_its_own_order_of_atoms(self, align, conformers):
        elements, bonds = SYMMETRIC["ethane"]
        rng = np.random.default_rng(6)
        shuffled, owners = [], []
        for x in conformers:
            order = rng.permutation(8)
            place = np.argsort(order)
            shuffled.append(x[order])
            owners.append(Molecule([elements[i] for i in order], [(place[i], place[j]) for i, j in bonds]))
        expected = rmsd_matrix(conformers, ETHANE, align=align)
        assert rmsd_matrix(shuffled, owners, align=align) == pytest.approx(expected, abs=1e-7)
        y = shuffled[0][np.asarray(ETHANE._map_to(owners[0]))][None]
        table = rmsd_table(conformers, [shuffled[0]], ETHANE, owners[0], align=align)
        assert table == pytest.approx(rmsd_table(conformers, y, ETHANE, align=align), abs=1e-12)
        with pytest.raises(RMSDError, match="10 conformers and 9 molecules"):
            rmsd_matrix(shuffled, owners[:-1], align=align)
        with pytest.raises(NotIsomorphicError):
            rmsd_matrix(shuffled, [*owners[:-1], SALT], align=align)

    def test_a_stream_is_read_as_it_is_needed(self, conformers):
        read = []

        def queries():
            for k, x in enumerate(conformers):
                read.append(k)
                yield x.tolist()

        rows = rmsd_stream(queries(), conformers[:3], ETHANE, align=True, chunk=4)
        first = next(rows)
        assert read == [0, 1, 2, 3]
        expected = rmsd_table(conformers, conformers[:3], ETHANE, align=True)
        assert np.array([first, *rows]) == pytest.approx(expected, abs=1e-12)
        with pytest.raises(RMSDError, match=r"query 1 has shape \(7, 3\)"):
            list(rmsd_stream([conformers[0], conformers[1][:7]], conformers, ETHANE, align=True))
        with pytest.raises(RMSDError, match="chunk is 0"):
            next(rmsd_stream([], conformers, ETHANE, align=True, chunk=0))

    def test_strided_single_precision_and_read_only_input(self, conformers):
        wide = np.zeros((10, 16, 3), dtype=np.float32)
        wide[:, ::2] = conformers
        wide.flags.writeable = False
        expected = rmsd_matrix(conformers, ETHANE, align=True)
        assert rmsd_matrix(wide[:, ::2], ETHANE, align=True) == pytest.approx(expected, abs=1e-5)
        assert rmsd_table(wide[::-1, ::2], wide[:, ::2], ETHANE, align=True) == pytest.approx(expected[::-1], abs=1e-5)

    @pytest.mark.parametrize("align", [False, True])
    def test_no_conformers_at_all(self, align):
        assert rmsd_matrix([], ETHANE, align=align).shape == (0, 0)
        assert rmsd_table([], np.zeros((2, 8, 3)), ETHANE, align=align).shape == (0, 2)
        assert neighbours([], ETHANE, 1.0, align=align).shape == (0, 0)
        assert distinct([], ETHANE, 1.0, align=align) == []

    def test_one_molecule_serves_several_threads_at_once(self, conformers):
        expected = [rmsd(conformers[0], x, ETHANE, align=True).value for x in conformers]
        wrong = []

        def work():
            for _ in range(200):
                found = [rmsd(conformers[0], x, ETHANE, align=True).value for x in conformers]
                wrong.extend(abs(a - b) for a, b in zip(found, expected, strict=True) if abs(a - b) > 1e-12)

        workers = [threading.Thread(target=work) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert wrong == []

    def test_threads_must_be_there(self, conformers):
        with pytest.raises(RMSDError, match="threads is 0"):
            rmsd_matrix(conformers, ETHANE, align=True, threads=0)

    @pytest.mark.parametrize("threads", [1, 2])
    def test_what_was_computed_is_not_lost(self, threads):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6, 17, 3))
        expected = rmsd_matrix(x, TestLimits.arms, align=True)
        with pytest.raises(SearchLimitError) as stopped:
            rmsd_matrix(np.concatenate([x, x[:1]]), TestLimits.arms, align=True, node_limit=150, threads=threads)
        partial = stopped.value.partial
        known = ~np.isnan(partial)
        assert not known.all() and (np.diag(partial) == 0).all()
        assert partial[:6, :6][known[:6, :6]] == pytest.approx(expected[known[:6, :6]], abs=1e-7)
        with pytest.raises(SearchLimitError) as stopped:
            rmsd_table(x, x, TestLimits.arms, align=True, time_limit_s=0.0, threads=threads)
        assert np.isnan(stopped.value.partial).any()

    def test_neighbours_obey_the_time_limit(self):
        x = np.random.default_rng(0).normal(size=(6, 17, 3))
        with pytest.raises(SearchLimitError):
            neighbours(x, TestLimits.arms, 0.9, align=True, time_limit_s=0.0)


def test_atoms_that_are_not_compared_have_no_partner(conformers):
    _, bonds = SYMMETRIC["ethane"]
    heavy = Molecule(["C", "c", "H", "D", "T", 1, "h", "H"], bonds, hydrogens=False)
    result = rmsd(conformers[0], conformers[1], heavy, align=False)
    assert result.mapping[2:].tolist() == [-1] * 6 and sorted(result.mapping[:2]) == [0, 1]
    assert result.n_automorphisms == 2
    assert result.value == rmsd(conformers[0][:2], conformers[1][:2], Molecule([6, 6], bonds[:1]), align=False).value
    assert rmsd_matrix(conformers, heavy, align=True).shape == (10, 10)
    assert Molecule(["C", "c", "H", "D", "T", 1, "h", "H"], bonds).n_automorphisms == ETHANE.n_automorphisms


@pytest.mark.parametrize("align", [False, True])
def test_absurdly_large_coordinates_are_refused(align):
    """Their squares would overflow, and the RMSD be infinite or no number."""
    propane = Molecule([6, 6, 6], [(0, 1), (1, 2)])
    x = np.random.default_rng(0).normal(size=(2, 3, 3))
    assert rmsd(x[0] * 1e59, x[1] * 1e59, propane, align=align).value == pytest.approx(
        rmsd(*x, propane, align=align).value * 1e59
    )
    with pytest.raises(RMSDError, match=r"at index \[0, 0\]: coordinates must be finite, and at most 1e\+60"):
        rmsd(x[0] * 1e200, x[1], propane, align=align)


class TestArguments:
    water = Molecule(["O", "H", "H"], [(0, 1), (0, 2)])
    x = np.array([[[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]] * 3) + np.arange(3)[:, None, None] * 0.1

    @pytest.mark.parametrize("align", [None, 1, "yes"])
    def test_align_is_true_or_false(self, align):
        with pytest.raises(RMSDError, match=r"align is .*True"):
            rmsd_matrix(self.x, self.water, align=align)

    @pytest.mark.parametrize("limit", [float("nan"), -1.0])
    def test_a_time_limit_is_a_number_of_seconds(self, limit):
        with pytest.raises(RMSDError, match="time_limit_s"):
            rmsd(self.x[0], self.x[1], self.water, align=True, time_limit_s=limit)

    def test_threads_are_whole(self):
        with pytest.raises(RMSDError, match=r"threads is 2\.0"):
            rmsd_matrix(self.x, self.water, align=True, threads=2.0)

    def test_a_value_is_not_below_itself(self):
        rng = np.random.default_rng(5)
        x = rng.normal(size=(6, 3, 3))
        matrix = rmsd_matrix(x, self.water, align=False)
        for value in matrix[np.tril_indices(6, -1)]:
            assert (neighbours(x, self.water, value, align=False) == (matrix < value)).all()

    def test_molecules_do_not_pile_up(self, monkeypatch):
        monkeypatch.setattr("flashrmsd_cy._molecule.MOST_MAPS", 3)
        first = Molecule(["O", "H", "H"], [(0, 1), (0, 2)])
        for _ in range(9):
            other = Molecule(["H", "O", "H"], [(0, 1), (1, 2)])
            assert rmsd(self.x[0], self.x[0][[1, 0, 2]], first, other, align=False).value == 0
        assert len(first._maps_to) == 3


def test_a_stream_that_meets_its_limit_has_given_what_was_done():
    atoms = Molecule([18] * 60, [])
    rng = np.random.default_rng(0)
    template = rng.normal(size=(60, 3))
    queries = [template, template + 1.0, rng.normal(size=(60, 3)), template]
    stream = rmsd_stream(queries, [template], atoms, align=True, time_limit_s=1.0)
    assert [next(stream)[0], next(stream)[0]] == pytest.approx([0, 0], abs=1e-6)
    with pytest.raises(SearchLimitError, match="query 2"):
        next(stream)
