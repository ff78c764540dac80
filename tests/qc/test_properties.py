"""From QCSchema's atomic units to ours."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
from qcelemental.models.v2 import AtomicInput, AtomicResult

from sddfkit.qc import Level, atomic_input, compute, extract
from sddfkit.qc.properties import PROPERTIES, PropertyError, with_properties


def test_units_and_shapes(calculated: Callable[[str, str], AtomicResult]) -> None:
    result = calculated("tblite", "water")
    values = extract(result)
    assert list(values) == list(PROPERTIES)[:3]
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


@pytest.mark.parametrize("molecule", ["water", "hydroxide", "methyl"])
@pytest.mark.parametrize("program", ["psi4", "pyscf", "tblite"])
def test_charges_add_up_and_show_symmetry(
    calculated: Callable[[str, str], AtomicResult], molecules: dict, program: str, molecule: str
) -> None:
    kinds = ["mulliken_charges"] + ["lowdin_charges"] * (program != "tblite")
    for charges in extract(calculated(program, molecule), kinds).values():
        assert np.sum(charges) == pytest.approx(molecules[molecule].charge, abs=1e-5)
        assert charges[0] < 0.0, "oxygen and carbon are more electronegative than hydrogen"
        if molecule == "methyl":
            np.testing.assert_allclose(charges[1:], charges[1:].mean(), atol=4e-3)


@pytest.mark.parametrize("molecule", ["water", "hydroxide", "methyl"])
def test_two_programs_give_the_same_charges_and_orbital_energies(
    calculated: Callable[[str, str], AtomicResult], molecule: str
) -> None:
    names = ["mulliken_charges", "lowdin_charges", "homo", "lumo", "gap"]
    psi4, pyscf = (extract(calculated(program, molecule), names) for program in ("psi4", "pyscf"))
    for name in names:
        np.testing.assert_allclose(psi4[name], pyscf[name], atol=2e-3)


def test_orbital_energies(calculated: Callable[[str, str], AtomicResult]) -> None:
    water = extract(calculated("tblite", "water"), ["homo", "lumo", "gap"])
    assert water["homo"] == pytest.approx(-0.4474 * 27.2114, abs=2e-3), "tblite's own list"
    assert water["gap"] == pytest.approx(water["lumo"] - water["homo"])
    methyl = extract(calculated("tblite", "methyl"), ["gap"])
    assert methyl["gap"] > 0.5, "the orbital above the one of the unpaired electron"


def test_what_a_program_cannot_give_is_refused_before_it_runs(levels: Callable[[str], Level]) -> None:
    gfn2 = levels("gfn2")
    assert with_properties(gfn2, "tblite", ["energy", "mulliken_charges", "gap"]) is gfn2
    with pytest.raises(PropertyError, match=r"tblite does not compute lowdin_charges, .* a level of another program"):
        with_properties(gfn2, "tblite", ["lowdin_charges"])
    both = Level("x", "pbe", "6-31g", {"tblite": {}, "pyscf": {}})
    with pytest.raises(PropertyError, match=r"choose level\.program=pyscf"):
        with_properties(both, "tblite", ["lowdin_charges"])


def test_an_atom_without_an_empty_orbital_has_no_gap() -> None:
    level = Level("x", "pbe", "sto-3g", {"pyscf": {"density_fit": False}})
    helium = compute(atomic_input([2], np.zeros((1, 3)), 0, 1, level.specification("pyscf", "energy")))
    assert helium.success, helium.error
    assert extract(helium, ["homo"])["homo"] < 0.0
    with pytest.raises(PropertyError, match="no lumo_hartree"):
        extract(helium, ["gap"])
