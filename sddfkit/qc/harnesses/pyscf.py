"""PySCF (Sun et al., J. Chem. Phys. 153, 024109 (2020), doi:10.1063/5.0006074) in this process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import numpy as np

from sddfkit.qc import basis_sets, dispersion, orbitals, partition, proatoms, resp
from sddfkit.qc.errors import CalculationError, classified_errors
from sddfkit.qc.grids import treutler_ahlrichs
from sddfkit.qc.harnesses.base import (
    Harness,
    Rung,
    atomic_result,
    auxiliary_refusal,
    missing_module,
    package_problem,
    package_version,
    refuse_driver,
)
from sddfkit.qc.hessian import by_differences

if TYPE_CHECKING:
    from qcelemental.models.v2 import AtomicInput, AtomicResult, AtomicSpecification
    from qcengine.config import TaskConfig

HARTREE_FOCK: Final = "hf"
WB97X_D: Final = "wb97x-d"
"""PySCF's own has no dispersion: it is added here."""

FUNCTIONALS: Final[dict[str, str]] = {
    "wb97x": "wb97x",
    WB97X_D: "hyb_gga_xc_wb97x_d",
    "b3lyp": "b3lypg",
    "pbe": "pbe,pbe",
    "pbe0": "pbe0",
}
"""Method names in PySCF's spelling, where the programs mean the same functional; the tests hold those of the shipped
levels to Psi4's. B3LYP has the local correlation of Gaussian, VWN1-RPA."""

# fmt: off
PSI4_RADII: Final = (
    1.001, 1.012,
    0.825, 1.408, 1.485, 1.452, 1.397, 1.342, 1.287, 1.243,
    1.144, 1.364, 1.639, 1.716, 1.705, 1.683, 1.639, 1.595,
    1.485, 1.474, *(10 * (1.562,)), 1.65, 1.727, 1.76, 1.771, 1.749, 1.727,
)
"""Radii (bohr) of H to Kr that scale Psi4's radial grids and divide space between its atoms; read off its grids."""
# fmt: on


_DESCENTS: Final = 3
"""How often a saddle is left for a lower one before it is taken as it is; each costs as much as an SCF."""

INITIAL_GUESSES: Final = ("minao", "atom", "1e", "huckel", "vsap")

ANGULAR_POINTS: Final = (
    *(50, 86, 110, 146, 170, 194, 302, 350, 434, 590, 770, 974, 1202, 1454, 1730, 2030, 2354, 2702, 3074, 3470, 3890),
    *(4334, 4802, 5294, 5810),
)
"""Sizes of Lebedev's grids, from the first that is of use to a molecule."""


