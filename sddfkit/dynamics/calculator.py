"""An ensemble as an ASE calculator that knows when it is guessing."""

import warnings
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, get_args

import ase
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

from sddfkit.data import Record
from sddfkit.models import Ensemble

Policy = Literal["warn", "stop", "collect"]


class UncertainWarning(UserWarning):
    """The members of an ensemble disagree about a geometry; said once for each calculator."""


class UncertainError(RuntimeError):
    """The members of an ensemble disagree about a geometry, and the policy is to stop there."""


def atoms_of(record: Record) -> ase.Atoms:
    """Atoms of a record, without a calculator; its formal charges are ASE's initial charges."""
    return ase.Atoms(
        numbers=record.atomic_numbers, positions=record.positions, charges=record.formal_charges.astype(float)
    )


class EnsembleCalculator(Calculator):
    """Mean energy and forces of an ensemble, and the spread of its members.

    Parameters
    ----------
    ensemble : Ensemble
    record : Record
        The molecule: its elements, bonds and formal charges; its positions and labels are not read. Bonds stay what
        they are, so this is no potential for reactions.
    limit : float, optional
        eV/Å. A geometry whose ``forces_std_max`` is above it is uncertain; without a limit none is.
    policy : {"warn", "stop", "collect"}
        What to do there: say so once (:class:`UncertainWarning`), raise :class:`UncertainError`, or keep a copy of the
        atoms in `collected` and go on.

    Attributes
    ----------
    collected : list of ase.Atoms
        With their results, in the order in which they were met.
    results : dict
        ``energy`` (eV, total), ``forces`` (n, 3) eV/Å, ``energy_std`` (eV, of the members around their mean),
        ``forces_std`` (n,) eV/Å, root of the mean squared distance of the members' forces from their mean, per atom,
        and ``forces_std_max``, its largest value.

    Raises
    ------
    ValueError
        On a calculation: for atoms that are not those of the record, for periodic ones, for positions that are not
        finite. GraphError for elements that the ensemble does not know.
    """

    atoms: ase.Atoms
    implemented_properties: ClassVar[list[str]] = ["energy", "forces", "energy_std", "forces_std", "forces_std_max"]

    def __init__(
        self, ensemble: Ensemble, record: Record, *, limit: float | None = None, policy: Policy = "warn"
    ) -> None:
        super().__init__()
        if policy not in get_args(Policy):
            raise ValueError(f"policy is {policy!r}, expected one of {', '.join(get_args(Policy))}")
        if limit is not None and not limit > 0:
            raise ValueError(f"limit is {limit!r}, expected a positive number of eV/Å, or None")
        self.ensemble = ensemble
        self.record = record
        self.limit = limit
        self.policy = policy
        self.collected: list[ase.Atoms] = []
        self._warned = False

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = all_changes,
    ) -> None:
        """Fill in `results`; called by ASE."""
        super().calculate(atoms, properties, system_changes)
        self._check()
        predicted = self.ensemble.predict([self.record._replace(positions=self.atoms.positions)])
        assert predicted.forces is not None and predicted.member_forces is not None
        (forces,), (members,) = predicted.forces, predicted.member_forces
        forces_std = np.sqrt(np.square(members - forces).sum(-1).mean(0))
        self.results: dict[str, Any] = {
            "energy": float(predicted.energy[0]),
            "free_energy": float(predicted.energy[0]),
            "forces": forces,
            "energy_std": float(predicted.energy_std[0]),
            "forces_std": forces_std,
            "forces_std_max": float(forces_std.max()),
        }
        if self.limit is not None and self.results["forces_std_max"] > self.limit:
            self._uncertain()

    def _check(self) -> None:
        if not np.array_equal(self.atoms.numbers, self.record.atomic_numbers):
            raise ValueError(
                f"these atoms ({self.atoms.get_chemical_formula()}) are not those of the record "
                f"{self.record.record_id} ({self.record.smiles}) in its order: make them by atoms_of(record)"
            )
        if self.atoms.pbc.any():
            raise ValueError("these atoms are periodic, the ensemble is for molecules in vacuum: set atoms.pbc = False")
        if not np.isfinite(self.atoms.positions).all():
            raise ValueError("the positions hold NaN or infinity: take a smaller time step, or look at the last frames")

    def _uncertain(self) -> None:
        worst = int(self.results["forces_std"].argmax())
        what = (
            f"the members disagree about the force on atom {worst} ({self.atoms[worst].symbol}) by "
            f"{self.results['forces_std_max']:.3g} eV/Å, above the limit of {self.limit:g}"
        )
        if self.policy == "stop":
            self.reset()  # what was found is not to be taken for an answer
            raise UncertainError(what)
        if self.policy == "collect":
            found = self.atoms.copy()
            found.info.update({name: self.results[name] for name in ("energy", "energy_std", "forces_std_max")})
            found.arrays["predicted_forces"] = self.results["forces"].copy()
            found.arrays["forces_std"] = self.results["forces_std"].copy()
            self.collected.append(found)
        elif not self._warned:
            self._warned = True
            warnings.warn(f"{what}; this is said once", UncertainWarning, stacklevel=2)
