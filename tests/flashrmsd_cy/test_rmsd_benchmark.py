"""The benchmark at its smallest size, and the programs that it runs beside ours: limits, parsing, absence."""

import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

for package in ("rdkit", "spyrmsd", "networkx", "matplotlib"):
    pytest.importorskip(package)

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Speaks as the C tool does: matrix, remarks and timing on standard output, no more than 100 records of a file.
STAND_IN = """\
    import sys
    from pathlib import Path
    from flashrmsd_cy.cli import main
    file, *switches = sys.argv[1:]
    records = Path(file).read_text().split("$$$$\\n")[:-1][:100]
    Path(file + ".cut.sdf").write_text("$$$$\\n".join([*records, ""]))
    print("Warning: a remark of the reader")
    code = main([file + ".cut.sdf", *(s for s in switches if s != "-v")])
    if "-v" in switches:
        print("Cross RMSD calculation completed in 0.012500 seconds.")
    sys.exit(code)
    """


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    path = tmp_path_factory.mktemp("c") / "FlashRMSD"
    path.with_suffix(".py").write_text(textwrap.dedent(STAND_IN))
    # By way of a shell: a first line that names a Python whose path has a space in it would not do.
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$0.py" "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def benchmark_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _rmsd_molecules
    import _rmsd_peers

    return _rmsd_molecules, _rmsd_peers


@pytest.mark.slow
def test_quick_run_ends_in_json(tmp_path, stand_in):
    script = BENCHMARKS / "rmsd.py"
    command = [sys.executable, str(script), "--quick", "--out", str(tmp_path), "--flashrmsd", str(stand_in)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["benchmark"] == "rmsd" and figures["correct"]
    assert figures["command_imports_numpy"] is False
    assert figures["peers"]["flashrmsd_c"] == "present"
    ratios = {key: value for key, value in figures["drugs"].items() if key != "rows"}
    assert {"rdkit_over_ours_minimised", "spyrmsd_over_ours_fixed", "flashrmsd_c_over_ours_fixed"} <= set(ratios)
    assert all(value["least"] > 0 for key, value in ratios.items() if not key.startswith("obrms"))
    assert {bar["holds"] for bar in figures["bars"]} <= {True, False, None}
    assert all(bar["value"] is not None for bar in figures["bars"] if "over ours" in bar["bar"])
    assert {path.suffix for path in tmp_path.iterdir()} == {".md", ".csv", ".json", ".png"}
    assert json.loads((tmp_path / "result.json").read_text()) == figures


def test_the_c_tool_is_read_and_cut(benchmark_modules, stand_in, tmp_path):
    molecules, peers = benchmark_modules
    example = molecules.from_smiles("chain", "butanol", "CCCCO", hydrogens=True)
    x = molecules.conformers(example, 4, "unrelated")
    tool = peers.FlashRMSD(str(stand_in))
    for align in (False, True):
        answer = tool(example, x, align, 60)
        ours = peers.LIBRARIES["ours"](example, x, align)
        assert answer.seconds == 0.0125
        assert np.abs(answer.matrix - ours.matrix).max() < 2e-4, "files hold four decimals"
    assert "100 records" in tool(example, np.repeat(x, 26, axis=0), False, 60).why
    assert peers.FlashRMSD(None)(example, x, False, 60).why.startswith("not given")
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho no >&2; exit 3\n")
    broken.chmod(0o755)
    assert peers.FlashRMSD(str(broken))(example, x, False, 60).why == "failed with exit code 3: no"


def test_who_does_not_come_back_is_ended(benchmark_modules, tmp_path):
    molecules, peers = benchmark_modules
    example = next(molecules.perfluoroalkanes((16,)))
    x = molecules.conformers(example, 3, "unrelated")
    sleeper = tmp_path / "sleeper"
    sleeper.write_text("#!/bin/sh\nexec sleep 60\n")
    sleeper.chmod(0o755)
    library = peers.Library("spyrmsd")
    start = time.monotonic()
    try:
        assert library(example, x, False, 0.2).why == "timed out after 0.2 s"
        small = molecules.from_smiles("chain", "propanol", "CCCO")
        again = library(small, molecules.conformers(small, 3, "similar"), True, 30)
        assert again.matrix is not None, again.why
    finally:
        library.stop()
    assert peers.FlashRMSD(str(sleeper))(example, x, False, 0.2).why == "timed out after 0.2 s"
    assert time.monotonic() - start < 50


def test_members_of_equal_size_differ_in_symmetry_alone(benchmark_modules):
    molecules, _ = benchmark_modules
    members = {}
    for example in molecules.equal_size((3, 15)):
        members.setdefault(example.family, []).append(example)
    assert len(members) == 6
    for family, examples in members.items():
        counts = [example.molecule().n_automorphisms for example in examples]
        assert counts == sorted(counts) and counts[-1] > 10**9 * counts[0], family
        assert len({len(example.elements) for example in examples}) == 1
        assert len({tuple(example.bonds) for example in examples}) == 1


def test_files_for_the_c_tool_hold_every_pair(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from _rmsd_whole import _parts

    for k in (100, 101, 300):
        parts = _parts(k)["all pairs"]
        assert max(map(len, parts)) <= 100
        met = np.eye(k, dtype=bool)
        for part in parts:
            met[np.ix_(part, part)] = True
        assert met.all()