@dataclass(frozen=True)
class PyscfKeywords:
    """The keywords of the PySCF harness.

    density_fit, auxbasis : fit Coulomb and exchange in this auxiliary set, or use exact integrals
    cartesian : Cartesian d functions; None takes what defines the basis set
    atom_grid : radial and angular points of the integration grid of each atom
    prune : ``"nwchem"``, ``"treutler"``, ``"sg1"`` or None, how the grid is thinned near the nucleus
    psi4_radius_alpha : take the atomic radii of Psi4's grids, times this for the radial points (Psi4's
        dft_bs_radius_alpha), so that the quadrature errors of the two programs are the same; None keeps PySCF's own
    conv_tol, conv_tol_grad : SCF thresholds on the energy (hartree) and the orbital gradient
    max_cycle, init_guess, damping, level_shift, diis_space, second_order : for SCFs that are hard to converge
    resp_potential : add HF/6-31G(d)'s electrostatic potential on the grid for RESP charges
    hessian : add the Hessian
    matrices : add basis functions, overlap, density and Fock matrix
    hirshfeld, mbis : add atomic charges by a partition of the density
    """

    density_fit: bool = True
    auxbasis: str = "cc-pvdz-jkfit"
    cartesian: bool | None = None
    atom_grid: tuple[int, int] = (75, 302)
    prune: Literal["nwchem", "treutler", "sg1"] | None = "nwchem"
    psi4_radius_alpha: float | None = None
    conv_tol: float = 1e-9
    conv_tol_grad: float = 3e-5
    max_cycle: int = 100
    init_guess: str = "minao"
    damping: float = 0.0
    level_shift: float = 0.0
    diis_space: int = 8
    second_order: bool = False
    resp_potential: bool = False
    hessian: bool = False
    matrices: bool = False
    hirshfeld: bool = False
    mbis: bool = False

    def __post_init__(self) -> None:
        for name in ("density_fit", "second_order", "resp_potential", "hessian", "matrices", *partition.SCHEMES):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} is {getattr(self, name)!r}, expected true or false")
        if self.cartesian not in (None, True, False):
            raise ValueError(f"cartesian is {self.cartesian!r}, expected true, false or null")
        for name in ("conv_tol", "conv_tol_grad", "max_cycle", "diis_space"):
            _check_number(name, getattr(self, name), above=0.0)
        for name in ("damping", "level_shift"):
            _check_number(name, getattr(self, name), least=0.0)
        if self.init_guess not in INITIAL_GUESSES:  # PySCF takes another one for what it does not know
            raise ValueError(f"init_guess is {self.init_guess!r}, expected one of {', '.join(INITIAL_GUESSES)}")
        if not isinstance(self.auxbasis, str) or self.auxbasis.lower() not in basis_sets.AUXILIARY:
            raise ValueError(f"auxbasis {self.auxbasis!r} is not one of {', '.join(basis_sets.AUXILIARY)}")
        if self.prune not in (None, "nwchem", "treutler", "sg1"):
            raise ValueError(f"prune is {self.prune!r}, expected nwchem, treutler, sg1 or null")
        grid = self.atom_grid
        if not (isinstance(grid, (list, tuple)) and len(grid) == 2 and all(type(points) is int for points in grid)):
            raise ValueError(f"atom_grid is {grid!r}, expected [radial, angular] as whole numbers")
        if grid[0] < 1 or grid[1] not in ANGULAR_POINTS:
            sizes = ", ".join(map(str, ANGULAR_POINTS))
            raise ValueError(f"atom_grid is {grid!r}; there are Lebedev grids with {sizes} angular points")
        if self.psi4_radius_alpha is not None:
            _check_number("psi4_radius_alpha", self.psi4_radius_alpha, above=0.0)


def _check_number(name: str, value: Any, *, above: float = -np.inf, least: float = -np.inf) -> None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and np.isfinite(value)
    if not number or value <= above or value < least:
        bound = f"above {above:g}" if np.isfinite(above) else f"of at least {least:g}"
        raise ValueError(f"{name} is {value!r}, expected a number {bound}")


