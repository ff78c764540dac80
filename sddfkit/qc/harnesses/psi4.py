"""Psi4 (Smith et al., J. Chem. Phys. 152, 184108 (2020), doi:10.1063/5.0006002) in a process of its own.

QCEngine's own harness cannot drive Psi4 before 1.4, and needs Psi4 under our Python or starts a process for each
calculation; this one keeps one process that has imported Psi4 once.
"""

from __future__ import annotations

import atexit
import base64
import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np

from sddfkit.qc import orbitals, partition, proatoms, resp
from sddfkit.qc.child import ChildLostError, JsonLineChild
from sddfkit.qc.errors import CalculationError, classified_errors
from sddfkit.qc.harnesses.base import Harness, Rung, atomic_result, auxiliary_refusal, refuse_driver
from sddfkit.qc.harnesses.psi4_installation import (
    WORKER_SCRIPT,
    Installation,
    Psi4BrokenError,
    Psi4NotUsableError,
    find,
)
from sddfkit.qc.hessian import by_differences
from sddfkit.qc.scratch import Scratch

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification
    from qcengine.config import TaskConfig

MEMORY_SHARE: Final = 0.6
"""Part of the memory limit that Psi4 is told of: it takes about 1.4 times of what it is told."""

_LEAST_MEMORY_BYTES: Final = 250 * 2**20
"""Psi4 refuses to be told less; whether it keeps to a smaller limit is for the supervisor to see."""

_START_LIMIT_S: Final = 60.0


RESP_POTENTIAL: Final = "resp_potential"
HESSIAN: Final = "hessian"
MATRICES: Final = "matrices"
OWN_KEYWORDS: Final = (RESP_POTENTIAL, HESSIAN, MATRICES, *partition.SCHEMES)
"""Keywords (true or false) that are no options of Psi4: add HF/6-31G(d)'s electrostatic potential on the grid for RESP
charges, the Hessian, the matrices in the AO basis, charges by a partition of the density."""


