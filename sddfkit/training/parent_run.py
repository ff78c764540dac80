"""The parent run of a job in MLflow: members are nested below it, and it keeps the configuration and the report."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sddfkit.training.tracking import (
    PARENT_TAG,
    TrackingError,
    find_run,
    flat,
    log_metrics_once,
    log_params,
    metrics_of,
    open_experiment,
    open_run,
    runs_with_tags,
    tracking_errors,
)

_KNOWN_TAG = "sddfkit.known_from"
_log = logging.getLogger(__name__)


class ParentRun:
    """The parent run of a job, open as long as the context.

    Once it is open, nothing that MLflow does ends the job: what cannot be written is tried again with the next that
    is, and at the end; :attr:`warnings` says what went wrong.

    Parameters
    ----------
    settings
        ``tracking_uri`` (a ``sqlite:///`` address), ``artifacts`` (a folder) and ``experiment`` (a name).
    run_name
        Names the run.
    config
        The resolved configuration, logged as parameters.
    folder
        The job's folder. It keeps the run's id, so that a job continued in the same folder writes into the same run;
        a run that the database does not know (any more) is made anew.
    parent_run_id
        The run that this one is nested below, such as that of a sweep.

    Raises
    ------
    TrackingError
        If the database cannot be used.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        run_name: str,
        config: Mapping[str, Any],
        folder: Path,
        parent_run_id: str | None = None,
    ) -> None:
        self.settings = dict(settings)
        self.warnings: list[str] = []
        self._pending: list[Callable[[], None]] = []
        self.client, self.experiment_id = open_experiment(**self.settings)
        with tracking_errors(self.settings["tracking_uri"]):
            tags = {} if parent_run_id is None else {PARENT_TAG: parent_run_id}
            run = open_run(self.client, self.experiment_id, folder, run_name=run_name, wanted={}, tags=tags)
            log_params(self.client, run, flat(config))
        self.run_id = str(run.info.run_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        status = "FINISHED" if error is None else "FAILED" if isinstance(error, Exception) else "KILLED"
        self._write(lambda: self.client.set_terminated(self.run_id, status), first=True)

    def for_members(self) -> dict[str, Any]:
        """Return what :func:`sddfkit.training.fit.fit_member` needs to log below this run."""
        return {**self.settings, "parent_run_id": self.run_id}

    def log_round(self, row: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> None:
        """Log the errors of one round on the test fold, of the ensemble here and of each member in its own run.

        A member that was known before (trained by an earlier job) gets a nested run that names its origin. What a
        continued job logs again is there once.
        """
        step = int(row["round"])
        metrics = row["metrics"]
        found = {f"test/{name}": value for name, value in metrics["ensemble"].items()}
        found |= {f"test/baseline/{name}": value for name, value in metrics["baseline"].items()}
        found["n_labelled_train"] = row["n_labelled_train"]
        self._write(lambda: self._log(self.run_id, found, step))
        for name, summary in members.items():
            errors = {f"test/{key}": value for key, value in metrics["members"][name].items()}
            run_id = summary.get("mlflow_run_id")
            self._write(self._member_logger(run_id, f"round-{step}-{name}", errors, step))

    def finish(self, document: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log what a finished job's report counted, and keep its files as artifacts."""
        calculations = {f"calculations/{name}": value for name, value in document["calculations"].items()}

        def write() -> None:
            self._log(self.run_id, calculations, 0)
            self.client.set_tag(self.run_id, "split_hash", document["split"]["hash"])
            for path in files:
                self.client.log_artifact(self.run_id, str(path))

        self._write(write)

    def _write(self, action: Callable[[], None], *, first: bool = False) -> None:
        """Do what is waiting; what fails goes to the end, and waits there with the rest for the next call."""
        self._pending.insert(0 if first else len(self._pending), action)
        try:
            while self._pending:
                with tracking_errors(self.settings["tracking_uri"]):
                    self._pending[0]()
                del self._pending[0]
        except TrackingError as error:
            self._pending.append(self._pending.pop(0))
            if str(error) not in self.warnings:
                _log.warning("%s; the job goes on, and this is tried again", error)
                self.warnings.append(str(error))

    def _member_logger(
        self, run_id: str | None, name: str, errors: Mapping[str, float], step: int
    ) -> Callable[[], None]:
        return lambda: self._log(self._nested(run_id, name), errors, step)

    def _nested(self, run_id: str | None, name: str) -> str:
        """Return the member's own run if it lies below this one, else one there that names its origin."""
        run = None if run_id is None else find_run(self.client, run_id)
        if run is not None and run.data.tags.get(PARENT_TAG) == self.run_id:
            return str(run.info.run_id)
        tags = {PARENT_TAG: self.run_id, _KNOWN_TAG: str(run_id)}
        run_name = f"{name} (known)"
        for known in runs_with_tags(self.client, self.experiment_id, tags):
            if known.info.run_name == run_name:
                return str(known.info.run_id)
        made = self.client.create_run(self.experiment_id, run_name=run_name, tags=tags)
        self.client.set_terminated(made.info.run_id, "FINISHED")
        return str(made.info.run_id)

    def _log(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        log_metrics_once(self.client, run_id, metrics_of(values, step))