class PyscfHarness(Harness):
    """Restricted and unrestricted Hartree–Fock and Kohn–Sham energies, gradients and dipoles by PySCF."""

    _defaults: ClassVar[dict[str, Any]] = {
        "name": "pyscf",
        "scratch": True,
        "thread_safe": False,
        "thread_parallel": True,
        "node_parallel": False,
        "managed_memory": True,
    }
    install_hint: ClassVar[str] = "Get it by: pip install pyscf"
    ladder: ClassVar[tuple[Rung, ...]] = (
        Rung(
            "damping, level shift and a longer DIIS",
            MappingProxyType({"damping": 0.3, "level_shift": 0.1, "diis_space": 16, "max_cycle": 200}),
        ),
        Rung("second order", MappingProxyType({"second_order": True, "max_cycle": 200})),
        Rung(
            "second order from Hückel orbitals",
            MappingProxyType({"second_order": True, "init_guess": "huckel", "max_cycle": 200}),
        ),
    )
    gives: ClassVar[Mapping[str, Mapping[str, Any]]] = dict.fromkeys(
        ("mulliken_charges", "lowdin_charges", "homo_hartree", "lumo_hartree"), MappingProxyType({})
    ) | {
        "electrostatic_potential": MappingProxyType({"resp_potential": True}),
        "hessian": MappingProxyType({"hessian": True}),
        **dict.fromkeys(orbitals.MATRICES, MappingProxyType({"matrices": True})),
        **{f"{scheme}_charges": MappingProxyType({scheme: True}) for scheme in partition.SCHEMES},
    }

    def problem(self) -> str | None:
        """None if PySCF is installed; it is not imported for this."""
        return package_problem("pyscf")

    def broken(self) -> bool:
        """Whether there is a PySCF that cannot be used."""
        return missing_module("pyscf") is None and self.problem() is not None

    def get_version(self) -> str:
        """Version of the installed distribution."""
        return package_version("pyscf")

    def refusal(
        self, atomic_numbers: np.ndarray, charge: int, multiplicity: int, specification: AtomicSpecification
    ) -> str | None:
        """An unknown functional or keyword, or an element that the fitting basis set or the grid does not cover."""
        del charge, multiplicity
        method = specification.model.method
        if method.lower() not in (HARTREE_FOCK, *FUNCTIONALS):
            known = ", ".join((HARTREE_FOCK, *FUNCTIONALS))
            return f"method {method!r} may differ between programs; known to PySCF's harness: {known}"
        try:
            keywords = _keywords(specification.keywords)
        except ValueError as error:
            return str(error)
        if keywords.psi4_radius_alpha is not None and max(atomic_numbers) > len(PSI4_RADII):
            return f"psi4_radius_alpha covers H to Kr, the molecule has an atom with Z={max(atomic_numbers)}"
        if method.lower() == WB97X_D and max(atomic_numbers) > len(dispersion.RADII_ANGSTROM):
            return f"the dispersion of {method} covers H to Kr, the molecule has an atom with Z={max(atomic_numbers)}"
        if keywords.resp_potential and (refused := resp.radii_refusal(atomic_numbers)) is not None:
            return refused
        if keywords.hirshfeld and (refused := proatoms.refusal(atomic_numbers)) is not None:
            return refused
        return auxiliary_refusal(keywords.auxbasis, atomic_numbers) if keywords.density_fit else None

    def compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        """Energy, gradient (if it is the driver), dipole and `gives` of one molecule.

        Raises
        ------
        CalculationError
            "convergence" for an SCF that did not converge.
        """
        refuse_driver(input_data, "PySCF")
        with classified_errors("PySCF"):
            return self._compute(input_data, config)

    def _compute(self, input_data: AtomicInput, config: TaskConfig) -> AtomicResult:
        from pyscf import lib

        lib.num_threads(config.ncores)
        keywords, model = _keywords(input_data.specification.keywords), input_data.specification.model
        memory_mib = config.memory * 1024 * 0.8
        mf = _mean_field(input_data, model.method, model.basis, keywords, memory_mib)
        energy: float = _converge(mf)
        if helped := keywords.damping > 0 or keywords.level_shift > 0 or keywords.second_order:
            mf, stable = _settled(mf)
            energy = float(mf.e_tot)
        gradient = mf.nuc_grad_method().kernel() if input_data.specification.driver == "gradient" else None
        if model.method.lower() == WB97X_D:
            added, slope = dispersion.energy_and_gradient(mf.mol.atom_charges(), mf.mol.atom_coords())
            energy, gradient = energy + added, None if gradient is None else gradient + slope
        n_alpha, n_beta = mf.mol.nelec
        return atomic_result(
            input_data,
            program="PySCF",
            version=self.get_version(),
            energy=energy,
            gradient=gradient,
            dipole=mf.dip_moment(unit="AU", verbose=0),
            properties={
                "calcinfo_nbasis": int(mf.mol.nao),
                "calcinfo_nmo": int(np.shape(mf.mo_coeff)[-1]),
                "calcinfo_nalpha": int(n_alpha),
                "calcinfo_nbeta": int(n_beta),
                "nuclear_repulsion_energy": float(mf.energy_nuc()),
                **({} if keywords.second_order else {"scf_iterations": int(mf.cycles)}),
            },
            extras=_populations(mf)
            | (_resp_potential(input_data, keywords, memory_mib) if keywords.resp_potential else {})
            | _frontier(mf)
            | (_hessian(mf, model.method) if keywords.hessian else {})
            | _from_orbitals(input_data, mf, keywords)
            | ({"scf_stable": stable} if helped else {})
            | ({"spin_square": float(mf.spin_square()[0])} if mf.mol.spin else {}),
        )


def _hessian(mf: Any, method: str) -> dict[str, Any]:
    """Second derivatives by PySCF, analytical; of the dispersion by differences, which are cheap and exact enough."""
    hessian = np.asarray(mf.Hessian().kernel()).transpose(0, 2, 1, 3).reshape(3 * mf.mol.natm, 3 * mf.mol.natm)
    if method.lower() == WB97X_D:
        numbers = mf.mol.atom_charges()
        hessian = hessian + by_differences(
            lambda positions_bohr: dispersion.energy_and_gradient(numbers, positions_bohr)[1], mf.mol.atom_coords()
        )
    return {"hessian": orbitals.pack(hessian)}


