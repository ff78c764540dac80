"""The SCF ladder: calculations that do not converge as asked, and what each program then tries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from pyscf import gto, scf
from qcelemental.models.v2 import AtomicInput

from sddfkit.qc import Level, atomic_input, compute, content_key
from sddfkit.qc.compute import recipe
from sddfkit.qc.harnesses import HARNESSES
from sddfkit.qc.worker import run_job

STRETCHED_CF = ([6, 9], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.8]]), 0, 2)
"""A radical with its bond half broken: DIIS goes round in circles between two ways to place the odd electron."""

STRETCHED_NO = ([7, 8], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1.8]]), 0, 2)

CHROMIUM_COMPLEX = (
    [24, 8, 8, 8],
    2.1 * np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [-0.5, 0.87, 0.0], [-0.5, -0.87, 0.0]]),
    0,
    1,
)
"""CrO3, flat and with long bonds."""

WATER = ([8, 1, 1], np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.96], [0.93, 0.0, -0.24]]), 0, 1)

WAYS = {
    "pyscf": {"damping", "level_shift", "diis_space", "second_order", "init_guess", "max_cycle"},
    "psi4": {"damping_percentage", "damping_convergence", "soscf", "soscf_start_convergence", "guess", "maxiter"},
    "tblite": {"mixer_damping", "mixer_memory", "annealing_from_hartree", "max_iterations"},
}
"""Keywords that change the way to the answer, not the answer."""


@pytest.fixture
def job(levels: Callable[[str], Level]) -> Callable[..., AtomicInput]:
    """``job(program, molecule, **changed keywords)``: an energy at HF/6-31G(d), or GFN2-xTB."""

    def make(program: str, molecule: Any, **keywords: Any) -> AtomicInput:
        if (problem := HARNESSES[program].problem()) is not None:
            pytest.skip(problem)
        level = levels("gfn2" if program == "tblite" else "hf_631gd")
        changed = replace(level, programs={program: {**level.programs[program], **keywords}})
        return atomic_input(*molecule, changed.specification(program, "energy"))

    return make


def test_rungs_change_the_way_and_not_the_answer() -> None:
    assert {program for program in HARNESSES if HARNESSES[program].ladder} == set(WAYS)
    for program, allowed in WAYS.items():
        ladder = HARNESSES[program].ladder
        assert len({rung.name for rung in ladder}) == len(ladder) >= 2
        for rung in ladder:
            assert set(rung.keywords) <= allowed


@pytest.mark.parametrize("program", WAYS)
def test_each_rung_gives_an_easy_molecule_its_energy(job: Callable[..., AtomicInput], program: str) -> None:
    asked = job(program, WATER)
    plain = compute(asked)
    assert "scf_ladder" not in plain.extras
    for number, rung in enumerate(HARNESSES[program].ladder, 1):
        result = compute(asked, rung=number)
        assert result.success, result.error
        assert result.return_result == pytest.approx(plain.return_result, abs=2e-7)
        step = {"rung": number, "name": rung.name, "keywords": dict(rung.keywords), "converged": True}
        assert result.extras["scf_ladder"] == [step]
        assert recipe(result) == rung.name
        assert result.input_data == asked, "the key would be another one"


@pytest.mark.parametrize("program", ["pyscf", "psi4"])
def test_a_stretched_radical_converges_on_a_later_rung(job: Callable[..., AtomicInput], program: str) -> None:
    asked = job(program, STRETCHED_CF)
    plain = compute(asked)
    assert plain.error.error_type == "convergence"
    assert recipe(plain) is None
    result = compute(asked, climb=True)
    assert result.success, result.error
    steps = result.extras["scf_ladder"]
    assert [step["rung"] for step in steps] == list(range(len(steps)))
    assert [step["converged"] for step in steps] == [False] * (len(steps) - 1) + [True]
    assert steps[0]["name"] == "as asked" and steps[-1]["name"] == "second order"
    assert result.return_result == pytest.approx(exact_energy(STRETCHED_CF), abs=1e-4)


def test_a_saddle_to_which_a_rung_leads_is_left(job: Callable[..., AtomicInput]) -> None:
    """Damped, the SCF of stretched NO ends 0.23 hartree above the minimum.

    There are two minima, 0.05 hartree apart: which one it falls into hangs on the last digits.
    """
    asked = job("pyscf", STRETCHED_NO)
    assert compute(asked).error.error_type == "convergence"
    result = compute(asked, rung=1)
    assert result.extras["scf_stable"] is True
    lowest = exact_energy(STRETCHED_NO)
    assert lowest - 1e-4 < result.return_result < lowest + 0.1


def exact_energy(molecule: Any) -> float:
    """UHF/6-31G(d) of a radical by exact integrals and second-order steps from another guess."""
    numbers, positions, _, multiplicity = molecule
    atoms = [(int(z), xyz) for z, xyz in zip(numbers, positions, strict=True)]
    mol = gto.M(atom=atoms, basis="6-31g(d)", cart=True, spin=multiplicity - 1, verbose=0)
    mf = scf.UHF(mol).newton()
    mf.init_guess = "atom"
    energy = mf.kernel()
    assert mf.converged and mf.stability(return_status=True)[2]
    return float(energy)


def test_an_attempt_says_on_which_rung_it_failed(job: Callable[..., AtomicInput]) -> None:
    asked = job("pyscf", STRETCHED_CF)
    failed = compute(asked, rung=1)
    assert failed.error.error_type == "convergence"
    assert "rung 1 of the SCF ladder (damping, level shift and a longer DIIS)" in failed.error.error_message
    assert recipe(failed) == "damping, level shift and a longer DIIS"
    assert failed.input_data == asked


def test_a_transition_metal_complex_converges_on_a_later_rung(job: Callable[..., AtomicInput]) -> None:
    asked = job("tblite", CHROMIUM_COMPLEX)
    assert compute(asked).error.error_type == "convergence"
    energies = [compute(asked, rung=rung).return_result for rung in (1, 2)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-6)


def test_a_keyword_of_the_rung_counts_however_the_input_spells_it(job: Callable[..., AtomicInput]) -> None:
    asked = job("psi4", WATER, MAXITER=2)
    assert compute(asked).error.error_type == "convergence"
    assert compute(asked, rung=1).success


def test_an_unknown_rung_is_an_input_error(job: Callable[..., AtomicInput]) -> None:
    asked = job("tblite", WATER)
    for rung in (-1, 3, True, 1.0):
        failed = compute(asked, rung=rung)  # type: ignore[arg-type]
        assert failed.error.error_type == "input"
        assert "has no rung" in failed.error.error_message and "1 (smaller steps)" in failed.error.error_message


def test_the_worker_takes_rung_and_memory(job: Callable[..., AtomicInput], monkeypatch: pytest.MonkeyPatch) -> None:
    told = []
    harness_class = type(HARNESSES["tblite"])
    original = harness_class.compute

    def watched(self: Any, input_data: Any, config: Any) -> Any:
        told.append(config.memory)
        return original(self, input_data, config)

    monkeypatch.setattr(harness_class, "compute", watched)
    asked = job("tblite", WATER)
    document = asked.model_dump(mode="json")
    plain, helped = run_job({"input": document}), run_job({"input": document, "rung": 1, "memory_gib": 3.5})
    assert told == [1.0, 3.5]
    assert recipe(plain) is None and recipe(helped) == "smaller steps"
    assert content_key(helped.input_data, "0.8") == content_key(asked, "0.8")
