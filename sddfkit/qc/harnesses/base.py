"""What our harnesses share: how a program is looked for, and how numbers become a checked QCSchema result."""

from __future__ import annotations

import abc
import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
from qcelemental import periodictable
from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification, Provenance
from qcengine.programs.model import ProgramHarness

from sddfkit.qc import basis_sets
from sddfkit.qc.errors import CalculationError


class Rung(NamedTuple):
    """One way to help an SCF that does not converge.

    ``name`` is the recipe as people read it, ``keywords`` are laid over those of the input. They change the way to the
    answer, never the answer: no threshold, grid, basis set or temperature.
    """

    name: str
    keywords: Mapping[str, Any]


class Harness(ProgramHarness):
    """A QCEngine harness that can say in a sentence why its program cannot be used.

    A new program is one file: subclass, fill in `_defaults`, `install_hint`, `problem`, `get_version` and `compute`.
    Put it here, where it is found by itself, or anywhere on PYTHONPATH, where its dotted path names it.
    """

    install_hint: ClassVar[str] = ""
    """How to get the program, in one sentence."""

    own_methods: ClassVar[Mapping[str, frozenset[int]]] = {}
    """Methods (lower case) that need no basis set, and the atomic numbers that each covers."""

    gives: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """What a result's extras hold, beside energy, gradient and dipole: `Property.needs` names it. The value: the
    keywords that have it computed, none for what is always there."""

    ladder: ClassVar[tuple[Rung, ...]] = ()
    """What to try, in this order, when an SCF did not converge as asked: from cheap to robust. Rung 0 is the input as
    it is, rung k is ``ladder[k - 1]``."""

    @abc.abstractmethod
    def problem(self) -> str | None:
        """None if the program can be used; else one sentence. Must be quick and import no program."""

    @abc.abstractmethod
    def get_version(self) -> str:
        """Version of the program, for example ``"2.14.0"``; major.minor is part of a calculation's identity."""

    def broken(self) -> bool:
        """Whether `problem` speaks of a program that is there but does not work, rather than of a missing one."""
        return False

    def refusal(
        self, atomic_numbers: np.ndarray, charge: int, multiplicity: int, specification: AtomicSpecification
    ) -> str | None:
        """Why this program cannot compute such a molecule by such a method, in one sentence, or None.

        Called before anything is computed, after the checks that hold for every program.
        """
        del atomic_numbers, charge, multiplicity, specification
        return None

    def found(self, raise_error: bool = False) -> bool:
        """Whether the program can be used.

        Raises
        ------
        CalculationError
            If it cannot and `raise_error` is set.
        """
        problem = self.problem()
        if problem is not None and raise_error:
            raise CalculationError("unknown", f"{self.name}: {problem} {self.install_hint}")
        return problem is None


def on_rung(keywords: Mapping[str, Any], rung: Rung) -> dict[str, Any]:
    """Keywords of a calculation on a rung; one that the rung sets goes, in whatever case it is written."""
    kept = {name: value for name, value in keywords.items() if name.lower() not in rung.keywords}
    return {**kept, **rung.keywords}


def missing_module(module: str) -> str | None:
    """One sentence if `module` cannot be imported here, without importing it."""
    return None if importlib.util.find_spec(module) else f"the Python package {module} is not installed."


def package_problem(package: str) -> str | None:
    """As `missing_module`; also one sentence for a package whose installation has no version."""
    if (missing := missing_module(package)) is not None:
        return missing
    try:
        package_version(package)
    except importlib.metadata.PackageNotFoundError:
        return f"the Python package {package} is there but broken: its installation names no version."
    return None


def package_version(distribution: str) -> str:
    """Version of an installed distribution."""
    return importlib.metadata.version(distribution)


def auxiliary_refusal(auxiliary: str, atomic_numbers: np.ndarray) -> str | None:
    """One sentence if a fitting basis set does not cover all elements; None for sets that are not in our table."""
    covered = basis_sets.AUXILIARY.get(auxiliary.lower())
    return None if covered is None else elements_refusal(auxiliary, covered, atomic_numbers)


def elements_refusal(what: str, covered: frozenset[int], atomic_numbers: np.ndarray) -> str | None:
    """One sentence that names the elements that `covered` lacks, or None."""
    missing = sorted({int(z) for z in atomic_numbers} - covered)
    if not missing:
        return None
    names = ", ".join(periodictable.to_E(z) if 0 < z < 119 else f"Z={z}" for z in missing)
    return f"{what} has no functions for {names} that all programs share; choose another level"


def refuse_driver(atomic_input: AtomicInput, program: str) -> None:
    """Energies and gradients are all that our harnesses compute."""
    driver = atomic_input.specification.driver.value
    if driver not in ("energy", "gradient"):
        raise CalculationError("input", f"the {program} harness computes energy and gradient, not {driver!r}")


def atomic_result(
    atomic_input: AtomicInput,
    *,
    program: str,
    version: str,
    energy: float,
    gradient: np.ndarray | None,
    dipole: np.ndarray,
    properties: Mapping[str, Any],
    extras: Mapping[str, Any] | None = None,
) -> AtomicResult:
    """Assemble a QCSchema result and refuse numbers that are not finite.

    Parameters
    ----------
    energy : float, hartree
    gradient : (n, 3) float64, hartree/bohr, or None
    dipole : (3,) float64, e·bohr
    properties : mapping
        Further fields of `AtomicProperties`.

    Raises
    ------
    CalculationError
        Of type "unknown" if a number is NaN or infinite.
    """
    n_atoms = len(atomic_input.molecule.symbols)
    parts = {"energy": np.asarray(energy), "dipole": np.asarray(dipole)}
    if gradient is not None:
        parts["gradient"] = np.asarray(gradient, dtype=float).reshape(n_atoms, 3)
    for name, value in parts.items():
        if not np.all(np.isfinite(value)):
            raise CalculationError("unknown", f"{program} returned a {name} that is not finite: {value}")
    fields: dict[str, Any] = {"calcinfo_natom": n_atoms, **properties}
    fields.update(return_energy=float(energy), scf_total_energy=float(energy), scf_dipole_moment=parts["dipole"])
    if gradient is not None:
        fields.update(return_gradient=parts["gradient"], scf_total_gradient=parts["gradient"])
    return AtomicResult(
        input_data=atomic_input,
        molecule=atomic_input.molecule,
        properties=fields,
        return_result=float(energy) if gradient is None else parts["gradient"],
        provenance=Provenance(creator=program, version=version, routine="sddfkit.qc"),
        extras=dict(extras or {}),
    )
