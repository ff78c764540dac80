"""From molecules to energies and forces by the ensemble that a run left behind, with the doubt of its members."""

import csv
import difflib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rdkit import Chem

from sddfkit import __version__
from sddfkit.chem.molecules import element_symbol, molecule_id
from sddfkit.chem.sources import LINE_PROPERTY, Rejected, read_molecules
from sddfkit.data.arrays import list_column
from sddfkit.data.quality import flag
from sddfkit.data.records import Record, RecordError, conformer_records, from_records, to_records
from sddfkit.models.ensemble import CARD, ONE_FILE, Ensemble, EnsemblePrediction, ensemble_in
from sddfkit.models.graphs import GraphError
from sddfkit.units import EV_TO_KCAL_MOL
from sddfkit.workflows.baseline import Baseline, Factory, baseline_of
from sddfkit.workflows.console import progress, say, show_table
from sddfkit.workflows.label import Embed, generator

LATEST: Final = "latest"
BATCH: Final = 64
SHOWN: Final = 8
"""Rows of a printed table; the files hold all."""

PREDICTED: Final[pa.Schema] = pa.schema(
    [
        pa.field(name, kind, nullable=False, metadata={"unit": unit, "shape": shape, "description": description})
        for name, kind, unit, shape, description in (
            ("energy_pred", pa.float64(), "eV", "()", "total energy, mean of the members"),
            ("energy_std", pa.float64(), "eV", "()", "standard deviation of the members' total energies"),
            ("relative_energy_pred", pa.float64(), "eV", "()", "energy above the molecule's lowest conformer here"),
            ("relative_energy_std", pa.float64(), "eV", "()", "standard deviation of the members' relative energies"),
            ("forces_pred", pa.list_(pa.float64()), "eV/Å", "(n, 3) row by row", "forces, mean of the members"),
            ("forces_std", pa.list_(pa.float64()), "eV/Å", "(n, 3) row by row", "their standard deviation"),
        )
    ]
)
"""Columns beside those of a record in ``predictions.parquet``."""


class NoSuchRunError(ValueError):
    """What was named is no run, or holds no ensemble; the message says what there is."""


class Refusal(NamedTuple):
    """A molecule, or one of its conformers, without a prediction; `line` is that of its file."""

    line: int
    molecule: str
    smiles: str
    stage: str
    reason: str


