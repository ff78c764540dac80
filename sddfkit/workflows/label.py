"""From a file of molecules to labelled records."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from sddfkit import __version__
from sddfkit.chem.conformers import Conformers
from sddfkit.chem.molecules import molecule_id
from sddfkit.chem.sources import Rejected, read_molecules
from sddfkit.data.quality import flag
from sddfkit.data.records import Record, conformer_records, from_records, to_records
from sddfkit.data.references import ReferenceEnergies, fit_reference_energies
from sddfkit.data.snapshots import read_snapshot, write_snapshot
from sddfkit.factory import Batch, BatchOutcome, Cluster, Store, plan
from sddfkit.factory.export import atom_energies, failures, labelled, record_document
from sddfkit.factory.jobs import Calculation, plan_atoms
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.workflows.console import progress, say

Embed = Callable[..., Conformers]  # (mol, *, rng)
OpenStore = Callable[[], Store]
ISOLATED_ATOMS = "isolated_atoms.json"
"""File beside a snapshot: energy in eV of the neutral ground-state atom, by atomic number."""


@dataclass(frozen=True)
class MoleculeSet:
    """Molecules that were read, by molecule id, and the lines that were not, with reasons."""

    source: str
    molecules: dict[str, Chem.Mol]
    rejected: list[Rejected]


@dataclass(frozen=True)
class ConformerSet:
    """Records of all conformers, and for each molecule what was asked and obtained."""

    records: list[Record]
    rows: list[dict[str, Any]]

    def totals(self) -> dict[str, Any]:
        """Return the sums over all molecules, for a report."""
        reasons: dict[str, int] = {}
        for row in self.rows:
            for reason, count in row["failures"].items():
                reasons[reason] = reasons.get(reason, 0) + count
        sums = {name: sum(row[name] for row in self.rows) for name in ("asked", "embedded", "kept")}
        return {**sums, "failures": reasons, "molecules": self.rows}


@dataclass
class Labels:
    """What labelling gave so far: records with energies, what failed and why, and what it cost."""

    records: dict[str, Record] = field(default_factory=dict)
    atoms: dict[int, float] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: int = 0
    computed: int = 0
    program_wall_s: float = 0.0
    core_hours: float = 0.0

    def add(self, outcome: BatchOutcome) -> None:
        """Add the cost of one run of a batch."""
        self.known += outcome.known
        self.computed += outcome.computed
        self.program_wall_s += outcome.program_wall_s
        self.core_hours += outcome.core_hours


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator for one purpose: its stream depends on the seed and the names alone, not on any order."""
    words = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in names]
    return np.random.default_rng([seed, *words])


def elements(records: Sequence[Record]) -> set[int]:
    """Return the atomic numbers in some records."""
    return {int(z) for record in records for z in record.atomic_numbers}


def load_molecules(path: str, **limits: Any) -> MoleculeSet:
    """Read molecules and say what was refused.

    Parameters
    ----------
    path
        A file, or the name of a set that ships with the package.
    **limits
        Passed to :func:`sddfkit.chem.sources.read_molecules`.
    """
    molecules: dict[str, Chem.Mol] = {}
    rejected: list[Rejected] = []
    for item in read_molecules(path, **limits):
        if isinstance(item, Rejected):
            rejected.append(item)
        else:
            molecules[molecule_id(item)] = item
    say(f"molecules: {len(molecules)} read from {path}, {len(rejected)} rejected")
    for line in rejected:
        say(f"  rejected {line.source}:{line.line}: {line.reason}   {line.text}")
    if not molecules:
        raise ValueError(f"no molecule could be used from {path}: the reasons stand above")
    return MoleculeSet(path, molecules, rejected)


def make_conformers(molecules: Mapping[str, Chem.Mol], embed: Embed, seed: int) -> ConformerSet:
    """Embed and prune conformers of each molecule; a molecule without any is a row with its reason."""
    records: list[Record] = []
    rows: list[dict[str, Any]] = []
    for identity, mol in progress("conformers")(sorted(molecules.items()), len(molecules)):
        found = embed(mol, rng=generator(seed, "conformers", identity))
        name = mol.GetProp("_Name") if mol.HasProp("_Name") else identity
        rows.append(
            {
                "molecule_id": identity,
                "name": name,
                "asked": found.asked,
                "embedded": found.embedded,
                "kept": found.kept,
                "failures": dict(found.failures),
            }
        )
        if found.kept:
            records += to_records(
                conformer_records(found.mol, name=name, origin=found.method, code_version=__version__)
            )
    say(
        f"conformers: {len(records)} kept of {sum(r['embedded'] for r in rows)} embedded "
        f"and {sum(r['asked'] for r in rows)} asked for"
    )
    return ConformerSet(records, rows)


