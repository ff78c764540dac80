"""A cheap method under the networks (Δ-learning): by the factory, taken off labels, added to predictions."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from sddfkit.data.records import Record
from sddfkit.factory import Cluster
from sddfkit.qc.levels import Level
from sddfkit.workflows.console import say
from sddfkit.workflows.label import Labeller, OpenStore, choose_program, run_name

_NO_LABEL: dict[str, Any] = {
    "energy": None,
    "forces": None,
    "dipole": None,
    "level": "",
    "program": "",
    "program_version": "",
    "result_key": "",
}


@dataclass(frozen=True)
class Factory:
    """Where baselines are computed and kept: a store, a cluster, and the root of all runs."""

    open_store: OpenStore
    open_cluster: Callable[[Path], Cluster]
    root: Path


@dataclass(frozen=True)
class Baseline:
    """What a cheap method says of some records.

    Attributes
    ----------
    records : dict
        Record id → the record with energy (eV) and forces (eV/Å) of the method.
    atoms : dict
        Atomic number → energy of the isolated atom, eV.
    failed : dict
        Record id → why it has no value.
    card : dict
        The level, as plain JSON from which :func:`level_of` makes it again.
    """

    records: Mapping[str, Record]
    atoms: Mapping[int, float]
    failed: Mapping[str, str]
    card: Mapping[str, Any]

    @classmethod
    def compute(cls, level: Level, records: Sequence[Record], factory: Factory, folder: Path) -> Self:
        """Compute a level for records, as far as the store does not know it; `folder` is that of the run.

        A calculation that fails is a reason in ``failed``, and stops nothing else.
        """
        chosen = choose_program(level)
        name = run_name(factory.root, folder)
        bare = [record._replace(**_NO_LABEL) for record in records]
        with factory.open_cluster(factory.root / "clusters" / name) as cluster:
            labeller = Labeller(factory.open_store, cluster, level, chosen, batch=name)
            labeller.label(bare, "baseline")
        found = labeller.labels
        reasons = {
            row["record_id"]: f"{row['error_class']}: {row['error_message']}"
            for row in found.failed.values()
            if row.get("record_id")
        }
        failed = {
            record.record_id: f"no baseline {level.name}: {reasons.get(record.record_id, 'the calculation failed')}"
            for record in records
            if record.record_id not in found.records
        }
        for record in records:
            if record.record_id in failed:
                say(f"  left out: {record.name} ({record.record_id}): {failed[record.record_id]}")
        return cls(found.records, found.atoms, failed, level_card(level, chosen.program, chosen.version))

    def kept(self, records: Sequence[Record]) -> list[Record]:
        """Return those of the records that have a value, in their order."""
        return [record for record in records if record.record_id in self.records]

    def difference(self, records: Sequence[Record]) -> list[Record]:
        """Return the records that have a value, holding label − baseline under keys of their own.

        They keep the name of the label's level: it is what the sum with the baseline stands for.
        """
        made = []
        for record in self.kept(records):
            below = self.records[record.record_id]
            assert record.energy is not None and below.energy is not None
            both = record.forces is not None and below.forces is not None
            key = hashlib.sha256(f"{record.result_key} - {below.result_key}".encode()).hexdigest()
            made.append(
                record._replace(
                    energy=record.energy - below.energy,
                    forces=np.asarray(record.forces) - np.asarray(below.forces) if both else None,
                    dipole=None,
                    result_key=key,
                )
            )
        return made

    def atom_differences(self, atoms: Mapping[int, float]) -> dict[int, float]:
        """Return label − baseline of isolated atoms, eV, where both are known."""
        return {z: energy - self.atoms[z] for z, energy in atoms.items() if z in self.atoms}

    def arguments(self, records: Sequence[Record], forces: bool = True) -> dict[str, Any]:
        """Return what :meth:`sddfkit.models.Ensemble.predict` takes for these records: energies (n,) and forces."""
        rows = [self.records[record.record_id] for record in records]
        energies: NDArray[np.float64] = np.array([row.energy for row in rows], dtype=np.float64)
        return {"baseline_energies": energies, "baseline_forces": [row.forces for row in rows] if forces else None}


def level_card(level: Level, program: str, version: str) -> dict[str, Any]:
    """Return all that decides the numbers of a level by one program, and its limits, as plain JSON."""
    return {
        "name": level.name,
        "method": level.method,
        "basis": level.basis,
        "program": program,
        "program_version": version,
        "keywords": dict(level.programs[program]),
        "timeout_s": level.timeout_s,
        "memory_gib": level.memory_gib,
        "threads": level.threads,
    }


def level_of(card: Mapping[str, Any]) -> Level:
    """Return the level that :func:`level_card` wrote, by the program that was taken then."""
    return Level(
        card["name"],
        card["method"],
        card["basis"],
        {card["program"]: card["keywords"]},
        card["program"],
        timeout_s=card["timeout_s"],
        memory_gib=card["memory_gib"],
        threads=card["threads"],
    )


def refuse_same_level(level: Level, labels: str) -> None:
    """Refuse a baseline that is the level of the labels: nothing would be left to learn.

    Raises
    ------
    ValueError
        Names both.
    """
    names = {level.name.casefold(), level.method.casefold(), f"{level.method}/{level.basis}".casefold()}
    if level.basis:
        names.remove(level.method.casefold())  # with another basis it is another level
    if labels.strip().casefold() in names:
        raise ValueError(
            f"the baseline {level.name} is the level of the labels, {labels}: nothing would be left to learn; take "
            "baseline=none, or a cheaper level"
        )


def baseline_of(
    card: Mapping[str, Any], factory: Factory | None, folder: Path
) -> Callable[[Sequence[Record]], Baseline] | None:
    """Return what computes the baseline that an ensemble's card names; None without one, or without a factory."""
    about = card.get("baseline")
    if about is None or factory is None:
        return None
    say(f"baseline: {about['name']} by {about['program']} {about['program_version']}, computed and added back")
    return lambda records: Baseline.compute(level_of(about), records, factory, folder)