class Psi4Harness(Harness):
    """Kohn–Sham and Hartree–Fock energies, gradients and dipoles by Psi4; keywords are Psi4's own options."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "psi4",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": True,
    }
    install_hint: ClassVar[str] = (
        "Get it by: conda install -c conda-forge psi4, or apt install psi4; then set SDDFKIT_PSI4_PYTHON to the Python "
        "that imports it, unless its executable is on PATH."
    )

    # options that Psi4 knows since 1.3
    ladder: ClassVar[tuple[Rung, ...]] = (
        Rung("damping", MappingProxyType({"damping_percentage": 40.0, "damping_convergence": 1e-3, "maxiter": 200})),
        Rung("second order", MappingProxyType({"soscf": True, "soscf_start_convergence": 0.1, "maxiter": 200})),
        Rung(
            "second order from Hückel orbitals",
            MappingProxyType({"guess": "huckel", "soscf": True, "soscf_start_convergence": 0.1, "maxiter": 200}),
        ),
    )
    gives: ClassVar[Mapping[str, Mapping[str, Any]]] = dict.fromkeys(
        ("mulliken_charges", "lowdin_charges", "homo_hartree", "lumo_hartree"), MappingProxyType({})
    ) | {
        "electrostatic_potential": MappingProxyType({RESP_POTENTIAL: True}),
        "hessian": MappingProxyType({HESSIAN: True}),
        **dict.fromkeys(orbitals.MATRICES, MappingProxyType({MATRICES: True})),
        **{f"{scheme}_charges": MappingProxyType({scheme: True}) for scheme in partition.SCHEMES},
    }

    def problem(self) -> str | None:
        """None if a Psi4 was found that answers with its version."""
        try:
            find()
        except Psi4NotUsableError as error:
            return str(error)
        return None

    def broken(self) -> bool:
        """Whether there is a Psi4 that does not work."""
        try:
            find()
        except Psi4NotUsableError as error:
            return isinstance(error, Psi4BrokenError)
        return False

    def refusal(
        self, atomic_numbers: np.ndarray, charge: int, multiplicity: int, specification: AtomicSpecification
    ) -> str | None:
        """A setting that would hide a failure or contradict the level; elements without fitting functions; a crash."""
        settings = {name.lower().rpartition("__")[2]: value for name, value in specification.keywords.items()}
        if not settings.get("fail_on_maxiter", True):
            return "Psi4's fail_on_maxiter must stay on: an SCF that did not converge would pass as a result otherwise"
        for name in ("basis", "reference"):
            if name in settings:
                return f"Psi4 option {name} follows from the level and the molecule; leave it out of the keywords"
        for name, value in settings.items():
            if isinstance(value, float) and not np.isfinite(value):
                return f"Psi4 option {name} is {value}, expected a finite number"
        for name in OWN_KEYWORDS:
            if not isinstance(settings.get(name, False), bool):
                return f"{name} is {settings[name]!r}, expected true or false"
        if settings.get(RESP_POTENTIAL) and (refused := resp.radii_refusal(atomic_numbers)) is not None:
            return refused
        if settings.get("hirshfeld") and (refused := proatoms.refusal(atomic_numbers)) is not None:
            return refused
        if not str(settings.get("scf_type", "df")).lower().endswith("df"):
            return None
        electrons = int(np.sum(atomic_numbers)) - charge
        if electrons == multiplicity - 1 and (specification.driver == "gradient" or settings.get(HESSIAN)):
            # it would end in a segmentation fault (H, H2+)
            return "Psi4 has no density-fitted gradient without β electrons; ask for the energy, or scf_type pk"
        return auxiliary_refusal(str(settings.get("df_basis_scf", "")), atomic_numbers)

    def get_version(self) -> str:
        """Version of the Psi4 that was found."""
        return find().version

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Energy, gradient (if it is the driver) and dipole of one molecule, by one SCF.

        Raises
        ------
        CalculationError
            "input" for an unknown option or method, "convergence" for an SCF that did not converge, "killed" if the
            Psi4 process died.
        """
        refuse_driver(input_data, "Psi4")
        installation = find()
        with classified_errors("Psi4"):
            job = _job(input_data, config)
            answer = _answer(installation, job)
            extras = answer["extras"] | _potential(job, answer) | _from_orbitals(input_data, answer)
            if input_data.specification.keywords.get(HESSIAN):
                extras |= _hessian(installation, job)
        gradient = answer["gradient"]
        return atomic_result(
            input_data,
            program="Psi4",
            version=installation.version,
            energy=answer["energy"],
            gradient=None if gradient is None else np.asarray(gradient),
            dipole=np.asarray(answer["dipole"]),
            properties={
                "calcinfo_nbasis": answer["nbasis"],
                "calcinfo_nmo": answer["nmo"],
                "calcinfo_nalpha": answer["nalpha"],
                "calcinfo_nbeta": answer["nbeta"],
                "nuclear_repulsion_energy": answer["nuclear_repulsion_energy"],
                "scf_iterations": answer["iterations"],
            },
            extras=extras,
        )


def _job(input_data: AtomicInput, config: TaskConfig) -> dict[str, Any]:
    molecule, specification = input_data.molecule, input_data.specification
    keywords = specification.keywords
    options = {name: value for name, value in keywords.items() if name not in OWN_KEYWORDS}
    resp_points = None
    if keywords.get(RESP_POTENTIAL):
        resp_points = resp.merz_kollman_grid(molecule.atomic_numbers, molecule.geometry).tolist()
    return {
        "symbols": [str(symbol) for symbol in molecule.symbols],
        "geometry": np.asarray(molecule.geometry).ravel().tolist(),
        "charge": int(molecule.molecular_charge),
        "multiplicity": int(molecule.molecular_multiplicity),
        "method": specification.model.method,
        "driver": specification.driver.value,
        "options": {"basis": specification.model.basis, **options},
        "orbitals": any(keywords.get(name) for name in (MATRICES, *partition.SCHEMES)),
        "resp_points": resp_points,
        "resp_options": {"basis": resp.BASIS, "puream": False},
        "threads": config.ncores,
        "memory_bytes": max(_LEAST_MEMORY_BYTES, int(config.memory * MEMORY_SHARE * 2**30)),
    }