def _from_orbitals(input_data: AtomicInput, mf: Any, keywords: PyscfKeywords) -> dict[str, Any]:
    """The matrices and the charges that were asked for."""
    if not (keywords.matrices or any(getattr(keywords, scheme) for scheme in partition.SCHEMES)):
        return {}
    nao = mf.mol.nao
    return orbitals.extras(
        input_data,
        _basis(mf.mol),
        overlap=mf.get_ovlp(),
        density=np.asarray(mf.make_rdm1()).reshape(-1, nao, nao),
        fock=np.asarray(mf.get_fock()).reshape(-1, nao, nao) if keywords.matrices else np.zeros((1, nao, nao)),
    )


def _basis(mol: Any) -> orbitals.Basis:
    """The functions in PySCF's order and scale: radial parts and harmonics are normalised apart, Cartesian d not."""
    from pyscf import gto

    shells = []
    for index in range(mol.nbas):
        l, exponents = mol.bas_angular(index), mol.bas_exp(index)  # noqa: E741
        components: Any = (1, -1, 0) if l == 1 else tuple(range(-l, l + 1))
        scale = np.sqrt((2 * l + 1) / (4 * np.pi))
        if mol.cart:
            components, scale = orbitals.cartesian_powers(l), scale if l < 2 else 1.0
        contractions = mol.bas_ctr_coeff(index) * gto.gto_norm(l, exponents)[:, None] * scale
        shells += [
            orbitals.Shell(int(mol.bas_atom(index)), l, exponents, coefficients, components)
            for coefficients in contractions.T
        ]
    return orbitals.Basis(tuple(shells))


def _populations(mf: Any) -> dict[str, list[float]]:
    """Atomic charges (n,) in e, from the density matrix of both spins in the AO basis.

    Löwdin's depend on the scale of Cartesian functions; as in Psi4, x^l of each shell is normalised, and with it xy….
    """
    mol, overlap, density = mf.mol, mf.get_ovlp(), np.asarray(mf.make_rdm1())
    if density.ndim == 3:
        density = density.sum(axis=0)
    shells = mol.ao_loc_nr()
    norm = np.sqrt(np.repeat(np.maximum.reduceat(np.diag(overlap), shells[:-1]), np.diff(shells)))
    overlap, density = overlap / np.outer(norm, norm), density * np.outer(norm, norm)
    eigenvalues, vectors = np.linalg.eigh(overlap)
    root = (vectors * np.sqrt(eigenvalues)) @ vectors.T
    electrons = {
        "mulliken_charges": np.einsum("ij,ji->i", density, overlap),
        "lowdin_charges": np.einsum("ij,jk,ki->i", root, density, root),
    }
    first = mol.aoslice_by_atom()[:, 2]
    return {name: (mol.atom_charges() - np.add.reduceat(each, first)).tolist() for name, each in electrons.items()}


def _frontier(mf: Any) -> dict[str, float]:
    """Orbital energies (hartree) on both sides of the gap, over both spins; what there is none of is left out."""
    energies, occupied = np.ravel(mf.mo_energy), np.ravel(mf.mo_occ) > 0
    found = {"homo_hartree": float(energies[occupied].max())}
    if not occupied.all():
        found["lumo_hartree"] = float(energies[~occupied].min())
    return found


def _keywords(given: Mapping[str, Any]) -> PyscfKeywords:
    """Keywords with their defaults filled in; a ValueError says what is wrong with them."""
    known = [field.name for field in fields(PyscfKeywords)]
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown PySCF keywords {', '.join(unknown)}; known: {', '.join(known)}")
    try:
        return PyscfKeywords(**given)
    except ValueError as error:
        raise ValueError(f"PySCF keywords: {error}") from error


def _converge(mf: Any, density: np.ndarray | None = None) -> float:
    """Run an SCF, from some density matrix if one is given, and return its energy (hartree)."""
    energy = float(mf.kernel(dm0=density))
    if not mf.converged:  # PySCF itself says nothing, and would run the gradient on such an SCF
        raise CalculationError(
            "convergence",
            f"PySCF's SCF did not converge in {mf.max_cycle} cycles; try second_order, level_shift or damping",
        )
    return energy


