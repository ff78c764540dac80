"""The benchmark runs at its smallest size and ends in one line of JSON."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rdkit")
pytest.importorskip("spyrmsd")


def test_quick_run_ends_in_json():
    script = Path(__file__).parents[2] / "benchmarks" / "rmsd.py"
    run = subprocess.run([sys.executable, str(script), "--quick"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    figures = json.loads(run.stdout.splitlines()[-1])
    assert figures["benchmark"] == "rmsd" and len(figures["rows"]) == 10
    assert figures["spyrmsd_over_ours_fit"] > 1
