"""What is refused before a calculation, and what is not taken for a result after it, by every program alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from qcelemental.models.v2 import AtomicInput, AtomicSpecification, Molecule

from sddfkit.qc import ChosenProgram, InputError, Level, atomic_input, compute, refusal
from sddfkit.qc.harnesses import HARNESSES, harness
from sddfkit.qc.harnesses.base import atomic_result

PROGRAMS = list(HARNESSES)
OH = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96]]
WATER = [[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]


def specified(program: str, driver: str = "gradient", **changed: Any) -> AtomicSpecification:
    """A cheap level that the program knows, with ``method``, ``basis`` or keywords changed."""
    own = program == "tblite"
    model = {"method": "gfn2-xtb" if own else "wb97x", "basis": None if own else "6-31G(d)"}
    model.update({key: changed.pop(key) for key in ("method", "basis") if key in changed})
    return AtomicSpecification(program=program, driver=driver, model=model, keywords=changed)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize(
    ("numbers", "positions", "charge", "multiplicity", "sentence"),
    [
        ([8, 1], [[0, 0, 0], [0, 0, np.nan]], 0, 2, "position of atom 1 is not a finite number"),
        ([8, 1], [[0, np.inf, 0], [0, 0, 1]], 0, 2, "position of atom 0 is not a finite number"),
        ([8, 1], [["a", 0, 0], [0, 0, 1]], 0, 2, "positions are not"),
        ([8, 1], [[0, 0, 0], [0, 0, 0.13]], 0, 2, "atoms 0 and 1 are 0.130 Å apart"),
        ([8, 1, 1], [*OH, OH[1]], 0, 1, "atoms 1 and 2 are 0.000 Å apart"),
        ([8, 1], [0, 0, 0.96], 0, 2, "expected (2, 3) in Å"),
        ([], np.zeros((0, 3)), 0, 1, "at least one"),
        ([8.0, 1.0], OH, 0, 2, "integers"),
        ([0, 1], OH, 0, 2, "no element with Z=0"),
        ([119, 1], OH, 0, 1, "no element with Z=119"),
        ([-8, 1], OH, 0, 2, "no element with Z=-8"),
        ([94, 1], OH, 0, 2, "no functions for Pu"),
        ([8, 1], OH, 0, 1, "the lowest possible one is 2"),
        ([8, 1], OH, -1, 2, "the lowest possible one is 1"),
        ([8, 1], OH, 0, 12, "impossible with 9 electrons"),
        ([8, 1], OH, 0, 0, "expected 1, 2, 3"),
        ([8, 1], OH, 0, 1.5, "expected 1, 2, 3"),
        ([8, 1], OH, 0, None, "the multiplicity is None"),
        ([8, 1], OH, 0.5, 2, "expected a whole number"),
        ([8, 1], OH, float("nan"), 2, "the charge is nan"),
        ([8, 1], OH, float("inf"), 2, "the charge is inf"),
        ([1], [[0, 0, 0]], 1, 1, "leaves 0 electrons"),
    ],
)
def test_a_molecule_that_cannot_be_is_refused(
    program: str, numbers: Any, positions: Any, charge: Any, multiplicity: Any, sentence: str
) -> None:
    with pytest.raises(InputError) as refused:
        atomic_input(numbers, positions, charge, multiplicity, specified(program))
    assert sentence in str(refused.value)


SETTINGS = [
    ("pyscf", {"method": "wb97xx"}, "method 'wb97xx'"),
    ("pyscf", {"method": "gfn2-xtb", "basis": None}, "pyscf has no method 'gfn2-xtb'; tblite has"),
    ("psi4", {"method": "gfn2-xtb", "basis": None}, "psi4 has no method 'gfn2-xtb'; tblite has"),
    ("tblite", {"method": "wb97x", "basis": None}, "tblite has no method 'wb97x'"),
    ("tblite", {"method": "wb97x", "basis": "6-31G(d)"}, "tblite has no method 'wb97x'"),
    ("tblite", {"basis": "6-31G(d)"}, "has its own basis set"),
    *((program, {"basis": "6-31g(foo)"}, "did you mean 6-31g(d)") for program in ("psi4", "pyscf")),
    *((program, {"basis": None}, "needs the name of a basis set") for program in ("psi4", "pyscf")),
    *((program, {"basis": "  "}, "did you mean") for program in ("psi4", "pyscf")),
    ("pyscf", {"basis_set": "x"}, "unknown PySCF keywords basis_set"),
    ("pyscf", {"auxbasis": "cc-pvdz-jkfitt"}, "auxbasis 'cc-pvdz-jkfitt'"),
    ("pyscf", {"density_fit": "false"}, "expected true or false"),
    ("pyscf", {"conv_tol": "tight"}, "conv_tol is 'tight'"),
    ("pyscf", {"conv_tol": -1.0}, "conv_tol is -1.0"),
    ("pyscf", {"conv_tol_grad": float("nan")}, "conv_tol_grad is nan"),
    ("pyscf", {"damping": -0.1}, "damping is -0.1"),
    ("pyscf", {"init_guess": "sad"}, "init_guess is 'sad'"),
    ("pyscf", {"prune": "none"}, "prune is 'none'"),
    ("pyscf", {"atom_grid": [75]}, "expected [radial, angular]"),
    ("pyscf", {"atom_grid": [75, 300]}, "Lebedev grids with"),
    ("pyscf", {"psi4_radius_alpha": 0}, "psi4_radius_alpha is 0"),
    ("psi4", {"fail_on_maxiter": False}, "fail_on_maxiter must stay on"),
    ("psi4", {"SCF__Fail_On_MaxIter": 0}, "fail_on_maxiter must stay on"),
    ("psi4", {"basis": "6-31G(d)", "reference": "rhf"}, "reference follows from the level"),
    ("psi4", {"e_convergence": float("inf")}, "e_convergence is inf"),
    ("tblite", {"acuracy": 1.0}, "unknown tblite keyword 'acuracy'"),
    ("tblite", {"accuracy": "high"}, "accuracy is 'high'"),
    ("tblite", {"max_iterations": 0}, "max_iterations is 0"),
]


@pytest.mark.parametrize(("program", "changed", "sentence"), SETTINGS)
def test_a_level_that_cannot_be_is_refused_and_is_a_value_for_input_from_elsewhere(
    program: str, changed: dict[str, Any], sentence: str
) -> None:
    specification = specified(program, **changed)
    with pytest.raises(InputError) as refused:
        atomic_input([8, 1, 1], WATER, 0, 1, specification)
    assert sentence in str(refused.value)
    good = atomic_input([8, 1, 1], WATER, 0, 1, specified(program))
    failure = compute(good.model_copy(update={"specification": specification}))
    assert not failure.success
    assert failure.error.error_type == "input"
    assert sentence in failure.error.error_message


@pytest.mark.parametrize(
    ("program", "keywords"),
    [("pyscf", {}), ("pyscf", {"density_fit": True}), ("psi4", {"scf_type": "df", "df_basis_scf": "cc-pvdz-jkfit"})],
)
def test_an_element_without_fitting_functions_is_refused_and_exact_integrals_are_not(
    program: str, keywords: dict[str, Any]
) -> None:
    numbers, lithium_hydride = [3, 1], [[0, 0, 0], [0, 0, 1.6]]
    with pytest.raises(InputError, match="cc-pvdz-jkfit has no functions for Li"):
        atomic_input(numbers, lithium_hydride, 0, 1, specified(program, **keywords))
    exact = {"pyscf": {"density_fit": False}, "psi4": {"scf_type": "pk"}}[program]
    atomic_input(numbers, lithium_hydride, 0, 1, specified(program, **exact))


def test_the_gradient_that_crashes_psi4_is_refused_and_only_that() -> None:
    hydrogen = [1], [[0.0, 0.0, 0.0]], 0, 2
    with pytest.raises(InputError, match="without β electrons"):
        atomic_input(*hydrogen, specified("psi4", scf_type="df"))
    atomic_input(*hydrogen, specified("psi4", scf_type="pk"))
    atomic_input(*hydrogen, specified("psi4", driver="energy", scf_type="df"))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_same_guards_hold_for_molecules_from_elsewhere(program: str) -> None:
    frame = {"fix_com": True, "fix_orientation": True}
    bohr = np.array(WATER) / 0.529177
    for sentence, molecule in {
        "Å apart": Molecule(symbols=["O", "H", "H"], geometry=[0, 0, 0, 0, 0, 0.3, 1.8, 0, 0], **frame),
        "fix_com": Molecule(symbols=["O", "H", "H"], geometry=bohr),
        "ghost": Molecule(symbols=["O", "H", "H"], geometry=bohr, real=[True, True, False], **frame),
        "no functions for Pu": Molecule(symbols=["Pu"], geometry=[0, 0, 0], **frame),
    }.items():
        failure = compute(AtomicInput(molecule=molecule, specification=specified(program)))
        assert not failure.success
        assert failure.error.error_type == "input"
        assert sentence in failure.error.error_message


@pytest.mark.parametrize("program", PROGRAMS)
def test_other_drivers_are_refused(program: str) -> None:
    if (problem := HARNESSES[program].problem()) is not None:
        pytest.skip(problem)
    good = atomic_input([8, 1, 1], WATER, 0, 1, specified(program))
    hessian = AtomicSpecification(**{**good.specification.model_dump(), "driver": "hessian"})
    failure = compute(good.model_copy(update={"specification": hessian}))
    assert failure.error.error_type == "input"
    assert "not 'hessian'" in failure.error.error_message


def test_an_unknown_method_of_psi4_is_an_input_error() -> None:
    if (problem := HARNESSES["psi4"].problem()) is not None:
        pytest.skip(problem)
    failure = compute(atomic_input([8, 1, 1], WATER, 0, 1, specified("psi4", method="wb97xx", scf_type="pk")))
    assert failure.error.error_type == "input", failure.error
    assert "wb97xx" in failure.error.error_message.lower()


@pytest.mark.parametrize(
    ("program", "keywords"),
    [("pyscf", {"max_cycle": 2}), ("psi4", {"maxiter": 2, "scf_type": "df"}), ("tblite", {"max_iterations": 1})],
)
@pytest.mark.parametrize("driver", ["energy", "gradient"])
def test_what_did_not_converge_is_no_result(program: str, keywords: dict[str, Any], driver: str) -> None:
    if (problem := HARNESSES[program].problem()) is not None:
        pytest.skip(problem)
    failure = compute(atomic_input([8, 1, 1], WATER, 0, 1, specified(program, driver, **keywords)))
    assert not failure.success
    assert failure.error.error_type == "convergence"


@pytest.mark.parametrize("part", ["energy", "gradient", "dipole"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_no_result(part: str, value: float) -> None:
    from sddfkit.qc.errors import CalculationError

    document = atomic_input([8, 1, 1], WATER, 0, 1, specified("tblite"))
    values: dict[str, Any] = {"energy": -5.0, "gradient": np.zeros((3, 3)), "dipole": np.zeros(3)}
    values[part] = values[part] * 0 + value
    with pytest.raises(CalculationError, match=f"returned a {part} that is not finite"):
        atomic_result(document, program="x", version="1", properties={}, **values)


def test_refusal_needs_no_positions_and_never_raises(levels: Callable[[str], Level]) -> None:
    dft, xtb = levels("wb97x_631gd"), levels("gfn2")
    psi4, pyscf, tblite = (ChosenProgram(name, "1.0", "") for name in ("psi4", "pyscf", "tblite"))
    water = [8, 1, 1]
    for level, chosen in ((dft, psi4), (dft, pyscf), (xtb, tblite)):
        assert refusal(water, 0, 1, level, chosen) is None
        assert refusal(np.array(water), 1, 2, level, chosen) is None
        for numbers, charge, multiplicity, sentence in (
            (water, 0, 2, "the lowest possible one is 1"),
            ([94], 0, 1, "Pu"),
            ([], 0, 1, "at least one"),
            (["C"], 0, 1, "integers"),
            (water, None, 1, "the charge is None"),
        ):
            assert sentence in str(refusal(numbers, charge, multiplicity, level, chosen))
    assert "no keywords for 'tblite'" in str(refusal(water, 0, 1, dft, tblite))
    assert "no harness for 'orca'" in str(
        refusal(water, 0, 1, Level("x", "b3lyp", "sto-3g", {"orca": {}}), psi4._replace(program="orca"))
    )


@pytest.mark.parametrize("level_name", ["wb97x_631gd", "gfn2"])
def test_refusal_says_what_atomic_input_would_raise(levels: Callable[[str], Level], level_name: str) -> None:
    level = levels(level_name)
    for program in level.programs:
        for numbers, charge, multiplicity in (([3, 1], 0, 1), ([35, 1], 0, 1), ([1], 0, 2), ([57, 1, 1, 1], 0, 1)):
            positions = np.arange(len(numbers))[:, None] * [1.5, 0.0, 0.0]
            sentence = refusal(numbers, charge, multiplicity, level, ChosenProgram(program, "1.0", ""))
            if sentence is None:
                atomic_input(numbers, positions, charge, multiplicity, level.specification(program))
            else:
                with pytest.raises(InputError) as raised:
                    atomic_input(numbers, positions, charge, multiplicity, level.specification(program))
                assert str(raised.value) == sentence


def test_a_program_whose_import_fails_is_named_as_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tblite.interface", None)  # what a broken shared library looks like to an import
    failure = compute(atomic_input([8, 1, 1], WATER, 0, 1, specified("tblite")))
    assert failure.error.error_type == "unknown"
    assert "tblite is installed but broken" in failure.error.error_message
    assert harness("tblite").problem() is None
