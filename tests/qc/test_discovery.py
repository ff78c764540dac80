"""Programs and observables are found by themselves, or by dotted path; what is missing or broken is a sentence."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sddfkit.qc import (
    InputError,
    Level,
    ProgramBrokenError,
    ProgramMissingError,
    atomic_input,
    compute,
    extract,
    harness,
    property_named,
)
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.qc.properties import PROPERTIES, PropertyError

ROOT = Path(__file__).parents[2]

SPRINGS = '''"""Atoms joined by springs: E = Σ k/2 (r - r0)² over all pairs."""
import numpy as np
from sddfkit.qc.harnesses.base import Harness, atomic_result, refuse_driver
from sddfkit.qc.properties.base import Property

class SpringHarness(Harness):
    _defaults = {"name": "springs", "scratch": False, "thread_safe": True, "thread_parallel": False,
                 "node_parallel": False, "managed_memory": False}
    own_methods = {"springs": frozenset(range(1, 119))}

    def problem(self):
        return None

    def get_version(self):
        return "1.0"

    def compute(self, input_data, config):
        refuse_driver(input_data, "springs")
        x = np.asarray(input_data.molecule.geometry)
        k, length = (input_data.specification.keywords[name] for name in ("k", "length"))
        vector = x[:, None] - x[None, :]
        r = np.linalg.norm(vector, axis=-1) + np.eye(len(x))
        stretch = (r - length) * (1 - np.eye(len(x)))
        gradient = (k * stretch / r)[:, :, None] * vector
        return atomic_result(input_data, program="Springs", version="1.0", energy=k * (stretch**2).sum() / 4,
                             gradient=gradient.sum(1), dipole=np.zeros(3), properties={})

ATOMS = Property("n_atoms", "float64", "1", "scalar", lambda r: float(r["properties"]["calcinfo_natom"]))
'''
OXYGEN = np.array([8, 8]), np.array([[0.0, 0.0, 0.0], [0.3, 0.4, 1.2]])


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable folder with Springs in a module whose name no other test has."""
    (tmp_path / f"mine_{tmp_path.name}").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (package := tmp_path / f"mine_{tmp_path.name}").joinpath("toy.py").write_text(SPRINGS)
    return package


def level_with(program: str, **changed: object) -> Level:
    return Level("springs", "springs", None, {program: {"k": 0.5, "length": 2.0}}, **changed)  # type: ignore[arg-type]


def test_every_harness_of_the_package_is_found() -> None:
    assert set(HARNESSES) == {"psi4", "pyscf", "tblite"}
    for name, found in HARNESSES.items():
        assert harness(name) is harness(name.upper()) is found
        assert found.name == name


def test_a_harness_from_outside_computes_here_and_in_a_worker(mine: Path) -> None:
    path = f"{mine.name}.toy.SpringHarness"
    level = level_with(path)
    chosen = level.choose()
    assert (chosen.program, chosen.version) == (path, "1.0")
    document = atomic_input(*OXYGEN, 0, 1, level.specification(path))
    values = extract(compute(document), ["energy", "forces", f"{mine.name}.toy.ATOMS"])
    assert values["energy"] > 0
    assert np.abs(values["forces"]).max() > 0
    assert values[f"{mine.name}.toy.ATOMS"] == 2.0
    job = json.dumps({"key": "k", "input": json.loads(document.model_dump_json())})
    worker = [sys.executable, "-m", "sddfkit.qc.worker"]
    done = subprocess.run(worker, input=job + "\n", capture_output=True, text=True, check=True, timeout=120)
    assert extract(json.loads(done.stdout.splitlines()[-1])["result"], ["energy"])["energy"] == values["energy"]


def test_a_harness_from_outside_may_have_the_name_of_a_shipped_one(mine: Path) -> None:
    (mine / "other.py").write_text(SPRINGS.replace('"name": "springs"', '"name": "tblite"'))
    path = f"{mine.name}.other.SpringHarness"
    assert compute(atomic_input(*OXYGEN, 0, 1, level_with(path).specification(path))).success
    tblite = Level("x", "gfn2-xtb", None, {"tblite": {}})
    assert compute(atomic_input(*OXYGEN, 0, 3, tblite.specification("tblite"))).provenance.creator == "tblite"


