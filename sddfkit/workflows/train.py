"""From labelled records to an ensemble of energy models."""

import hashlib
import json
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sddfkit import __version__
from sddfkit.data.records import Record, check_one_level, from_records
from sddfkit.data.references import ReferenceEnergies, fit_reference_energies
from sddfkit.data.snapshots import read_manifest
from sddfkit.models.ensemble import Ensemble
from sddfkit.models.graphs import graph, graph_stats
from sddfkit.qc.harnesses.protocol import PARENT_PID, die_with_parent
from sddfkit.qc.levels import Level
from sddfkit.training.fit import fit_member
from sddfkit.training.parent_run import ParentRun
from sddfkit.workflows.baseline import Baseline, Factory, refuse_same_level
from sddfkit.workflows.console import progress, say
from sddfkit.workflows.errors import evaluate, show_metrics
from sddfkit.workflows.label import load_snapshot, run_name
from sddfkit.workflows.split import Split, split_records
from sddfkit.workflows.summary import write_metrics

FOLDS = ("train", "validation", "test")
_NOT_OF_THE_FIT = ("module", "threads", "checkpoint_every_s")


@dataclass(frozen=True)
class Recipe:
    """How members are trained: the networks by name and the settings that all of them share.

    Parameters
    ----------
    models
        Member name to the configuration of its network (``_target_`` and arguments).
    trainer
        Settings of :func:`sddfkit.training.fit.fit_member`: those of its ``trainer``, with ``module``, ``threads`` and
        ``checkpoint_every_s``.
    cache
        Folder where finished members are kept by the hash of everything that decides them.
    tracking
        Where MLflow writes, or None.
    """

    models: Mapping[str, Mapping[str, Any]]
    trainer: Mapping[str, Any]
    cache: Path
    tracking: Mapping[str, Any] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


class Trainers:
    """Processes that train members side by side; they end with the context, or with this process.

    Parameters
    ----------
    workers
        How many members are trained at the same time, each on the threads that its settings name.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=error is None, cancel_futures=True)
            for process in processes:
                process.kill()

    def submit(self, job: dict[str, Any]) -> Future[dict[str, Any]]:
        """Train a member in one of the processes."""
        if self._pool is None:
            # Spawned, not forked: torch and MLflow hold threads that do not survive a fork.
            context = multiprocessing.get_context("spawn")
            if multiprocessing.get_start_method(allow_none=True) not in multiprocessing.get_all_start_methods():
                # joblib's workers name a start method of their own, which the processes spawned here do not know.
                multiprocessing.set_start_method("spawn", force=True)
            self._pool = ProcessPoolExecutor(
                self.workers, mp_context=context, initializer=_end_with, initargs=(os.getpid(),)
            )
        with _sigint_ignored():
            return self._pool.submit(fit_member, job)


def member_jobs(
    recipe: Recipe,
    train: Sequence[Record],
    validation: Sequence[Record],
    references: ReferenceEnergies,
    *,
    seed: int,
    held_out: Sequence[Record] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return the job of :func:`~sddfkit.training.fit.fit_member` for each network of a recipe, by name.

    A job's folder is named after all that decides its weights, so what was trained before is found again. Where
    `held_out` rows are to be predicted, the networks learn which elements those have (not what they are worth), and
    the job is not tracked.
    """
    check_one_level(from_records([*train, *validation]))
    train_file, validation_file = (_data_file(recipe.cache, rows) for rows in (train, validation))
    jobs = {}
    for name, net in recipe.models.items():
        stats = None
        if held_out is not None:
            stats = graph_stats([graph(record, float(net["cutoff"])) for record in [*train, *held_out]]).to_dict()
        job: dict[str, Any] = {
            "name": name,
            "net": dict(net),
            "module": recipe.trainer["module"],
            "trainer": {key: value for key, value in recipe.trainer.items() if key not in _NOT_OF_THE_FIT},
            "threads": recipe.trainer["threads"],
            "train_records": str(train_file),
            "validation_records": str(validation_file),
            "references": references.to_dict(),
            "stats": stats,
            "seed": seed,
        }
        job["folder"] = str(recipe.cache / f"{name}-{_hash(job)}")
        job["checkpoint_every_s"] = recipe.trainer["checkpoint_every_s"]
        job["mlflow"] = None
        if held_out is None and recipe.tracking:
            run_name = "-".join([*(f"{key}-{value}" for key, value in recipe.tags.items()), name])
            job["mlflow"] = {**recipe.tracking, "run_name": run_name, "tags": {**recipe.tags, "member": name}}
        jobs[name] = job
    return jobs


