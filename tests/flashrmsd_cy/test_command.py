"""The command: the C tool's arguments and output, none of its faults, and an exit code that can be trusted."""

import csv
import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flashrmsd_cy import __version__
from flashrmsd_cy._reference import kabsch

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "rmsd"
needs_shared = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no files at {FOLDER}")

# Acetate with one hydrogen: the two O may be exchanged.
ACETATE = ("C", "C", "O", "O", "H"), [(0, 1, 1), (1, 2, 2), (1, 3, 1), (0, 4, 1)]
PLACES = np.array([(0.0, 0, 0), (1.5, 0, 0), (2.1, 1.1, 0), (2.1, -1.1, 0), (-0.5, 0.9, 0)])


class TestOutputOfTheCTool:
    def test_one_number_a_line(self, command, acetate):
        code, out, err = command(*acetate)
        third = np.sqrt((2 * 1.5**2 + 0.0 + 2 * (1.0 + 9.0)) / 4)
        assert (code, err) == (0, "")
        lines = out.split("\n")
        assert lines[:2] == ["0.000000", "0.100000"] and lines[3:] == [""] and lines[2] != f"{third:.6f}"
        assert command(*acetate, "-m")[1] == "0.000000\n0.000000\n0.000000\n"
        assert command("-m", *acetate) == command(acetate[0], "-m", acetate[1]) == command(*acetate, "--minimize")

    def test_matrix(self, command, acetate):
        code, out, err = command(acetate[0], "-x")
        assert (code, err) == (0, "")
        rows = out.split("\n")
        assert rows.pop() == "" and all(row.endswith(" ") for row in rows)
        matrix = np.array([row.split() for row in rows], dtype=float)
        assert matrix.shape == (3, 3) and (matrix == matrix.T).all() and (np.diag(matrix) == 0).all()
        assert rows[0].startswith("0.000000 0.100000 ")
        assert command(acetate[0], "-xm")[1] == "0.000000 0.000000 0.000000 \n" * 3

    def test_hydrogens(self, command, acetate):
        for switch in ("-h", "--hydrogens"):
            code, out, _ = command(*acetate, switch)
            assert code == 0 and out.split()[:2] == ["0.000000", "0.100000"]
        assert out.split()[2] != command(*acetate)[1].split()[2]

    def test_assignment_counts_atoms_of_the_files(self, command, tmp_path, write):
        symbols, bonds = ACETATE
        order = [4, 3, 1, 0, 2]  # the hydrogen first: its place is counted although it is not compared
        place = {old: new for new, old in enumerate(order)}
        (tmp_path / "a.sdf").write_text(write.v2000(symbols, PLACES, bonds))
        moved = [(place[i], place[j], kind) for i, j, kind in bonds]
        (tmp_path / "b.sdf").write_text(write.v2000([symbols[i] for i in order], PLACES[order], moved))
        expected = "0.000000\n0 -> 3\n1 -> 2\n2 -> 4\n3 -> 1\n"
        assert command(tmp_path / "b.sdf", tmp_path / "a.sdf", "-a") == (0, expected, "")
        assert command(tmp_path / "b.sdf", tmp_path / "a.sdf", "-a", "-n") == (0, expected, "")
        assert command(tmp_path / "b.sdf", tmp_path / "a.sdf", "--assignment", "-h")[1] == f"{expected}4 -> 0\n"

    def test_verbose(self, command, acetate):
        code, out, _ = command(*acetate, "-v", "-a")
        lines = out.splitlines()
        assert code == 0 and lines[:3] == ["Conformer 0: ", "RMSD: 0.000000", "Assignment: "]
        assert lines[3:7] == ["0 -> 0", "1 -> 1", "2 -> 2", "3 -> 3"]
        assert lines[7].startswith("Time taken: 0.") and lines[8] == "Conformer 1: "
        last = command(acetate[0], "-x", "--verbose")[1].splitlines()[-1]
        assert last.startswith("Cross RMSD calculation completed in 0.") and last.endswith(" seconds.")


