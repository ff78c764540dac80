"""Train one member of an ensemble: a plain dict in, a folder with weights out."""

import functools
import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from filelock import FileLock
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.utilities.exceptions import SIGTERMException
from safetensors.torch import save_file
from torch_geometric.data import Data

from sddfkit.data import Record, ReferenceEnergies, to_records
from sddfkit.models.build import build, build_net
from sddfkit.models.ensemble import MEMBER_CARD, WEIGHTS
from sddfkit.models.graphs import GraphStats, graph, graph_stats
from sddfkit.training.callbacks import BestAveragedWeights, LiveMetrics, SeededEpochs
from sddfkit.training.checkpoint import CHECKPOINT, Checkpoints, Found, find_checkpoint
from sddfkit.training.datamodule import GraphDataModule
from sddfkit.training.identity import job_hash
from sddfkit.training.member_run import MemberRun
from sddfkit.training.module import EnergyModule

CHECKPOINT_EVERY_S = 30.0


def fit_member(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train one network and write its folder. Made for a spawned process: the job is plain data.

    A fit that was killed goes on from its last checkpoint when it is called again with the same job, and ends with
    the same weights, bit for bit, in the same run of MLflow. Of two processes that want the same folder, the second
    waits and finds the member finished.

    Parameters
    ----------
    job : dict
        ``name``
            Of the member.
        ``net``
            ``{"_target_": "sddfkit.models.gen.GEN", "width": 48, …}``; must give ``cutoff``.
        ``module``
            ``optimizer``, ``scheduler`` (or None), ``loss`` (or None) as dicts with ``_target_``; ``energy_weight``,
            ``force_weight``, ``conformer_weight`` (0 if left out).
        ``trainer``
            ``max_epochs``, ``batch_size``, ``patience`` (epochs without a better validation loss; None for no early
            stop), ``clip`` (gradient norm), ``ema_decay``, ``together`` (conformers of a molecule in a row, 1 if left
            out).
        ``train_records``, ``validation_records``
            Paths of Parquet (``.parquet``) or Arrow IPC files with the columns of :data:`sddfkit.data.RECORDS`, all
            rows labelled.
        ``references``
            :meth:`sddfkit.data.ReferenceEnergies.to_dict`.
        ``stats``
            :meth:`sddfkit.models.GraphStats.to_dict`, or None: of the training records.
        ``seed``, ``folder``, ``threads``
            Initial weights and order of batches follow from the seed alone.
        ``mlflow``
            None, or ``tracking_uri``, ``experiment``, ``run_name``, ``parent_run_id`` (or None), ``tags``, see
            :class:`~sddfkit.training.member_run.MemberRun`.
        ``checkpoint_every_s``
            At most one checkpoint in this time, s; 30 by default, 0 for one per epoch.

    Returns
    -------
    dict
        What stands in ``folder/member.json``: name, net, stats, seed, references, level, job_hash, best_epoch, epochs,
        metrics (of the best epoch, eV and eV/Å), wall_s (of all parts of the fit), mlflow_run_id, versions, warnings
        (what went wrong with checkpoints or MLflow, which never ends a fit). Beside it lies ``weights.safetensors``.
        A folder that is finished for the same job is returned as it is.

    Raises
    ------
    FitError
        When a key of the job is missing, records are unlabelled, or training diverged.
    """
    missing = sorted(_KEYS - set(job))
    if missing:
        raise FitError(f"the job of member {job.get('name')!r} lacks {missing}")
    folder = Path(job["folder"])
    digest = job_hash(job)
    finished = _finished(folder, digest)
    if finished is not None:
        return finished
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        finished = _finished(folder, digest)
        if finished is not None:
            return finished
        start = time.perf_counter()
        found = find_checkpoint(folder / CHECKPOINT, digest)
        with _single_process(int(job["threads"])):
            card, module = _fit(job, digest, found, lambda: found.wall_s + time.perf_counter() - start)
        # Without a card the folder counts as unfinished: weights never stand beside the card of another job.
        (folder / MEMBER_CARD).unlink(missing_ok=True)
        _replace(folder / WEIGHTS, lambda path: save_file(module.net.state_dict(), path))
        _replace(folder / MEMBER_CARD, lambda path: path.write_text(json.dumps(card, indent=1), encoding="utf-8"))
        (folder / CHECKPOINT).unlink(missing_ok=True)
    return card


_KEYS = frozenset(
    {
        "name",
        "net",
        "module",
        "trainer",
        "train_records",
        "validation_records",
        "references",
        "seed",
        "folder",
        "threads",
    }
)


class FitError(ValueError):
    """A member cannot be trained from this job."""


def _finished(folder: Path, digest: str) -> dict[str, Any] | None:
    path = folder / MEMBER_CARD
    if not (path.is_file() and (folder / WEIGHTS).is_file()):
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    return card if card["job_hash"] == digest else None


def _fit(
    job: Mapping[str, Any], digest: str, found: Found, wall_s: Callable[[], float]
) -> tuple[dict[str, Any], EnergyModule]:
    folder = Path(job["folder"])
    settings = job["trainer"]
    references = ReferenceEnergies.from_dict(job["references"])
    cutoff = float(job["net"]["cutoff"])
    records = _records(Path(job["train_records"]))
    train = _graphs(records, cutoff, references)
    validation = _graphs(_records(Path(job["validation_records"])), cutoff, references)
    stats = GraphStats.from_dict(job["stats"]) if job.get("stats") else graph_stats(train)
    net = build_net(job["net"], stats, int(job["seed"]))
    data = GraphDataModule(
        train,
        validation,
        batch_size=settings["batch_size"],
        seed=int(job["seed"]),
        together=settings.get("together", 1),
    )
    steps = settings["max_epochs"] * len(data.train_dataloader())
    module = _module(net, job["module"], steps)
    best = BestAveragedWeights(settings["ema_decay"])
    every_s = float(job.get("checkpoint_every_s", CHECKPOINT_EVERY_S))
    checkpoints = Checkpoints(folder / CHECKPOINT, digest, every_s=every_s, wall_s=wall_s)
    run = MemberRun(job["mlflow"], job, digest, folder) if job.get("mlflow") else None
    try:
        # Metrics are told before the checkpoint is written: what is in it is in MLflow, or is told again.
        live = [] if run is None else [LiveMetrics(run)]
        _train(_trainer(settings, [best, SeededEpochs(int(job["seed"])), *live, checkpoints]), module, data, found.path)
        if best.best_epoch < 0:
            raise FitError(
                f"the validation loss of member {job['name']!r} was never finite; lower the learning rate or look at "
                "the labels"
            )
        if run is not None:
            run.finish(module.history, module.history[best.best_epoch], wall_s())
    except BaseException as error:
        if run is not None:
            run.stop("FAILED" if isinstance(error, Exception) else "KILLED")
        if isinstance(error, SIGTERMException):
            # Lightning only notes the signal; what is asked for is the end of this process.
            signal.raise_signal(signal.SIGTERM)
        raise
    card = {
        "name": job["name"],
        "net": dict(job["net"]),
        "stats": stats.to_dict(),
        "seed": int(job["seed"]),
        "references": references.to_dict(),
        "level": records[0].level if records else None,
        "train_size": len(train),
        "best_epoch": best.best_epoch,
        "epochs": len(module.history),
        "metrics": module.history[best.best_epoch],
        "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__},
        "job_hash": digest,
        "wall_s": round(wall_s(), 3),
        "mlflow_run_id": None if run is None else run.run_id,
        "warnings": [
            *([found.warning] if found.warning else []),
            *checkpoints.warnings,
            *([] if run is None else run.warnings),
        ],
    }
    return card, module


def _train(trainer: pl.Trainer, module: EnergyModule, data: GraphDataModule, checkpoint: Path | None) -> None:
    with warnings.catch_warnings():
        # Few workers and few batches are right for data sets that fit in memory.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        try:
            trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
        except SystemExit as error:
            if isinstance(error.__context__, KeyboardInterrupt):
                # Lightning makes an exit of it, which would end a notebook or a larger program.
                raise KeyboardInterrupt from None
            raise


def _records(path: Path) -> list[Record]:
    """The labelled records of a file."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    records = to_records(table)
    for record in records:
        if record.energy is None:
            raise FitError(f"{path}: record {record.record_id} ({record.smiles}) has no energy")
    return records


def _graphs(records: Sequence[Record], cutoff: float, references: ReferenceEnergies) -> list[Data]:
    """Graphs of labelled records, reference energies removed in float64."""
    graphs = []
    for record in records:
        assert record.energy is not None
        data = graph(record, cutoff, energy=record.energy - references.total(record.atomic_numbers))
        if record.forces is None:
            data.forces = torch.full_like(data.pos, torch.nan)
        graphs.append(data)
    return graphs


def _module(net: Any, settings: Mapping[str, Any], steps: int) -> EnergyModule:
    """The Lightning module; the entry ``steps`` of a scheduler is the number of training steps of the whole fit."""
    scheduler = settings.get("scheduler")
    loss = settings.get("loss")
    return EnergyModule(
        net,
        functools.partial(_call, settings["optimizer"]),
        functools.partial(_call, _with_steps(scheduler, steps)) if scheduler else None,
        energy_weight=settings["energy_weight"],
        force_weight=settings["force_weight"],
        conformer_weight=settings.get("conformer_weight", 0.0),
        loss=build(loss) if loss else None,
    )


def _call(config: Mapping[str, Any], first: Any) -> Any:
    return build(config, first)


def _with_steps(scheduler: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {key: steps if value == "steps" else value for key, value in scheduler.items()}


def _trainer(settings: Mapping[str, Any], callbacks: list[pl.Callback]) -> pl.Trainer:
    if settings.get("patience"):
        stopping = EarlyStopping("validation/loss", patience=settings["patience"], check_on_train_epoch_end=False)
        callbacks = [*callbacks, stopping]
    return pl.Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=settings["max_epochs"],
        gradient_clip_val=settings["clip"],
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        # Forces are a derivative: inference mode would forbid it.
        inference_mode=False,
    )


@contextmanager
def _single_process(threads: int) -> Iterator[None]:
    """Threads, determinism and random numbers of the fit; the caller's come back, for fits in a larger process."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    level = logging.getLogger("pytorch_lightning").level
    # Lightning announces devices at every fit; five members would say it five times.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        logging.getLogger("pytorch_lightning").setLevel(level)


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path` and rename: a reader sees the old file or the new one, never half of it."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    write(part)
    part.replace(path)