@dataclass(frozen=True)
class Predictions:
    """n records with what an ensemble says of them, and why it says nothing of others.

    Attributes
    ----------
    records : list of n records
    values : EnsemblePrediction
    refused : dict
        Record id → reason.
    """

    records: list[Record]
    values: EnsemblePrediction
    refused: dict[str, str]

    @property
    def force_std(self) -> list[NDArray[np.float64]]:
        """Standard deviation of the members' forces, n arrays (n_atoms, 3), eV/Å."""
        assert self.values.member_forces is not None
        return [forces.std(axis=0) for forces in self.values.member_forces]

    def relative(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Energies above the lowest conformer of the same molecule and their standard deviation, (n,) each, eV.

        The deviation is that of the members' relative energies: what all of them get wrong alike drops out.
        """
        groups: dict[str, list[int]] = {}
        for i, record in enumerate(self.records):
            groups.setdefault(record.molecule_id, []).append(i)
        mean, std = np.zeros(len(self.records)), np.zeros(len(self.records))
        for rows in groups.values():
            lowest = rows[int(self.values.energy[rows].argmin())]
            members = self.values.member_energies[:, rows] - self.values.member_energies[:, [lowest]]
            mean[rows], std[rows] = members.mean(axis=0), members.std(axis=0)
        return mean, std

    def table(self) -> pa.Table:
        """Records with the columns of :data:`PREDICTED` beside them."""
        assert self.values.forces is not None
        relative, relative_std = self.relative()
        scalars = (self.values.energy, self.values.energy_std, relative, relative_std)
        columns = [pa.array(values, type=pa.float64()) for values in scalars]
        columns += [list_column(rows, pa.list_(pa.float64())) for rows in (self.values.forces, self.force_std)]
        table = from_records(self.records)
        for field, column in zip(PREDICTED, columns, strict=True):
            table = table.append_column(field, column)
        return table


def find_ensemble(run: str, root: Path) -> Path:
    """Return the folder (or the one file) of the ensemble that a run left.

    Parameters
    ----------
    run
        "latest" (the newest ensemble, of whatever verb), a run's name below ``<root>/runs``, the folder of a run, of a
        sweep (its ``best``) or of an ensemble, or the one file of an ensemble.
    root
        ``paths.root``.

    Raises
    ------
    NoSuchRunError
        Names the runs there are.
    """
    runs = root / "runs"
    if run == LATEST:
        if newest := _runs(runs)[:1]:
            run = newest[0]
        else:
            raise NoSuchRunError(
                f"there is no run with an ensemble below {runs}: make one with `sddfkit active` or `sddfkit train`, or "
                "name the folder of one, run=<folder>"
            )
    if Path(run).suffix == ONE_FILE and Path(run).expanduser().is_file():
        return Path(run).expanduser().resolve()
    for folder in (runs / run, Path(run).expanduser()):
        if folder.is_dir():
            found = ensemble_in(folder)
            if found is None:
                raise NoSuchRunError(f"{folder} holds no ensemble{_what_it_is(folder)}")
            return found.resolve()
    names = _runs(runs)
    near = [name for name in names if run in name] or difflib.get_close_matches(run, [LATEST, *names])
    hint = f"; did you mean run={near[0]}?" if near else ""
    there = f"the runs with an ensemble are {', '.join(names[:SHOWN])}" if names else "no run there has an ensemble"
    more = f" and {len(names) - SHOWN} older ones" if len(names) > SHOWN else ""
    raise NoSuchRunError(f"run={run} is neither a folder nor a run below {runs}; {there}{more}{hint}")


def _runs(runs: Path) -> list[str]:
    """Names of the runs with an ensemble, newest first."""
    found = {path.name: place for path in runs.glob("*") if not path.is_symlink() and (place := ensemble_in(path))}
    return sorted(found, key=lambda name: ((found[name] / CARD).stat().st_mtime, name), reverse=True)


def _what_it_is(folder: Path) -> str:
    jobs = sorted(path.name for path in folder.iterdir() if (path / "ensemble" / CARD).is_file())
    if jobs:
        return f"; it looks like a sweep without a best: name one of its jobs, such as run={folder / jobs[0]}"
    if (folder / "config.yaml").is_file():
        return "; it is the folder of a run that did not reach its end, or that trains nothing"
    return f": neither {CARD} nor ensemble/{CARD} nor best/{CARD} is there"


def known_elements(ensemble: Ensemble) -> frozenset[int]:
    """Atomic numbers that every member was trained on."""
    return frozenset(ensemble.references.energies).intersection(
        *(net.stats.elements for net in ensemble.members.values())
    )


def strangers(atomic_numbers: Iterable[int], known: frozenset[int]) -> str:
    """Return what is wrong with the elements of a molecule in a sentence; empty if all are known."""
    unknown = sorted({int(z) for z in atomic_numbers} - known)
    if not unknown:
        return ""
    names, seen = (", ".join(map(element_symbol, numbers)) for numbers in (unknown, sorted(known)))
    return f"the ensemble has never seen {names}; it was trained on {seen}"


def predict_known(
    ensemble: Ensemble,
    records: Sequence[Record],
    description: str = "predictions",
    baseline: Callable[[Sequence[Record]], Baseline] | None = None,
) -> Predictions:
    """Predict all records that the ensemble can predict; the reason stands for each of the others.

    `baseline` computes the method that an ensemble's card may name (:func:`~sddfkit.workflows.baseline.baseline_of`).
    """
    known = known_elements(ensemble)
    refused = {r.record_id: reason for r in records if (reason := strangers(r.atomic_numbers, known))}
    rest = [record for record in records if record.record_id not in refused]
    below = baseline(rest) if baseline is not None and rest else None
    if below is not None:
        refused |= below.failed
        rest = below.kept(rest)

    def predict(batch: Sequence[Record], forces: bool = True) -> EnsemblePrediction:
        added = {} if below is None else below.arguments(batch, forces)
        return ensemble.predict(batch, forces=forces, batch_size=BATCH, **added)

    kept: list[Record] = []
    parts: list[EnsemblePrediction] = []
    starts = range(0, len(rest), BATCH)
    for start in progress(description)(starts, len(starts)):
        batch = rest[start : start + BATCH]
        try:
            part = predict(batch)
        except GraphError:
            refused |= _culprits(predict, batch)
            batch = [record for record in batch if record.record_id not in refused]
            part = predict(batch)
        kept += batch
        parts.append(part)
    return Predictions(kept, _joined(parts) if parts else _nothing(ensemble), refused)


def _nothing(ensemble: Ensemble) -> EnsemblePrediction:
    return EnsemblePrediction(np.empty(0), np.empty(0), np.empty((len(ensemble.members), 0)), [], [])


def _culprits(predict: Callable[..., EnsemblePrediction], records: Sequence[Record]) -> dict[str, str]:
    """Record id → reason for those that the ensemble cannot predict, found by halving."""
    try:
        predict(records, forces=False)
    except GraphError as error:
        if len(records) == 1:
            return {records[0].record_id: str(error)}
        half = len(records) // 2
        return _culprits(predict, records[:half]) | _culprits(predict, records[half:])
    return {}


def _joined(parts: Sequence[EnsemblePrediction]) -> EnsemblePrediction:
    return EnsemblePrediction(
        energy=np.concatenate([part.energy for part in parts]),
        energy_std=np.concatenate([part.energy_std for part in parts]),
        member_energies=np.concatenate([part.member_energies for part in parts], axis=1),
        forces=[forces for part in parts for forces in part.forces or ()],
        member_forces=[forces for part in parts for forces in part.member_forces or ()],
    )


def predict_molecules(
    *,
    ensemble: Path,
    molecules: Mapping[str, Any],
    embed: Embed,
    folder: Path,
    seed: int,
    factory: Factory | None = None,
) -> Path:
    """Predict the conformers of molecules, write what was found into a folder, and show the gist of it.

    Parameters
    ----------
    ensemble
        Folder of an ensemble, from :func:`find_ensemble`.
    molecules
        ``path`` and the limits of :func:`sddfkit.chem.sources.read_molecules`.
    embed
        Makes conformers, ``(mol, *, rng) -> Conformers``.
    folder
        Gets ``predictions.csv`` (one row per conformer, the lowest of each molecule first; units in the names of the
        columns), ``predictions.parquet`` (the records, with positions, forces and units) and ``failures.csv`` (what
        was refused, when and why).
    seed
        Of the conformers: a molecule gets the same ones as in a run with this seed.
    factory
        Computes the baseline of an ensemble that has one; others need none.

    Returns
    -------
    Path
        Of ``predictions.csv``.

    Raises
    ------
    ValueError
        Nothing could be predicted; ``failures.csv`` is there all the same.
    """
    model = Ensemble.load(ensemble)
    level = str(model.card.get("level", "an unknown level of theory"))
    say(f"ensemble: {', '.join(model.members)}, trained at {level}, from {ensemble}")
    folder.mkdir(parents=True, exist_ok=True)
    accepted, failures = accepted_molecules(**molecules)
    records, refusals = conformers_of(accepted, known_elements(model), embed, seed)
    failures += refusals
    found = _ranked(predict_known(model, records, baseline=baseline_of(model.card, factory, folder)))
    lines = {molecule_id(mol): mol.GetIntProp(LINE_PROPERTY) for mol in accepted}
    failures += [
        Refusal(lines[r.molecule_id], r.name, r.smiles, f"conformer {r.conformer}", found.refused[r.record_id])
        for r in records
        if r.record_id in found.refused
    ]
    write_csv(folder / "failures.csv", Refusal._fields, [row._asdict() for row in failures])
    n_refused = f"{len(failures)} refused" + (f", see {folder / 'failures.csv'}" if failures else "")
    if not found.records:
        reason = failures[0].reason if failures else "there was none"
        raise ValueError(f"no conformer could be predicted: {n_refused}; the first because {reason}")
    rows = _rows(found)
    write_csv(folder / "predictions.csv", list(rows[0]), rows)
    write_parquet(folder / "predictions.parquet", found, ensemble, level)
    _show(rows)
    n_molecules = len({row["smiles"] for row in rows})
    say(f"predicted: {len(rows)} conformers of {n_molecules} molecules at {level}; {n_refused}")
    return folder / "predictions.csv"


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows under a header line; floats with all their digits."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def write_parquet(path: Path, found: Predictions, ensemble: Path, level: str) -> None:
    """Write :meth:`Predictions.table`; the file's metadata name the ensemble."""
    card = ensemble if ensemble.is_file() else ensemble / CARD
    origin = {
        "ensemble": str(ensemble),
        "ensemble_card_sha256": hashlib.sha256(card.read_bytes()).hexdigest(),
        "level": level,
        "sddfkit": __version__,
    }
    pq.write_table(found.table().replace_schema_metadata(origin), path, compression="zstd")


def accepted_molecules(path: str, **limits: Any) -> tuple[list[Chem.Mol], list[Refusal]]:
    """Read molecules; the lines that were refused have a reason."""
    accepted: list[Chem.Mol] = []
    failures = []
    for item in read_molecules(path, **limits):
        if isinstance(item, Rejected):
            failures.append(Refusal(item.line, item.text, "", "reading", item.reason))
        else:
            accepted.append(item)
    say(f"molecules: {len(accepted)} read from {path}, {len(failures)} rejected")
    return accepted, failures


def conformers_of(
    molecules: Sequence[Chem.Mol], known: frozenset[int], embed: Embed, seed: int
) -> tuple[list[Record], list[Refusal]]:
    """Records of all conformers, flagged where something is doubtful, and the molecules without any."""
    records: list[Record] = []
    failures = []
    for mol in progress("conformers")(molecules, len(molecules)):
        line, name, identity = mol.GetIntProp(LINE_PROPERTY), mol.GetProp("_Name"), molecule_id(mol)
        reason = strangers((atom.GetAtomicNum() for atom in mol.GetAtoms()), known)
        if reason:
            failures.append(Refusal(line, name, identity, "elements", reason))
            continue
        made = embed(mol, rng=generator(seed, "conformers", identity))
        if not made.kept:
            failures.append(Refusal(line, name, identity, "conformers", made.summary()))
            continue
        try:
            rows = to_records(conformer_records(made.mol, name=name, origin=made.method, code_version=__version__))
        except RecordError as error:
            failures.append(Refusal(line, name, identity, "conformers", str(error)))
            continue
        of_molecule = [text for text in made.flags if not text.startswith("conformer ")]
        records += [
            row._replace(qc_flags=(*of_molecule, *row.qc_flags, *doubts))
            for row, doubts in zip(rows, flag(rows), strict=True)
        ]
    return records, failures


def _ranked(found: Predictions) -> Predictions:
    """Order conformers by energy within each molecule; molecules stay in the order in which they came."""
    turn = {name: i for i, name in enumerate(dict.fromkeys(record.molecule_id for record in found.records))}
    order = sorted(
        range(len(found.records)), key=lambda i: (turn[found.records[i].molecule_id], found.values.energy[i])
    )
    values = found.values
    assert values.forces is not None and values.member_forces is not None
    return Predictions(
        [found.records[i] for i in order],
        EnsemblePrediction(
            values.energy[order],
            values.energy_std[order],
            values.member_energies[:, order],
            [values.forces[i] for i in order],
            [values.member_forces[i] for i in order],
        ),
        found.refused,
    )


def _rows(found: Predictions) -> list[dict[str, Any]]:
    relative, relative_std = found.relative()
    force_std = found.force_std
    return [
        {
            "molecule": record.name,
            "smiles": record.smiles,
            "record_id": record.record_id,
            "conformer": record.conformer,
            "n_atoms": len(record.atomic_numbers),
            "energy_eV": float(found.values.energy[i]),
            "relative_energy_kcal_mol": float(relative[i] * EV_TO_KCAL_MOL),
            "relative_energy_std_kcal_mol": float(relative_std[i] * EV_TO_KCAL_MOL),
            "energy_std_per_sqrt_atom_eV": float(found.values.energy_std[i] / np.sqrt(len(record.atomic_numbers))),
            "force_std_max_eV_A": float(force_std[i].max()),
            "flags": "; ".join(record.qc_flags),
        }
        for i, record in enumerate(found.records)
    ]


def _show(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print each molecule's lowest conformer with the gap to the next, and where the members disagree most."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(row["smiles"], []).append(row)
    lines = []
    for group in list(groups.values())[:SHOWN]:
        gap = "–"
        if len(group) > 1:
            second = group[1]
            gap = f"{second['relative_energy_kcal_mol']:.2f} ± {second['relative_energy_std_kcal_mol']:.2f}"
        lines.append([group[0]["molecule"], str(len(group)), group[0]["record_id"], gap])
    more = f" (the first {SHOWN} of {len(groups)} molecules)" if len(groups) > SHOWN else ""
    show_table(f"lowest conformers{more}", ["molecule", "N", "record", "next above, kcal/mol"], lines)
    worst = [max(group, key=lambda row: row["energy_std_per_sqrt_atom_eV"]) for group in groups.values()]
    doubtful = sorted(worst, key=lambda row: -row["energy_std_per_sqrt_atom_eV"])[:SHOWN]
    show_table(
        "most doubtful conformer of each molecule, by the spread of the members",
        ["molecule", "record", "E/√atoms, meV", "F max, eV/Å", "flags"],
        [
            [
                row["molecule"],
                row["record_id"],
                f"{1000 * row['energy_std_per_sqrt_atom_eV']:.1f}",
                f"{row['force_std_max_eV_A']:.3f}",
                row["flags"],
            ]
            for row in doubtful
        ],
    )
