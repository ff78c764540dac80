"""Checks before a calculation, and its identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from qcelemental.models.v2 import AtomicInput, AtomicSpecification, Molecule

from sddfkit.qc import InputError, Level, atomic_input, compute, content_key
from sddfkit.qc.inputs import Content
from sddfkit.units import BOHR_TO_ANGSTROM

WB97X = AtomicSpecification(
    program="pyscf", driver="gradient", model={"method": "wb97x", "basis": "6-31G(d)"}, keywords={}
)
GFN2 = AtomicSpecification(
    program="tblite", driver="gradient", model={"method": "gfn2-xtb"}, keywords={"accuracy": 1.0}
)
OH = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96]]


def with_basis(basis: str | None) -> AtomicSpecification:
    return AtomicSpecification(program="pyscf", driver="energy", model={"method": "wb97x", "basis": basis})


@pytest.mark.parametrize(
    ("numbers", "positions", "charge", "multiplicity", "specification", "sentence"),
    [
        ([8, 1], [[0, 0, 0], [0, 0, np.nan]], 0, 2, WB97X, "position of atom 1 is not a finite number"),
        ([8, 1], [[0, 0, 0], [0, 0, 0.13]], 0, 2, WB97X, "atoms 0 and 1 are 0.130 Å apart"),
        ([8, 1], [0, 0, 0.96], 0, 2, WB97X, "expected (2, 3) in Å"),
        ([], np.zeros((0, 3)), 0, 1, WB97X, "at least one"),
        ([8.0, 1.0], OH, 0, 2, WB97X, "integers"),
        ([8, 1], OH, 0, 1, WB97X, "the lowest possible one is 2"),
        ([8, 1], OH, 0, 12, WB97X, "impossible with 9 electrons"),
        ([8, 1], OH, 0, 0, WB97X, "expected 1, 2, 3"),
        ([1], [[0, 0, 0]], 1, 1, WB97X, "leaves 0 electrons"),
        ([8, 1], OH, 0.5, 2, WB97X, "expected a whole number"),
        ([92], [[0, 0, 0]], 0, 5, WB97X, "no functions for U"),
        ([3], [[0, 0, 0]], 0, 2, with_basis("6-31+G(foo)"), "did you mean 6-31+g(d)"),
        ([8, 1], OH, 0, 2, with_basis(None), "needs the name of a basis set"),
        ([8, 1], OH, 0, 1, GFN2, "the lowest possible one is 2"),
    ],
)
def test_guards_refuse_with_a_sentence(
    numbers: Any, positions: Any, charge: Any, multiplicity: int, specification: AtomicSpecification, sentence: str
) -> None:
    with pytest.raises(InputError) as caught:
        atomic_input(numbers, positions, charge, multiplicity, specification)
    assert sentence in str(caught.value)


def test_an_auxiliary_basis_without_the_element_is_refused(levels: Callable[[str], Level]) -> None:
    specification = levels("wb97x_631gd").specification("pyscf")
    with pytest.raises(InputError, match="cc-pvdz-jkfit has no functions for Li"):
        atomic_input([3], np.zeros((1, 3)), 0, 2, specification)


def test_the_same_guards_hold_for_input_from_elsewhere() -> None:
    close = Molecule(
        symbols=["O", "H", "H"], geometry=[0, 0, 0, 0, 0, 0.3, 1.8, 0, 0], fix_com=True, fix_orientation=True
    )
    turning = Molecule(symbols=["O", "H", "H"], geometry=[0, 0, 0, 0, 0, 1.8, 1.8, 0, 0])
    for molecule, sentence in ((close, "Å apart"), (turning, "fix_com")):
        failure = compute(AtomicInput(molecule=molecule, specification=WB97X))
        assert not failure.success
        assert failure.error.error_type == "input"
        assert sentence in failure.error.error_message


def test_the_frame_is_kept() -> None:
    positions = np.array([[5.0, -3.0, 2.0], [5.3, -3.2, 2.9], [5.9, -2.8, 1.7]])
    molecule = atomic_input([8, 1, 1], positions, 0, 1, WB97X).molecule
    np.testing.assert_allclose(molecule.geometry * BOHR_TO_ANGSTROM, positions, atol=1e-8)
    assert molecule.fix_com and molecule.fix_orientation and molecule.fix_symmetry == "c1"


# Coordinates on a grid of 1e-6 bohr lie far from where rounding to 1e-8 bohr turns over.
grid = hnp.arrays(np.int64, (3, 3), elements=st.integers(-500_000, 500_000))
noise = hnp.arrays(np.float64, (3, 3), elements=st.floats(-1e-10, 1e-10))
APART = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 4.0], [4.0, 1.0, 1.0]])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
@given(grid, noise)
def test_rounding_noise_does_not_change_the_key(steps: np.ndarray, noise: np.ndarray) -> None:
    bohr = APART + steps * 1e-6
    keys = {
        content_key(atomic_input([8, 1, 1], b * BOHR_TO_ANGSTROM, 0, 1, GFN2), "0.8.0") for b in (bohr, bohr + noise)
    }
    assert len(keys) == 1


@settings(max_examples=30, deadline=None)
@given(grid, st.integers(0, 2), st.integers(0, 2))
def test_a_moved_atom_changes_the_key(steps: np.ndarray, atom: int, axis: int) -> None:
    bohr = APART + steps * 1e-6
    moved = bohr.copy()
    moved[atom, axis] += 2e-8
    keys = {content_key(atomic_input([8, 1, 1], b * BOHR_TO_ANGSTROM, 0, 1, GFN2), "0.8.0") for b in (bohr, moved)}
    assert len(keys) == 2


def test_what_changes_the_key_and_what_does_not() -> None:
    positions = APART * BOHR_TO_ANGSTROM

    def key(charge: int = 0, multiplicity: int = 1, version: str = "0.8.0", z: int = 8, **changed: Any) -> str:
        job = atomic_input([z, 1, 1], positions, charge, multiplicity, GFN2)
        specification = AtomicSpecification(**{**GFN2.model_dump(), **changed})
        return content_key(job.model_copy(update={"specification": specification}), version)

    different = [
        key(),
        key(charge=2),
        key(multiplicity=3),
        key(z=16),
        key(version="0.9.0"),
        key(driver="energy"),
        key(program="xtb"),
        key(keywords={"accuracy": 0.5}),
        key(model={"method": "gfn1-xtb"}),
    ]
    assert len(set(different)) == len(different)
    same = [
        key(version="0.8.3"),
        key(keywords={"accuracy": 1}),
        key(extras={"sddfkit": {"threads": 8}}),
        key(program="TBLITE"),
    ]
    assert set(same) == {key()}


def test_the_key_survives_json_and_releases() -> None:
    """A stored data base is looked up by these keys: a change of this one makes all of it unknown."""
    job = atomic_input([8, 1, 1], APART * BOHR_TO_ANGSTROM, 0, 1, GFN2)
    assert content_key(job, "0.8.0") == "9a691428fe8b5e5d17e65c3bf20cf6142c8057ae783102072ebccfcc7bd186bb"
    assert content_key(AtomicInput(**json.loads(job.model_dump_json())), "0.8.0") == content_key(job, "0.8.0")


def _key_by_the_book(document: AtomicInput, version: str) -> str:
    """The key as the text says: a hash of JSON with sorted names. Stores that exist hold such keys."""
    molecule, specification = document.molecule, document.specification
    keywords = {
        name.lower(): float(v) if isinstance(v, (int, float)) else v for name, v in specification.keywords.items()
    }
    content = {
        "atomic_numbers": [int(z) for z in molecule.atomic_numbers],
        "geometry_1e-8_bohr": np.rint(np.asarray(molecule.geometry) / 1e-8).astype(int).ravel().tolist(),
        "charge": float(molecule.molecular_charge),
        "multiplicity": int(molecule.molecular_multiplicity),
        "method": specification.model.method.lower(),
        "basis": str(specification.model.basis or "").lower(),
        "keywords": keywords,
        "driver": specification.driver.value,
        "program": specification.program.lower(),
        "version": ".".join(version.split(".")[:2]),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class _Structure(NamedTuple):
    record_id: str
    name: str
    charge: int
    multiplicity: int
    atomic_numbers: np.ndarray
    positions: np.ndarray


@given(
    shifts=hnp.arrays(float, st.tuples(st.integers(1, 6), st.just(3)), elements=st.floats(-0.2, 0.2)),
    charge=st.integers(-1, 1),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_content_and_models_have_the_same_key_and_the_same_input(shifts: np.ndarray, charge: int) -> None:
    numbers = np.full(len(shifts), 6, dtype=np.int32)
    positions = np.arange(len(shifts))[:, None] * np.array([1.5, 0.0, 0.0]) + shifts
    multiplicity = 1 + (6 * len(shifts) - charge) % 2
    whole = atomic_input(numbers, positions, charge, multiplicity, GFN2)
    molecule = Molecule(
        symbols=["C"] * len(shifts), geometry=positions / BOHR_TO_ANGSTROM, molecular_charge=charge,
        molecular_multiplicity=multiplicity, fix_com=True, fix_orientation=True, fix_symmetry="c1",
    )  # fmt: skip
    assert whole == AtomicInput(molecule=molecule, specification=GFN2)
    expected = _key_by_the_book(whole, "0.8.1")
    structure = _Structure("", "", charge, multiplicity, numbers, positions)
    (quick,) = Content.unchecked([structure], GFN2)
    stored = Content.of_document(json.loads(whole.model_dump_json()))
    checked = Content.checked(numbers, positions, charge, multiplicity, GFN2)
    assert {content.key("0.8.0") for content in (quick, stored, checked, Content.of(whole))} == {expected}
    assert content_key(whole, "0.8.9") == expected
    assert AtomicInput(**json.loads(json.dumps(checked.document()))) == whole


def test_quick_contents_leave_what_is_wrong_to_the_checks() -> None:
    good = _Structure("", "", 0, 2, np.array([8, 1], dtype=np.int32), np.array(OH))
    for wrong in (
        good._replace(positions=np.array([[0, 0, 0], [0, 0, np.nan]])),
        good._replace(positions=np.zeros((3, 3))),
        good._replace(atomic_numbers=np.array([8.0, 1.0])),
    ):
        with pytest.raises(ValueError, match=r"wrong shape|no numbers"):
            Content.unchecked([good, wrong], WB97X)
    assert Content.unchecked([], WB97X) == []
