"""Several networks that answer together: total energies, forces, and how far the members disagree."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from qcelemental import periodictable
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor
from torch_geometric.data import Batch

from sddfkit import __version__
from sddfkit.data import Record, ReferenceEnergies
from sddfkit.models.base import EnergyModel
from sddfkit.models.build import build_net
from sddfkit.models.graphs import GraphError, GraphStats, graph

CARD = "card.json"
MEMBER_CARD = "member.json"
WEIGHTS = "weights.safetensors"
ONE_FILE = ".safetensors"
UNITS = {"positions": "Å", "energy": "eV", "forces": "eV/Å"}
Parsed = TypeVar("Parsed")
_OF_A_NET = ("net", "stats", "seed")
_OF_AN_ENSEMBLE = ("members", "references")
_OF_ONE_MACHINE = ("warnings", "mlflow_run_id")


class EnsembleError(ValueError):
    """A folder is no ensemble, or its parts do not fit together."""


class EnsemblePrediction(NamedTuple):
    """Predictions for n records by m members; float64.

    Attributes
    ----------
    energy : (n,), eV
        Total energies (reference energies added back), mean of the members.
    energy_std : (n,), eV
        Standard deviation of the members' energies around their mean (divided by m).
    member_energies : (m, n), eV
    forces : list of (n_i, 3), eV/Å, or None
        Mean of the members.
    member_forces : list of (m, n_i, 3), eV/Å, or None
    """

    energy: NDArray[np.float64]
    energy_std: NDArray[np.float64]
    member_energies: NDArray[np.float64]
    forces: list[NDArray[np.float64]] | None
    member_forces: list[NDArray[np.float64]] | None


@dataclass(frozen=True)
class Ensemble:
    """Members trained on one data set with one set of reference energies.

    Attributes
    ----------
    members : dict
        Name → network.
    references : ReferenceEnergies
    card : dict
        Plain JSON, true on any machine: versions of sddfkit and torch, ``units``, ``elements``, ``level``;
        ``card["members"][name]`` holds what rebuilds the member (``net`` with its `_target_`, ``stats``,
        ``seed``) and what its fit reported.
    """

    members: dict[str, EnergyModel]
    references: ReferenceEnergies
    card: dict[str, Any]

    @property
    def composition(self) -> ReferenceEnergies:
        """What elements alone contribute to a total energy: of the labels themselves, also above a baseline."""
        if self.card.get("baseline") is None:
            return self.references
        return ReferenceEnergies.from_dict(self.card["composition"])

    @property
    def cutoff(self) -> float:
        """The longest cutoff of the members, Å."""
        return max(net.cutoff for net in self.members.values())

    def predict(
        self,
        records: Sequence[Record],
        forces: bool = True,
        batch_size: int = 64,
        *,
        baseline_energies: ArrayLike | None = None,
        baseline_forces: Sequence[NDArray[np.float64] | None] | None = None,
    ) -> EnsemblePrediction:
        """Energies and forces of records; labels in them are ignored.

        An ensemble whose card names a baseline needs that method's energies (n,), eV, of the records, and for forces
        its forces, n arrays (n_i, 3), eV/Å; they are added to what the members say. No other ensemble takes them.

        Raises
        ------
        EnsembleError
            A baseline that is missing, of another shape or not finite, or that the ensemble does not know.
        GraphError
            An element that was not in the training set; a record without bonds where the members were trained with.
        """
        for net in self.members.values():
            net.eval()
        added = self._checked_baseline(records, baseline_energies, baseline_forces, forces)
        offsets = np.array([self.references.total(record.atomic_numbers) for record in records], dtype=np.float64)
        if added is not None:
            offsets += added[0]
        energies: list[NDArray[np.float64]] = []
        member_forces: list[NDArray[np.float64]] = []
        for start in range(0, len(records), batch_size):
            chunk = records[start : start + batch_size]
            energy, force = self._predict_batch(chunk, forces)
            energies.append(energy)
            if force is not None:
                sizes = np.cumsum([len(record.atomic_numbers) for record in chunk])
                member_forces.extend(np.split(force, sizes[:-1], axis=1))
        if added is not None and forces:
            member_forces = [force + below for force, below in zip(member_forces, added[1], strict=True)]
        relative = np.concatenate([np.empty((len(self.members), 0)), *energies], axis=1)
        return EnsemblePrediction(
            energy=offsets + relative.mean(0),
            energy_std=relative.std(0),
            member_energies=offsets + relative,
            forces=[force.mean(0) for force in member_forces] if forces else None,
            member_forces=member_forces if forces else None,
        )

    def _checked_baseline(
        self,
        records: Sequence[Record],
        energies: ArrayLike | None,
        gradients: Sequence[NDArray[np.float64] | None] | None,
        forces: bool,
    ) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]] | None:
        """Energies (n,), eV, and forces, n arrays (n_i, 3), eV/Å, to be added; None if there is no baseline."""
        about = self.card.get("baseline")
        if about is None:
            if energies is not None or gradients is not None:
                raise EnsembleError("this ensemble was trained without a baseline: baseline_energies cannot be added")
            return None
        what = f"this ensemble was trained on differences from {about['name']} by {about['program']}"
        if energies is None or (forces and gradients is None):
            absent = "baseline_energies (n,), eV" if energies is None else "baseline_forces, n arrays (n_i, 3), eV/Å"
            raise EnsembleError(
                f"{what}: predict needs {absent}, of that method for the same records; `sddfkit predict` and "
                "`sddfkit evaluate` compute it by themselves"
            )
        below = np.asarray(energies, dtype=np.float64)
        if below.shape != (len(records),) or not np.isfinite(below).all():
            raise EnsembleError(
                f"{what}: baseline_energies has shape {below.shape}; expected ({len(records)},) finite values, eV"
            )
        pulls = [np.asarray(force, dtype=np.float64) for force in gradients or ()] if forces else []
        shapes = [(len(record.atomic_numbers), 3) for record in records] if forces else []
        if [force.shape for force in pulls] != shapes or not all(np.isfinite(force).all() for force in pulls):
            raise EnsembleError(
                f"{what}: baseline_forces must be a finite array (n_i, 3), eV/Å, for each of {len(records)} records"
            )
        return below, pulls

    def _predict_batch(
        self, records: Sequence[Record], forces: bool
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Relative energies (m, b) and forces (m, n, 3) of one batch."""
        for record in records:
            check_bonds(record, self.members)
        graphs = {}
        energies, gradients = [], []
        for net in self.members.values():
            dtype = next(net.parameters()).dtype
            if dtype not in graphs:
                graphs[dtype] = Batch.from_data_list([graph(record, self.cutoff, dtype=dtype) for record in records])
            with torch.no_grad():
                prediction = net(graphs[dtype], forces=forces)
            energies.append(prediction.energy.double().numpy())
            if prediction.forces is not None:
                gradients.append(prediction.forces.double().numpy())
        return np.stack(energies), np.stack(gradients) if forces else None

    def save(self, path: str | Path) -> Path:
        """Write one file, if `path` ends in ``.safetensors``, else a folder; returns the path.

        A folder gets card.json and one <name>.safetensors per member, the card last: without one it was not finished.
        The file holds all members' weights, each named <member>.<parameter>, and the card in its header: it is all
        that another machine needs.
        """
        folder = Path(path)
        card = json.dumps({**self.card, "references": self.references.to_dict()}, indent=1)
        if folder.suffix == ONE_FILE:
            weights = {f"{name}.{key}": w for name, net in self.members.items() for key, w in net.state_dict().items()}
            folder.parent.mkdir(parents=True, exist_ok=True)
            _replace(folder, save(weights, {CARD: card}))
            return folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CARD).unlink(missing_ok=True)
        for name, net in self.members.items():
            _replace(folder / f"{name}.safetensors", save(net.state_dict()))
        _replace(folder / CARD, card.encode())
        return folder

    @classmethod
    def load(cls, path: str | Path) -> "Ensemble":
        """The inverse of :meth:`save`.

        Raises
        ------
        EnsembleError
            When there is no ensemble, a part of it is missing or damaged, or a network's code cannot be imported.
        """
        path = Path(path)
        if path.is_file():
            where, weights, text = path, *_read_file(path)
            card = _part(where, lambda text: _with(json.loads(text), _OF_AN_ENSEMBLE), text)
        else:
            where, weights = path / CARD, {}
            card = _read_card(where, "an ensemble as written by Ensemble.save", _OF_AN_ENSEMBLE)
        references = _part(where, ReferenceEnergies.from_dict, card["references"])
        entries = _part(where, _entries, card["members"])
        members = {
            name: _net(weights.get(name, {}), entry, where, f"the member {name} of {path}")
            if where == path
            else _load_net(path / f"{name}.safetensors", entry, where)
            for name, entry in entries.items()
        }
        return cls(members, references, card)

    @classmethod
    def from_members(cls, folders: Sequence[str | Path], **card: Any) -> "Ensemble":
        """Join the folders that :func:`sddfkit.training.fit_member` wrote; `card` adds entries to the card.

        Raises
        ------
        EnsembleError
            When a folder is not a finished member, or members differ in name or reference energies.
        """
        needed = ("name", "references", *_OF_A_NET)
        entries = [_read_card(Path(folder) / MEMBER_CARD, "a finished member", needed) for folder in folders]
        names = [entry["name"] for entry in entries]
        if not entries or len(set(names)) < len(names):
            raise EnsembleError(f"an ensemble needs members with different names, got {names}")
        if any(entry["references"] != entries[0]["references"] for entry in entries):
            raise EnsembleError(f"the members {names} were trained with different reference energies")
        members = {
            entry["name"]: _load_net(Path(folder) / WEIGHTS, entry, Path(folder) / MEMBER_CARD)
            for folder, entry in zip(folders, entries, strict=True)
        }
        references = ReferenceEnergies.from_dict(entries[0]["references"])
        # What a fit met on its machine stays there: a card says nothing that is untrue elsewhere.
        told = {entry["name"]: {k: v for k, v in entry.items() if k not in _OF_ONE_MACHINE} for entry in entries}
        elements = set.intersection(*(set(net.stats.elements) for net in members.values()))
        about = {
            "sddfkit": __version__,
            "torch": torch.__version__,
            "units": UNITS,
            "elements": [periodictable.to_E(z) for z in sorted(elements)],
            "level": entries[0].get("level"),
        }
        return cls(members, references, {**about, **card, "members": told})


