"""Active learning, from a file of molecules to a report."""

import datetime as dt
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from sddfkit import __version__
from sddfkit.active import LossPredictor, Pool, Strategy
from sddfkit.data.records import Record
from sddfkit.data.references import ReferenceEnergies, fit_reference_energies
from sddfkit.factory import Cluster, Store
from sddfkit.models.ensemble import Ensemble, EnsemblePrediction
from sddfkit.qc.levels import Level
from sddfkit.qc.properties import with_properties
from sddfkit.runs import write_whole
from sddfkit.training.parent_run import ParentRun
from sddfkit.viz.report import write_report
from sddfkit.workflows.arrays import Minutes, expected_minutes, pool_arrays
from sddfkit.workflows.console import Stopwatch, say
from sddfkit.workflows.errors import evaluate, show_metrics
from sddfkit.workflows.label import (
    CONFORMERS,
    Embed,
    Labeller,
    choose_program,
    elements,
    generator,
    load_molecules,
    make_conformers,
    refuse_impossible,
    run_name,
    save_snapshot,
)
from sddfkit.workflows.screening import LOSS_PREDICTOR
from sddfkit.workflows.split import Folds, Split, split_records
from sddfkit.workflows.summary import chosen_rows, molblocks, prediction_rows, report_document, write_metrics
from sddfkit.workflows.train import Recipe, Trainers, out_of_fold_errors, train_ensemble


@dataclass(frozen=True)
class LoopSettings:
    """How many conformers are labelled when, and how many processes train.

    ``seed_size`` conformers of the training fold are drawn at random before the first round (one of each molecule
    before a second of any), ``round_size`` are chosen at the end of each round but the last; the validation and test
    conformers are labelled once, at the start.
    """

    rounds: int
    seed_size: int
    round_size: int
    validation_size: int
    test_size: int
    error_folds: int
    train_workers: int

    def __post_init__(self) -> None:
        for name in ("seed_size", "validation_size", "test_size", "train_workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} is {getattr(self, name)}, expected at least 1")
        if self.rounds < 0 or self.round_size < 0:
            raise ValueError(f"loop.rounds and loop.round_size must not be negative: {self.rounds}, {self.round_size}")


def spread(records: Sequence[Record], n: int, rng: np.random.Generator) -> list[Record]:
    """Draw `n` records at random, one of each molecule before a second of any."""
    shuffled = [sorted(records, key=lambda r: r.record_id)[i] for i in rng.permutation(len(records))]
    turn: dict[str, int] = {}
    order = []
    for record in shuffled:
        turn[record.molecule_id] = turn.get(record.molecule_id, -1) + 1
        order.append(turn[record.molecule_id])
    return [shuffled[i] for i in np.argsort(order, kind="stable")[:n]]


def draw_seed_set(pool: Sequence[Record], n: int, rng: np.random.Generator) -> list[Record]:
    """Draw `n` records at random, as :func:`spread` does, then add the next that holds each element still missing.

    A network refuses elements that it has never seen, so the first ensemble must have met all those of the pool.
    """
    order = spread(pool, len(pool), rng)
    drawn, rest = order[:n], order[n:]
    seen = elements(drawn)
    for record in rest:
        if not elements([record]) <= seen:
            drawn.append(record)
            seen |= elements([record])
    return drawn


def make_pool(
    records: Sequence[Record], ensemble: Ensemble, needs: frozenset[str], minutes: Minutes | None = None
) -> Pool:
    """Return the unlabelled records with the arrays that a strategy needs, of :data:`ARRAYS`.

    `minutes` says what their calculations are expected to take.
    """
    arrays = pool_arrays(records, ensemble, needs, minutes)
    return Pool([record.record_id for record in records], [record.molecule_id for record in records], arrays)


