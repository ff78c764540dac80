"""Faults of the C program FlashRMSD (v1.1), through our command: each test fails on a tool that has the fault."""

import gzip

import numpy as np
import pytest

from flashrmsd_cy import Molecule

# Acetate with one hydrogen: the two O may be exchanged.
ACETATE = ("C", "C", "O", "O", "H"), [(0, 1, 1), (1, 2, 2), (1, 3, 1), (0, 4, 1)]
PLACES = np.array([(0.0, 0, 0), (1.5, 0, 0), (2.1, 1.1, 0), (2.1, -1.1, 0), (-0.5, 0.9, 0)])


def test_salts_with_permuted_atoms(command, tmp_path, write):
    symbols, bonds = ["Na", "Na", "C", "O", "O", "C", "O", "O"], [(2, 3, 1), (2, 4, 2), (5, 6, 1), (5, 7, 2)]
    x = np.random.default_rng(0).normal(size=(8, 3)).round(4)
    order = [7, 1, 5, 2, 0, 4, 6, 3]
    place = {old: new for new, old in enumerate(order)}
    (tmp_path / "a.sdf").write_text(write.v2000(symbols, x, bonds))
    moved = [(place[i], place[j], kind) for i, j, kind in bonds]
    (tmp_path / "b.sdf").write_text(write.v2000([symbols[i] for i in order], x[order], moved))
    for mode in ([], ["-m"], ["-h", "-b"]):
        assert command(tmp_path / "a.sdf", tmp_path / "b.sdf", *mode) == (0, "0.000000\n", "")
        both = command(tmp_path / "a.sdf", tmp_path / "b.sdf", "-x", *mode)
        assert both == (0, "0.000000 0.000000 \n" * 2, "")