def check_bonds(record: Record, nets: Mapping[str, EnergyModel]) -> None:
    """Refuse a record without bonds where one of the networks, by name, was trained with bond types.

    Raises
    ------
    GraphError
        Names the record and the network.
    """
    if len(record.atomic_numbers) > 1 and len(record.bonds) == 0:
        for name, net in nets.items():
            if net.stats.bonds:
                raise GraphError(
                    f"record {record.record_id} lists no bonds, but {name} was trained with bond types; "
                    "give the bonds, or train on records without them"
                )


def ensemble_in(folder: Path) -> Path | None:
    """Return where the ensemble is in its own folder or in that of a run or sweep; None if there is none."""
    places = (folder, folder / "ensemble", folder / "best", folder / "best" / "ensemble")
    return next((place for place in places if (place / CARD).is_file()), None)


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_bytes(content)
    part.replace(path)


def _read_card(path: Path, what: str, needed: Sequence[str]) -> dict[str, Any]:
    if not path.is_file():
        raise EnsembleError(f"{path.parent} holds no {path.name}: it is not {what}")
    return _part(path, lambda card: _with(json.loads(card), needed), path.read_bytes())


def _entries(members: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    if not members:
        raise ValueError("it lists no members")
    return {name: _with(entry, _OF_A_NET) for name, entry in members.items()}


def _with(card: Any, needed: Sequence[str]) -> dict[str, Any]:
    missing = [key for key in needed if not isinstance(card, dict) or key not in card]
    if missing:
        raise ValueError(f"it lacks {', '.join(missing)}")
    return dict(card)


def _part(path: Path, parse: Callable[[Any], Parsed], document: Any) -> Parsed:
    """Parse a part of the card at `path`; what is wrong there is a matter of the card."""
    try:
        return parse(document)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        wrong = f"no {error} in it" if isinstance(error, KeyError) else str(error)
        raise EnsembleError(f"{path} is damaged ({wrong}); copy the folder again, or train again") from error


def _read_file(path: Path) -> tuple[dict[str, dict[str, Tensor]], str]:
    """Weights by member and parameter, and the text of the card."""
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(CARD)
            weights: dict[str, dict[str, Tensor]] = {}
            for key in file.keys():  # noqa: SIM118 (no mapping)
                member, _, parameter = key.partition(".")
                weights.setdefault(member, {})[parameter] = file.get_tensor(key)
    except SafetensorError as error:
        raise EnsembleError(f"{path} is damaged ({error}); copy the file again, or train again") from error
    if text is None:
        raise EnsembleError(f"{path} holds weights but no card: it is not an ensemble as written by Ensemble.save")
    return weights, text


def _load_net(weights: Path, entry: Mapping[str, Any], card: Path) -> EnergyModel:
    if not weights.is_file():
        raise EnsembleError(f"the weights {weights} are missing")
    try:
        state = load_file(weights)
    except SafetensorError as error:
        raise EnsembleError(f"{weights} is damaged ({error}); copy the folder again, or train again") from error
    return _net(state, entry, card, f"the member {weights.stem} of {weights.parent}")


def _net(state: Mapping[str, Tensor], entry: Mapping[str, Any], card: Path, what: str) -> EnergyModel:
    stats = _part(card, GraphStats.from_dict, entry["stats"])
    try:
        net = build_net(entry["net"], stats, entry["seed"])
    except ValueError as error:
        raise EnsembleError(f"{what} cannot be rebuilt: {error}") from error
    if not state:
        raise EnsembleError(f"the weights of {what} are missing")
    net.to(next(value.dtype for value in state.values() if value.is_floating_point()))
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise EnsembleError(
            f"the weights of {what} do not fit the network {entry['net']['_target_']} of sddfkit {__version__}; use "
            f"the version that {card} names, or train again ({str(error).splitlines()[-1].strip()})"
        ) from error
    return net.eval()