def active_learning(
    *,
    molecules: Mapping[str, Any],
    embed: Embed,
    level: Level,
    open_store: Callable[[], Store],
    open_cluster: Callable[[Path], Cluster],
    split: Split,
    models: Mapping[str, Mapping[str, Any]],
    trainer: Mapping[str, Any],
    strategy: Strategy,
    strategy_name: str,
    loop: LoopSettings,
    tracking: Mapping[str, Any],
    preset: str,
    root: Path,
    folder: Path,
    seed: int,
    name: str,
    command: str,
    config: Mapping[str, Any],
    properties: Sequence[str] = (),
    parent_run_id: str | None = None,
) -> Path:
    """Run the whole loop and return the path of the report.

    What is known is not done again: conformers come from the run's folder, calculations from the store under `root`,
    members from its cache, so that an interrupted run started again in its folder goes on where it was.

    `properties` become further columns of the snapshot; `parent_run_id` is the MLflow run of a sweep.
    """
    say(f"everything is kept under {root}\nthis run: {folder}")
    watch = Stopwatch()
    chosen_program = choose_program(level)
    asked_level = with_properties(level, chosen_program.program, properties)
    with watch.stage("molecules and conformers"):
        read = refuse_impossible(load_molecules(**molecules), asked_level, chosen_program)
        conformers = make_conformers(read.molecules, embed, seed, folder / CONFORMERS)
    folds = split_records(conformers.records, read.molecules, split, seed)
    folds.write(folder)

    identity = run_name(root, folder)
    parent = ParentRun(tracking, run_name=identity, config=config, folder=folder, parent_run_id=parent_run_id)
    with (
        open_cluster(root / "clusters" / identity) as cluster,
        Trainers(loop.train_workers) as trainers,
        parent,
    ):
        labeller = Labeller(open_store, cluster, level, chosen_program, batch=identity, properties=properties)
        recipe = Recipe(models, trainer, root / "members", parent.for_members())
        run = _Run(folds, labeller, trainers, recipe, strategy, loop, watch, parent, seed)
        rounds = run.all_rounds()
        with watch.stage("report"):
            document = report_document(
                title=name,
                created=dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
                seed=seed,
                strategy=strategy_name,
                preset=preset,
                members=list(models),
                command=command,
                level=level,
                chosen=chosen_program,
                molecules=read,
                conformers=conformers,
                split=folds.document(conformers.records),
                references=run.references,
                rounds=rounds,
                predictions=prediction_rows(run.labels(run.test), run.predicted, run.references),
                labels=labeller.labels,
                watch=watch,
            )
            run.ensemble.save(folder / "ensemble")
            folds.write(folder / "ensemble")
            if isinstance(run.fitted, LossPredictor):
                write_whole(folder / LOSS_PREDICTOR, json.dumps(run.fitted.to_dict()))
            save_snapshot(labeller.labels, run.references, folder / "snapshot")
            write_metrics(folder, rounds[-1])
            report = write_report(document, molblocks(document, labeller.labels.records), folder)
            parent.finish(document, [report, report.with_suffix(".json"), folder / "config.yaml"])
            (folder / CONFORMERS).unlink()
    return report