def test_records_of_different_size(command, tmp_path, write, acetate):
    methane = write.v2000(["C"], [(0, 0, 0)], [], "methane")
    records = acetate[0].read_text().split("$$$$\n")
    (tmp_path / "mixed.sdf").write_text("$$$$\n".join([records[0], methane + records[1], *records[2:]]))
    code, out, err = command(tmp_path / "mixed.sdf", "-x")
    matrix = np.array([line.split() for line in out.splitlines()], dtype=float)
    assert code == 2 and (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
    assert np.isinf(matrix[1, [0, 2, 3]]).all() and np.isfinite(matrix[np.ix_([0, 2, 3], [0, 2, 3])]).all()
    assert "mixed.sdf: record 1 (line 16, 'methane'): it is not the molecule of record 0" in err
    assert "the first has 4 atoms, the second 1" in err and err.count("\n") == 1


def test_bond_types_without_a_mapping(command, tmp_path, write):
    symbols = ["C"] * 6 + ["F", "C"]  # o-fluorotoluene in its two Kekulé forms
    x = np.random.default_rng(1).normal(size=(8, 3)).round(4)
    for name, first in (("a", 1), ("b", 2)):
        ring = [(i, (i + 1) % 6, first if i % 2 else 3 - first) for i in range(6)]
        (tmp_path / f"{name}.sdf").write_text(write.v2000(symbols, x, [*ring, (0, 6, 1), (1, 7, 1)]))
    two = tmp_path / "a.sdf", tmp_path / "b.sdf"
    assert command(*two) == (0, "0.000000\n", "")
    for search in ([], ["-n"], ["--time-limit", "5"]):
        code, out, err = command(*two, "-b", *search)
        assert (code, out) == (2, "inf\n") and "not the same graph" in err and "a.sdf: record 0" in err
    assert command(*two, "-x", "--bonds")[:2] == (2, "0.000000 inf \ninf 0.000000 \n")
    assert command(two[0], two[0], "-b") == (0, "0.000000\n", "")


@pytest.mark.parametrize("suffix", [".mol", ".mdl", ".SDF", ".Mol", ".sdf.gz", ".SDF.GZ", ".MOL2", ".mol2.gz"])
def test_suffixes(command, tmp_path, write, suffix):
    form = write.mol2 if "mol2" in suffix.lower() else write.v2000
    text = form(ACETATE[0], PLACES, ACETATE[1]).encode()
    path = tmp_path / f"a b{suffix}"
    path.write_bytes(gzip.compress(text) if "gz" in suffix.lower() else text)
    assert command(path, path) == (0, "0.000000\n", "")


def test_more_than_a_hundred_records(command, tmp_path, write):
    (tmp_path / "a.sdf").write_text(write.v2000(["C", "O"], [(0, 0, 0), (1.4, 0, 0)], [(0, 1, 1)]) * 150)
    code, out, err = command(tmp_path / "a.sdf", tmp_path / "a.sdf")
    assert (code, out) == (0, "0.000000\n" * 150) and "more than one record" in err
    assert command(tmp_path / "a.sdf", "-x") == (0, ("0.000000 " * 150 + "\n") * 150, "")


def test_more_than_1023_atoms_and_a_long_title(command, tmp_path, write):
    n = 1100
    x = np.arange(3 * n).reshape(n, 3) * 0.1
    symbols, bonds = ["C"] * (n - 1) + ["O"], [(i, i + 1, 1) for i in range(n - 1)]
    (tmp_path / "a.sdf").write_text(write.v3000(symbols, x, bonds, "t" * 2000))
    (tmp_path / "b.mol2").write_text(write.mol2(symbols, x + np.array([0, 0, 0.5]), bonds, "t" * 300))
    assert command(tmp_path / "a.sdf", tmp_path / "b.mol2") == (0, "0.500000\n", "")


def test_deuterium_and_upper_case_symbols(command, tmp_path, write):
    x = np.array([(0.0, 0, 0), (1.8, 0, 0), (-0.6, 0.9, 0), (-0.6, -0.9, 0)])
    bonds = [(0, 1, 1), (0, 2, 1), (0, 3, 1)]
    (tmp_path / "a.sdf").write_text(write.v2000(["C", "CL", "D", "T"], x, bonds))
    (tmp_path / "b.mol2").write_text(write.mol2(["C.3", "Cl", "H", "H"], x, bonds))
    assert command(tmp_path / "a.sdf", tmp_path / "b.mol2", "-a") == (0, "0.000000\n0 -> 0\n1 -> 1\n", "")
    assert command(tmp_path / "a.sdf", tmp_path / "b.mol2", "-h", "-a")[1].count("->") == 4


def test_order_of_bond_lines(command, tmp_path, write):
    rng = np.random.default_rng(2)
    bonds = [(i, i ^ bit, 1) for i in range(16) for bit in (1, 2, 4, 8) if i < i ^ bit]
    shapes = rng.normal(size=(2, 16, 3)).round(4)
    (tmp_path / "a.sdf").write_text("".join(write.v2000(["C"] * 16, x, bonds) for x in shapes))
    shuffled = [(*rng.permutation(bond[:2]), 1) for bond in rng.permutation(bonds)]
    (tmp_path / "b.sdf").write_text("".join(write.v2000(["C"] * 16, x, shuffled) for x in shapes))
    results = {command(tmp_path / f"{name}.sdf", "-x") for name in "ab"}
    assert len(results) == 1 and results.pop()[0] == 0


@pytest.mark.parametrize(("carbons", "other"), [(20, "H"), (24, "F")])
def test_families_with_exponentially_many_mappings(command, tmp_path, write, carbons, other):
    symbols, bonds = ["C"] * carbons, [(i, i + 1, 1) for i in range(carbons - 1)]
    for i in range(carbons):
        for _ in range(3 if i in (0, carbons - 1) else 2):
            bonds.append((i, len(symbols), 1))
            symbols.append(other)
    rng = np.random.default_rng(3)
    start = np.array([(1.27 * i, 0.44 * (-1) ** i, 0) for i in range(carbons)])
    start = np.vstack([start, [start[i] + rng.normal(size=3) for i, j, _ in bonds if j >= carbons]])
    shapes = [start, start + 0.4 * rng.normal(size=start.shape)]
    (tmp_path / "a.sdf").write_text("".join(write.v2000(symbols, x, bonds) for x in shapes))
    values = []
    for mode in ([], ["-m"]):
        code, out, err = command(tmp_path / "a.sdf", "-xh", "--time-limit", "20", *mode)
        assert (code, err) == (0, "")
        values.append(float(out.split()[1]))
    assert 0 < values[1] <= values[0]


def test_impossible_pairs_are_no_success(command, tmp_path, write, acetate):
    (tmp_path / "other.sdf").write_text(write.v2000(["C", "N"], PLACES[:2], [(0, 1, 1)]))
    code, out, err = command(acetate[0], tmp_path / "other.sdf", "-a")
    assert (code, out) == (2, "inf\n" * 3)
    assert [f"acetate.sdf: record {i}" in line for i, line in enumerate(err.splitlines())] == [True] * 3


def test_the_plan_of_c60_does_not_depend_on_the_order_of_bond_lines(command, tmp_path, write):
    golden = (1 + 5**0.5) / 2
    corners = [(0, 1, 3 * golden), (1, 2 + golden, 2 * golden), (golden, 2, 2 * golden + 1)]
    signs = [(x, y, z) for x in (1, -1) for y in (1, -1) for z in (1, -1)]
    mirrored = [np.multiply(corner, sign) for corner in corners for sign in signs]
    turned = np.array([np.roll(corner, shift) for corner in mirrored for shift in range(3)])
    x = np.unique(turned.round(9) + 0.0, axis=0)
    distance = np.linalg.norm(x[:, None] - x, axis=-1)
    bonds = [(int(i), int(j), 1) for i, j in np.argwhere(np.abs(distance - 2) < 1e-6) if i < j]
    assert (len(x), len(bonds)) == (60, 90)
    rng = np.random.default_rng(5)
    other = x[rng.permutation(60)]
    plans, outputs = [], set()
    for number in range(3):
        ends = [tuple(map(int, rng.permutation((i, j)))) for i, j, _ in bonds] if number else [b[:2] for b in bonds]
        rng.shuffle(ends)
        plans.append(vars(Molecule([6] * 60, ends)._prepared()[0]))
        path = tmp_path / f"{number}.sdf"
        path.write_text("".join(write.v2000(["C"] * 60, y, [(i, j, 1) for i, j in ends]) for y in (x, other)))
        outputs.add(command(path, "-x"))
    assert plans[0] == plans[1] == plans[2] and len(outputs) == 1 and outputs.pop()[0] == 0


def test_standard_output_holds_numbers_alone(command, tmp_path, write, acetate):
    """Whatever there is to warn of: more than one template, broken records, other molecules, missing files."""
    records = acetate[0].read_text().split("$$$$\n")
    other = write.v2000(["C", "N"], PLACES[:2], [(0, 1, 1)])
    (tmp_path / "all.sdf").write_text("$$$$\n".join([*records[:2], "no molecule\n", other + records[2], ""]))
    for arguments in (["-x"], ["-x", "-m"], [acetate[0]], [tmp_path / "none.sdf", acetate[0], "-b"]):
        code, out, err = command(tmp_path / "all.sdf", *arguments)
        assert code == 2 and err.startswith("flashrmsd: ")
        assert out and all(word == "inf" or float(word) >= 0 for word in out.split())
