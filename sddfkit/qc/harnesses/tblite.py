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
    atomic_result,
    missing_module,
    package_problem,
    package_version,
    refuse_driver,
)

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification
    from qcengine.config import TaskConfig

METHODS: Final[dict[str, str]] = {"gfn2-xtb": "GFN2-xTB", "gfn1-xtb": "GFN1-xTB"}

SETTINGS: Final[dict[str, str]] = {
    "accuracy": "accuracy",
    "max_iterations": "max-iter",
    "electronic_temperature_hartree": "temperature",
}
"""Keywords of the harness, and tblite's names for them."""


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
            if keyword not in SETTINGS:
                return f"unknown tblite keyword {keyword!r}; known: {', '.join(SETTINGS)}"
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
        with classified_errors("tblite"):
            values = _singlepoint(input_data, METHODS[input_data.specification.model.method.lower()])
        with_gradient = input_data.specification.driver == "gradient"
        return atomic_result(
            input_data,
            program="tblite",
            version=self.get_version(),
            energy=float(values.get("energy")),
            gradient=values.get("gradient") if with_gradient else None,
            dipole=values.get("dipole"),
            properties={"calcinfo_nbasis": int(values.get("norbitals"))},
            extras={"mulliken_charges": values.get("charges").tolist(), **_frontier(input_data, values)},
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


def _singlepoint(input_data: AtomicInput, method: str) -> Any:
    from tblite.exceptions import TBLiteRuntimeError
    from tblite.interface import Calculator

    molecule = input_data.molecule
    calculator = Calculator(
        method=method,
        numbers=np.asarray(molecule.atomic_numbers),
        positions=np.asarray(molecule.geometry),
        charge=float(molecule.molecular_charge),
        uhf=int(molecule.molecular_multiplicity) - 1,
    )
    calculator.set("verbosity", 0)
    for keyword, value in input_data.specification.keywords.items():
        calculator.set(SETTINGS[keyword], value)
    try:
        return calculator.singlepoint()
    except TBLiteRuntimeError as error:
        if "not converge" in str(error):
            raise CalculationError("convergence", f"tblite's charges did not converge: {error}") from error
        raise