class _Run:
    """The state of one loop: what is labelled, and the ensemble that has learnt it."""

    ensemble: Ensemble
    references: ReferenceEnergies
    predicted: EnsemblePrediction

    def __init__(
        self,
        folds: Folds,
        labeller: Labeller,
        trainers: Trainers,
        recipe: Recipe,
        strategy: Strategy,
        loop: LoopSettings,
        watch: Stopwatch,
        parent: ParentRun,
        seed: int,
    ) -> None:
        self.folds = folds
        self.labeller = labeller
        self.trainers = trainers
        self.recipe = recipe
        self.strategy = strategy
        self.loop = loop
        self.watch = watch
        self.parent = parent
        self.seed = seed
        self.fitted: Strategy | None = None
        self.asked: list[Record] = []  # of the training fold, in the order in which they were asked for
        self.test = spread(folds.test, loop.test_size, generator(seed, "test"))
        self.validation = spread(folds.validation, loop.validation_size, generator(seed, "validation"))

    def labels(self, records: Sequence[Record]) -> list[Record]:
        """Return those of the records that have labels, labelled, in the order of their ids."""
        known = self.labeller.labels.records
        return [known[r.record_id] for r in sorted(records, key=lambda r: r.record_id) if r.record_id in known]

    def all_rounds(self) -> list[dict[str, Any]]:
        """Label the seed, validation and test conformers, then go through the rounds."""
        self.asked = draw_seed_set(self.folds.pool, self.loop.seed_size, generator(self.seed, "seed set"))
        with self.watch.stage("labels: seed, validation and test"):
            self.labeller.label([*self.test, *self.validation, *self.asked], "labels for the start")
        rounds = [self.one_round(number) for number in range(self.loop.rounds + 1)]
        show_metrics(rounds)
        return rounds

    def one_round(self, number: int) -> dict[str, Any]:
        """Train on what is labelled, judge on the test fold, and ask for the next labels, but in the last round."""
        failed_before, spent_before = len(self.labeller.labels.failed), sum(self.watch.seconds.values())
        train = self.labels(self.asked)
        validation, test = self.labels(self.validation), self.labels(self.test)
        for fold, rows, least in (("training", train, 2), ("validation", validation, 1), ("test", test, 1)):
            if len(rows) < least:
                raise ValueError(
                    f"only {len(rows)} {fold} conformers have labels, too few to go on: "
                    f"{len(self.labeller.labels.failed)} calculations failed"
                )
        self.references = fit_reference_energies(train, self.labeller.labels.atoms)
        recipe = replace(self.recipe, tags={"round": str(number)})
        with self.watch.stage("training the ensemble"):
            card = {
                "sddfkit": __version__,
                "level": train[0].level,
                "program": train[0].program,
                "n_train": len(train),
                "round": number,
            }
            self.ensemble, summaries = train_ensemble(
                self.trainers, recipe, train, validation, self.references, seed=self.seed, card=card,
                description=f"round {number}: training on {len(train)} conformers",
            )  # fmt: skip
        with self.watch.stage("evaluation"):
            members = list(self.recipe.models)
            self.predicted = self.ensemble.predict(test)
            metrics = evaluate(self.predicted, members, self.references, test)
            held_out = evaluate(self.ensemble.predict(validation), members, self.references, validation)
        row: dict[str, Any] = {
            "round": number,
            "n_labelled_train": len(train),
            "n_failed": 0,
            "metrics": metrics,
            "validation": held_out,
            "selected": [],
        }
        if number < self.loop.rounds:
            row["selected"] = self.ask(number, train)
            row["n_failed"] = len(self.labeller.labels.failed) - failed_before
        row["wall_s"] = sum(self.watch.seconds.values()) - spent_before
        self.parent.log_round(row, summaries)
        show_metrics([row])
        return row

    def ask(self, number: int, train: Sequence[Record]) -> list[dict[str, Any]]:
        """Let the strategy choose from what is not labelled, have it labelled, and return what was chosen and why."""
        tried = {record.record_id for record in self.asked}
        left = [record for record in self.folds.pool if record.record_id not in tried]
        strategy = self.strategy
        with self.watch.stage("choosing"):
            if strategy.learns:
                strategy = self.fitted = strategy.fit(self.labelled_pool(number, train, strategy.learns))
            pool = make_pool(left, self.ensemble, strategy.needs, self.minutes)
            ids = strategy(pool, self.loop.round_size, generator(self.seed, "round", str(number)))
            scores = strategy.scores(pool) if len(pool) else None
            by_id = dict(zip(pool.record_ids, scores, strict=True)) if scores is not None else {}
        records = {record.record_id: record for record in left}
        chosen = [records[record_id]._replace(al_round=number) for record_id in ids]
        expected = self.ensemble.predict(chosen, forces=False).energy if chosen else np.empty(0)
        with self.watch.stage("labels: rounds of active learning"):
            self.labeller.label(chosen, f"labels for round {number + 1}")
        self.asked += chosen
        rows = chosen_rows(chosen, by_id, strategy.reason, expected, self.labeller.labels.records)
        with self.labeller.open_store() as store:
            store.add_round(self.labeller.batch, number, rows)
        return rows

    def minutes(self, records: Sequence[Record]) -> np.ndarray[Any, Any]:
        """Return how long the calculations of records are expected to take, by what the store has seen."""
        with self.labeller.open_store() as store:
            return expected_minutes(records, store, self.labeller.asked_level, self.labeller.chosen.program)

    def labelled_pool(self, number: int, train: Sequence[Record], learns: frozenset[str]) -> Pool:
        """Return what is labelled, with the arrays that a strategy learns from, out-of-fold errors among them."""
        arrays = pool_arrays(train, self.ensemble, learns - {"errors"})
        if "errors" in learns:
            arrays["errors"] = out_of_fold_errors(
                self.trainers, self.recipe, train, self.labels(self.validation), self.labeller.labels.atoms,
                folds=self.loop.error_folds, seed=self.seed, rng=generator(self.seed, "error folds", str(number)),
                description=f"round {number}: errors on unseen molecules",
            )  # fmt: skip
        return Pool([record.record_id for record in train], [record.molecule_id for record in train], arrays)
