"""flashrmsd_cy stands on NumPy alone, and its command tells about itself without it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import flashrmsd_cy


def _loaded(program):
    program = f"import sys; {program}; print('\\n', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.splitlines()[-1].split()}


def test_use_loads_neither_rdkit_nor_torch_nor_sddfkit():
    loaded = _loaded("from flashrmsd_cy import *; import flashrmsd_cy._command")
    assert "flashrmsd_cy" in loaded and "numpy" in loaded
    assert not loaded & {"rdkit", "sddfkit", "torch", "scipy", "networkx"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_the_command_tells_about_itself_without_numpy(option):
    loaded = _loaded(f"from flashrmsd_cy.cli import main; assert main(['{option}']) == 0")
    assert not loaded & {"numpy", "argparse", "dataclasses", "importlib.metadata"}


def test_molecules_and_their_comparison_need_little():
    """The core is there without NumPy, and nothing that takes long to load."""
    program = (
        "import sys; before = set(sys.modules); from flashrmsd_cy import Molecule, Stereo; "
        "m = Molecule('CHHH', [(0, 1), (0, 2), (0, 3)], stereo=Stereo([(0, (1, 2, 3), 1)])); "
        "assert m.n_automorphisms == 3; m._search(); print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    slow = {"numpy", "dataclasses", "typing", "inspect", "re", "json", "csv", "argparse", "difflib", "pathlib"}
    assert not slow & set(done.stdout.split())


def test_everything_named_is_there():
    assert {name for name in flashrmsd_cy.__all__ if getattr(flashrmsd_cy, name) is None} == set()
    assert set(flashrmsd_cy.__all__) <= set(dir(flashrmsd_cy))
    with pytest.raises(AttributeError, match="no attribute 'rsmd'"):
        flashrmsd_cy.rsmd  # noqa: B018


def test_one_version():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert flashrmsd_cy.__version__ == project["version"]


def test_the_example_of_the_readme_prints_what_it_says(capsys):
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    (example,) = (part for part in readme.split("```")[1::2] if part.startswith("python\nfrom flashrmsd_cy"))
    exec(example.removeprefix("python\n"), {})
    printed = capsys.readouterr().out.splitlines()
    (promised,) = (line.split("#")[1].strip() for line in example.splitlines() if line.startswith("print(result."))
    assert printed[0] == promised
    assert printed[1:] == ["[[0. 0.]", " [0. 0.]]"]