def _settled(mf: Any) -> tuple[Any, bool]:
    """From a converged SCF that was helped, which may be a saddle, downhill to a minimum, and whether it is one.

    A change of all orbitals within the same kind of determinant (restricted stays restricted) that lowers the energy to
    second order is followed by second-order SCF.
    """
    for _ in range(_DESCENTS):
        lower, _, stable, _ = mf.stability(return_status=True)
        if stable:
            return mf, True
        mf = mf if hasattr(mf, "_scf") else mf.newton()
        _converge(mf, mf.make_rdm1(lower, mf.mo_occ))
    return mf, False


def _resp_potential(input_data: AtomicInput, keywords: PyscfKeywords, memory_mib: float) -> dict[str, Any]:
    """Electrostatic potential for RESP charges, by a Hartree–Fock calculation of its own."""
    cartesian = replace(keywords, cartesian=True)
    mf = _mean_field(input_data, "hf", resp.BASIS, cartesian, memory_mib)
    _converge(mf)
    mol, density = mf.mol, np.asarray(mf.make_rdm1())
    if density.ndim == 3:
        density = density.sum(axis=0)
    points = resp.merz_kollman_grid(mol.atom_charges(), mol.atom_coords())
    nuclei = np.linalg.norm(points[:, None] - mol.atom_coords()[None, :], axis=-1)
    potential = np.sum(mol.atom_charges() / nuclei, axis=1)
    block = max(1, int(0.2 * memory_mib * 2**20 / (8 * mol.nao**2)))
    for first in range(0, len(points), block):
        with_point = slice(first, first + block)
        integrals = mol.intor("int1e_grids", hermi=1, grids=points[with_point])
        potential[with_point] -= np.einsum("pij,ij->p", integrals, density)
    return resp.potential_document(points, potential)


def _mean_field(input_data: AtomicInput, method: str, basis: str, keywords: PyscfKeywords, memory_mib: float) -> Any:
    """The Hartree–Fock or Kohn–Sham object, all set, not yet run."""
    from pyscf import dft, scf

    mol = _mole(input_data, basis, keywords, memory_mib)
    if method.lower() == HARTREE_FOCK:
        mf = (scf.RHF if mol.spin == 0 else scf.UHF)(mol)
    else:
        mf = (dft.RKS if mol.spin == 0 else dft.UKS)(mol, xc=FUNCTIONALS[method.lower()])
        _set_grid(mf.grids, keywords)
    if keywords.density_fit:
        mf = mf.density_fit(auxbasis=keywords.auxbasis)
    mf.conv_tol, mf.conv_tol_grad = keywords.conv_tol, keywords.conv_tol_grad
    mf.max_cycle, mf.init_guess = keywords.max_cycle, keywords.init_guess
    mf.level_shift, mf.diis_space = keywords.level_shift, keywords.diis_space
    mf.damp = mf.diis_damp = keywords.damping  # PySCF takes the first before DIIS sets in, and DIIS sets in at once
    return mf.newton() if keywords.second_order else mf


def _set_grid(grids: Any, keywords: PyscfKeywords) -> None:
    from pyscf import dft

    grids.atom_grid = tuple(keywords.atom_grid)
    grids.prune = {
        None: None,
        "nwchem": dft.gen_grid.nwchem_prune,
        "treutler": dft.gen_grid.treutler_prune,
        "sg1": dft.gen_grid.sg1_prune,
    }[keywords.prune]
    if keywords.psi4_radius_alpha is not None:
        _take_psi4_radii(grids, keywords.psi4_radius_alpha)


def _take_psi4_radii(grids: Any, alpha: float) -> None:
    """Put the radial points of `grids` where Psi4 has them, and divide space between the atoms as it does."""
    grids.radi_method = lambda n, charge, *_, **__: treutler_ahlrichs(n, alpha * PSI4_RADII[charge - 1])
    grids.atomic_radii = np.array([1.0, *PSI4_RADII])  # the index is the atomic number; 0 is a ghost


def _mole(input_data: AtomicInput, basis: str, keywords: PyscfKeywords, memory_mib: float) -> Any:
    from pyscf import gto

    molecule = input_data.molecule
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
