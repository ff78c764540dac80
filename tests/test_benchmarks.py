"""Every benchmark runs at its small size, asserts that it is correct, and ends with one JSON object."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

# Modules of a script begin with an underscore; rmsd.py is run by tests/flashrmsd_cy/test_rmsd_benchmark.py.
FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(path for path in FOLDER.glob("[!_]*.py") if path.stem != "rmsd")
MINUTES = ("factory", "density_guess", "screening", "dynamics", "conformer_energies")
CASES = [
    pytest.param(path, id=path.stem, marks=pytest.mark.long if path.stem in MINUTES else pytest.mark.slow)
    for path in SCRIPTS
]


@pytest.mark.parametrize("script", CASES)
def test_a_benchmark_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, str(script), "--quick"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert isinstance(json.loads(done.stdout.strip().splitlines()[-1]), dict)