class Labeller:
    """Labels records at one level by one program, as often as asked, through one store and one cluster.

    The store is opened for each call only, so that the jobs of a sweep share it in turn.
    """

    def __init__(
        self,
        open_store: OpenStore,
        cluster: Cluster,
        level: Level,
        chosen: ChosenProgram,
        *,
        batch: str,
    ) -> None:
        self.open_store = open_store
        self.cluster = cluster
        self.level = level
        self.chosen = chosen
        self.batch = batch
        self.labels = Labels()

    def label(self, records: Sequence[Record], description: str) -> None:
        """Label records and the isolated atoms of their elements; results and failures are added to ``labels``."""
        calculations, refusals = plan(records, self.level, self.chosen)
        atoms = plan_atoms(elements(records) - self.labels.atoms.keys(), self.level, self.chosen)
        with self.open_store() as store:
            store.add_records(record_document(record) for record in records)
            asked: list[Calculation] = [*calculations, *atoms.values()]
            batch = Batch(
                store, f"{self.batch}:{description}", timeout_s=self.level.timeout_s, memory_gib=self.level.memory_gib
            )
            batch.add(asked)
            outcome = batch.run(self.cluster.executor, progress=progress(description))
            self.labels.add(outcome)
            for record in labelled(store, calculations, records):
                self.labels.records[record.record_id] = record
            self.labels.atoms |= atom_energies(store, atoms)
            failed = failures(store, [item.key for item in asked])
        for row in failed:
            self.labels.failed[row["key"]] = row
        for refusal in refusals:
            self.labels.failed[refusal.record_id] = {
                "key": None,
                "record_id": refusal.record_id,
                "label": refusal.name,
                "error_class": "input",
                "error_message": refusal.reason,
            }
        say(
            f"{description}: {outcome.known} known before, {outcome.computed} computed, "
            f"{outcome.failed + len(refusals)} failed"
        )


def label_molecules(
    *,
    molecules: Mapping[str, Any],
    embed: Embed,
    level: Level,
    open_store: OpenStore,
    open_cluster: Callable[[Path], Cluster],
    root: Path,
    folder: Path,
    seed: int,
) -> Path:
    """Label every conformer of every molecule and return the folder of the snapshot.

    Failures are in the store, and named at the end; they never stop the rest.
    """
    chosen = choose_program(level)
    read = load_molecules(**molecules)
    conformers = make_conformers(read.molecules, embed, seed)
    name = run_name(root, folder)
    with open_cluster(root / "clusters" / name) as cluster:
        labeller = Labeller(open_store, cluster, level, chosen, batch=name)
        labeller.label(conformers.records, "labels")
    labels = labeller.labels
    for row in labels.failed.values():
        say(f"  failed: {row['label']}: {row['error_class']}: {row['error_message']}")
    if not labels.records:
        raise ValueError("no conformer could be labelled: the reasons stand above")
    references = fit_reference_energies(list(labels.records.values()), labels.atoms)
    return save_snapshot(labels, references, folder / "snapshot")


def run_name(root: Path, folder: Path) -> str:
    """Return what names a run wherever runs meet: its folder below ``runs``, so that the jobs of a sweep differ."""
    runs = root / "runs"
    return "-".join((folder.relative_to(runs) if folder.is_relative_to(runs) else folder).parts).strip("/")


def choose_program(level: Level) -> ChosenProgram:
    """Take a program for a level, and say which and why."""
    chosen = level.choose()
    say(f"level of theory: {level.name} by {chosen.program} {chosen.version} ({chosen.why})")
    return chosen


def save_snapshot(labels: Labels, references: ReferenceEnergies, folder: Path) -> Path:
    """Write all labelled records, flagged where a label is doubtful, with the isolated atoms beside them.

    `references` tell which energies are out of the ordinary.
    """
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was interrupted at its very end
    rows = [labels.records[key] for key in sorted(labels.records)]
    flags = flag(rows, references)
    write_snapshot(
        from_records([row._replace(qc_flags=(*row.qc_flags, *found)) for row, found in zip(rows, flags, strict=True)]),
        folder,
        code_version=__version__,
    )
    (folder / ISOLATED_ATOMS).write_text(json.dumps({str(z): e for z, e in sorted(labels.atoms.items())}, indent=1))
    doubtful = sum(bool(found) for found in flags)
    say(f"snapshot: {len(rows)} records, {doubtful} of them flagged, in {folder}")
    return folder


def load_snapshot(folder: Path) -> tuple[list[Record], dict[int, float]]:
    """Return the records of a snapshot and the energies (eV) of its isolated atoms, by atomic number."""
    records = to_records(read_snapshot(folder))
    path = folder / ISOLATED_ATOMS
    if not path.is_file():
        raise ValueError(f"{path} is missing: reference energies need the isolated atoms that `sddfkit label` adds")
    return records, {int(z): float(energy) for z, energy in json.loads(path.read_text()).items()}
