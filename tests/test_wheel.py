"""The wheel, built from a clean copy and installed beside nothing but what it says it needs. No network."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from email import message_from_string
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SOURCES = ("conf", "flashrmsd_cy", "sddfkit")
MADE = shutil.ignore_patterns("*.so", "*.c", "*.html", "__pycache__", "*.part")

# One worker builds it, once.
pytestmark = pytest.mark.xdist_group("wheel")


def _run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def clean_environment():
    """The environment of a person who never heard of this checkout."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "SDDFKIT", "PIP_"))}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory, clean_environment):
    pytest.importorskip("build")
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=MADE)
    for name in ("README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # What is in the wheel is tested here, not how fast it is: the compiler need not take a minute over it.
    (source / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text().replace('"-O3"', '"-O0"'))
    folder = tmp_path_factory.mktemp("dist")
    command = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, source)
    _run(*command, cwd=source, env=clean_environment)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory, clean_environment):
    """A folder with the wheel's contents and commands alone."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", folder)
    _run(*pip, wheel, env=clean_environment)
    return folder


def test_name_and_tags(wheel):
    name, version, _, tags = parse_wheel_filename(wheel.name)
    assert (name, str(version)) == ("sddfkit", PROJECT["version"])
    (tag,) = tags
    assert tag.interpreter == tag.abi == f"cp{sys.version_info.major}{sys.version_info.minor}"
    assert tag.platform != "any", "the wheel holds a compiled module"


def test_everything_and_nothing_else(wheel):
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    compiled = {name for name in held if name.endswith((".so", ".pyd"))}
    extensions = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    assert {name.split(".")[0] for name in compiled} == {module["name"].replace(".", "/") for module in extensions}
    wanted = set()
    for name in SOURCES:
        for path in (ROOT / name).rglob("*"):
            relative = path.relative_to(ROOT).as_posix()
            if path.is_file() and not MADE(str(path.parent), [path.name, *path.parent.parts]) and path.name[0] != ".":
                wanted.add(f"sddfkit/{relative}" if name == "conf" else relative)
    assert held - compiled == wanted
    assert {"sddfkit/viz/static/3Dmol-min.js", "sddfkit/viz/static/3Dmol-LICENSE"} <= held


def test_a_base_install_asks_for_numpy_alone(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = message_from_string(archive.read(name).decode())
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    asked = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    assert [r.name for r in asked if r.marker is None or r.marker.evaluate({"extra": ""})] == ["numpy"]
    assert set(metadata.get_all("Provides-Extra")) == set(PROJECT["optional-dependencies"])
    assert len(licences) == 1


@pytest.fixture(scope="module")
def numpy_alone(tmp_path_factory):
    """A folder with NumPy and nothing else of the environment."""
    folder = tmp_path_factory.mktemp("numpy alone")
    place = Path(find_spec("numpy").origin).parents[1]
    for name in ("numpy", "numpy.libs"):
        if (place / name).exists():
            (folder / name).symlink_to(place / name)
    return folder


ACETONE = """acetone


  4  3  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0
{:10.4f}    0.8000    0.0000 C   0  0
{:10.4f}    0.8000    0.0000 C   0  0
    0.0000   -1.2000    0.0000 O   0  0
  1  2  1  0
  1  3  1  0
  1  4  2  0
M  END
$$$$
"""


def test_flashrmsd_works_with_numpy_alone(installed, numpy_alone, clean_environment, tmp_path):
    (tmp_path / "a.sdf").write_text(ACETONE.format(1.3, -1.3) + ACETONE.format(-1.3, 1.3))
    program = f"""