def _answer(installation: Installation, job: dict[str, Any]) -> dict[str, Any]:
    answer = _process.ask(installation, job)
    if not answer["ok"]:
        raise CalculationError(
            answer["error_type"], f"Psi4: {answer['error_message']}", {"output_tail": answer["output_tail"]}
        )
    return answer


def _hessian(installation: Installation, job: dict[str, Any]) -> dict[str, Any]:
    """By differences of gradients, for Psi4 before 1.4 has analytical second derivatives of RHF alone."""

    def gradient(positions_bohr: np.ndarray) -> np.ndarray:
        moved = {"geometry": positions_bohr.ravel().tolist(), "driver": "gradient"}
        answer = _answer(installation, {**job, **moved, "orbitals": False, "resp_points": None})
        return np.asarray(answer["gradient"])

    return {HESSIAN: orbitals.pack(by_differences(gradient, np.asarray(job["geometry"])))}


def _from_orbitals(input_data: AtomicInput, answer: dict[str, Any]) -> dict[str, Any]:
    """The matrices and the charges that were asked for."""
    if "orbitals" not in answer:
        return {}
    found = answer["orbitals"]
    basis = orbitals.Basis(tuple(_shell(**shell) for shell in found["shells"]))
    nao = len(basis)
    overlap, alpha, beta, fock_alpha, fock_beta = (
        np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(nao, nao)
        for text in (found["overlap"], *found["density"], *found["fock"])
    )
    restricted = input_data.molecule.molecular_multiplicity == 1
    return orbitals.extras(
        input_data,
        basis,
        overlap=overlap,
        density=np.stack([alpha + beta] if restricted else [alpha, beta]),
        fock=np.stack([fock_alpha] if restricted else [fock_alpha, fock_beta]),
    )


def _shell(atom: int, l: int, spherical: bool, exponents: list[float], coefficients: list[float]) -> orbitals.Shell:  # noqa: E741
    """A shell with its components in Psi4's order: m = 0, 1, −1, 2, …; x falling, then y, of Cartesian ones."""
    components = (
        (0, *(sign * m for m in range(1, l + 1) for sign in (1, -1))) if spherical else orbitals.cartesian_powers(l)
    )
    return orbitals.Shell(atom, l, np.array(exponents), np.array(coefficients), components)


def _potential(job: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    if job["resp_points"] is None:
        return {}
    return resp.potential_document(np.asarray(job["resp_points"]), np.asarray(answer["resp_potential"]))


class _Process:
    """The one Psi4 process of this process."""

    def __init__(self) -> None:
        self._child: JsonLineChild | None = None
        self._scratch: Scratch | None = None

    def ask(self, installation: Installation, job: dict[str, Any]) -> dict[str, Any]:
        """Have one calculation done; start the process, or another if it has died since the last one."""
        try:
            for last_try in (False, True):
                try:
                    child = self._running(installation)
                    child.send(job)
                    if child.receive(_START_LIMIT_S) is None:
                        raise ChildLostError(f"it did not start within {_START_LIMIT_S:.0f} s")
                    break
                except ChildLostError as error:
                    self.close()
                    if last_try:
                        raise CalculationError("killed", f"the Psi4 process could not take the job: {error}") from error
            answer = child.receive()
        except ChildLostError as error:
            self.close()
            raise CalculationError("killed", f"the Psi4 process died during the calculation: {error}") from error
        except BaseException:  # an interrupt: the process is in the middle of a job that nobody waits for any more
            self.close()
            raise
        assert answer is not None
        return answer

    def _running(self, installation: Installation) -> JsonLineChild:
        if self._child is not None and not self._child.alive():
            self.close()
        if self._child is None:
            self._scratch = Scratch()
            self._child = JsonLineChild(
                [installation.python, str(WORKER_SCRIPT)],
                directory=self._scratch.path,
                environment={**installation.environment(), **self._scratch.environment()},
            )
        return self._child

    def close(self) -> None:
        """Kill the process and remove its scratch folder."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        if self._scratch is not None:
            self._scratch.remove()
            self._scratch = None

    def forget(self) -> None:
        """After a fork: process and folder belong to the parent."""
        self._child = self._scratch = None


_process = _Process()
atexit.register(_process.close)
os.register_at_fork(after_in_child=_process.forget)
