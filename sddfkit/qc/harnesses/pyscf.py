"""PySCF (Sun et al., J. Chem. Phys. 153, 024109 (2020), doi:10.1063/5.0006074) in this process."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from sddfkit.qc import basis_sets
from sddfkit.qc.errors import CalculationError, classified_errors
from sddfkit.qc.harnesses.base import Harness, atomic_result, missing_module, package_version, refuse_driver

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult
    from qcengine.config import TaskConfig

FUNCTIONALS: Final[dict[str, str]] = {"wb97x": "wb97x", "pbe": "pbe,pbe", "pbe0": "pbe0"}
"""Method names in PySCF's spelling, where the programs mean the same functional; the tests hold wb97x to Psi4's."""


@dataclass(frozen=True)
class PyscfKeywords:
    """The keywords of the PySCF harness.

    density_fit, auxbasis : fit Coulomb and exchange in this auxiliary set, or use exact integrals
    cartesian : Cartesian d functions; None takes what defines the basis set
    atom_grid : radial and angular points of the integration grid of each atom
    prune : ``"nwchem"``, ``"treutler"``, ``"sg1"`` or None, how the grid is thinned near the nucleus
    conv_tol, conv_tol_grad : SCF thresholds on the energy (hartree) and the orbital gradient
    max_cycle, init_guess, damping, level_shift, second_order : for SCFs that are hard to converge
    """

    density_fit: bool = True
    auxbasis: str = "cc-pvdz-jkfit"
    cartesian: bool | None = None
    atom_grid: tuple[int, int] = (75, 302)
    prune: Literal["nwchem", "treutler", "sg1"] | None = "nwchem"
    conv_tol: float = 1e-9
    conv_tol_grad: float = 3e-5
    max_cycle: int = 100
    init_guess: str = "minao"
    damping: float = 0.0
    level_shift: float = 0.0
    second_order: bool = False

    def __post_init__(self) -> None:
        if self.auxbasis.lower() not in basis_sets.AUXILIARY:
            raise ValueError(f"auxbasis {self.auxbasis!r} is not one of {', '.join(basis_sets.AUXILIARY)}")
        if self.prune not in (None, "nwchem", "treutler", "sg1"):
            raise ValueError(f"prune is {self.prune!r}, expected nwchem, treutler, sg1 or null")
        if len(self.atom_grid) != 2:
            raise ValueError(f"atom_grid is {self.atom_grid!r}, expected [radial, angular]")


class PyscfHarness(Harness):
    """Restricted and unrestricted Kohn–Sham energies, gradients and dipoles by PySCF."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "pyscf",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": True,
    }
    install_hint: ClassVar[str] = "Get it by: pip install pyscf"

    def problem(self) -> str | None:
        """None if PySCF can be imported; it is not imported for this."""
        return missing_module("pyscf")

    def get_version(self) -> str:
        """Version of the installed distribution."""
        return package_version("pyscf")

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Energy, gradient (if it is the driver) and dipole of one molecule.

        Raises
        ------
        CalculationError
            "input" for an unknown functional or keyword, "convergence" for an SCF that did not converge.
        """
        refuse_driver(input_data, "PySCF")
        with classified_errors("PySCF"):
            return self._compute(input_data, config)

    def _compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        from pyscf import lib

        lib.num_threads(config.ncores)
        mf = _mean_field(input_data, _keywords(input_data), memory_mib=config.memory * 1024 * 0.8)
        energy = mf.kernel()
        if not mf.converged:  # PySCF itself says nothing, and would run the gradient on such an SCF
            raise CalculationError(
                "convergence",
                f"PySCF's SCF did not converge in {mf.max_cycle} cycles; try second_order, level_shift or damping",
            )
        gradient = mf.nuc_grad_method().kernel() if input_data.specification.driver == "gradient" else None
        n_alpha, n_beta = mf.mol.nelec
        return atomic_result(
            input_data,
            program="PySCF",
            version=self.get_version(),
            energy=float(energy),
            gradient=gradient,
            dipole=mf.dip_moment(unit="AU", verbose=0),
            properties={
                "calcinfo_nbasis": int(mf.mol.nao),
                "calcinfo_nmo": int(np.shape(mf.mo_coeff)[-1]),
                "calcinfo_nalpha": int(n_alpha),
                "calcinfo_nbeta": int(n_beta),
                "nuclear_repulsion_energy": float(mf.energy_nuc()),
                "scf_iterations": int(mf.cycles),
            },
            extras={"spin_square": float(mf.spin_square()[0])} if mf.mol.spin else None,
        )


def _keywords(input_data: AtomicInput) -> PyscfKeywords:
    given = dict(input_data.specification.keywords)
    known = [field.name for field in fields(PyscfKeywords)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise CalculationError("input", f"unknown PySCF keywords {', '.join(unknown)}; known: {', '.join(known)}")
    if "atom_grid" in given:
        given["atom_grid"] = tuple(int(points) for points in given["atom_grid"])
    try:
        return PyscfKeywords(**given)
    except (TypeError, ValueError) as error:
        raise CalculationError("input", f"PySCF keywords: {error}") from error


def _mean_field(input_data: AtomicInput, keywords: PyscfKeywords, memory_mib: float) -> Any:
    """The Kohn–Sham object, all set, not yet run."""
    from pyscf import dft

    method = input_data.specification.model.method
    if method.lower() not in FUNCTIONALS:
        known = ", ".join(FUNCTIONALS)
        raise CalculationError("input", f"method {method!r} may differ between programs; known: {known}")
    mol = _mole(input_data, keywords, memory_mib)
    mf = (dft.RKS if mol.spin == 0 else dft.UKS)(mol, xc=FUNCTIONALS[method.lower()])
    if keywords.density_fit:
        mf = mf.density_fit(auxbasis=keywords.auxbasis)
    mf.grids.atom_grid = keywords.atom_grid
    mf.grids.prune = {
        None: None,
        "nwchem": dft.gen_grid.nwchem_prune,
        "treutler": dft.gen_grid.treutler_prune,
        "sg1": dft.gen_grid.sg1_prune,
    }[keywords.prune]
    mf.conv_tol, mf.conv_tol_grad = keywords.conv_tol, keywords.conv_tol_grad
    mf.max_cycle, mf.init_guess = keywords.max_cycle, keywords.init_guess
    mf.level_shift, mf.damp = keywords.level_shift, keywords.damping
    return mf.newton() if keywords.second_order else mf


def _mole(input_data: AtomicInput, keywords: PyscfKeywords, memory_mib: float) -> Any:
    from pyscf import gto

    molecule, basis = input_data.molecule, input_data.specification.model.basis
    cartesian = basis_sets.orbital(basis).cartesian if keywords.cartesian is None else keywords.cartesian
    return gto.M(
        atom=[(symbol, tuple(xyz)) for symbol, xyz in zip(molecule.symbols, molecule.geometry, strict=True)],
        unit="Bohr",
        basis=basis,
        charge=int(molecule.molecular_charge),
        spin=int(molecule.molecular_multiplicity) - 1,
        cart=cartesian,
        symmetry=False,
        max_memory=memory_mib,
        verbose=0,
    )
