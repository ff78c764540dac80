"""Many molecules in motion: what is known of them at one time, as tensors."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import ase.data
import numpy as np
import torch
from torch import Tensor

from sddfkit.data import Record
from sddfkit.dynamics.noise import Noise, Use, streams_of
from sddfkit.dynamics.potentials import Evaluation, Potential
from sddfkit.models.geometry import sum_over
from sddfkit.units import ACCELERATION, BOLTZMANN


@dataclass(frozen=True)
class MDState:
    """b molecules of n atoms in total, one after another; float64. A step makes a new state and leaves the old alone.

    Attributes
    ----------
    records : tuple of Record, length b
        The molecules, with the positions they started from.
    molecule : (n,) int64
        Molecule of each atom, ascending.
    masses : (n,), amu
        Of the elements as found in nature, as ASE's.
    bonds : (k, 2) int64
        Bonded atoms, as numbers among the n.
    bond_lengths : (k,), Å
        At the start.
    positions : (n, 3), Å
    velocities : (n, 3), Å/fs
    evaluation : Evaluation
        Energies (b,) in eV and forces (n, 3) in eV/Å at the positions, of the members too where there are some.
    streams : tuple of int, length b
        Where each molecule's random numbers come from, see :class:`~sddfkit.dynamics.noise.Noise`.
    temperature : (b,), K
        Of the bath that each molecule is in; velocity Verlet does not look at it.
    step : int
        Steps made; the noise of a step depends on it.
    time : float, fs
    """

    records: tuple[Record, ...]
    molecule: Tensor
    masses: Tensor
    bonds: Tensor
    bond_lengths: Tensor
    positions: Tensor
    velocities: Tensor
    evaluation: Evaluation
    streams: tuple[int, ...]
    temperature: Tensor
    step: int = 0
    time: float = 0.0
    sizes: tuple[int, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.records)

    @property
    def forces(self) -> Tensor:
        """(n, 3), eV/Å."""
        return self.evaluation.forces

    @property
    def energies(self) -> Tensor:
        """(b,), eV, potential."""
        return self.evaluation.energies

    def atoms_of(self, k: int) -> slice:
        """The atoms of molecule `k`."""
        first = sum(self.sizes[:k])
        return slice(first, first + self.sizes[k])

    def evaluated(self, potential: Potential) -> "MDState":
        """The same state with energies and forces at its positions."""
        return replace(self, evaluation=potential(self.records, self.positions))

    def select(self, keep: Sequence[int]) -> "MDState":
        """The state of the molecules `keep` alone, in that order (ascending)."""
        mask = torch.zeros(len(self), dtype=torch.bool)
        mask[list(keep)] = True
        atoms = mask[self.molecule]
        new_molecule = torch.cumsum(mask, 0) - 1
        new_atom = torch.cumsum(atoms, 0) - 1
        bonds = atoms[self.bonds[:, 0]]
        return replace(
            self,
            records=tuple(self.records[k] for k in keep),
            molecule=new_molecule[self.molecule[atoms]],
            masses=self.masses[atoms],
            bonds=new_atom[self.bonds[bonds]],
            bond_lengths=self.bond_lengths[bonds],
            positions=self.positions[atoms],
            velocities=self.velocities[atoms],
            evaluation=self.evaluation.select(mask, atoms),
            streams=tuple(self.streams[k] for k in keep),
            temperature=self.temperature[mask],
            sizes=tuple(self.sizes[k] for k in keep),
        )


def at_rest(
    records: Sequence[Record],
    potential: Potential,
    *,
    temperature: float | Sequence[float] | Tensor = 0.0,
    streams: Sequence[int] | None = None,
) -> MDState:
    """Molecules at their records' positions, with energies and forces, not moving.

    Parameters
    ----------
    records : sequence of Record
    potential : Potential
    temperature : K
        Of the baths, one for all or one for each.
    streams : sequence of int, optional
        A different number for each molecule; by default made from the record id.

    Raises
    ------
    ValueError
        No records, a record twice without `streams`, temperatures or streams that do not fit.
    """
    records = tuple(records)
    if not records:
        raise ValueError("no records: give at least one molecule")
    numbers = tuple(streams_of(records) if streams is None else streams)
    if len(numbers) != len(records) or len(set(numbers)) < len(numbers):
        raise ValueError(f"{len(records)} molecules need as many different streams, got {list(numbers)}")
    bath = torch.as_tensor(temperature, dtype=torch.float64)
    if bath.ndim > 1 or (bath.ndim and len(bath) != len(records)) or not (bath >= 0).all():
        raise ValueError(f"temperature is {temperature!r}, expected K ≥ 0, one for all or {len(records)} of them")
    sizes = tuple(len(record.atomic_numbers) for record in records)
    first = np.cumsum((0, *sizes[:-1]))
    positions = torch.as_tensor(np.concatenate([record.positions for record in records]), dtype=torch.float64)
    pairs = [np.asarray(record.bonds).reshape(-1, 3)[:, :2] + at for record, at in zip(records, first, strict=True)]
    bonds = torch.as_tensor(np.concatenate(pairs), dtype=torch.long)
    elements = np.concatenate([record.atomic_numbers for record in records])
    return MDState(
        records=records,
        molecule=torch.repeat_interleave(torch.arange(len(records)), torch.tensor(sizes)),
        masses=torch.as_tensor(ase.data.atomic_masses[elements], dtype=torch.float64),
        bonds=bonds,
        bond_lengths=(positions[bonds[:, 0]] - positions[bonds[:, 1]]).norm(dim=1),
        positions=positions,
        velocities=torch.zeros_like(positions),
        evaluation=potential(records, positions),
        streams=numbers,
        temperature=bath.expand(len(records)).clone(),
        sizes=sizes,
    )


def thermalised(state: MDState, seed: int) -> MDState:
    """The same state with velocities drawn from the Maxwell–Boltzmann distribution of each molecule's bath.

    All 3n velocities are independent: the centre of mass has its share, as it has in Langevin dynamics.
    """
    draws = Noise(seed).normal(state.streams, state.sizes, step=state.step, use=Use.VELOCITIES)
    return replace(state, velocities=thermal_speed(state) * torch.as_tensor(draws))


def thermal_speed(state: MDState) -> Tensor:
    """√(kT/m) of each atom, (n, 1), Å/fs."""
    return (BOLTZMANN * ACCELERATION * state.temperature[state.molecule] / state.masses).sqrt()[:, None]


def kinetic_energy(state: MDState) -> Tensor:
    """(b,), eV."""
    of_atoms = 0.5 / ACCELERATION * state.masses * state.velocities.square().sum(1)
    return sum_over(of_atoms, state.molecule, len(state))


def kinetic_temperature(state: MDState) -> Tensor:
    """2 K / (3 n k) of each molecule, (b,), K."""
    return kinetic_energy(state) * 2.0 / (3.0 * BOLTZMANN * torch.tensor(state.sizes, dtype=torch.float64))
