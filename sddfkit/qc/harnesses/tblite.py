"""GFN2-xTB by tblite.

C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15, 1652 (2019), doi:10.1021/acs.jctc.8b01176.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from sddfkit.qc.errors import CalculationError, classified_errors
from sddfkit.qc.harnesses.base import (
    Harness,
    Rung,
    atomic_result,
    missing_module,
    package_problem,
    package_version,
    refuse_driver,
)
from sddfkit.qc.hessian import by_differences
from sddfkit.qc.orbitals import pack

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification
    from qcengine.config import TaskConfig

METHODS: Final[dict[str, str]] = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}

SETTINGS: Final[dict[str, str]] = {
    "accuracy": "accuracy",
    "max_iterations": "max-iter",
    "electronic_temperature_hartree": "temperature",
    "mixer_damping": "mixer-damping",
    "mixer_memory": "mixer-memory",
    "annealing_from_hartree": "annealing",
}
"""Keywords of the harness, and tblite's names for them."""

HESSIAN: Final = "hessian"
"""Keyword (true or false) that is none of tblite's: add the Hessian, by differences of gradients."""


class TbliteHarness(Harness):
    """Energies, gradients and dipoles by tblite's Python interface."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "tblite",
        "scratch": False,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": False,
    }
    install_hint: ClassVar[str] = "Get it by: pip install tblite"
    gives: ClassVar[Mapping[str, Mapping[str, Any]]] = dict.fromkeys(
        ("mulliken_charges", "homo_hartree", "lumo_hartree"), MappingProxyType({})
    ) | {HESSIAN: MappingProxyType({HESSIAN: True})}
    # a short memory, because the mixer's work grows with the cube of what it remembers
    ladder: ClassVar[tuple[Rung, ...]] = (
        Rung("smaller steps", MappingProxyType({"mixer_damping": 0.1, "mixer_memory": 20, "max_iterations": 1000})),
        Rung(
            "cooled from 10,000 K",  # to the temperature that was asked for
            MappingProxyType({"annealing_from_hartree": 0.0316681, "mixer_memory": 20, "max_iterations": 1000}),
        ),
    )
    own_methods: ClassVar[Mapping[str, frozenset[int]]] = dict.fromkeys(METHODS, frozenset(range(1, 87)))

    def problem(self) -> str | None:
        """None if tblite is installed; it is not imported for this."""
        return package_problem("tblite")

    def broken(self) -> bool:
        """Whether there is a tblite that cannot be used."""
        return missing_module("tblite") is None and self.problem() is not None

    def get_version(self) -> str:
        """Version of the installed distribution."""
        return package_version("tblite")

    def refusal(
        self, atomic_numbers: np.ndarray, charge: int, multiplicity: int, specification: AtomicSpecification
    ) -> str | None:
        """An unknown method or keyword."""
        del atomic_numbers, charge, multiplicity
        method = specification.model.method
        if method.lower() not in METHODS:
            return f"tblite has no method {method!r}; known: {', '.join(METHODS)}"
        for keyword, value in specification.keywords.items():
            if keyword == HESSIAN and isinstance(value, bool):
                continue
            if keyword == HESSIAN:
                return f"{HESSIAN} is {value!r}, expected true or false"
            if keyword not in SETTINGS:
                return f"unknown tblite keyword {keyword!r}; known: {', '.join(SETTINGS)}, {HESSIAN}"
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < np.inf:
                return f"tblite keyword {keyword} is {value!r}, expected a positive number"
        return None

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Energy, gradient and dipole of one molecule; unpaired electrons follow from the multiplicity.

        Raises
        ------
        CalculationError
            "convergence" if the charges did not converge.
        """
        del config  # tblite takes its threads from OMP_NUM_THREADS when it is loaded
        refuse_driver(input_data, "tblite")
        extras = {}
        with classified_errors("tblite"):
            calculator = _calculator(input_data)
            values = _singlepoint(calculator)
            if input_data.specification.keywords.get(HESSIAN):
                extras[HESSIAN] = pack(_hessian(calculator, np.asarray(input_data.molecule.geometry)))
        with_gradient = input_data.specification.driver == "gradient"
        return atomic_result(
            input_data,
            program="tblite",
            version=self.get_version(),
            energy=float(values.get("energy")),
            gradient=values.get("gradient") if with_gradient else None,
            dipole=values.get("dipole"),
            properties={"calcinfo_nbasis": int(values.get("norbitals"))},
            extras={"mulliken_charges": values.get("charges").tolist(), **_frontier(input_data, values), **extras},
        )


def _frontier(input_data: AtomicInput, values: Any) -> dict[str, float]:
    """Orbital energies (hartree) on both sides of the gap: a spin-restricted method has one set, in rising order."""
    energies = np.sort(values.get("orbital-energies"))
    electrons = float(np.sum(values.get("orbital-occupations")))
    occupied = round(electrons + input_data.molecule.molecular_multiplicity - 1) // 2
    found = {"homo_hartree": float(energies[occupied - 1])}
    if occupied < len(energies):
        found["lumo_hartree"] = float(energies[occupied])
    return found


def _calculator(input_data: AtomicInput) -> Any:
    from tblite.interface import Calculator

    molecule, specification = input_data.molecule, input_data.specification
    calculator = Calculator(
        method=METHODS[specification.model.method.lower()],
        numbers=np.asarray(molecule.atomic_numbers),
        positions=np.asarray(molecule.geometry),
        charge=float(molecule.molecular_charge),
        uhf=int(molecule.molecular_multiplicity) - 1,
    )
    calculator.set("verbosity", 0)
    for keyword, value in specification.keywords.items():
        if keyword in SETTINGS:
            whole = keyword in ("max_iterations", "mixer_memory")
            calculator.set(SETTINGS[keyword], int(value) if whole else value)
    return calculator


def _singlepoint(calculator: Any) -> Any:
    from tblite.exceptions import TBLiteRuntimeError

    try:
        return calculator.singlepoint()
    except TBLiteRuntimeError as error:
        if "not converge" in str(error):
            raise CalculationError("convergence", f"tblite's charges did not converge: {error}") from error
        raise


def _hessian(calculator: Any, positions_bohr: np.ndarray) -> np.ndarray:
    """Hessian (3n, 3n) in hartree/bohr²; the calculator is left at a displaced geometry."""

    def gradient(displaced: np.ndarray) -> np.ndarray:
        calculator.update(positions=displaced)
        return np.asarray(_singlepoint(calculator).get("gradient"))

    return by_differences(gradient, positions_bohr)
