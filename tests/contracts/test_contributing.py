"""CONTRIBUTING says the truth: its examples, taken from its text, keep their contracts and work from end to end.

The names of the tests leave out the name of the examples, so that ``-k`` with that name runs the contracts alone.
"""

import json
import os
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import warm

from sddfkit.data import read_snapshot, to_records
from sddfkit.models import Ensemble

ROOT = Path(__file__).parents[2]
TEXT = ROOT / ".github" / "CONTRIBUTING.md"
PLACES = {
    "toy_net": "sddfkit/models",
    "toy_strategy": "sddfkit/active",
    "toy_engine": "sddfkit/qc/harnesses",
    "toy_property": "sddfkit/qc/properties",
}
"""Where CONTRIBUTING says that each example goes in the tree."""

CONTRACTS = {
    "test_models.py": "test_energy_is_size_extensive[toy]",
    "test_strategies.py": "test_choice[toy]",
    "test_levels.py": "test_forces_are_the_slope_of_the_energy[toy",
    "test_properties.py": "test_a_value_is_finite_and_has_its_shape[toy",
}
"""One test of each family's contract, as it must appear among those that ran."""

BROKEN = {
    # The envelope is left out: energies jump where a neighbour crosses the cutoff.
    "toy_net.py": ("edges.envelope * ", "", "continuous_where_a_pair_crosses_the_cutoff"),
    # The choice depends on the order in which the pool was put together.
    "toy_strategy.py": ("pool = pool.sorted()", "pass", "test_choice"),
    "toy_engine.py": ("kappa + 1.0 / r", "kappa + 2.0 / r", "forces_are_the_slope_of_the_energy"),
    "toy_property.py": ('"scalar"', '"(n, 3)"', "finite_and_has_its_shape"),
}
"""File, what is replaced by what, and the test (of the contract) that must notice."""


def examples() -> dict[str, str]:
    """The code blocks of CONTRIBUTING that name a file of ``mine/``: path below it to content."""
    blocks = re.findall(r"^```(?:python|yaml)\n(.*?)^```", TEXT.read_text(), re.MULTILINE | re.DOTALL)
    paths = [re.search(r"^# mine/(\S+)$", block, re.MULTILINE) for block in blocks]
    return {path[1]: block for path, block in zip(paths, blocks, strict=True) if path}


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """A folder of one's own, in a path with a space."""
    folder = tmp_path / "of my own" / "mine"
    for path, content in examples().items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    return folder