@pytest.mark.parametrize(
    ("name", "source", "error", "sentence"),
    [
        ("psi5", None, ProgramMissingError, "did you mean 'psi4'"),
        ("nowhere_at_all.toy.Harness", None, ProgramMissingError, "there is no module 'nowhere_at_all'"),
        ("{mine}.nowhere.Harness", None, ProgramMissingError, "nowhere'"),
        ("{mine}.toy.Spring", None, ProgramMissingError, "harnesses there: SpringHarness"),
        ("{mine}.toy.ATOMS", None, ProgramMissingError, "no class 'ATOMS'"),
        (
            "{mine}.needy.H",
            "import a_program_nobody_has\n",
            ProgramBrokenError,
            "needs the module 'a_program_nobody_has'",
        ),
        ("{mine}.wrong.H", "def f(:\n", ProgramBrokenError, "SyntaxError"),
        ("{mine}.angry.H", "raise OSError('libfoo.so.1: not found')\n", ProgramBrokenError, "libfoo.so.1"),
        (
            "{mine}.half.H",
            "from sddfkit.qc.harnesses import Harness\nclass H(Harness):\n    pass\n",
            ProgramBrokenError,
            "It needs _defaults",
        ),
    ],
)
def test_a_harness_that_cannot_be_loaded_is_a_sentence(
    mine: Path, name: str, source: str | None, error: type[Exception], sentence: str
) -> None:
    name = name.format(mine=mine.name)
    if source is not None:
        (mine / f"{name.split('.')[1]}.py").write_text(source)
    for call in (harness, lambda name: level_with(name).choose()):
        with pytest.raises(ProgramMissingError) as raised:
            call(name)
        assert type(raised.value) is error
        assert sentence in str(raised.value)
    with pytest.raises(InputError) as refused:
        atomic_input(*OXYGEN, 0, 1, level_with(name).specification(name))
    assert sentence in str(refused.value)


def test_one_bad_file_in_the_package_takes_nothing_else_away(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "sddfkit", tree / "sddfkit", ignore=shutil.ignore_patterns("__pycache__", "static"))
    (tree / "sddfkit/qc/harnesses/springs.py").write_text(SPRINGS.partition("ATOMS")[0])
    (tree / "sddfkit/qc/harnesses/needy.py").write_text("import a_program_nobody_has\n")
    (tree / "sddfkit/qc/properties/wrong.py").write_text("1 / 0\n")
    script = """
import sddfkit.qc as qc, sys
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.qc.properties import PROPERTIES
print(sorted(HARNESSES), list(PROPERTIES))
for call, name in ((qc.harness, "needy"), (qc.harness, "nothing"), (qc.property_named, "wrong")):
    try:
        call(name)
    except (qc.ProgramMissingError, ValueError) as error:
        print(type(error).__name__, error)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(tree)},
    )
    names, needy, nothing, wrong = done.stdout.splitlines()
    assert names.startswith("['psi4', 'pyscf', 'springs', 'tblite'] ['energy', 'forces', 'dipole', ")
    assert "'gap'" in names and "'wrong'" not in names
    assert needy.startswith("ProgramBrokenError") and "a_program_nobody_has" in needy
    assert nothing.startswith("ProgramMissingError") and "needy cannot be loaded" in nothing
    assert wrong.startswith("PropertyError") and "ZeroDivisionError" in wrong


def test_a_missing_program_is_passed_over_and_a_broken_one_is_not(
    levels: Callable[[str], Level], monkeypatch: pytest.MonkeyPatch
) -> None:
    level = levels("wb97x_631gd")
    monkeypatch.setenv("SDDFKIT_PSI4_PYTHON", "/nowhere/python3")
    assert HARNESSES["psi4"].broken()
    with pytest.raises(ProgramBrokenError) as raised:
        level.choose()
    assert "No such file" in str(raised.value)
    assert "level.program=pyscf" in str(raised.value)
    assert Level(level.name, level.method, level.basis, level.programs, program="pyscf").choose().program == "pyscf"
    monkeypatch.delenv("SDDFKIT_PSI4_PYTHON")
    monkeypatch.setenv("PATH", "/nowhere")
    assert not HARNESSES["psi4"].broken()
    assert level.choose().program == "pyscf"


def test_a_harness_that_raises_when_looked_for_is_broken(mine: Path) -> None:
    (mine / "rude.py").write_text(SPRINGS.replace("        return None", "        raise RuntimeError('no licence')"))
    with pytest.raises(ProgramBrokenError, match="no licence"):
        level_with(f"{mine.name}.rude.SpringHarness").choose()


def test_properties_are_found_by_name_and_by_path() -> None:
    assert list(PROPERTIES)[:3] == ["energy", "forces", "dipole"]
    assert property_named("sddfkit.qc.properties.energy.ENERGY") is property_named("energy")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("force", "did you mean 'forces'"),
        ("nowhere_at_all.CHARGE", "No module named 'nowhere_at_all'"),
        ("sddfkit.qc.properties.energy.ENERGIES", "there: ENERGY"),
    ],
)
def test_a_property_that_is_not_there_is_a_sentence(name: str, sentence: str) -> None:
    with pytest.raises(PropertyError) as raised:
        property_named(name)
    assert sentence in str(raised.value)
