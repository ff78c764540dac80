"""From QCSchema's atomic units to ours."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from qcelemental.models.v2 import AtomicInput, AtomicResult

from sddfkit.qc import compute, extract
from sddfkit.qc.properties import PROPERTIES, PropertyError


def test_units_and_shapes(calculated: Callable[[str, str], AtomicResult]) -> None:
    result = calculated("tblite", "water")
    values = extract(result)
    assert list(values) == list(PROPERTIES)
    assert values["energy"] == pytest.approx(result.properties.return_energy * 27.211386, rel=1e-7)
    assert values["forces"].shape == (3, 3)
    np.testing.assert_allclose(values["forces"], -result.properties.return_gradient * 51.42207, rtol=1e-6)
    np.testing.assert_allclose(values["dipole"], result.properties.scf_dipole_moment * 0.5291772, rtol=1e-6)
    assert 2.0 < np.linalg.norm(values["dipole"]) / 0.2081943 < 2.5, "water has about 2.2 D in GFN2-xTB"


def test_a_result_read_from_json_gives_the_same(calculated: Callable[[str, str], AtomicResult]) -> None:
    result = calculated("tblite", "ammonia")
    from_model, from_json = extract(result), extract(json.loads(result.model_dump_json()))
    for name, value in from_model.items():
        np.testing.assert_array_equal(from_json[name], value)


def test_what_is_not_there_is_named(make_input: Callable[..., AtomicInput], molecules: dict) -> None:
    energy_only = compute(make_input("tblite", molecules["water"], driver="energy"))
    assert set(extract(energy_only, ["energy", "dipole"])) == {"energy", "dipole"}
    with pytest.raises(PropertyError, match="no return_gradient"):
        extract(energy_only, ["forces"])
    with pytest.raises(PropertyError, match="unknown property 'charges'"):
        extract(energy_only, ["charges"])
    with pytest.raises(PropertyError, match="the calculation failed"):
        extract({"success": False, "error": {}}, ["energy"])
