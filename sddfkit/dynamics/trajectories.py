"""What a run leaves behind: frames of each molecule, in memory and in files that others read."""

import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import pyarrow as pa
from ase.calculators.singlepoint import SinglePointCalculator
from numpy.typing import NDArray

from sddfkit import __version__
from sddfkit.data import Record, record_id, to_records
from sddfkit.data.records import from_document, from_records
from sddfkit.data.schema import GRID
from sddfkit.dynamics.calculator import atoms_of
from sddfkit.dynamics.stops import Stop

_PER_ATOM = ("positions", "velocities", "forces")
_PER_FRAME = ("times", "energies", "scores", "spreads")
_UNITS = {
    "times": "fs",
    "positions": "Å",
    "velocities": "Å/fs",
    "forces": "eV/Å",
    "energies": "eV",
    "scores": "",
    "spreads": "eV/Å",
}
_STORE = ".zarr"


@dataclass(frozen=True)
class Trajectory:
    """f frames of one molecule of n atoms.

    Attributes
    ----------
    record : Record
        What it started from.
    stream : int
        Of its noise.
    temperature : K
        Of its bath.
    times : (f,), fs
        The start, a frame at each interval, and the last one before it was stopped.
    positions : (f, n, 3), Å
    velocities : (f, n, 3), Å/fs
    energies : (f,), eV
        Potential.
    forces : (f, n, 3), eV/Å
    scores : (f,)
        ConfidenceScore; NaN where the potential has fewer than two members.
    spreads : (f,), eV/Å
        Largest spread of the members' forces; NaN likewise.
    stop : Stop or None
        Why it ended before its time.
    """

    record: Record
    stream: int
    temperature: float
    times: NDArray[np.float64]
    positions: NDArray[np.float64]
    velocities: NDArray[np.float64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    scores: NDArray[np.float64]
    spreads: NDArray[np.float64]
    stop: Stop | None = None

    def __len__(self) -> int:
        return len(self.times)

    def atoms(self, frame: int) -> ase.Atoms:
        """One frame, with energy and forces, and what else is known of it in ``info`` and ``arrays``."""
        atoms = atoms_of(self.record)
        atoms.positions = self.positions[frame]
        atoms.calc = SinglePointCalculator(atoms, energy=float(self.energies[frame]), forces=self.forces[frame])
        atoms.arrays["velocities"] = self.velocities[frame]  # Å/fs
        atoms.info.update(time=float(self.times[frame]), temperature=self.temperature)
        atoms.info["origin"] = f"record {self.record.record_id}"  # an id alone may read as a number
        if np.isfinite(self.scores[frame]):
            atoms.info.update(confidence=float(self.scores[frame]), forces_std_max=float(self.spreads[frame]))
        return atoms

    def frame_record(self, frame: int) -> Record:
        """One frame as a record without a label: its parent is the start, its origin says when and how hot."""
        record = self.record
        positions = np.rint(self.positions[frame] / GRID) * GRID
        identity = (record.atomic_numbers, positions, record.charge, record.multiplicity, record.bonds)
        return _unlabelled(record)._replace(
            record_id=record_id(*identity),
            positions=positions,
            code_version=__version__,
            parent=record.record_id,
            origin=f"md {self.temperature:.0f} K, {self.times[frame]:g} fs",
        )


def _unlabelled(record: Record) -> Record:
    """The record without its label and what is known of that."""
    empty = {name: Record._field_defaults[name] for name in Record._fields if name in Record._field_defaults}
    return record._replace(**{**empty, "qc_flags": ()})


def write_extxyz(path: str | Path, trajectory: Trajectory) -> Path:
    """Write the frames of a trajectory as extended XYZ, which ASE and (as XYZ) MDAnalysis read; returns the path.

    Lengths are Å, energies eV, forces eV/Å, velocities Å/fs, times fs.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(path, [trajectory.atoms(frame) for frame in range(len(trajectory))], format="extxyz")
    return path


def save_trajectories(path: str | Path, trajectories: Sequence[Trajectory]) -> Path:
    """Write many trajectories into one .npz file, or a Zarr store if `path` ends in ``.zarr``; returns the path.

    The store has a group for each trajectory, with the arrays of :class:`Trajectory` under their names and the rest in
    the attributes; units are those of :class:`Trajectory` and stand in the attributes of the arrays. It needs the
    package zarr (the extra ``md``). The file is written whole or not at all; neither holds pickles.
    """
    path = Path(path)
    if path.suffix == _STORE:
        return _save_store(path, trajectories)
    return save_arrays(path, to_arrays(trajectories))


def load_trajectories(path: str | Path) -> list[Trajectory]:
    """The inverse of :func:`save_trajectories`."""
    path = Path(path)
    if path.suffix == _STORE:
        return _load_store(path)
    with np.load(path) as arrays:
        return from_arrays(arrays)


def _save_store(path: Path, trajectories: Sequence[Trajectory]) -> Path:
    import zarr  # an optional package

    root = zarr.open_group(path, mode="w", attributes={"sddfkit": __version__, "trajectories": len(trajectories)})
    for k, trajectory in enumerate(trajectories):
        stop = None if trajectory.stop is None else trajectory.stop._asdict()
        about = {"stream": str(trajectory.stream), "temperature": trajectory.temperature, "stop": stop}
        record = from_records([trajectory.record]).to_pylist()[0]
        group = root.create_group(f"{k:06d}", attributes={**about, "record": record})
        for name in (*_PER_ATOM, *_PER_FRAME):
            values = np.ascontiguousarray(getattr(trajectory, name))
            group.create_array(name, data=values, chunks=_chunks(values)).attrs["unit"] = _UNITS[name]
    return path


def _chunks(values: NDArray[np.float64]) -> tuple[int, ...]:
    """About a megabyte of whole frames."""
    frame = max(1, values[:1].nbytes)
    return (max(1, min(len(values), 2**20 // frame)), *values.shape[1:])


def _load_store(path: Path) -> list[Trajectory]:
    import zarr  # an optional package

    root = zarr.open_group(path, mode="r")
    made = []
    for k in range(root.attrs["trajectories"]):
        group = root[f"{k:06d}"]
        about = dict(group.attrs)
        made.append(
            Trajectory(
                record=from_document(about["record"]),
                stream=int(about["stream"]),
                temperature=about["temperature"],
                stop=None if about["stop"] is None else Stop(**about["stop"]),
                **{name: group[name][...] for name in (*_PER_ATOM, *_PER_FRAME)},
            )
        )
    return made


def to_arrays(trajectories: Sequence[Trajectory]) -> dict[str, NDArray[Any]]:
    """Frames of all, one after another; atoms of all frames likewise; records as an Arrow stream."""
    about = [(str(t.stream), t.temperature, None if t.stop is None else tuple(t.stop)) for t in trajectories]
    sink = io.BytesIO()
    table = from_records([t.record for t in trajectories])
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    arrays = {
        "records": np.frombuffer(sink.getvalue(), dtype=np.uint8),
        "about": np.array(json.dumps(about)),
        "frames": np.array([len(t) for t in trajectories], dtype=np.int64),
    }
    for name in _PER_ATOM:
        arrays[name] = np.concatenate([getattr(t, name).reshape(-1, 3) for t in trajectories])
    for name in _PER_FRAME:
        arrays[name] = np.concatenate([getattr(t, name) for t in trajectories])
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> list[Trajectory]:
    """The inverse of :func:`to_arrays`."""
    records = to_records(pa.ipc.open_stream(arrays["records"].tobytes()).read_all())
    frames = arrays["frames"]
    sizes = np.array([len(record.atomic_numbers) for record in records])
    parts: dict[str, list[NDArray[Any]]] = {
        **{name: np.split(arrays[name], np.cumsum(frames * sizes)[:-1]) for name in _PER_ATOM},
        **{name: np.split(arrays[name], np.cumsum(frames)[:-1]) for name in _PER_FRAME},
    }
    made = []
    for k, (record, about) in enumerate(zip(records, json.loads(str(arrays["about"])), strict=True)):
        stream, temperature, stop = about
        values = {name: parts[name][k].reshape(frames[k], sizes[k], 3) for name in _PER_ATOM}
        values |= {name: parts[name][k] for name in _PER_FRAME}
        made.append(Trajectory(record, int(stream), temperature, stop=None if stop is None else Stop(*stop), **values))
    return made


def save_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """A .npz file that is there whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    with part.open("wb") as file:
        np.savez(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)
    return path


def least_confident(trajectories: Iterable[Trajectory], k: int, *, per_trajectory: int | None = None) -> list[Record]:
    """The `k` frames with the lowest ConfidenceScore as records, lowest first; the start of a trajectory is none.

    Parameters
    ----------
    trajectories : iterable of Trajectory
        Of a potential with at least two members.
    k : int
    per_trajectory : int, optional
        At most so many frames of one trajectory.

    Raises
    ------
    ValueError
        A trajectory without scores.
    """
    if k < 0 or (per_trajectory is not None and per_trajectory < 1):
        raise ValueError(f"k is {k} and per_trajectory {per_trajectory}, expected none or more, and at least one")
    candidates: list[tuple[float, str, float, Record]] = []
    for trajectory in trajectories:
        moved = np.flatnonzero(trajectory.times > 0)
        scores = trajectory.scores[moved]
        if not np.isfinite(scores).all():
            raise ValueError(
                f"the trajectory of {trajectory.record.record_id} has no ConfidenceScores: "
                "drive it by at least two members"
            )
        for frame in moved[np.argsort(scores, kind="stable")[:per_trajectory]]:
            record = trajectory.frame_record(int(frame))
            candidates.append((float(trajectory.scores[frame]), record.parent, float(trajectory.times[frame]), record))
    return [record for *_, record in sorted(candidates, key=lambda row: row[:3])[:k]]
