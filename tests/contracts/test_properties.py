"""What every observable promises: those of the package, and each `Property` in the files of ``--members`` folders."""

import functools
import importlib
import json
from pathlib import Path

import members
import numpy as np
import pyarrow as pa
import pytest
from hydra.utils import instantiate
from qcelemental.models.v2 import AtomicInput, AtomicResult

from sddfkit.qc import ProgramMissingError, atomic_input, compute, extract, property_named
from sddfkit.qc.properties import PROPERTIES, Property, PropertyError, with_properties

LEVELS = Path(__file__).parents[2] / "conf" / "level"


def outside() -> list[str]:
    """Dotted paths of the properties in the files of ``--members`` folders."""
    return [
        f"{file.stem}.{name}"
        for file in members.member_modules()
        for name, value in vars(importlib.import_module(file.stem)).items()
        if isinstance(value, Property)
    ]


NAMES = [*PROPERTIES, *outside()]
every_property = pytest.mark.parametrize("name", NAMES)

WATER = np.array([8, 1, 1]), np.array([[0.0, 0.0, 0.117], [0.02, 0.757, -0.471], [0.0, -0.757, -0.466]])
TURN = np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]
TURN *= np.linalg.det(TURN)  # a rotation, for some observables change sign in a mirror
CHEAPEST_FIRST = (("gfn2", "tblite"), ("wb97x_631gd", "pyscf"), ("wb97x_631gd", "psi4"))
TOLERANCE = {"gfn2": 1e-4, "wb97x_631gd": 2e-2}
"""Relative, for values of a turned molecule: quadrature grids do not turn with it."""

SHAPES = {"scalar": (), "(3,)": (3,), "(n,)": (3,), "(n, 3)": (3, 3), "(3, 3)": (3, 3), "(modes,)": (3,)}
MATRICES = {"(nao, nao)": (19, 19), "(s, nao, nao)": (1, 19, 19)}
"""Shape in words to shape for water, in 6-31G(d) where it matters."""


def document(level_name: str, program: str, name: str, *, turned: bool = False) -> AtomicInput:
    """The calculation on water from which the property can be read."""
    level = instantiate(members.settings(LEVELS / f"{level_name}.yaml") | {"program": program})
    try:
        level.choose()
    except ProgramMissingError as error:
        pytest.skip(str(error))
    asked = with_properties(level, program, [name])
    positions = WATER[1] @ TURN.T if turned else WATER[1]
    return atomic_input(WATER[0], positions, 0, 1, asked.specification(program))


def result(level_name: str, program: str, name: str, *, turned: bool = False) -> dict:
    """Water's result as its JSON reads."""
    return json.loads(model(level_name, program, name, turned=turned).model_dump_json())


def model(level_name: str, program: str, name: str, *, turned: bool = False) -> AtomicResult:
    """Water's result."""
    return _computed(document(level_name, program, name, turned=turned).model_dump_json())


@functools.cache
def _computed(asked: str) -> AtomicResult:
    outcome = compute(AtomicInput.model_validate_json(asked))
    assert outcome.success, outcome.error
    return outcome


def cheapest(name: str) -> tuple[str, str]:
    """The cheapest level and program whose result holds the property."""
    problems = []
    for level_name, program in CHEAPEST_FIRST:
        try:
            extract(result(level_name, program, name), [name])
        except PropertyError as error:
            problems.append(f"{program}: {error}")
        else:
            return level_name, program
    pytest.fail(f"no shipped level has {name}: " + "; ".join(problems), pytrace=False)


@every_property
def test_name_type_unit_and_shape_are_consistent(name):
    prop = property_named(name)
    assert prop.name.isidentifier() and prop.name == prop.name.lower(), "it names a column"
    assert prop.unit and prop.unit == prop.unit.strip(), 'a number without unit has the unit "1"'
    known = SHAPES | MATRICES
    assert prop.shape in known, f"shape {prop.shape!r} is none of {', '.join(known)}"
    assert prop.arrow_type in (("float64", "string") if prop.shape == "scalar" else ("list<float64>",))
    value_type = pa.type_for_alias(prop.arrow_type) if prop.shape == "scalar" else pa.list_(pa.float64())
    value = extract(result(*cheapest(name), name), [name])[name]
    column = pa.array([np.ravel(value).tolist() if np.ndim(value) else value], type=value_type)
    assert len(column) == 1


@every_property
def test_a_value_is_finite_and_has_its_shape(name):
    value = extract(result(*cheapest(name), name), [name])[name]
    assert np.shape(value) == (SHAPES | MATRICES)[property_named(name).shape]
    if property_named(name).arrow_type == "string":
        assert isinstance(value, str) and value
        return
    assert np.asarray(value).dtype == np.float64
    assert np.isfinite(value).all()


@every_property
def test_a_model_and_its_json_give_the_same(name):
    level_name, program = cheapest(name)
    from_model = extract(model(level_name, program, name), [name])[name]
    np.testing.assert_array_equal(from_model, extract(result(level_name, program, name), [name])[name])


@every_property
def test_the_result_is_left_as_it_was(name):
    given = result(*cheapest(name), name)
    before = json.dumps(given, sort_keys=True)
    extract(given, [name])
    assert json.dumps(given, sort_keys=True) == before


@every_property
def test_what_failed_or_holds_nothing_is_refused(name):
    whole = result(*cheapest(name), name)
    with pytest.raises(PropertyError, match="the calculation failed"):
        extract({**whole, "success": False}, [name])
    with pytest.raises(PropertyError):
        extract({"success": True, "properties": {}, "molecule": whole["molecule"], "extras": {}}, [name])


@every_property
def test_it_turns_with_the_molecule(name):
    prop, (level_name, program) = property_named(name), cheapest(name)
    value = np.asarray(extract(result(level_name, program, name), [name])[name])
    turned = np.asarray(extract(result(level_name, program, name, turned=True), [name])[name])
    if prop.arrow_type == "string":
        assert turned == value
        return
    if prop.shape in MATRICES:  # functions turn, so their matrices do; but not those of s functions alone
        s_only = [0, 1, 2, 15, 16, 17, 18]
        value, turned = (matrix[..., s_only, :][..., s_only] for matrix in (value, turned))
    expected = value
    if prop.turns and prop.shape in ("(3,)", "(n, 3)"):
        expected = value @ TURN.T
    elif prop.turns and prop.shape == "(3, 3)":
        expected = TURN @ value @ TURN.T
    np.testing.assert_allclose(turned, expected, atol=TOLERANCE[level_name] * max(1.0, float(np.abs(value).max())))


def test_no_two_properties_share_a_column():
    columns = [property_named(name).name for name in NAMES]
    assert len(set(columns)) == len(columns), f"column names must differ: {columns}"
