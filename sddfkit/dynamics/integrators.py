"""One step in time for many molecules at once: velocity Verlet, and Langevin dynamics by BAOAB."""

import math
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch

from sddfkit.dynamics.noise import Noise
from sddfkit.dynamics.potentials import Potential
from sddfkit.dynamics.state import MDState, thermal_speed
from sddfkit.units import ACCELERATION


class Integrator(Protocol):
    """Makes one step; the state it is given has energies and forces, and so has the one that it returns."""

    def __call__(self, state: MDState, potential: Potential) -> MDState: ...


def kick(state: MDState, dt: float) -> MDState:
    """B: v ← v + dt F/m."""
    return replace(state, velocities=state.velocities + dt * ACCELERATION * state.forces / state.masses[:, None])


def drift(state: MDState, dt: float) -> MDState:
    """A: x ← x + dt v. Energies and forces stay those of the old positions."""
    return replace(state, positions=state.positions + dt * state.velocities)


def _arrived(state: MDState, dt: float) -> MDState:
    return replace(state, step=state.step + 1, time=state.time + dt)


@dataclass(frozen=True)
class VelocityVerlet:
    """Newton's equations: half a kick, a drift, forces, half a kick. Its energy error is O(dt²) and does not drift.

    Parameters
    ----------
    dt : fs
    """

    dt: float = 0.5

    def __post_init__(self) -> None:
        _check_dt(self.dt)

    def __call__(self, state: MDState, potential: Potential) -> MDState:
        """State one step later."""
        moved = drift(kick(state, 0.5 * self.dt), self.dt).evaluated(potential)
        return _arrived(kick(moved, 0.5 * self.dt), self.dt)


@dataclass(frozen=True)
class BAOAB:
    r"""Langevin dynamics dv = F/m dt − γ v dt + √(2γkT/m) dW, split into B A O A B.

    B is a kick and A a drift over half a step, O the exact solution of friction and noise over a whole one,
    :math:`v \leftarrow e^{-\gamma\,dt} v + \sqrt{(1 - e^{-2\gamma\,dt})\,kT/m}\;\xi`. In a harmonic well positions are
    then sampled exactly at any stable step; velocities at the end of a step are too cold by the factor
    1 − (ω dt)²/4, those after O are exact. The temperature is that of each molecule's bath (``state.temperature``).

    Parameters
    ----------
    seed : int
        The noise ξ of a step is a function of the seed, the molecule's stream and the number of the step.
    dt : fs
    friction : 1/fs
        γ. Without it this is velocity Verlet.

    References
    ----------
    B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010.
    """

    seed: int
    dt: float = 0.5
    friction: float = 0.02
    _noise: Noise = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_dt(self.dt)
        if not (self.friction >= 0 and math.isfinite(self.friction)):
            raise ValueError(f"friction is {self.friction!r}, expected a number ≥ 0, in 1/fs")
        object.__setattr__(self, "_noise", Noise(self.seed))

    def __call__(self, state: MDState, potential: Potential) -> MDState:
        """State one step later."""
        return self.from_noise(self.to_noise(state), potential)

    def to_noise(self, state: MDState) -> MDState:
        """B, A and O: halfway, with velocities that have the bath's temperature."""
        half = drift(kick(state, 0.5 * self.dt), 0.5 * self.dt)
        kept = math.exp(-self.friction * self.dt)
        noise = torch.as_tensor(self._noise.normal(state.streams, state.sizes, step=state.step))
        thermal = math.sqrt(-math.expm1(-2.0 * self.friction * self.dt)) * thermal_speed(state)
        return replace(half, velocities=kept * half.velocities + thermal * noise)

    def from_noise(self, half: MDState, potential: Potential) -> MDState:
        """A and B: from halfway to the end of the step."""
        moved = drift(half, 0.5 * self.dt).evaluated(potential)
        return _arrived(kick(moved, 0.5 * self.dt), self.dt)


def _check_dt(dt: float) -> None:
    if not (dt > 0 and math.isfinite(dt)):
        raise ValueError(f"dt is {dt!r}, expected a positive number of fs")