class TestBrokenFiles:
    def test_a_broken_record_does_not_shift_the_others(self, command, tmp_path, acetate):
        records = acetate[0].read_text().split("$$$$\n")
        records.insert(1, records[0].replace("    1.5000", "       nan"))
        (tmp_path / "b.sdf").write_text("$$$$\n".join(records))
        code, out, err = command(tmp_path / "b.sdf", acetate[1])
        good = command(*acetate)[1].split()
        assert code == 2 and out.split() == [good[0], "inf", *good[1:]]
        assert err.count("\n") == 1 and "b.sdf: record 1 (line 16, 'shape 0'): line 21: the coordinate nan" in err
        code, out, err = command(tmp_path / "b.sdf", "-x")
        matrix = np.array([line.split() for line in out.splitlines()], dtype=float)
        assert code == 2 and np.isinf(matrix[1]).all() and np.isinf(matrix[:, 1]).all()
        assert np.isfinite(np.delete(np.delete(matrix, 1, 0), 1, 1)).all() and "the coordinate nan" in err

    def test_a_broken_template(self, command, tmp_path, acetate):
        (tmp_path / "b.mol2").write_text(acetate[1].read_text().replace("1.5000", "x"))
        code, out, err = command(acetate[0], tmp_path / "b.mol2")
        assert (code, out) == (2, "inf\n" * 3) and "b.mol2: record 0" in err

    @pytest.mark.parametrize("text", [b"", b"\n\n\n  3  2  0 V2000\n", b"\x00\x01", b"\x1f\x8b"])
    def test_no_molecules(self, command, tmp_path, acetate, text):
        (tmp_path / "b.sdf").write_bytes(text)
        bad = tmp_path / "b.sdf"
        for arguments in ((bad, acetate[1]), (acetate[0], bad), (bad, "-x")):
            code, out, err = command(*arguments)
            assert code == 2 and set(out.split()) <= {"inf"} and "b.sdf" in err

    def test_a_missing_file_among_others(self, command, tmp_path, acetate):
        code, out, err = command(tmp_path / "none.sdf", tmp_path, *acetate)
        assert code == 2 and out == command(*acetate)[1]
        assert "none.sdf: there is no such file" in err and "it is a folder" in err
        assert command(acetate[0], tmp_path / "none.sdf")[:2] == (2, "")

    def test_nothing_to_compare(self, command, tmp_path, write):
        (tmp_path / "h2.sdf").write_text(write.v2000(["H", "H"], PLACES[:2], [(0, 1, 1)]))
        code, out, err = command(tmp_path / "h2.sdf", tmp_path / "h2.sdf")
        assert (code, out) == (2, "inf\n") and "no heavy atoms: compare with -h" in err
        assert command(tmp_path / "h2.sdf", "-xh") == (0, "0.000000 \n", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "a file is missing"),
        (["a.sdf"], "a template to compare with is missing"),
        (["a.sdf", "b.sdf", "-q"], "no option -q"),
        (["a.sdf", "b.sdf", "--minimise"], "did you mean --minimize"),
        (["a.sdf", "b.sdf", "--minimize=1"], "no option --minimize=1"),
        (["a.sdf", "b.sdf", "--time-limit"], "needs a value"),
        (["a.sdf", "b.sdf", "--time-limit", "soon"], "--time-limit soon"),
        (["a.sdf", "b.sdf", "--time-limit=-1"], "more than zero"),
        (["a.sdf", "-x", "--threads", "0"], "expected a number from 1 to 1024"),
        (["a.sdf", "-x", "--threads", "two"], "--threads two: expected a number"),
        (["a.sdf", "-x", "--level", "4"], "--level 4: expected a number from 1 to 3"),
        (["a.sdf", "-x", "--level", "1", "-n"], "choose one"),
        (["a.sdf", "b.sdf", "--csv", "--json"], "choose one"),
        (["a.sdf", "b.sdf", "-n", "--time-limit", "1"], "--naive has no time limit"),
        (["a.sdf", "-x", "--template", "b.sdf"], "--template has no part"),
        (["-", "-"], "standard input can be read only once"),
    ],
)
def test_wrong_use(command, arguments, message):
    code, out, err = command(*arguments)
    assert (code, out) == (2, "") and message in err and "--help" in err


