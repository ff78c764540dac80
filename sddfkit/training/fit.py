"""Train one member of an ensemble: a plain dict in, a folder with weights out."""

import functools
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from safetensors.torch import save_file
from torch_geometric.data import Data

from sddfkit.data import ReferenceEnergies, to_records
from sddfkit.models.build import build, build_net
from sddfkit.models.ensemble import MEMBER_CARD, WEIGHTS
from sddfkit.models.graphs import GraphStats, graph, graph_stats
from sddfkit.training.callbacks import BestAveragedWeights
from sddfkit.training.datamodule import GraphDataModule
from sddfkit.training.module import EnergyModule
from sddfkit.training.tracking import track


def fit_member(job: Mapping[str, Any]) -> dict[str, Any]:
    """Train one network and write its folder. Made for a spawned process: the job is plain data.

    Parameters
    ----------
    job : dict
        ``name``
            Of the member.
        ``net``
            ``{"_target_": "sddfkit.models.gen.GEN", "width": 48, …}``; must give ``cutoff``.
        ``module``
            ``optimizer``, ``scheduler`` (or None), ``loss`` (or None) as dicts with ``_target_``; ``energy_weight``,
            ``force_weight``.
        ``trainer``
            ``max_epochs``, ``batch_size``, ``patience`` (epochs without a better validation loss; None for no early
            stop), ``clip`` (gradient norm), ``ema_decay``.
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
            None, or ``tracking_uri``, ``experiment``, ``run_name``, ``parent_run_id`` (or None), ``tags``.

    Returns
    -------
    dict
        What stands in ``folder/member.json``: name, net, stats, seed, references, job_hash, best_epoch, epochs,
        metrics (of the best epoch, eV and eV/Å), wall_s, mlflow_run_id, versions. Beside it lies
        ``weights.safetensors``. A folder that is finished for the same job is returned as it is.

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
    with _single_process(int(job["threads"])):
        start = time.perf_counter()
        card, module = _fit(job)
        card |= {"job_hash": digest, "wall_s": round(time.perf_counter() - start, 3)}
        card["mlflow_run_id"] = track(job["mlflow"], job, module.history, card) if job.get("mlflow") else None
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / WEIGHTS, lambda path: save_file(module.net.state_dict(), path))
    _replace(folder / MEMBER_CARD, lambda path: path.write_text(json.dumps(card, indent=1), encoding="utf-8"))
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


def job_hash(job: Mapping[str, Any]) -> str:
    """sha256 of all that determines the weights: settings, code, seed and the record files' bytes."""
    settings = {key: job.get(key) for key in ("name", "net", "module", "trainer", "references", "stats", "seed")}
    settings["torch"] = torch.__version__
    settings["code"] = _code()
    for key in ("train_records", "validation_records"):
        settings[key] = hashlib.sha256(Path(job[key]).read_bytes()).hexdigest()
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


@functools.cache
def _code() -> str:
    """sha256 of the sources that make and train a network: other code may make other weights of the same settings."""
    digest = hashlib.sha256()
    for package in ("models", "training"):
        for path in sorted((Path(__file__).parents[1] / package).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _finished(folder: Path, digest: str) -> dict[str, Any] | None:
    path = folder / MEMBER_CARD
    if not (path.is_file() and (folder / WEIGHTS).is_file()):
        return None
    card = json.loads(path.read_text(encoding="utf-8"))
    return card if card["job_hash"] == digest else None


def _fit(job: Mapping[str, Any]) -> tuple[dict[str, Any], EnergyModule]:
    settings = job["trainer"]
    references = ReferenceEnergies.from_dict(job["references"])
    cutoff = float(job["net"]["cutoff"])
    train = _graphs(Path(job["train_records"]), cutoff, references)
    validation = _graphs(Path(job["validation_records"]), cutoff, references)
    stats = GraphStats.from_dict(job["stats"]) if job.get("stats") else graph_stats(train)
    net = build_net(job["net"], stats, int(job["seed"]))
    data = GraphDataModule(train, validation, batch_size=settings["batch_size"], seed=int(job["seed"]))
    steps = settings["max_epochs"] * len(data.train_dataloader())
    module = _module(net, job["module"], steps)
    best = BestAveragedWeights(settings["ema_decay"])
    trainer = _trainer(settings, best)
    with warnings.catch_warnings():
        # Few workers and few batches are right for data sets that fit in memory.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
        trainer.fit(module, data)
    card = {
        "name": job["name"],
        "net": dict(job["net"]),
        "stats": stats.to_dict(),
        "seed": int(job["seed"]),
        "references": references.to_dict(),
        "train_size": len(train),
        "best_epoch": best.best_epoch,
        "epochs": len(module.history),
        "metrics": module.history[best.best_epoch],
        "versions": {"torch": torch.__version__, "pytorch_lightning": pl.__version__},
    }
    return card, module


def _graphs(path: Path, cutoff: float, references: ReferenceEnergies) -> list[Data]:
    """Graphs of a record file, reference energies removed in float64."""
    if path.suffix == ".parquet":
        table = pq.read_table(path)
    else:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
    graphs = []
    for record in to_records(table):
        if record.energy is None:
            raise FitError(f"{path}: record {record.record_id} ({record.smiles}) has no energy")
        energy = record.energy - references.total(record.atomic_numbers)
        data = graph(record, cutoff, energy=energy)
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
        loss=build(loss) if loss else None,
    )


def _call(config: Mapping[str, Any], first: Any) -> Any:
    return build(config, first)


def _with_steps(scheduler: Mapping[str, Any], steps: int) -> dict[str, Any]:
    return {key: steps if value == "steps" else value for key, value in scheduler.items()}


def _trainer(settings: Mapping[str, Any], best: BestAveragedWeights) -> pl.Trainer:
    callbacks: list[pl.Callback] = [best]
    if settings.get("patience"):
        callbacks.append(
            EarlyStopping("validation/loss", patience=settings["patience"], check_on_train_epoch_end=False)
        )
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
    """Threads and determinism of the fit; the caller's settings come back, for fits that run in a larger process."""
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    level = logging.getLogger("pytorch_lightning").level
    # Lightning announces devices at every fit; five members would say it five times.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    try:
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
