"""What moves the atoms: energies and forces of many molecules at once.

A potential is anything that maps molecules and their positions to an :class:`Evaluation`. What goes wrong for one
molecule (a calculation that does not converge, atoms that coincide) is a value, so that the others go on.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import ase
import numpy as np
import torch
from ase.calculators.calculator import Calculator
from torch import Tensor
from torch_geometric.data import Batch, Data

from sddfkit.data import Record
from sddfkit.dynamics.calculator import atoms_of
from sddfkit.models import UNSPECIFIED_BOND, EnergyModel, Ensemble, GraphError, graph
from sddfkit.models.ensemble import check_bonds
from sddfkit.models.geometry import sum_over


@dataclass(frozen=True)
class Evaluation:
    """Energies and forces of b molecules with n atoms in total; float64.

    Attributes
    ----------
    energies : (b,), eV
    forces : (n, 3), eV/Å
    member_energies : (m, b), eV, or None
        Of the members of an ensemble, where the potential has some.
    member_forces : (m, n, 3), eV/Å, or None
    failures : dict of int to str
        What went wrong, by the number of the molecule; its energies and forces are NaN.
    """

    energies: Tensor
    forces: Tensor
    member_energies: Tensor | None = None
    member_forces: Tensor | None = None
    failures: Mapping[int, str] = field(default_factory=dict)

    def select(self, molecules: Tensor, atoms: Tensor) -> "Evaluation":
        """Of the molecules and atoms in two masks, (b,) and (n,) bool."""
        number = (torch.cumsum(molecules, 0) - 1).tolist()
        return Evaluation(
            self.energies[molecules],
            self.forces[atoms],
            None if self.member_energies is None else self.member_energies[:, molecules],
            None if self.member_forces is None else self.member_forces[:, atoms],
            {number[k]: why for k, why in self.failures.items() if molecules[k]},
        )


class Potential(Protocol):
    """Energies and forces of `records` at `positions` (n, 3) in Å, one molecule's atoms after another's.

    Of a record, elements, bonds and charges count; its own positions are those of the start. An answer for one molecule
    does not depend on which others are there.
    """

    def __call__(self, records: Sequence[Record], positions: Tensor) -> Evaluation: ...


@dataclass(frozen=True)
class HarmonicWells:
    """Each atom in a spherical well of its own around its place in the record: E = Σ ½ k |x − x₀|².

    What an integrator does in it is known exactly.

    Parameters
    ----------
    stiffness : mapping of int to float
        k by atomic number, eV/Å².
    """

    stiffness: Mapping[int, float]

    def __call__(self, records: Sequence[Record], positions: Tensor) -> Evaluation:
        """Evaluate all wells at once."""
        away = positions - torch.as_tensor(np.concatenate([record.positions for record in records]))
        elements, inverse = np.unique(np.concatenate([r.atomic_numbers for r in records]), return_inverse=True)
        k = torch.as_tensor(np.array([self.stiffness[int(z)] for z in elements])[inverse], dtype=torch.float64)
        sizes = torch.tensor([len(record.atomic_numbers) for record in records])
        molecule = torch.repeat_interleave(torch.arange(len(records)), sizes)
        energies = sum_over(0.5 * k * away.square().sum(1), molecule, len(records))
        return Evaluation(energies, -k[:, None] * away)


class Sum:
    """Several potentials added up, such as a model of a difference and the method that it corrects.

    Members are those of the one potential that has some; what the others say is added to each of them.
    """

    def __init__(self, *potentials: Potential) -> None:
        if not potentials:
            raise ValueError("no potentials to add up")
        self._potentials = potentials

    def __call__(self, records: Sequence[Record], positions: Tensor) -> Evaluation:
        """Ask each potential."""
        parts = [potential(records, positions) for potential in self._potentials]
        several = [part for part in parts if part.member_forces is not None]
        if len(several) > 1:
            raise ValueError(f"{len(several)} of the potentials have members, expected at most one")
        energies = torch.stack([part.energies for part in parts]).sum(0)
        forces = torch.stack([part.forces for part in parts]).sum(0)
        failures = {k: why for part in parts for k, why in part.failures.items()}
        if not several:
            return Evaluation(energies, forces, failures=failures)
        (own,) = several
        assert own.member_energies is not None and own.member_forces is not None
        return Evaluation(
            energies,
            forces,
            own.member_energies + (energies - own.energies),
            own.member_forces + (forces - own.forces),
            failures,
        )


class CalculatorPotential:
    """Any ASE calculator, one molecule after another; each molecule has a calculator of its own.

    A calculator that remembers its last answer (a density to start from) may continue slightly differently after a
    restart, within its own convergence.

    Parameters
    ----------
    make : callable
        From a record to an ASE calculator with ``energy`` and ``forces``.
    """

    def __init__(self, make: Callable[[Record], Calculator]) -> None:
        self._make = make
        self._known: dict[int, tuple[Record, ase.Atoms]] = {}  # the record is kept so that its id stays its own

    def __call__(self, records: Sequence[Record], positions: Tensor) -> Evaluation:
        """Ask each molecule's calculator; what it raises is a failure of that molecule."""
        self._known = {id(record): self._known.get(id(record)) or self._new(record) for record in records}
        energies = np.full(len(records), np.nan)
        forces = np.full((len(positions), 3), np.nan)
        failures: dict[int, str] = {}
        first = 0
        for k, record in enumerate(records):
            atoms = self._known[id(record)][1]
            here = slice(first, first := first + len(atoms))
            atoms.positions = positions[here].numpy()
            try:
                forces[here], energies[k] = atoms.get_forces(), atoms.get_potential_energy()
            except Exception as error:  # whatever a foreign program comes up with
                forces[here] = np.nan
                failures[k] = f"{type(error).__name__}: {error}"
        return Evaluation(torch.from_numpy(energies), torch.from_numpy(forces), failures=failures)

    def _new(self, record: Record) -> tuple[Record, ase.Atoms]:
        atoms = atoms_of(record)
        atoms.calc = self._make(record)
        return record, atoms