def run(*arguments: str | Path, cwd: Path = ROOT, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module in a process of its own, with `path` as PYTHONPATH."""
    environment = {key: value for key, value in os.environ.items() if key != "SDDFKIT_TEST_MEMBERS"}
    environment["PYTHONPATH"] = str(path or "")
    return warm.run(*map(str, arguments), cwd=cwd, env=environment, timeout=300)


def contracts(cwd: Path, *options: str | Path, path: Path | None = None) -> dict[str, dict[str, str]]:
    """Run contract tests; for each file the tests that ran, with "passed", or the report of what failed."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        files = ("tests/contracts", "--ignore=tests/contracts/test_contributing.py", f"--junitxml={report}")
        done = run("pytest", "-q", "-p", "no:cacheprovider", *files, *options, cwd=cwd, path=path)
        assert done.returncode in (0, 1), done.stdout + done.stderr
        cases = list(ET.parse(report).iter("testcase"))
    outcomes: dict[str, dict[str, str]] = {}
    for case in cases:
        problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
        file = case.attrib["classname"].rsplit(".", 1)[-1] + ".py"
        # The whole report is the element's text: pytest cuts the attribute "message", the sooner the longer its paths.
        text = "passed" if problem is None else problem.text or problem.attrib["message"]
        outcomes.setdefault(file, {})[case.attrib["name"]] = text
    return outcomes


def assert_kept(outcomes: dict[str, dict[str, str]]) -> None:
    for file, test in CONTRACTS.items():
        ran = outcomes.get(file, {})
        assert any(name.startswith(test) for name in ran), f"{file} ran {ran}"
    failed = {name: text for ran in outcomes.values() for name, text in ran.items() if text != "passed"}
    assert not failed


def test_there_is_an_example_for_each_family() -> None:
    yamls = {"conf/model/toy.yaml", "conf/strategy/toy.yaml", "conf/level/toy.yaml"}
    assert set(examples()) == {f"{name}.py" for name in PLACES} | yamls


def test_examples_are_as_tidy_as_the_project(mine: Path) -> None:
    settings = ("--config", ROOT / "pyproject.toml", "--no-cache")
    for command in (("check", *settings), ("format", "--check", *settings)):
        done = run("ruff", *command, mine)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_outside_the_tree_examples_keep_their_contracts(mine: Path) -> None:
    assert_kept(contracts(ROOT, "--members", mine, "-k", "toy"))


@pytest.mark.long
def test_inside_the_tree_they_are_found_without_a_change_elsewhere(mine: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    for folder in ("sddfkit", "flashrmsd_cy", "conf", "tests/contracts"):
        shutil.copytree(ROOT / folder, tree / folder)
    for file in ("pyproject.toml", "tests/conftest.py", "tests/test_config.py"):
        shutil.copy(ROOT / file, tree / file)
    (tree / "sddfkit" / "conf").symlink_to(tree / "conf")  # as in a wheel; the editable install names the original
    for path, content in examples().items():
        content = content.replace("toy_engine.ToyHarness:", "toy:")  # in the tree it goes by its name
        for module, place in PLACES.items():
            content = content.replace(f"_target_: {module}", f"_target_: {place.replace('/', '.')}.{module}")
        module = Path(path).stem
        (tree / (f"{PLACES[module]}/{module}.py" if module in PLACES else path)).write_text(content)
    # The whole contract was run above; here one test of each family shows that its new member is found.
    one_each = "size_extensive or choice or slope or its_shape or test_every_member_composes"
    outcomes = contracts(tree, "tests/test_config.py", "-k", f"toy and ({one_each})", path=tree)
    assert_kept(outcomes)
    composed = {name for name in outcomes["test_config.py"] if name.startswith("test_every_member_composes")}
    assert len(composed) == 3, "their YAML composes"


@pytest.mark.slow
def test_one_run_uses_all_four(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = "conformers.n_conformers=1 loop.rounds=1 loop.train_workers=1 trainer.max_epochs=1 cluster.engines=1"
    members = "model=[toy] strategy=toy level=toy properties=[toy_property.TOY]"
    command = f"active --config-dir mine/conf experiment=smoke {members} {small}".split()
    done = run("sddfkit", *command, f"paths.root={tmp_path}/data", cwd=mine.parent, path=mine)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = tmp_path / "data" / "runs" / "latest"
    monkeypatch.syspath_prepend(mine)  # for the network's class
    assert list(Ensemble.load(folder / "ensemble").members) == ["toy"]
    table = read_snapshot(folder / "snapshot")
    assert table.schema.field("toy_force").metadata[b"unit"].decode() == "eV/Å"
    for record, toy_force in zip(to_records(table), table["toy_force"].to_pylist(), strict=True):
        assert record.level == "toy"
        assert toy_force == pytest.approx(np.linalg.norm(record.forces, axis=1).max())
    rounds = json.loads((folder / "report.json").read_text())["rounds"]
    assert rounds[0]["selected"] and all("keys are rare" in row["reason"] for row in rounds[0]["selected"])


@pytest.mark.slow
def test_what_breaks_a_rule_of_the_science_fails_its_contract(mine: Path) -> None:
    for file, (right, wrong, _) in BROKEN.items():
        text = (mine / file).read_text()
        assert right in text
        (mine / file).write_text(text.replace(right, wrong))
    lost = mine / "conf" / "strategy" / "lost.yaml"
    lost.write_text("_target_: nowhere.Lost\n")
    wanted = " or ".join(test for *_, test in BROKEN.values())
    outcomes = contracts(ROOT, "--members", mine, "-k", f"toy and ({wanted}) or lost and best_first")
    message = outcomes["test_strategies.py"].pop("test_best_first[lost]")
    assert f"{lost} names nowhere.Lost, which cannot be imported" in message and f"PYTHONPATH (now: {mine}" in message
    for file in CONTRACTS:
        ran = outcomes.get(file, {})
        assert any(text != "passed" for text in ran.values()), f"{file} lets a broken member pass: {ran}"


def test_members_that_are_not_there_are_explained(tmp_path: Path) -> None:
    done = run("pytest", "tests/contracts", "--members", tmp_path / "nowhere")
    assert done.returncode == 4 and "there is no such folder" in done.stderr
    done = run("pytest", "tests/contracts", "--members", tmp_path)
    assert done.returncode == 4 and "holds no member" in done.stderr
