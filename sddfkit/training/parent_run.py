"""The parent run of a job in MLflow: members are nested below it, and it keeps the configuration and the report."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from filelock import FileLock
from mlflow.entities import Metric, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

PARENT_TAG = "mlflow.parentRunId"
_PARAMS_PER_CALL = 100


class ParentRun:
    """The parent run of a job, open as long as the context.

    Parameters
    ----------
    settings
        ``tracking_uri`` (a ``sqlite:///`` address), ``artifacts`` (a folder) and ``experiment`` (a name).
    run_name
        Names the run.
    config
        The resolved configuration, logged as parameters.
    folder
        The job's folder. It keeps the run's id, so that a job continued in the same folder writes into the same run.
    """

    def __init__(self, settings: Mapping[str, Any], *, run_name: str, config: Mapping[str, Any], folder: Path) -> None:
        self.settings = dict(settings)
        self.client, self.experiment_id = open_experiment(**self.settings)
        self.run_id = self._open(run_name, config, folder / "mlflow-run.json")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        status = "FINISHED" if error is None else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED"
        self.client.set_terminated(self.run_id, status)

    def for_members(self) -> dict[str, Any]:
        """Return what :func:`sddfkit.training.fit.fit_member` needs to log below this run."""
        return {
            "tracking_uri": self.settings["tracking_uri"],
            "experiment": self.settings["experiment"],
            "parent_run_id": self.run_id,
        }

    def log_round(self, row: Mapping[str, Any], members: Mapping[str, Mapping[str, Any]]) -> None:
        """Log the errors of one round on the test fold, of the ensemble here and of each member in its own run.

        A member that was known before (trained by an earlier job) gets a nested run that names its origin.
        """
        step = int(row["round"])
        metrics = row["metrics"]
        found = {f"test/{name}": value for name, value in metrics["ensemble"].items()}
        found |= {f"test/baseline/{name}": value for name, value in metrics["baseline"].items()}
        self._log(self.run_id, {**found, "n_labelled_train": row["n_labelled_train"]}, step)
        for name, summary in members.items():
            run_id = self._nested(summary.get("mlflow_run_id"), f"round-{step}-{name}")
            self._log(run_id, {f"test/{key}": value for key, value in metrics["members"][name].items()}, step)

    def finish(self, document: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log what a finished job's report counted, and keep its files as artifacts."""
        self._log(self.run_id, {f"calculations/{k}": v for k, v in document["calculations"].items()}, 0)
        self.client.set_tag(self.run_id, "split_hash", document["split"]["hash"])
        for path in files:
            self.client.log_artifact(self.run_id, str(path))

    def _open(self, run_name: str, config: Mapping[str, Any], kept: Path) -> str:
        if kept.is_file():
            run_id = str(json.loads(kept.read_text())["run_id"])
            self.client.update_run(run_id, status="RUNNING")
            return run_id
        run_id = str(self.client.create_run(self.experiment_id, run_name=run_name).info.run_id)
        params = [Param(key, str(value)[:6000]) for key, value in sorted(flat(config).items())]
        for start in range(0, len(params), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=params[start : start + _PARAMS_PER_CALL])
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps({"run_id": run_id}))
        return run_id

    def _nested(self, run_id: str | None, name: str) -> str:
        """Return the member's own run if it lies below this one, else make one there that names its origin."""
        if run_id is not None and self._is_mine(run_id):
            return run_id
        tags = {PARENT_TAG: self.run_id, "sddfkit.known_from": str(run_id)}
        run = self.client.create_run(self.experiment_id, run_name=f"{name} (known)", tags=tags)
        self.client.set_terminated(run.info.run_id, "FINISHED")
        return str(run.info.run_id)

    def _is_mine(self, run_id: str) -> bool:
        try:
            return self.client.get_run(run_id).data.tags.get(PARENT_TAG) == self.run_id
        except MlflowException:  # of another database, or deleted
            return False

    def _log(self, run_id: str, values: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        self.client.log_batch(run_id, metrics=[Metric(name, float(v), now, step) for name, v in values.items()])


def open_experiment(tracking_uri: str, artifacts: str, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client and the id of an experiment, making database and experiment where they are missing.

    A lock keeps jobs that start together from making them twice.

    Raises
    ------
    ValueError
        If the address is not that of an SQLite file.
    """
    prefix = "sqlite:///"
    if not tracking_uri.startswith(prefix):
        raise ValueError(f"logger.tracking_uri is {tracking_uri!r}, expected {prefix}<file>")
    database = Path(tracking_uri.removeprefix(prefix))
    database.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{database}.lock"):
        client = MlflowClient(tracking_uri)
        found = client.get_experiment_by_name(experiment)
        if found is not None:
            return client, str(found.experiment_id)
        return client, str(
            client.create_experiment(experiment, artifact_location=(Path(artifacts) / experiment).as_uri())
        )


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with dotted names.

    >>> flat({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found
