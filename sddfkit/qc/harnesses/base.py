"""What our harnesses share: how a program is looked for, and how numbers become a checked QCSchema result."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from qcelemental.models.v2 import AtomicInput, AtomicResult, Provenance
from qcengine.programs.model import ProgramHarness

from sddfkit.qc.errors import CalculationError


class Harness(ProgramHarness):
    """A QCEngine harness that can say in a sentence why its program cannot be used.

    A new program is one file here: subclass, fill in `_defaults`, `install_hint`, `problem`, `get_version` and
    `compute`, and list an instance in ``harnesses/__init__.py``.
    """

    install_hint: ClassVar[str] = ""

    def problem(self) -> str | None:
        """None if the program can be used; else one sentence."""
        raise NotImplementedError

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


def missing_module(module: str) -> str | None:
    """One sentence if `module` cannot be imported here, without importing it."""
    return None if importlib.util.find_spec(module) else f"the Python package {module} is not installed."


def package_version(distribution: str) -> str:
    """Version of an installed distribution."""
    return importlib.metadata.version(distribution)


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