def train_ensemble(
    trainers: Trainers,
    recipe: Recipe,
    train: Sequence[Record],
    validation: Sequence[Record],
    references: ReferenceEnergies,
    *,
    seed: int,
    card: Mapping[str, Any],
    description: str = "training",
) -> tuple[Ensemble, dict[str, dict[str, Any]]]:
    """Train the members of a recipe and put them together.

    Returns
    -------
    ensemble, summaries
        Summaries are those of the members, by name.
    """
    jobs = member_jobs(recipe, train, validation, references, seed=seed)
    summaries = _run(trainers, jobs, description)
    return Ensemble.from_members([job["folder"] for job in jobs.values()], **card), summaries


def out_of_fold_errors(
    trainers: Trainers,
    recipe: Recipe,
    labelled: Sequence[Record],
    validation: Sequence[Record],
    atoms: Mapping[int, float],
    *,
    folds: int,
    seed: int,
    rng: np.random.Generator,
    description: str,
) -> NDArray[np.float64]:
    """Return each member's absolute error on rows that it was not trained on, shape (members, records), eV/atom.

    The molecules are dealt into folds; each member is trained once per fold on the others. The fold that is left out
    takes no part: not in the reference energies, which are fitted anew towards the isolated `atoms` (eV), and not in
    the choice of the best epoch, which is what `validation` is for.
    """
    fold = molecule_folds(labelled, folds, rng)
    jobs: dict[str, dict[str, Any]] = {}
    for held_out in range(folds):
        rest = [record for record, f in zip(labelled, fold, strict=True) if f != held_out]
        unseen = [record for record, f in zip(labelled, fold, strict=True) if f == held_out]
        references = fit_reference_energies(rest, atoms)
        for name, job in member_jobs(recipe, rest, validation, references, seed=seed, held_out=unseen).items():
            jobs[f"{name}/{held_out}"] = job
    _run(trainers, jobs, description)
    errors = np.empty((len(recipe.models), len(labelled)))
    truth = np.array([record.energy for record in labelled], dtype=np.float64)
    n_atoms = np.array([len(record.atomic_numbers) for record in labelled])
    for held_out in range(folds):
        rows = np.flatnonzero(fold == held_out).tolist()
        ensemble = Ensemble.from_members([jobs[f"{name}/{held_out}"]["folder"] for name in recipe.models])
        predicted = ensemble.predict([labelled[i] for i in rows], forces=False)
        errors[:, rows] = np.abs(predicted.member_energies - truth[rows]) / n_atoms[rows]
    return errors