def test_help_and_version(command):
    code, out, err = command("--help")
    assert (code, err) == (0, "") and out.startswith("usage: flashrmsd")
    assert command("a.sdf", "--version") == (0, f"flashrmsd {__version__}\n", "")


def test_several_queries_and_a_named_template(command, acetate):
    once = command(*acetate)[1]
    assert command(acetate[0], *acetate) == (0, once * 2, "")
    assert command("--template", acetate[1], acetate[0], acetate[0]) == (0, once * 2, "")
    code, out, _ = command(*acetate, "-x")
    assert code == 0 and [len(line.split()) for line in out.splitlines()] == [4] * 4


def test_threads_change_nothing(command, tmp_path, write):
    rng = np.random.default_rng(6)
    bonds = [(0, i, 1) for i in range(1, 4)] + [(1, 4, 1), (1, 5, 1), (2, 6, 1), (2, 7, 1)]
    path = tmp_path / "a.sdf"
    path.write_text("".join(write.v2000(["C"] * 8, x, bonds) for x in rng.normal(size=(60, 8, 3))))
    for mode in ("-x", "-xm"):
        once = command(path, mode)
        assert once[0] == 0 and command(path, mode, "--threads", "3") == command(path, mode, "--threads=40") == once


def test_graphs_that_are_forgotten(command, tmp_path, write, monkeypatch):
    """More graphs than are remembered: records in many orders, and another molecule now and then."""
    symbols, bonds = ACETATE
    rng = np.random.default_rng(7)
    texts = []
    for number in range(24):
        order = rng.permutation(5).tolist()
        ends = [(order.index(i), order.index(j), kind) for i, j, kind in bonds[: 3 if number % 8 == 5 else 4]]
        texts.append(write.v2000([symbols[i] for i in order], PLACES[order], ends))
    (tmp_path / "a.sdf").write_text("".join(texts))
    runs = [(tmp_path / "a.sdf", tmp_path / "a.sdf", "-h"), (tmp_path / "a.sdf", "-xh")]
    before = [command(*arguments) for arguments in runs]
    assert before[0][:2] == (2, "".join("inf\n" if number % 8 == 5 else "0.000000\n" for number in range(24)))
    for most in (1, 2, 3):
        monkeypatch.setattr("flashrmsd_cy._compare.MOST_GRAPHS", most)
        assert [command(*arguments) for arguments in runs] == before


@pytest.mark.parametrize("form", ["column", "line", "V3000"])
def test_charges(command, tmp_path, write, form):
    """Acetate, whose O may be exchanged until one of them bears the charge."""
    symbols, bonds = ACETATE
    for name, order in (("a", [0, 1, 2, 3, 4]), ("b", [0, 1, 3, 2, 4])):
        text = write.v2000(symbols, PLACES[order], bonds)
        lines = text.split("\n")
        match form:
            case "column":
                lines[7] = lines[7][:36] + "  5" + lines[7][39:]
            case "line":
                lines[5] = lines[5][:36] + "  3" + lines[5][39:]  # made void by the line
                lines.insert(-3, "M  CHG  1   4  -1")
            case "V3000":
                lines = write.v3000(symbols, PLACES[order], bonds).split("\n")
                atom = next(i for i, line in enumerate(lines) if line.startswith("M  V30 4 "))
                lines[atom + 1] += " CHG=-1"
        (tmp_path / f"{name}.sdf").write_text("\n".join(lines))
    (tmp_path / "none.sdf").write_text(write.v2000(symbols, PLACES, bonds))
    (tmp_path / "a.mol2").write_text(write.mol2(symbols, PLACES, bonds))
    two = tmp_path / "a.sdf", tmp_path / "b.sdf"
    assert command(*two) == (0, "0.000000\n", "")
    for search in ([], ["-n"]):
        code, out, err = command(*two, "--charges", *search)
        assert (code, err) == (0, "") and float(out) == pytest.approx(np.sqrt(2 * 2.2**2 / 4), abs=1e-6)
    code, out, err = command(two[0], tmp_path / "none.sdf", "--charges")
    assert (code, out) == (2, "inf\n") and "not the same graph" in err
    code, out, err = command(two[0], tmp_path / "a.mol2", "--charges")
    assert (code, out) == (2, "inf\n") and "MOL2 has no formal charges" in err


