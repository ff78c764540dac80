"""Small molecules, the shipped levels, and real results computed once per session."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf
from qcelemental.models.v2 import AtomicInput, AtomicResult

from sddfkit.qc import Level, atomic_input, compute
from sddfkit.qc.harnesses import HARNESSES

LEVELS = Path(__file__).parents[2] / "conf" / "level"


class Geometry(NamedTuple):
    """atomic_numbers (n,), positions (n, 3) Å, charge, multiplicity."""

    atomic_numbers: list[int]
    positions: np.ndarray
    charge: int = 0
    multiplicity: int = 1


WATER = Geometry([8, 1, 1], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]))
AMMONIA = Geometry(
    [7, 1, 1, 1],
    np.array([[0.02, 0.01, 0.12], [0.94, 0.03, -0.26], [-0.46, 0.82, -0.27], [-0.48, -0.80, -0.28]]),
)
METHANOL = Geometry(
    [6, 8, 1, 1, 1, 1],
    np.array(
        [
            [-0.047, 0.664, 0.0],
            [-0.047, -0.758, 0.05],
            [-1.092, 0.970, 0.02],
            [0.438, 1.071, 0.892],
            [0.438, 1.071, -0.88],
            [0.861, -1.057, 0.03],
        ]
    ),
)
HYDROXIDE = Geometry([8, 1], np.array([[1.0, 0.0, 3.0], [1.0, 0.0, 3.96]]), -1, 1)
METHYL = Geometry(
    [6, 1, 1, 1], np.array([[0.0, 0.0, 0.0], [1.08, 0.0, 0.0], [-0.54, 0.935, 0.0], [-0.54, -0.935, 0.0]]), 0, 2
)
MOLECULES = {"water": WATER, "ammonia": AMMONIA, "methanol": METHANOL, "hydroxide": HYDROXIDE, "methyl": METHYL}


def read_level(name: str) -> Level:
    level = instantiate(OmegaConf.load(LEVELS / f"{name}.yaml"))
    assert isinstance(level, Level)
    return level


def level_of(program: str) -> Level:
    return read_level("gfn2" if program == "tblite" else "wb97x_631gd")


@pytest.fixture
def molecules() -> dict[str, Geometry]:
    return MOLECULES


@pytest.fixture(scope="session")
def levels() -> Callable[[str], Level]:
    """The shipped level of that name."""
    return read_level


@pytest.fixture(scope="session")
def make_input() -> Callable[..., AtomicInput]:
    """``make_input(program, geometry, driver=…, **changed keywords)`` at the shipped level."""

    def make(program: str, geometry: Geometry, driver: Any = "gradient", **keywords: Any) -> AtomicInput:
        level = level_of(program)
        changed = Level(level.name, level.method, level.basis, {program: {**level.programs[program], **keywords}})
        return atomic_input(*geometry, changed.specification(program, driver))

    return make


@pytest.fixture(scope="session")
def calculated(make_input: Callable[..., AtomicInput]) -> Callable[[str, str], AtomicResult]:
    """``calculated(program, molecule)``: a real result; skips where the program is missing."""

    @functools.cache
    def run(program: str, molecule: str) -> AtomicResult:
        result = compute(make_input(program, MOLECULES[molecule]))
        assert result.success, result.error
        return result

    def calculated(program: str, molecule: str) -> AtomicResult:
        require(program)
        return run(program, molecule)

    return calculated


def require(program: str) -> None:
    problem = HARNESSES[program].problem()
    if problem is not None:
        pytest.skip(problem)


@pytest.fixture
def needs_psi4() -> None:
    """Skip, with the reason, where Psi4 cannot be used."""
    require("psi4")


@pytest.fixture
def water_cluster() -> Iterator[Geometry]:
    """Thirty water molecules: minutes of work and hundreds of MiB at any DFT level."""
    count = 30
    shifts = np.repeat(np.arange(count)[:, None] * np.array([[0.0, 3.0, 0.0]]), 3, axis=0)
    yield Geometry(WATER.atomic_numbers * count, np.tile(WATER.positions, (count, 1)) + shifts)