def tblite(method: str = "GFN2-xTB") -> CalculatorPotential:
    """GFN2-xTB (or GFN1-xTB) by tblite, with each record's charge and multiplicity."""
    from tblite.ase import TBLite  # an optional program

    return CalculatorPotential(
        lambda record: TBLite(method=method, charge=record.charge, multiplicity=record.multiplicity, verbosity=0)
    )


class EnsemblePotential:
    """Mean energies and forces of an ensemble's members, evaluated for many molecules at once.

    Each member's answers are kept too, so that stop rules and the choice of frames can look at them. Energies are
    total ones. Bonds stay those of the records. Answers do not depend on what was asked before.

    Parameters
    ----------
    ensemble : Ensemble
    members : sequence of str, optional
        Names of those that drive; all of them when left out. One name makes a single network of it.
    chunk : int
        Molecules in one pass of a network. Larger ones fall out of the processor's cache.
    skin : Å
        Pairs up to this far beyond the cutoff are listed, and searched for again when an atom has moved by half of it.
        At each step those within the cutoff are picked from the list, so that it cannot be seen in the results.
    baseline : Potential, optional
        The method whose difference to the labels the members were trained on; what it says is added to each of them.

    Raises
    ------
    ValueError
        A baseline that the ensemble's card names and that is not given, or the other way round.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        *,
        members: Sequence[str] | None = None,
        chunk: int = 16,
        skin: float = 1.0,
        baseline: Potential | None = None,
    ) -> None:
        below = ensemble.card.get("baseline")
        if below is not None and baseline is None:
            raise ValueError(
                f"this ensemble was trained on differences from {below['name']}: give that method as the baseline, "
                "such as baseline=tblite()"
            )
        if below is None and baseline is not None:
            raise ValueError("this ensemble was trained without a baseline: none can be added")
        self._baseline = baseline
        names = tuple(ensemble.members if members is None else members)
        unknown = [name for name in names if name not in ensemble.members]
        if unknown or not names:
            raise ValueError(f"members are {list(names)}, expected some of {list(ensemble.members)}")
        if chunk < 1 or not skin >= 0:
            raise ValueError(f"chunk is {chunk} and skin {skin}, expected at least 1, and at least 0 Å")
        self.ensemble = ensemble
        self._nets = {name: ensemble.members[name].eval() for name in names}
        self._chunk, self._skin = chunk, skin
        self._records: tuple[Record, ...] = ()
        self._groups: list[_Group] = []
        self._offsets = torch.zeros(0, dtype=torch.float64)

    def __call__(self, records: Sequence[Record], positions: Tensor) -> Evaluation:
        """Evaluate all molecules.

        Raises
        ------
        GraphError
            An element or charge that a member does not know, or bonds that it needs and a record lacks.
        """
        self._bind(tuple(records))
        failures: dict[int, str] = {}
        energies, forces = [], []
        parts = positions.split([group.n_atoms for group in self._groups])
        for group, part in zip(self._groups, parts, strict=True):
            energy, force = group.answers(part, self._nets.values())
            energies.append(energy)
            forces.append(force)
            failures.update({group.first + k: why for k, why in group.broken.items()})
        member_energies = torch.cat(energies, dim=1) + self._offsets
        member_forces = torch.cat(forces, dim=1)
        if self._baseline is not None:
            below = self._baseline(records, positions)
            member_energies, member_forces = member_energies + below.energies, member_forces + below.forces
            failures.update(below.failures)
        return Evaluation(member_energies.mean(0), member_forces.mean(0), member_energies, member_forces, failures)

    def _bind(self, records: tuple[Record, ...]) -> None:
        if len(records) == len(self._records) and all(a is b for a, b in zip(records, self._records, strict=True)):
            return
        known = {id(record) for record in self._records}
        new = [record for record in records if id(record) not in known]
        for record in new:
            check_bonds(record, self._nets)
        self._records = records
        offsets = [self.ensemble.references.total(record.atomic_numbers) for record in records]
        self._offsets = torch.tensor(offsets, dtype=torch.float64)
        self._groups = [
            _Group(records[first : first + self._chunk], first, self.ensemble.cutoff, self._skin)
            for first in range(0, len(records), self._chunk)
        ]


class _Group:
    """Molecules that pass through a network together, with a list of the pairs that may be edges."""

    def __init__(self, records: Sequence[Record], first: int, cutoff: float, skin: float) -> None:
        self.first = first
        self.n_atoms = sum(len(record.atomic_numbers) for record in records)
        self.broken: dict[int, str] = {}
        self._records, self._cutoff, self._skin = records, cutoff, skin
        self._listed_at = torch.full((0, 3), torch.nan)  # nowhere yet

    def answers(self, positions: Tensor, nets: Iterable[EnergyModel]) -> tuple[Tensor, Tensor]:
        """Relative energies (m, b) and forces (m, n, 3) by each network; NaN for the broken molecules."""
        data = self._graphs(positions)
        energies, forces = [], []
        for net in nets:
            data.pos = positions.to(next(net.parameters()).dtype)
            with torch.no_grad():
                answer = net(data)
            energies.append(answer.energy.double())
            forces.append(answer.forces.double())
        energy, force = torch.stack(energies), torch.stack(forces)
        if self.broken:
            broken = list(self.broken)
            energy[:, broken] = torch.nan
            force[:, torch.isin(data.batch, torch.tensor(broken))] = torch.nan
        return energy, force

    def _graphs(self, positions: Tensor) -> Data:
        if len(self._listed_at) < self.n_atoms or self._moved(positions):
            self._list(positions)
        source, target = self._edge_index
        apart = (positions.index_select(0, source) - positions.index_select(0, target)).square().sum(1)
        # As in sddfkit.models.graph: all pairs within the cutoff, and all bonds.
        edges = ((apart < self._cutoff**2) | self._bonded).nonzero().squeeze(1)
        return Data(
            z=self._listed.z,
            charge=self._listed.charge,
            batch=self._listed.batch,
            edge_index=self._edge_index.index_select(1, edges),
            edge_bond=self._listed.edge_bond.index_select(0, edges),
            cutoff=self._cutoff,
            num_graphs=len(self._records),
        )

    def _moved(self, positions: Tensor) -> bool:
        # NaN is no distance: a molecule that is lost must not be waited for.
        return not bool(((positions - self._listed_at).square().sum(1) <= (0.5 * self._skin) ** 2).all())

    def _list(self, positions: Tensor) -> None:
        sizes = [len(record.atomic_numbers) for record in self._records]
        graphs, self.broken = [], {}
        for k, (record, part) in enumerate(zip(self._records, positions.split(sizes), strict=True)):
            moved = record._replace(positions=part.numpy(), forces=None)
            try:
                graphs.append(graph(moved, self._cutoff + self._skin, dtype=torch.float64))
            except GraphError as error:
                self.broken[k] = str(error)
                graphs.append(graph(record._replace(forces=None), self._cutoff, dtype=torch.float64))
        self._listed = Batch.from_data_list(graphs)
        self._edge_index = self._listed.edge_index
        self._bonded = self._listed.edge_bond != UNSPECIFIED_BOND
        self._listed_at = positions
