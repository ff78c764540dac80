"""From molecules to trajectories: the loop around an integrator, with frames, stop rules and a checkpoint."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from sddfkit.data import Record
from sddfkit.dynamics.integrators import BAOAB, Integrator, VelocityVerlet
from sddfkit.dynamics.noise import Noise, Use, streams_of
from sddfkit.dynamics.potentials import Potential
from sddfkit.dynamics.state import MDState, at_rest, thermalised
from sddfkit.dynamics.stops import (
    AtomLost,
    BondStretched,
    LowConfidence,
    Stop,
    StopRule,
    confidence_scores,
    force_spreads,
)
from sddfkit.dynamics.trajectories import Trajectory, from_arrays, save_arrays, to_arrays

Progress = Callable[[Iterable[int], int], Iterable[int]]


class CheckpointError(ValueError):
    """A checkpoint of another run, or one that is damaged."""


def langevin(
    records: Sequence[Record],
    potential: Potential,
    *,
    seed: int,
    temperature: float | tuple[float, float] = (300.0, 600.0),
    dt: float = 0.5,
    friction: float = 0.02,
    duration: float = 2000.0,
    frame_every: float = 50.0,
    stops: Sequence[StopRule] | None = None,
    streams: Sequence[int] | None = None,
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """Langevin dynamics (BAOAB) of many molecules at once, in vacuum and without restraints.

    Parameters
    ----------
    records : sequence of Record
        Where the molecules start; velocities are drawn.
    potential : Potential
    seed : int
        With a molecule's stream it fixes temperature, velocities and noise: a molecule moves the same way alone and in
        any company.
    temperature : K
        Of all baths, or the two ends of the range that each molecule's is drawn from.
    dt, friction : fs, 1/fs
    duration, frame_every : fs
    stops : sequence of StopRule, optional
        By default a bond 1.6 times as long as at the start, a lost atom and, where the potential has at least two
        members, a negative ConfidenceScore.
    streams : sequence of int, optional
        A different number for each record; by default made from the record id.
    checkpoint : path, optional
        Written with every frame. Where it exists the run goes on from it, to the same numbers; a longer `duration`
        prolongs a run.
    progress : callable, optional
        Wraps the steps: from an iterable and its length to an iterable.

    Returns
    -------
    list of Trajectory
        One for each record.

    Raises
    ------
    ValueError
        Settings that make no sense.
    CheckpointError
        A checkpoint of another run.
    """
    records = tuple(records)
    numbers = tuple(streams_of(records) if streams is None else streams)
    baths = _baths(temperature, numbers, seed)
    state = thermalised(at_rest(records, potential, temperature=baths, streams=numbers), seed)
    if stops is None:
        members = state.evaluation.member_forces
        stops = [BondStretched(), AtomLost(), *([LowConfidence()] if members is not None and len(members) > 1 else [])]
    return simulate(
        state,
        potential,
        BAOAB(seed, dt, friction),
        duration=duration,
        frame_every=frame_every,
        stops=stops,
        checkpoint=checkpoint,
        progress=progress,
    )


def simulate(
    state: MDState,
    potential: Potential,
    integrator: BAOAB | VelocityVerlet,
    *,
    duration: float,
    frame_every: float,
    stops: Sequence[StopRule] = (),
    checkpoint: str | Path | None = None,
    progress: Progress | None = None,
) -> list[Trajectory]:
    """Let `state` move for `duration` fs; arguments, result and errors as of :func:`langevin`.

    A molecule that is stopped, or has no finite energy and forces any more, leaves the batch with its last frame and
    the reason; the others go on as they would have without it.
    """
    every = _steps(frame_every, integrator.dt, "frame_every")
    total = state.step + _steps(duration, integrator.dt, "duration")
    run = _Run(state, integrator, tuple(stops), every, None if checkpoint is None else Path(checkpoint))
    wrap = progress or (lambda steps, count: steps)
    left = range(run.state.step, total)
    if len(run.state):
        for _ in wrap(left, len(left)):
            run.step(potential)
            if not len(run.state):
                break
    return run.trajectories()


class _Run:
    """The molecules that still move, and what was recorded of all."""

    def __init__(
        self,
        start: MDState,
        integrator: Integrator,
        stops: tuple[StopRule, ...],
        every: int,
        checkpoint: Path | None,
    ) -> None:
        self.state, self._integrator, self._stops, self._every = start, integrator, stops, every
        self._start, self._checkpoint = start, checkpoint
        self._alive = list(range(len(start)))
        self._recorded: list[list[dict[str, Any]]] = [[] for _ in self._alive]
        self._past: list[Trajectory | None] = [None] * len(start)
        self._stopped: dict[int, Stop] = {}
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)
        else:
            self._settle(start)
            self._record(range(len(self.state)))
            self._save()

    def step(self, potential: Potential) -> None:
        before = self.state
        self.state = self._integrator(before, potential)
        self._settle(before)
        if self.state.step % self._every == 0 or not len(self.state):
            self._record(range(len(self.state)))
            self._save()

    def trajectories(self) -> list[Trajectory]:
        return [self._trajectory(k) for k in range(len(self._start))]

    def _settle(self, before: MDState) -> None:
        """Take those out that are broken, with the frame before, and those that a rule stops, with this one."""
        broken = _broken(self.state)
        if broken:
            if before is not self.state:
                self._record(broken, before)
            self._leave({k: Stop("failed", before.time, why) for k, why in broken.items()})
        if not len(self.state):
            return
        found: dict[int, Stop] = {}
        for rule in self._stops:
            for k, detail in rule(self.state).items():
                found.setdefault(k, Stop(rule.name, self.state.time, detail))
        if found:
            self._record(found)
            self._leave(found)

    def _leave(self, found: Mapping[int, Stop]) -> None:
        self._stopped.update({self._alive[k]: stop for k, stop in found.items()})
        keep = [k for k in range(len(self._alive)) if k not in found]
        self.state, self._alive = self.state.select(keep), [self._alive[k] for k in keep]

    def _record(self, molecules: Iterable[int], state: MDState | None = None) -> None:
        state = self.state if state is None else state
        molecules = list(molecules)
        if not molecules:
            return
        members = state.evaluation.member_forces
        several = members is not None and len(members) > 1
        scores = confidence_scores(state) if several else np.full(len(state), np.nan)
        spreads = force_spreads(state) if several else np.full(len(state), np.nan)
        for k in molecules:
            recorded = self._recorded[self._alive[k]]
            last = recorded[-1]["times"] if recorded else self._last_time(self._alive[k])
            if last != state.time:
                here = state.atoms_of(k)
                recorded.append(
                    {
                        "times": state.time,
                        "positions": state.positions[here].numpy().copy(),
                        "velocities": state.velocities[here].numpy().copy(),
                        "forces": state.forces[here].numpy().copy(),
                        "energies": float(state.energies[k]),
                        "scores": scores[k],
                        "spreads": spreads[k],
                    }
                )

    def _last_time(self, k: int) -> float | None:
        past = self._past[k]
        return float(past.times[-1]) if past is not None and len(past) else None

    def _trajectory(self, k: int) -> Trajectory:
        start, rows, past = self._start, self._recorded[k], self._past[k]
        n = start.sizes[k]
        values = {}
        for name in ("times", "positions", "velocities", "energies", "forces", "scores", "spreads"):
            shape = (-1, n, 3) if name in ("positions", "velocities", "forces") else (-1,)
            new = np.array([row[name] for row in rows], dtype=np.float64).reshape(shape)
            values[name] = new if past is None else np.concatenate([getattr(past, name), new])
        return Trajectory(
            start.records[k], start.streams[k], float(start.temperature[k]), stop=self._stopped.get(k), **values
        )

    def _identity(self) -> str:
        start = self._start
        about = [start.streams, [record.record_id for record in start.records], start.step]
        return json.dumps([*about, repr(self._integrator), [repr(rule) for rule in self._stops], self._every])

    def _save(self) -> None:
        if self._checkpoint is None:
            return
        state = self.state
        evaluation = state.evaluation
        save_arrays(
            self._checkpoint,
            {
                **to_arrays(self.trajectories()),
                "identity": np.array(self._identity()),
                "start": np.concatenate([t.numpy() for t in (self._start.positions, self._start.velocities)]),
                "alive": np.array(self._alive, dtype=np.int64),
                "clock": np.array([state.step, state.time]),
                "now_positions": state.positions.numpy(),
                "now_velocities": state.velocities.numpy(),
                "now_forces": evaluation.forces.numpy(),
                "now_energies": evaluation.energies.numpy(),
            },
        )

    def _resume(self, path: Path) -> None:
        try:
            with np.load(path) as file:
                arrays: dict[str, NDArray[Any]] = dict(file)
            same = str(arrays["identity"]) == self._identity()
            past = from_arrays(arrays)
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, pa.ArrowInvalid) as error:
            raise CheckpointError(f"{path} is no checkpoint, or damaged ({error}); remove it to start again") from error
        begin = np.concatenate([self._start.positions.numpy(), self._start.velocities.numpy()])
        if not same or not np.array_equal(arrays["start"], begin):
            raise CheckpointError(
                f"{path} is the checkpoint of a run with other molecules, seed or settings; repeat those, or name "
                "another file"
            )
        energies = np.array([t.energies[0] if len(t) else np.nan for t in past])
        if not np.allclose(energies, self._start.energies.numpy(), atol=1e-3, rtol=0.0, equal_nan=True):
            raise CheckpointError(f"{path} was written with another potential: energies at the start differ")
        self._past = list(past)
        self._stopped = {k: t.stop for k, t in enumerate(past) if t.stop is not None}
        self._alive = arrays["alive"].tolist()
        state = self._start.select(self._alive)
        clock = arrays["clock"]
        self.state = replace(
            state,
            positions=torch.from_numpy(arrays["now_positions"]),
            velocities=torch.from_numpy(arrays["now_velocities"]),
            evaluation=replace(
                state.evaluation,
                energies=torch.from_numpy(arrays["now_energies"]),
                forces=torch.from_numpy(arrays["now_forces"]),
                member_energies=None,  # looked at after the next step only
                member_forces=None,
            ),
            step=int(clock[0]),
            time=float(clock[1]),
        )


def _broken(state: MDState) -> dict[int, str]:
    """Molecules without finite energy, forces and places."""
    numbers = torch.cat([state.forces, state.positions, state.velocities], dim=1)
    if state.energies.isfinite().all() and numbers.isfinite().all():
        return {}
    wrong = ~state.energies.isfinite()
    wrong[state.molecule[~numbers.isfinite().all(1)]] = True
    failures = state.evaluation.failures
    return {k: failures.get(k, "energy or forces are not finite") for k in wrong.nonzero().squeeze(1).tolist()}


def _baths(temperature: float | tuple[float, float], streams: Sequence[int], seed: int) -> Tensor:
    ends = torch.as_tensor(temperature, dtype=torch.float64).reshape(-1)
    if len(ends) not in (1, 2) or not (ends >= 0).all() or ends[0] > ends[-1]:
        raise ValueError(f"temperature is {temperature!r}, expected K ≥ 0, or the two ends of a range, the lower first")
    drawn = torch.as_tensor(Noise(seed).uniform(streams, step=0, use=Use.TEMPERATURE))
    return ends[0] + (ends[-1] - ends[0]) * drawn


def _steps(time: float, dt: float, name: str) -> int:
    steps = round(time / dt)
    if steps < 1 or abs(steps * dt - time) > 1e-6 * time:
        raise ValueError(f"{name} is {time!r} fs, expected a positive multiple of the step, {dt:g} fs")
    return steps