def test_what_a_matrix_loads(acetate, tmp_path, write):
    """Loading modules is most of the time of a small job: no NumPy, and little of the standard library."""
    path, template = acetate
    packed = tmp_path / "a.sdf.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    heavy = {
        "numpy",
        "rdkit",
        "argparse",
        "ast",
        "csv",
        "dataclasses",
        "difflib",
        "gzip",
        "inspect",
        "json",
        "threading",
    }
    for arguments in ([path, "-x"], [path, "-xm"], [packed, "-xm"], [path, template], [path, template, "-m", "-a"]):
        program = (
            "import sys; before = set(sys.modules); from flashrmsd_cy.cli import main; "
            f"assert main({[*map(str, arguments)]}) == 0; print('', *set(sys.modules) - before)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        loaded = {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}
        assert "flashrmsd_cy" in loaded and not loaded & heavy


def test_the_plain_searches_agree(command, tmp_path, write):
    rng = np.random.default_rng(4)
    symbols = ["C"] * 11 + ["O", "O"]
    bonds = [(i, (i + 1) % 6, 4) for i in range(6)] + [(0, 6, 1), (3, 7, 1), (6, 8, 1), (6, 9, 1), (6, 10, 1)]
    bonds += [(7, 11, 2), (7, 12, 1)]
    (tmp_path / "a.sdf").write_text("".join(write.v2000(symbols, x, bonds) for x in rng.normal(size=(4, 13, 3))))
    for mode in ("-x", "-xm", "-xb", "-xmb"):
        for search in (["-n"], ["--level", "1"], ["--level=2"], ["--level=3"]):
            assert command(tmp_path / "a.sdf", mode, *search) == command(tmp_path / "a.sdf", mode)


class TestDocuments:
    def test_csv(self, command, acetate):
        code, out, _ = command(*acetate, "--csv")
        rows = list(csv.DictReader(io.StringIO(out)))
        assert code == 0 and [row["rmsd"] for row in rows] == command(*acetate)[1].split()
        assert rows[1]["second_title"] == "shape 1" and rows[1]["second_record"] == "1" and rows[1]["status"] == "exact"
        pairs = list(csv.DictReader(io.StringIO(command(acetate[0], "-x", "--csv")[1])))
        assert [(row["first_record"], row["second_record"]) for row in pairs] == [("0", "1"), ("0", "2"), ("1", "2")]

    def test_json_placement_gives_the_value(self, command, acetate):
        code, out, _ = command(*acetate, "--json", "-m", "-h", "-a")
        rows = json.loads(out)["queries"]
        assert code == 0 and [row["record"] for row in rows] == [0, 1, 2]
        turned = PLACES[:, [1, 0, 2]] * [-1, 1, 1]
        moved = turned[[j for _, j in rows[2]["assignment"]]] @ np.transpose(rows[2]["rotation"])
        assert np.allclose(moved + rows[2]["translation"], PLACES, atol=1e-6)
        assert rows[2]["rmsd"] == pytest.approx(kabsch(PLACES, turned)[0], abs=1e-6)
        assert rows[2]["n_automorphisms"] == 2 and rows[2]["lower"] == rows[2]["upper"] == rows[2]["rmsd"]

    def test_json_has_no_infinity(self, command, tmp_path, write, acetate):
        (tmp_path / "c.sdf").write_text(write.v2000(["C"], [(0, 0, 0)], []))
        code, out, _ = command(acetate[0], tmp_path / "c.sdf", "-x", "--json")
        document = json.loads(out)
        assert code == 2 and document["rmsd"][3] == [None, None, None, 0.0]
        assert document["problems"][0]["record"] == 0 and "4 atoms" in document["problems"][0]["reason"]
        rows = json.loads(command(acetate[0], tmp_path / "c.sdf", "--json")[1])["queries"]
        assert rows[0]["rmsd"] is None and rows[0]["status"] == "failed" and "1 atoms" in rows[0]["reason"]


def test_a_bound_is_never_printed_as_a_number(command, tmp_path, write):
    bonds = [(0, i, 1) for i in range(1, 5)] + [(1 + k // 3, 5 + k, 1) for k in range(12)]
    shapes = np.random.default_rng(0).normal(size=(2, 17, 3)).round(4)
    path = tmp_path / "arms.sdf"
    path.write_text("".join(write.v2000(["C"] * 17, x, bonds) for x in shapes))
    (tmp_path / "one.sdf").write_text(write.v2000(["C"] * 17, shapes[0], bonds))
    exact = float(command(path, "-xm")[1].split()[1])
    code, out, err = command(path, tmp_path / "one.sdf", "-m", "--time-limit", "1e-5")
    assert code == 2 and out.split()[1] == "inf" and "the RMSD is between" in err
    assert command(path, "-xm", "--time-limit", "1e-5")[:2] == (2, "0.000000 inf \ninf 0.000000 \n")
    row = json.loads(command(path, tmp_path / "one.sdf", "-m", "--json", "--time-limit", "1e-5")[1])["queries"][1]
    assert row["rmsd"] is None and row["status"] == "bound" and row["lower"] <= exact <= row["upper"]
    assert command(path, "-xm", "--time-limit", "60")[:2] == command(path, "-xm")[:2]


@needs_shared
@pytest.mark.parametrize("name", ["0BU", "2YN", "1P2", "0B8_H"])
def test_reference_values(command, name):
    with (FOLDER / "reference.csv").open(newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["file"] == name]
    hydrogens = ["-h"] if rows[0]["atoms"] == "all" else []
    for suffix in ("sdf.gz", "mol2.gz"):
        path = FOLDER / f"{name}.{suffix}"
        if not path.is_file():
            continue
        for mode, column in ([], "sc_rmsd"), (["-m"], "min_sc_rmsd"):
            code, out, err = command(path, "-x", *mode, *hydrogens)
            assert (code, err) == (0, "")
            matrix = np.array([line.split() for line in out.splitlines()], dtype=float)
            for row in rows:
                if row[column]:
                    assert matrix[int(row["i"]), int(row["j"])] == pytest.approx(float(row[column]), abs=1e-5)


def test_the_naive_search_says_what_is_too_large(command, tmp_path, write):
    (tmp_path / "a.sdf").write_text(write.v3000(["C"] * 1000, np.zeros((1000, 3)), []))
    code, out, err = command(tmp_path / "a.sdf", tmp_path / "a.sdf", "-n")
    assert (code, out) == (2, "inf\n") and "at most 900 atoms, here are 1000" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full, the disk that is always full")
def test_a_full_disk(acetate):
    with Path("/dev/full").open("wb") as full:
        program = [sys.executable, "-m", "flashrmsd_cy", *acetate]
        done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2 and done.stderr.startswith("flashrmsd: the output could not be written: No space left")


def test_standard_input_and_a_closed_pipe(acetate):
    path, template = acetate
    program = [sys.executable, "-m", "flashrmsd_cy"]
    for body in (path.read_bytes(), gzip.compress(path.read_bytes())):
        done = subprocess.run([*program, "-", template], input=body, capture_output=True, check=True)
        assert done.stdout.split()[:2] == [b"0.000000", b"0.100000"] and done.stderr == b""
    path.write_text(path.read_text() * 3000)
    with subprocess.Popen([*program, path, template], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"0.000000\n"
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 2