def molecule_folds(records: Sequence[Record], folds: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Deal molecules into folds of nearly equal size, shape (n,); all conformers of a molecule share one."""
    molecules = sorted({record.molecule_id for record in records})
    if not 2 <= folds <= len(molecules):
        raise ValueError(
            f"{folds} folds cannot be made of {len(molecules)} labelled molecules: label more (loop.seed_size) or set "
            "loop.error_folds between 2 and the number of molecules"
        )
    dealt = {molecules[i]: position % folds for position, i in enumerate(rng.permutation(len(molecules)))}
    return np.array([dealt[record.molecule_id] for record in records])


def _run(trainers: Trainers, jobs: Mapping[str, dict[str, Any]], description: str) -> dict[str, dict[str, Any]]:
    futures = {trainers.submit(job): name for name, job in jobs.items()}
    done: Iterable[Future[dict[str, Any]]] = progress(description)(as_completed(futures), len(futures))
    found = {futures[future]: future.result() for future in done}
    for name, summary in sorted(found.items()):
        for warning in summary.get("warnings", ()):
            say(f"  {name}: {warning}")
    return {name: found[name] for name in jobs}  # in the order of the recipe, not of completion


def _data_file(cache: Path, records: Sequence[Record]) -> Path:
    """Write records once, under the hash of their content."""
    rows = sorted(records, key=lambda record: record.record_id)
    path = cache / "data" / f"{_hash([(r.record_id, r.result_key, r.energy) for r in rows])}.parquet"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        pq.write_table(from_records(rows), partial)
        partial.replace(path)
    return path


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def _sigint_ignored() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C from their first instruction: it is the parent's to handle."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _end_with(parent: int) -> None:
    """Make this process end with its parent."""
    warnings.filterwarnings("ignore", message=".*treespec.*")  # between Lightning and torch, nothing for a user
    os.environ[PARENT_PID] = str(parent)
    die_with_parent()


def data_hash(snapshot: Path) -> str:
    """Return what tells a snapshot from others: the sha256 over those of its shards, wherever it lies."""
    shards = [shard["sha256"] for shard in read_manifest(snapshot)["shards"]]
    return hashlib.sha256("\n".join(shards).encode()).hexdigest()


def _with_baseline(below: Baseline, name: str, records: Sequence[Record]) -> list[Record]:
    """Return the records of a fold that have a baseline; refuse a fold of which nothing is left."""
    kept = below.kept(records)
    if not kept:
        reason = below.failed[records[0].record_id]
        raise ValueError(f"no record of the {name} fold has a baseline; {records[0].name}: {reason}")
    return kept


def train_from_snapshot(
    *,
    snapshot: Path,
    split: Split,
    models: Mapping[str, Mapping[str, Any]],
    trainer: Mapping[str, Any],
    tracking: Mapping[str, Any],
    root: Path,
    folder: Path,
    seed: int,
    config: Mapping[str, Any],
    workers: int = 2,
    parent_run_id: str | None = None,
    baseline: tuple[Level, Factory] | None = None,
) -> Path:
    """Train an ensemble on a snapshot, judge it on the test fold, and return the ensemble's folder.

    `parent_run_id` is the MLflow run of a sweep. With a `baseline` the networks learn label − baseline; records for
    which its calculation fails are left out.
    """
    say(f"everything is kept under {root}\nthis run: {folder}")
    records, atoms = load_snapshot(snapshot)
    if baseline is not None:
        refuse_same_level(baseline[0], records[0].level)
    folds = split_records(records, {record.molecule_id: record.smiles for record in records}, split, seed)
    folds.write(folder)
    train, validation, test = folds.pool, folds.validation, folds.test
    below = None
    if baseline is not None:
        level, factory = baseline
        below = Baseline.compute(level, [*train, *validation, *test], factory, folder)
        named = zip(FOLDS, (train, validation, test), strict=True)
        train, validation, test = (_with_baseline(below, name, rows) for name, rows in named)
    composition = fit_reference_energies(train, atoms)
    learnt, stopped_on, references = train, validation, composition
    if below is not None:
        learnt, stopped_on = below.difference(train), below.difference(validation)
        references = fit_reference_energies(learnt, below.atom_differences(atoms))
    with (
        Trainers(workers) as trainers,
        ParentRun(
            tracking, run_name=run_name(root, folder), config=config, folder=folder, parent_run_id=parent_run_id
        ) as parent,
    ):
        recipe = Recipe(models, trainer, root / "members", parent.for_members())
        card = {
            "sddfkit": __version__,
            "level": train[0].level,
            "program": train[0].program,
            "n_train": len(train),
            "data": data_hash(snapshot),
        }
        if below is not None:
            card |= {"baseline": dict(below.card), "composition": composition.to_dict()}
        ensemble, summaries = train_ensemble(trainers, recipe, learnt, stopped_on, references, seed=seed, card=card)

        def judged(rows: Sequence[Record]) -> dict[str, Any]:
            added = {} if below is None else below.arguments(rows)
            return evaluate(ensemble.predict(rows, **added), list(models), composition, rows)

        row = {
            "round": 0,
            "n_labelled_train": len(train),
            "metrics": judged(test),
            "validation": judged(validation),
        }
        write_metrics(folder, row)
        parent.log_round(row, summaries)
    show_metrics([row])
    folds.write(ensemble.save(folder / "ensemble"))
    return folder / "ensemble"
