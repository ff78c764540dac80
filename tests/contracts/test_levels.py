"""What every level promises with every program that is found here; levels are found by globbing ``conf/level``."""

import json
from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from sddfkit.qc.compute import compute
from sddfkit.qc.inputs import InputError, atomic_input, content_key
from sddfkit.qc.levels import Level, ProgramMissingError
from sddfkit.qc.properties import extract

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "level").glob("*.yaml"))


def levels() -> list[tuple[str, str]]:
    return [(path.stem, program) for path in CONFIGS for program in OmegaConf.load(path).programs]


WATER = np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.117], [0.02, 0.757, -0.471], [0.0, -0.757, -0.466]])


def make(level: str, program: str) -> Level:
    made = instantiate(OmegaConf.load(next(p for p in CONFIGS if p.stem == level)), program=program, _convert_="all")
    try:
        made.choose()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    return made


def energy_and_forces(level: Level, positions: np.ndarray, numbers: np.ndarray = WATER[0]) -> tuple[float, np.ndarray]:
    result = compute(atomic_input(numbers, positions, 0, 1, level.specification(level.program)))
    assert result.success, result
    values = extract(result, ("energy", "forces", "dipole"))
    assert np.isfinite(values["dipole"]).all()
    return float(values["energy"]), np.asarray(values["forces"]).reshape(-1, 3)


@pytest.mark.parametrize(("level", "program"), levels())
def test_forces_are_the_slope_of_the_energy(level, program):
    made = make(level, program)
    _numbers, positions = WATER
    _, forces = energy_and_forces(made, positions)
    direction = np.zeros((3, 3))
    direction[1] = [0.0, 0.6, -0.8]
    step = 2e-3
    slope = [energy_and_forces(made, positions + sign * step * direction)[0] for sign in (1, -1)]
    # quadrature grids move with the atoms, which the gradient leaves out: 5 meV/Å of several eV/Å
    assert np.sum(forces * direction) == pytest.approx(-(slope[0] - slope[1]) / (2 * step), abs=0.02)
    np.testing.assert_allclose(forces.sum(axis=0), 0.0, atol=0.02)


@pytest.mark.parametrize(("level", "program"), levels())
def test_a_result_is_json_and_says_who_made_it(level, program):
    made = make(level, program)
    chosen = made.choose()
    document = atomic_input(*WATER, 0, 1, made.specification(program))
    result = compute(document)
    again = json.loads(result.model_dump_json())
    assert again["success"] and again["provenance"]["creator"].lower() == program
    assert again["provenance"]["version"].startswith(chosen.version.split(".")[0])
    key = content_key(document, chosen.version)
    assert key == content_key(document, chosen.version) != content_key(document, "0.0.1")
    other = atomic_input(WATER[0], WATER[1] + [[0, 0, 0.01], [0, 0, 0], [0, 0, 0]], 0, 1, made.specification(program))
    assert key != content_key(other, chosen.version)


@pytest.mark.parametrize(("level", "program"), levels())
def test_nonsense_is_refused_before_it_starts(level, program):
    specification = make(level, program).specification(program)
    numbers, positions = WATER
    for charge, multiplicity, where in (
        (0, 2, positions),
        (1, 1, positions),
        (0, 1, positions * 0),
        (0, 1, positions * np.nan),
    ):
        with pytest.raises(InputError):
            atomic_input(numbers, where, charge, multiplicity, specification)


def test_no_file_is_left_where_one_works(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for level, program in levels():
        try:
            made = make(level, program)
        except pytest.skip.Exception:
            continue
        energy_and_forces(made, WATER[1])
    assert list(tmp_path.iterdir()) == []
