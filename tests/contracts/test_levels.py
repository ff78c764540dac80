"""What every level promises with every program that is found here; members are found by globbing ``conf/level``.

A program that breaks one of these gives labels that no network can learn from, or that the store files wrongly.
"""

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import members
import numpy as np
import pytest
from hydra.utils import instantiate

from sddfkit.qc import ProgramMissingError, atomic_input, compute, content_key, extract, refusal
from sddfkit.qc.harnesses import Harness, harness
from sddfkit.qc.inputs import InputError
from sddfkit.qc.levels import Level

MEMBERS = members.configs("level")
PAIRS = [(path, program) for path in MEMBERS for program in members.settings(path)["programs"]]
every_level = pytest.mark.parametrize(
    ("path", "program"), PAIRS, ids=[f"{path.stem}-{program}" for path, program in PAIRS]
)


class Molecule(NamedTuple):
    """atomic_numbers (n,), positions (n, 3) Å; neutral, closed shell, off its minimum and in no special frame."""

    atomic_numbers: np.ndarray
    positions: np.ndarray


MOLECULES = (
    Molecule(np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.117], [0.02, 0.757, -0.471], [0.0, -0.757, -0.466]])),
    Molecule(np.array([1, 1]), np.array([[0.1, 0.0, 0.0], [0.3, 0.5, 0.6]])),
    Molecule(np.array([6, 8]), np.array([[0.1, 0.0, 0.0], [0.4, 0.5, 1.0]])),
    Molecule(np.array([18, 18]), np.array([[0.1, 0.0, 0.0], [0.4, 1.9, 2.9]])),
)
TURN = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))[0]
"""An orthogonal matrix in general position."""

STEP = 2e-3
"""Å, for finite differences."""

# Quadrature grids stay in the laboratory or turn with the molecule, and move with the atoms, which gradients leave out.
FORCE_TOLERANCE = 0.02  # eV/Å, of several eV/Å
ENERGY_TOLERANCE = 2e-3  # eV


@functools.cache
def make(path: Path, program: str) -> Level:
    """Return the level, set to one program."""
    made = instantiate(members.settings(path) | {"program": program})
    assert isinstance(made, Level)
    return made


def found(path: Path, program: str) -> Level:
    """Return the level, or skip the test with the reason why the program cannot be used here."""
    made = make(path, program)
    try:
        made.choose()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    return made


def molecule_for(level: Level) -> Molecule:
    """The first of `MOLECULES` that the level covers."""
    chosen = level.choose()
    reasons = [refusal(molecule.atomic_numbers, 0, 1, level, chosen) for molecule in MOLECULES]
    assert None in reasons, f"level {level.name!r} covers neither H2O nor H2, CO or Ar2: {'; '.join(map(str, reasons))}"
    return MOLECULES[reasons.index(None)]


@functools.cache
def _computed(path: Path, program: str, displaced: bytes, driver: str) -> dict:
    level = make(path, program)
    molecule = molecule_for(level)
    positions = np.frombuffer(displaced).reshape(-1, 3)
    result = compute(atomic_input(molecule.atomic_numbers, positions, 0, 1, level.specification(program, driver)))
    assert result.success, result.error
    return json.loads(result.model_dump_json())


def computed(path: Path, program: str, positions: np.ndarray, driver: str = "gradient") -> dict:
    """The result for the level's molecule at these positions, as its JSON reads; computed once per session."""
    return _computed(path, program, np.ascontiguousarray(positions, dtype=float).tobytes(), driver)


def energy_and_forces(path: Path, program: str, positions: np.ndarray) -> tuple[float, np.ndarray]:
    values = extract(computed(path, program, positions), ("energy", "forces", "dipole"))
    assert np.asarray(values["energy"]).shape == () and np.isfinite(values["energy"])
    assert values["forces"].shape == positions.shape and np.isfinite(values["forces"]).all()
    assert values["dipole"].shape == (3,) and np.isfinite(values["dipole"]).all()
    return float(values["energy"]), values["forces"]


def test_there_are_levels_and_each_of_their_programs_has_a_harness():
    assert {"gfn2", "wb97x_631gd", "wb97x_631gd_exact"} <= set(members.names(MEMBERS))
    for path, program in PAIRS:
        assert isinstance(harness(program), Harness), f"{path}: {program}"


@every_level
def test_forces_are_the_slope_of_the_energy(path, program):
    positions = molecule_for(found(path, program)).positions
    _, forces = energy_and_forces(path, program, positions)
    direction = np.zeros_like(positions)
    direction[1] = [0.0, 0.6, -0.8]
    slope = [
        extract(computed(path, program, positions + sign * STEP * direction, "energy"), ["energy"])["energy"]
        for sign in (1, -1)
    ]
    assert np.sum(forces * direction) == pytest.approx(-(slope[0] - slope[1]) / (2 * STEP), abs=FORCE_TOLERANCE)
    assert np.abs(forces).max() > FORCE_TOLERANCE, "so small a force could not fail here"
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=FORCE_TOLERANCE, err_msg="a molecule pushes itself")


