"""From a file of molecules to labelled records."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rdkit import Chem, rdBase

from sddfkit import __version__
from sddfkit.chem.conformers import Conformers
from sddfkit.chem.molecules import charge_and_multiplicity, element_symbol, molecule_id
from sddfkit.chem.sources import LINE_PROPERTY, Rejected, read_molecules
from sddfkit.data.quality import flag
from sddfkit.data.records import Record, conformer_records, from_document, from_records, to_records
from sddfkit.data.references import ReferenceEnergies, fit_reference_energies
from sddfkit.data.snapshots import read_snapshot, write_snapshot
from sddfkit.factory import Batch, BatchOutcome, Cluster, Store, plan
from sddfkit.factory.export import atom_energies, failures, labelled
from sddfkit.factory.jobs import Calculation, plan_atoms, record_document
from sddfkit.qc.atoms import GROUND_STATE_MULTIPLICITY
from sddfkit.qc.inputs import refusal
from sddfkit.qc.levels import ChosenProgram, Level
from sddfkit.qc.properties import PropertyError, extract, property_named, with_properties
from sddfkit.runs import write_whole
from sddfkit.workflows.console import progress, say

Embed = Callable[..., Conformers]  # (mol, *, rng)
OpenStore = Callable[[], Store]
CONFORMERS = "conformers.jsonl"
"""File in the folder of an unfinished run: a line per molecule whose conformers are made."""
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
    """What labelling gave so far: records with energies, what failed and why, and what it cost.

    ``properties`` are those beyond energy, forces and dipole that were asked for: record id → name → value, None where
    the result does not hold it. ``remarks`` say so, and what else is to be known of values: name → record id → remark.
    """

    records: dict[str, Record] = field(default_factory=dict)
    properties: dict[str, dict[str, Any]] = field(default_factory=dict)
    remarks: dict[str, dict[str, str]] = field(default_factory=dict)
    atoms: dict[int, float] = field(default_factory=dict)
    failed: dict[str, dict[str, Any]] = field(default_factory=dict)
    known: int = 0
    computed: int = 0
    program_wall_s: float = 0.0
    core_hours: float = 0.0

    def read(self, record_id: str, result: Mapping[str, Any], names: Sequence[str]) -> None:
        """Read properties from a result; what it does not hold is None, with a remark, and stops nothing else."""
        values = self.properties.setdefault(record_id, {})
        for name in names:
            try:
                values |= extract(result, [name])
                remark = property_named(name).remark(result)
            except PropertyError as error:
                values[name], remark = None, f"none, for {error}"
            if remark:
                self.remarks.setdefault(name, {})[record_id] = remark

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


def refuse_impossible(read: MoleculeSet, level: Level, chosen: ChosenProgram) -> MoleculeSet:
    """Set aside the molecules that cannot be computed at this level whatever their geometry, and say why."""
    possible: dict[str, Chem.Mol] = {}
    refused: list[Rejected] = []
    for identity, mol in read.molecules.items():
        numbers = [atom.GetAtomicNum() for atom in mol.GetAtoms()]
        reason = refusal(numbers, *charge_and_multiplicity(mol), level, chosen)
        if strangers := sorted(set(numbers) - GROUND_STATE_MULTIPLICITY.keys()):
            names = ", ".join(element_symbol(number) for number in strangers)
            reason = reason or f"the ground state of the atom {names} is not tabulated, and reference energies need it"
        if reason is None:
            possible[identity] = mol
        else:
            line = mol.GetIntProp(LINE_PROPERTY)
            refused.append(Rejected(read.source, line, identity, f"{level.name} by {chosen.program}: {reason}"))
    for item in refused:
        say(f"  rejected {item.source}:{item.line}: {item.reason}   {item.text}")
    if not possible:
        raise ValueError(f"no molecule of {read.source} can be computed at {level.name}: the reasons stand above")
    return replace(read, molecules=possible, rejected=[*read.rejected, *refused])


def make_conformers(
    molecules: Mapping[str, Chem.Mol], embed: Embed, seed: int, kept: Path | None = None
) -> ConformerSet:
    """Embed and prune conformers of each molecule; a molecule without any is a row with its reason.

    Parameters
    ----------
    molecules
        By molecule id.
    embed
        Makes the conformers of one molecule.
    seed
        The draws for a molecule depend on it and on the molecule alone.
    kept
        A file of this run, a line per molecule that is done: those are not embedded again, unless the molecule, its
        coordinates, its name or a version is another.
    """
    done = _lines_kept(kept)
    with kept.open("a", encoding="utf-8") if kept else nullcontext() as lines:
        for identity, mol in progress("conformers")(sorted(molecules.items()), len(molecules)):
            mark = _mark(mol)
            if identity in done and done[identity]["mark"] == mark:
                continue
            done[identity] = {"mark": mark, **_conformers_of(identity, mol, embed, seed)}
            if lines:
                lines.write(json.dumps(done[identity]) + "\n")
                lines.flush()
    rows = [done[identity]["row"] for identity in sorted(molecules)]
    records = [from_document(item) for identity in sorted(molecules) for item in done[identity]["records"]]
    say(
        f"conformers: {len(records)} kept of {sum(r['embedded'] for r in rows)} embedded "
        f"and {sum(r['asked'] for r in rows)} asked for"
    )
    for row in rows:
        if not row["kept"]:
            reasons = ", ".join(f"{reason} ×{count}" for reason, count in row["failures"].items())
            say(f"  no conformer of {row['name']} ({row['molecule_id']}): {reasons}")
    if not records:
        raise ValueError("no molecule has a conformer: the reasons stand above")
    return ConformerSet(records, rows)


def _conformers_of(identity: str, mol: Chem.Mol, embed: Embed, seed: int) -> dict[str, Any]:
    """Return what is kept of one molecule: its row, and its records as documents."""
    found = embed(mol, rng=generator(seed, "conformers", identity))
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else identity
    records = []
    if found.kept:
        table = conformer_records(found.mol, name=name, origin=found.method, code_version=__version__)
        records = [record_document(record) for record in to_records(table)]
    return {
        "row": {
            "molecule_id": identity,
            "name": name,
            "asked": found.asked,
            "embedded": found.embedded,
            "kept": found.kept,
            "failures": dict(found.failures),
        },
        "records": records,
    }


def _lines_kept(kept: Path | None) -> dict[str, dict[str, Any]]:
    """Return the molecules that an interrupted run had done, by id; a line that was cut off is not one of them."""
    found: dict[str, dict[str, Any]] = {}
    if kept is not None and kept.is_file():
        for line in kept.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError):
                item = json.loads(line)
                found[item["row"]["molecule_id"]] = item
        # Written anew, so that what is added does not follow half a line.
        write_whole(kept, "".join(json.dumps(item) + "\n" for item in found.values()))
    return found


def _mark(mol: Chem.Mol) -> str:
    """Return a hash of all that decides the conformers of a molecule beside the settings of the run."""
    name = mol.GetProp("_Name") if mol.HasProp("_Name") else ""
    text = f"{name}\n{__version__}\n{rdBase.rdkitVersion}\n".encode()
    return hashlib.sha256(text + mol.ToBinary(int(Chem.PropertyPickleOptions.NoProps))).hexdigest()[:16]


class Labeller:
    """Labels records at one level by one program, as often as asked, through one store and one cluster.

    `properties` names what is read from each result beyond energy, forces and dipole. The store is opened for each call
    only, so that the jobs of a sweep share it in turn.
    """

    def __init__(
        self,
        open_store: OpenStore,
        cluster: Cluster,
        level: Level,
        chosen: ChosenProgram,
        *,
        batch: str,
        properties: Sequence[str] = (),
    ) -> None:
        self.open_store = open_store
        self.cluster = cluster
        self.level = level
        self.chosen = chosen
        self.batch = batch
        self.properties = tuple(properties)
        self.asked_level = with_properties(level, chosen.program, self.properties)
        self.labels = Labels()

    def label(self, records: Sequence[Record], description: str) -> None:
        """Label records and the isolated atoms of their elements; results and failures are added to ``labels``."""
        atoms = plan_atoms(elements(records) - self.labels.atoms.keys(), self.level, self.chosen)
        with self.open_store() as store:
            store.add_records(record_document(record) for record in records)
            calculations, refusals = plan(
                records, self.asked_level, self.chosen, known=lambda keys: store.states(keys).keys()
            )
            asked: list[Calculation] = [*calculations, *atoms.values()]
            batch = Batch(
                store, f"{self.batch}:{description}", timeout_s=self.level.timeout_s, memory_gib=self.level.memory_gib
            )
            batch.add(asked)
            outcome = batch.run(self.cluster.executor, progress=progress(description))
            if batch.open_count():  # somebody asked this job to stop: as if by Ctrl-C, the same command goes on
                raise KeyboardInterrupt
            self.labels.add(outcome)
            for record in labelled(store, calculations, records):
                self.labels.records[record.record_id] = record
                if self.properties:
                    self.labels.read(record.record_id, store.result(record.result_key), self.properties)
            self.labels.atoms |= atom_energies(store, atoms)
            failed = failures(store, [item.key for item in asked])
        for row in failed:
            self.labels.failed[row["key"]] = row
        for refused in refusals:
            self.labels.failed[refused.record_id] = {
                "key": None,
                "record_id": refused.record_id,
                "label": refused.name,
                "error_class": "input",
                "error_message": refused.reason,
            }
        say(
            f"{description}: {outcome.known} known before, {outcome.computed} computed, "
            f"{outcome.failed + len(refusals)} failed"
        )
        for name, remarks in self.labels.remarks.items():
            of_these = [record for record in records if record.record_id in remarks]
            if of_these:
                first = of_these[0]
                say(f"  {name}, {len(of_these)} of {len(records)}, such as {first.name}: {remarks[first.record_id]}")


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
    properties: Sequence[str] = (),
) -> Path:
    """Label every conformer of every molecule and return the folder of the snapshot.

    Failures are in the store, and named at the end; they never stop the rest. `properties` become further columns of
    the snapshot.
    """
    say(f"everything is kept under {root}\nthis run: {folder}")
    chosen = choose_program(level)
    asked_level = with_properties(level, chosen.program, properties)
    read = refuse_impossible(load_molecules(**molecules), asked_level, chosen)
    conformers = make_conformers(read.molecules, embed, seed, folder / CONFORMERS)
    name = run_name(root, folder)
    with open_cluster(root / "clusters" / name) as cluster:
        labeller = Labeller(open_store, cluster, level, chosen, batch=name, properties=properties)
        labeller.label(conformers.records, "labels")
    labels = labeller.labels
    for row in labels.failed.values():
        say(f"  failed: {row['label']}: {row['error_class']}: {row['error_message']}")
    if not labels.records:
        raise ValueError("no conformer could be labelled: the reasons stand above")
    references = fit_reference_energies(list(labels.records.values()), labels.atoms)
    snapshot = save_snapshot(labels, references, folder / "snapshot")
    (folder / CONFORMERS).unlink()
    return snapshot


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
    table = from_records(
        [row._replace(qc_flags=(*row.qc_flags, *found)) for row, found in zip(rows, flags, strict=True)]
    )
    for column, values in _property_columns(labels, rows):
        table = table.append_column(column, [values])
    about = {"reference_energies": {"unit": "eV", **references.to_dict()}}
    files = {ISOLATED_ATOMS: isolated_atoms_text(labels.atoms)}
    write_snapshot(table, folder, code_version=__version__, about=about, files=files)
    doubtful = sum(bool(found) for found in flags)
    say(f"snapshot: {len(rows)} records, {doubtful} of them flagged, in {folder}")
    return folder


def isolated_atoms_text(energies: Mapping[int, float]) -> str:
    """Return what `ISOLATED_ATOMS` holds: energies in eV by atomic number."""
    return json.dumps({str(z): energy for z, energy in sorted(energies.items())}, indent=1)


def _property_columns(labels: Labels, rows: Sequence[Record]) -> Iterator[tuple[pa.Field, pa.Array]]:
    """Yield the columns of the properties that were asked for, with unit and shape."""
    values = [labels.properties.get(row.record_id, {}) for row in rows]
    for name in dict.fromkeys(name for found in values for name in found):
        prop = property_named(name)
        inner = pa.type_for_alias(prop.arrow_type.removeprefix("list<").removesuffix(">"))
        kind = pa.list_(inner) if prop.arrow_type.startswith("list<") else inner
        asked: list[Any] = [found.get(name) for found in values]
        column = [np.ravel(value) if np.ndim(value) else value for value in asked]
        about = {"unit": prop.unit, "shape": prop.shape, "description": f"{prop.name} by {name}"}
        yield pa.field(prop.name, kind, metadata=about), pa.array(column, type=kind)


def load_snapshot(folder: Path) -> tuple[list[Record], dict[int, float]]:
    """Return the records of a snapshot and the energies (eV) of its isolated atoms, by atomic number."""
    records = to_records(read_snapshot(folder))
    path = folder / ISOLATED_ATOMS
    if not path.is_file():
        raise ValueError(f"{path} is missing: reference energies need the isolated atoms that `sddfkit label` adds")
    return records, {int(z): float(energy) for z, energy in json.loads(path.read_text()).items()}
