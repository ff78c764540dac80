"""A fit that was killed goes on from the end of an epoch, and ends as if nothing had happened."""

import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch

CHECKPOINT = "checkpoint.ckpt"
_KEY = "sddfkit"


class Found(NamedTuple):
    """A checkpoint to go on from, or none (path None); `warning` says why one that is there is left aside."""

    path: Path | None
    wall_s: float
    warning: str | None


class Checkpoints(pl.Callback):
    """Writes what a fit needs to go on, at ends of epochs, into one file; all of it plain types and tensors.

    The last epoch writes none: what follows it takes no time.

    Parameters
    ----------
    path
        Of the file; it is replaced as a whole.
    job_hash
        Of the job; only the same job goes on from the file.
    every_s
        At most one checkpoint in this time, s.
    wall_s
        Time spent on the job so far.
    """

    def __init__(self, path: Path, job_hash: str, *, every_s: float, wall_s: Callable[[], float]) -> None:
        self.path = path
        self.job_hash = job_hash
        self.every_s = every_s
        self.wall_s = wall_s
        self.warnings: list[str] = []
        self._last = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        last = trainer.should_stop or trainer.current_epoch + 1 == trainer.max_epochs
        if last or time.monotonic() - self._last < self.every_s:
            return
        part = self.path.with_name(f"{self.path.name}.part")
        try:
            trainer.save_checkpoint(part)
            part.replace(self.path)
        except (OSError, RuntimeError) as error:  # torch raises the latter when it cannot write
            part.unlink(missing_ok=True)
            text = f"no checkpoint could be written to {self.path.name}: {error}"
            if text not in self.warnings:
                self.warnings.append(text)
        self._last = time.monotonic()

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint[_KEY] = {"job_hash": self.job_hash, "wall_s": self.wall_s()}


def find_checkpoint(path: Path, job_hash: str) -> Found:
    """Look for a checkpoint of this job, whole and written by this version of Lightning."""
    path.with_name(f"{path.name}.part").unlink(missing_ok=True)
    if not path.is_file():
        return Found(None, 0.0, None)
    try:
        with zipfile.ZipFile(path) as archive:
            # torch.load does not look at the checksums.
            if archive.testzip() is not None:
                raise zipfile.BadZipFile("a checksum is wrong")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        job, version = checkpoint[_KEY], checkpoint["pytorch-lightning_version"]
        found, wall_s = str(job["job_hash"]), float(job["wall_s"])
    except Exception as error:  # of all kinds: a damaged file may fail anywhere
        return Found(None, 0.0, f"{path} is damaged ({error}): the fit starts anew")
    if found != job_hash:
        return Found(None, 0.0, f"{path} belongs to another job or other code: the fit starts anew")
    if version != pl.__version__:
        return Found(None, 0.0, f"{path} was written by Lightning {version}: the fit starts anew")
    return Found(path, wall_s, None)
