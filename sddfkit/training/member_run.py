"""What a fit tells MLflow while it runs; nothing that MLflow does ends the fit."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Metric
from mlflow.tracking import MlflowClient

from sddfkit.training.tracking import (
    PARENT_TAG,
    TrackingError,
    flat,
    log_metrics,
    log_metrics_once,
    log_params,
    metrics_of,
    open_experiment,
    open_run,
    tracking_errors,
)

JOB_TAG = "sddfkit.job_hash"
LOG_EVERY_S = 10.0
_LONGEST_SHARE = 0.1
"""Of the time of a fit that writing may take: a locked database is not waited for again and again."""
_PARAMS = ("name", "net", "module", "trainer", "seed", "threads")


class MemberRun:
    """The run of one fit in MLflow, opened here and ended by :meth:`finish` or :meth:`stop`.

    A fit that is continued (the same job in the same folder, below the same parent) writes into the same run; below
    another parent it gets a new one. Every failure is kept in :attr:`warnings`, and what could not be written is
    tried again later.

    Parameters
    ----------
    tracking
        ``tracking_uri``, ``experiment``, ``run_name``, ``parent_run_id`` (or None), ``tags``; ``artifacts`` (a folder;
        beside the database by default), ``log_every_s`` (at most one batch of metrics in this time, s).
    job, job_hash
        The settings become parameters; the hash tells a fit that is continued from another one.
    folder
        Of the member; keeps the run's id.
    """

    def __init__(self, tracking: Mapping[str, Any], job: Mapping[str, Any], job_hash: str, folder: Path) -> None:
        self.tracking = tracking
        self.run_id: str | None = None
        self.warnings: list[str] = []
        self._job = job
        self._job_hash = job_hash
        self._folder = folder
        self._client: MlflowClient | None = None
        self._every_s = float(tracking.get("log_every_s", LOG_EVERY_S))
        self._next = 0.0
        self._written = 0
        self._certain = False  # whether what is in the database is known to be what was written here
        self._opened = int(time.time() * 1000)
        self._times: dict[int, int] = {}  # ends of the epochs of this process, ms
        with self._forgiven():
            self._open()

    def log(self, history: Sequence[Mapping[str, float]]) -> None:
        """Log the rows of a growing history that are new, if it is time again."""
        self._times[int(history[-1]["epoch"])] = int(time.time() * 1000)
        if time.monotonic() >= self._next:
            self._log(history, {})

    def finish(self, history: Sequence[Mapping[str, float]], best: Mapping[str, float], wall_s: float) -> None:
        """Log what is left and the metrics of the best epoch, and end the run."""
        last = {f"best/{key}": value for key, value in best.items()} | {"wall_s": wall_s}
        if self._log(history, last):
            self.stop("FINISHED")

    def stop(self, status: str) -> None:
        """End the run: FINISHED, KILLED or FAILED."""
        with self._forgiven():
            if self._client is not None and self.run_id is not None:
                self._client.set_terminated(self.run_id, status)

    def _open(self) -> MlflowClient:
        uri = self.tracking["tracking_uri"]
        beside = str(Path(str(uri).removeprefix("sqlite:///")).parent / "mlflow-artifacts")
        client, experiment = open_experiment(uri, self.tracking.get("artifacts") or beside, self.tracking["experiment"])
        tags = {key: str(value) for key, value in (self.tracking.get("tags") or {}).items()}
        run = open_run(
            client,
            experiment,
            self._folder,
            run_name=self.tracking.get("run_name") or self._job["name"],
            wanted={JOB_TAG: self._job_hash, PARENT_TAG: self.tracking.get("parent_run_id")},
            tags=tags,
        )
        log_params(client, run, flat({key: self._job[key] for key in _PARAMS}, "/"))
        self._client, self.run_id = client, str(run.info.run_id)
        return client

    def _log(self, history: Sequence[Mapping[str, float]], last: Mapping[str, float]) -> bool:
        """Log the rows that were not written yet, and `last` at the last step; whether that went well."""
        start = time.monotonic()
        done = False
        with self._forgiven():
            client = self._client or self._open()
            assert self.run_id is not None
            metrics = [metric for row in history[self._written :] for metric in self._row(row)]
            metrics += metrics_of(last, int(history[-1]["epoch"])) if history else []
            # What another process wrote before it was killed, or a call that failed half-way, is not written twice.
            (log_metrics if self._certain else log_metrics_once)(client, self.run_id, metrics)
            self._written = len(history)
            done = True
        self._certain = done
        now = time.monotonic()
        self._next = now + max(self._every_s, (now - start) / _LONGEST_SHARE)
        return done

    def _row(self, row: Mapping[str, float]) -> list[Metric]:
        epoch = int(row["epoch"])
        timestamp = self._times.get(epoch, self._opened)
        return metrics_of({key: value for key, value in row.items() if key != "epoch"}, epoch, timestamp)

    @contextmanager
    def _forgiven(self) -> Iterator[None]:
        try:
            with tracking_errors(self.tracking["tracking_uri"]):
                yield
        except (TrackingError, ValueError, KeyError) as error:
            text = str(error)
            if text not in self.warnings:
                self.warnings.append(text)
