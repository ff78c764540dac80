"""When to leave a molecule alone: rules that look at the molecules one by one after every step."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sddfkit.active.force_agreement import FORCE_FLOOR, agreement
from sddfkit.data import Record
from sddfkit.dynamics.state import MDState


class Stop(NamedTuple):
    """Why a trajectory ended before its time.

    Attributes
    ----------
    rule : str
        ``bond``, ``atom``, ``confidence``, ``spread``, or ``failed``: no energy or forces at the next step.
    time : float, fs
        Of the last frame.
    detail : str
        What was found, with numbers.
    """

    rule: str
    time: float
    detail: str


class StopRule(Protocol):
    """From a state to the molecules that end here: number in the batch → what was found."""

    name: str

    def __call__(self, state: MDState) -> Mapping[int, str]: ...


@dataclass(frozen=True)
class BondStretched:
    """A bond is longer than `factor` times its length at the start."""

    factor: float = 1.6
    name = "bond"

    def __call__(self, state: MDState) -> dict[int, str]:
        """Molecules with such a bond; of several bonds the most stretched is named."""
        first, second = state.bonds.T
        stretch = (state.positions[first] - state.positions[second]).norm(dim=1) / state.bond_lengths
        found: dict[int, tuple[float, str]] = {}
        for b in (stretch > self.factor).nonzero().squeeze(1).tolist():
            k, by = int(state.molecule[first[b]]), float(stretch[b])
            if by > found.get(k, (0.0, ""))[0]:
                i, j = (int(end[b]) - state.atoms_of(k).start for end in (first, second))
                length = by * float(state.bond_lengths[b])
                found[k] = by, f"the bond of atoms {i} and {j} is {length:.2f} Å long, {by:.2f} times its start"
        return {k: text for k, (_, text) in found.items()}


@dataclass(frozen=True)
class AtomLost:
    """An atom has no other within `beyond` Å of it (or within 1.6 times the nearest one's distance at the start)."""

    beyond: float = 3.0
    name = "atom"

    def __call__(self, state: MDState) -> dict[int, str]:
        """Molecules that an atom has left; single atoms cannot."""
        nearest = _nearest(state.positions, state.sizes)
        # The distances at the start are asked for only where something has happened: most steps end here.
        far = sorted(set(state.molecule[(nearest > self.beyond) & nearest.isfinite()].tolist()))
        found = {}
        for k in far:
            here = nearest[state.atoms_of(k)]
            limit = (1.6 * _nearest_at_start(state.records[k])).clamp(min=self.beyond)
            if (here > limit).any():
                atom = int((here - limit).argmax())
                found[k] = f"atom {atom} is {float(here[atom]):.2f} Å from its nearest neighbour"
        return found


@dataclass(frozen=True)
class LowConfidence:
    """The ConfidenceScore is below `below`; see :func:`sddfkit.active.confidence_score`."""

    below: float = 0.0
    floor: float = FORCE_FLOOR
    name = "confidence"

    def __call__(self, state: MDState) -> dict[int, str]:
        """Molecules whose members disagree about the directions of the forces."""
        scores = confidence_scores(state, self.floor)
        return {int(k): f"ConfidenceScore {scores[k]:.3f}" for k in np.flatnonzero(scores < self.below)}


@dataclass(frozen=True)
class Spread:
    """The members' forces on an atom are more than `above` eV/Å (root mean square) from their mean."""

    above: float
    name = "spread"

    def __call__(self, state: MDState) -> dict[int, str]:
        """Molecules with such an atom."""
        spreads = force_spreads(state)
        return {int(k): f"forces spread by {spreads[k]:.3g} eV/Å" for k in np.flatnonzero(spreads > self.above)}


def confidence_scores(state: MDState, floor: float = FORCE_FLOOR) -> NDArray[np.float64]:
    """ConfidenceScore of each molecule, (b,)."""
    of_atoms = agreement(_member_forces(state).numpy(), floor)
    return np.bincount(state.molecule.numpy(), of_atoms, len(state)) / np.array(state.sizes)


def force_spreads(state: MDState) -> NDArray[np.float64]:
    """Largest spread of the members' forces in each molecule, (b,), eV/Å, as the calculator's ``forces_std_max``."""
    forces = _member_forces(state)
    of_atoms = (forces - forces.mean(0)).square().sum(-1).mean(0).sqrt()
    return np.array([float(part.max()) for part in of_atoms.split(state.sizes)])


def _member_forces(state: MDState) -> Tensor:
    forces = state.evaluation.member_forces
    if forces is None or len(forces) < 2:
        raise ValueError("disagreement needs the forces of at least two members, which this potential does not have")
    return forces


def _nearest(positions: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Distance from each atom to the nearest other one of its molecule, (n,), Å; infinite for a single atom."""
    largest = max(sizes)
    count = torch.tensor(sizes)
    there = torch.arange(largest) < count[:, None]
    padded = positions.new_full((len(sizes), largest, 3), torch.nan)
    padded[there] = positions
    apart = torch.cdist(padded, padded, compute_mode="donot_use_mm_for_euclid_dist")
    apart = apart.nan_to_num(nan=torch.inf)
    apart.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return apart.amin(2)[there]


def _nearest_at_start(record: Record) -> Tensor:
    return _nearest(torch.as_tensor(record.positions, dtype=torch.float64), (len(record.atomic_numbers),))