import runpy, sys
from importlib.util import find_spec
sys.path[:0] = [{str(installed)!r}, {str(numpy_alone)!r}]
sys.argv = ["flashrmsd", *sys.argv[1:]]
try:
    runpy.run_path({str(installed / "bin" / "flashrmsd")!r}, run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
allowed = ("flashrmsd_cy", "numpy", "__main__")
homes = tuple(path for path in sys.path if path not in {str(installed)!r} and path not in {str(numpy_alone)!r})
for name, module in sys.modules.items():
    home = getattr(module, "__file__", None) or ""
    assert not home or name.split(".")[0] in allowed or (home.startswith(homes) and "site-packages" not in home), home
assert sys.modules["flashrmsd_cy"].__file__.startswith({str(installed)!r})
for name in ("rdkit", "torch", "scipy", "hydra", "yaml", "pytest"):
    assert find_spec(name) is None, name
"""

    def command(*arguments):
        # Isolated and without site: neither the environment's packages nor the source tree can be imported.
        return _run(sys.executable, "-I", "-S", "-c", program, *arguments, cwd=tmp_path, env=clean_environment)

    assert command("a.sdf", "-x") == "0.000000 0.000000 \n0.000000 0.000000 \n"
    assert command("a.sdf", "a.sdf", "-m", "-n", "--json").count('"exact"') == 2
    assert command("--version") == f"flashrmsd {PROJECT['version']}\n"


@pytest.mark.parametrize("verb", ["active", "label", "train"])
def test_a_base_install_says_what_a_verb_needs(installed, numpy_alone, clean_environment, tmp_path, verb):
    program = f"import sys; sys.path[:0] = [{str(installed)!r}, {str(numpy_alone)!r}]\n"
    program += f"from sddfkit.cli import main; raise SystemExit(main([{verb!r}]))"
    command = (sys.executable, "-I", "-S", "-c", program)
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=clean_environment)
    assert done.returncode != 0 and done.stderr.count("\n") == 1 and "pip install 'sddfkit[all]'" in done.stderr


@pytest.fixture(scope="module")
def python_without_the_tree(installed, tmp_path_factory):
    """An interpreter that sees the installed wheel and the environment's packages, but not the source tree."""
    folder = tmp_path_factory.mktemp("environment")
    _run(sys.executable, "-m", "venv", "--without-pip", folder)
    (site,) = folder.glob("lib/python*/site-packages")
    # A .pth inside a folder that is named in a .pth is not read: the editable install stays invisible.
    (site / "wheel.pth").write_text(f"{installed}\n{Path(find_spec('packaging').origin).parents[1]}\n")
    return folder / "bin" / "python"


def test_sddfkit_labels_without_the_source_tree(installed, python_without_the_tree, clean_environment, tmp_path):
    pytest.importorskip("tblite")
    for name in ("sddfkit", "sddfkit.conf", "flashrmsd_cy"):
        program = f"import {name} as package; print(package.__file__)"
        file = _run(python_without_the_tree, "-c", program, cwd=tmp_path, env=clean_environment).strip()
        assert Path(file).is_relative_to(installed)
    command = (python_without_the_tree, installed / "bin" / "sddfkit", "label", "molecules=smoke", "level=gfn2")
    said = _run(*command, "conformers.n_conformers=1", "name=wheel", cwd=tmp_path, env=clean_environment, timeout=300)
    snapshot = Path(re.search(r"^snapshot: (/.*)$", said, re.MULTILINE)[1])
    assert snapshot.is_relative_to(tmp_path) and list(snapshot.glob("*.parquet"))


# -- what the extras promise ------------------------------------------------------------------------------------------

BASE = ["flashrmsd_cy", "flashrmsd_cy._command", "sddfkit", "sddfkit.cli"]
CONFORMERS = [*BASE, "sddfkit.units", "sddfkit.chem.*", "sddfkit.data.*"]
VERB = ["sddfkit.config", "sddfkit.verbs"]
PROMISES = {
    "": BASE,
    "conformers": CONFORMERS,
    "data": [*CONFORMERS, "h5py", "ase.db"],
    "label": [*CONFORMERS, *VERB, "sddfkit.qc.*", "sddfkit.factory.*", "sddfkit.workflows.label"],
    "train": [
        *CONFORMERS,
        *VERB,
        "sddfkit.models.*",
        "sddfkit.training.*",
        "sddfkit.active.*",
        "sddfkit.dynamics.*",
        "sddfkit.workflows.train",
        "sddfkit.workflows.evaluate",
        "sddfkit.workflows.predict",
    ],
    "view": [*CONFORMERS, "sddfkit.viz.*"],
    "bench": [*CONFORMERS, *VERB, "sddfkit.rmsd_set.*", "sddfkit.factory.*", "biotite.structure.info", "pynauty"],
}
OTHER_PROGRAM = "sddfkit.qc.harnesses.psi4_worker"  # runs in Psi4's own Python


def _asked(extra: str) -> list[Requirement]:
    """What ``pip install sddfkit[extra]`` asks for directly, extras of this project resolved."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for text in PROJECT["optional-dependencies"][extra] if extra else ():
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            found += [inner for name in requirement.extras for inner in _asked(name)]
        else:
            found.append(requirement)
    return [r for r in found if r.marker is None or r.marker.evaluate({"extra": extra})]


def _installed_by(extra: str) -> set[str]:
    """Names of the distributions that come with an extra, as far as they are here."""
    waiting: list[tuple[str, frozenset[str]]] = [(r.name, frozenset(r.extras)) for r in _asked(extra)]
    done: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in done:
            continue
        done.add((name, extras))
        try:
            further: Iterable[str] = requires(name) or ()
        except PackageNotFoundError:
            continue
        for requirement in map(Requirement, further):
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in extras or {""}):
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return {canonicalize_name(name) for name, _ in done}


PROGRAM = """
import importlib, pkgutil
from importlib.machinery import PathFinder

find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *where: None if name.split(".")[0] in refused else find(name, *where)
for name in promised:
    package = importlib.import_module(name.removesuffix(".*"))
    if name.endswith(".*"):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if found.name != other_program:
                importlib.import_module(found.name)
"""


@pytest.mark.parametrize("extra", PROMISES)
def test_an_extra_brings_what_its_packages_import(extra):
    """Each extra alone: everything else of the environment is hidden. `active` and `all` are those together."""
    brought = _installed_by(extra)
    refused = {
        name
        for name, distributions in packages_distributions().items()
        if not {canonicalize_name(d) for d in distributions} & brought and name not in {"sddfkit", "flashrmsd_cy"}
    }
    assert "pytest" in refused and ("torch" in refused) == (extra not in ("train", "bench"))
    values = f"refused = {refused!r}\npromised = {PROMISES[extra]!r}\nother_program = {OTHER_PROGRAM!r}\n"
    _run(sys.executable, "-c", values + PROGRAM, cwd=ROOT)


def test_pinned_versions_are_within_the_bounds():
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pinned = {canonicalize_name(line.split("==")[0]): line.split("==")[1].split()[0] for line in lines if "==" in line}
    build = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"])
    for requirement in [*build, *(r for extra in PROJECT["optional-dependencies"] for r in _asked(extra))]:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} has no line in requirements.lock"
        assert requirement.specifier.contains(version), f"{requirement}, but {version} is pinned"