@every_level
def test_the_frame_of_the_input_is_kept(path, program):
    positions = molecule_for(found(path, program)).positions
    energy, forces = energy_and_forces(path, program, positions)
    turned_energy, turned_forces = energy_and_forces(path, program, positions @ TURN.T + [3.0, -2.0, 5.0])
    assert turned_energy == pytest.approx(energy, abs=ENERGY_TOLERANCE)
    np.testing.assert_allclose(turned_forces, forces @ TURN.T, atol=FORCE_TOLERANCE)
    returned = computed(path, program, positions)["molecule"]
    np.testing.assert_allclose(np.reshape(returned["geometry"], (-1, 3)) * 0.52917721067, positions, atol=1e-7)


@every_level
def test_the_energy_alone_is_the_same(path, program):
    positions = molecule_for(found(path, program)).positions
    energy, _ = energy_and_forces(path, program, positions)
    alone = extract(computed(path, program, positions, "energy"), ["energy"])["energy"]
    assert alone == pytest.approx(energy, abs=1e-5)


@every_level
def test_a_result_is_json_and_says_who_made_it(path, program):
    level = found(path, program)
    again = computed(path, program, molecule_for(level).positions)
    assert again["success"] is True
    assert again["provenance"]["creator"]
    assert again["provenance"]["version"].startswith(level.choose().version.split(".")[0])
    assert again["properties"]["return_energy"] == pytest.approx(again["properties"]["scf_total_energy"])
    np.testing.assert_array_equal(again["return_result"], again["properties"]["return_gradient"])


@every_level
def test_the_key_follows_the_content(path, program):
    level = make(path, program)
    try:
        version = harness(program).get_version()
    except Exception:
        version = "1.2.3"  # the program is missing; its keys are made all the same
    numbers, positions = MOLECULES[0] if program in ("psi4", "pyscf", "tblite") else molecule_for(level)
    document = atomic_input(numbers, positions, 0, 1, level.specification(program))
    key = content_key(document, version)
    assert key == content_key(document, version)
    assert key != content_key(document, "0.0.1")
    assert key != content_key(document, f"{version}9" if version.count(".") == 1 else f"{version.split('.')[0]}.999")
    moved = positions.copy()
    moved[0, 2] += 1e-6
    assert key != content_key(atomic_input(numbers, moved, 0, 1, level.specification(program)), version)
    assert key != content_key(atomic_input(numbers, positions, 0, 1, level.specification(program, "energy")), version)


@every_level
def test_nonsense_is_refused_before_it_starts_and_is_a_value_after(path, program):
    level = found(path, program)
    numbers, positions = molecule_for(level)
    specification = level.specification(program)
    for charge, multiplicity, where in (
        (0, 2, positions),
        (1, 1, positions),
        (0, 1, positions * 0),
        (0, 1, positions * np.nan),
    ):
        with pytest.raises(InputError):
            atomic_input(numbers, where, charge, multiplicity, specification)
    good = atomic_input(numbers, positions, 0, 1, specification)
    close = type(good.molecule)(**{**good.molecule.model_dump(), "geometry": np.asarray(good.molecule.geometry) * 0.1})
    hessian = type(specification)(**{**specification.model_dump(), "driver": "hessian"})
    for wrong in ({"molecule": close}, {"specification": hessian}):
        failure = compute(good.model_copy(update=wrong))
        assert not failure.success
        assert failure.error.error_type == "input", failure.error
        assert failure.error.error_message


@every_level
def test_another_process_gives_the_same_and_leaves_no_file(path, program, tmp_path):
    """The worker process finds the harness by itself, from the name or dotted path in the specification."""
    level = found(path, program)
    numbers, positions = molecule_for(level)
    document = atomic_input(numbers, positions, 0, 1, level.specification(program, "energy"))
    job = json.dumps({"key": "k", "input": json.loads(document.model_dump_json())})
    done = subprocess.run(
        [sys.executable, "-m", "sddfkit.qc.worker"],
        input=job + "\n",
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["event"] for answer in answers] == ["ready", "started", "finished"]
    there = extract(answers[-1]["result"], ["energy"])["energy"]
    here = extract(computed(path, program, positions, "energy"), ["energy"])["energy"]
    assert there == pytest.approx(here, abs=1e-6)
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_left_where_one_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path, program in PAIRS:
        try:
            level = found(path, program)
        except pytest.skip.Exception:
            continue
        numbers, positions = molecule_for(level)
        assert compute(atomic_input(numbers, positions, 0, 1, level.specification(program, "energy"))).success
    assert list(tmp_path.iterdir()) == []
