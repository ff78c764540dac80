"""MLflow's database: made whole or not at all, runs that are continued instead of made twice, errors as sentences."""

import json
import logging
import os
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from alembic.util import CommandError
from filelock import FileLock
from mlflow.entities import Metric, Param, Run
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from mlflow.tracking import MlflowClient
from sqlalchemy.exc import SQLAlchemyError

PARENT_TAG = "mlflow.parentRunId"
FOLDER_TAG = "sddfkit.folder"
RUN_FILE = "mlflow-run.json"
"""Keeps the id of the run of a folder: ``{"run_id": …}``."""

_PREFIX = "sqlite:///"
_LOCK_S = 20.0
"""How long a locked database is waited for; MLflow's own limit."""
_MAKING_S = 120.0
"""How long another process may take to make the database."""
_PARAMS_PER_CALL, _METRICS_PER_CALL, _PARAM_LENGTH = 100, 1000, 6000
"""MLflow's own limits."""
_NOISY = ("mlflow.store.db.utils", "mlflow.store.tracking.sqlalchemy_store", "alembic.runtime.migration")
"""Loggers that print what an error says again, with its trace, and each step of making a database."""


class TrackingError(RuntimeError):
    """MLflow's database cannot be used: what is wrong, where, and what to do."""


def open_experiment(tracking_uri: str, artifacts: str, experiment: str) -> tuple[MlflowClient, str]:
    """Return a client and the id of an experiment, making database and experiment where they are missing.

    A new database gets its name when it is complete. A lock keeps jobs that start together from making it twice.

    Parameters
    ----------
    tracking_uri
        ``sqlite:///<file>``.
    artifacts
        Folder of the files that runs keep; those of an experiment lie in a folder of its name.
    experiment
        A name.

    Raises
    ------
    ValueError
        If the address is not that of an SQLite file.
    TrackingError
        If the database cannot be made, read or written, or is another MLflow's.
    """
    if not tracking_uri.startswith(_PREFIX):
        raise ValueError(f"logger.tracking_uri is {tracking_uri!r}, expected {_PREFIX}<file>")
    database = Path(tracking_uri.removeprefix(_PREFIX))
    with tracking_errors(tracking_uri):
        database.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{database}.lock", timeout=_MAKING_S):
            made = not _check(database)
            if made:
                _make(database, artifacts)
            client = MlflowClient(tracking_uri)
            if made:
                # MLflow keeps connections by address: those of this process may still hold a file that was deleted.
                client._tracking_client.store.engine.dispose()
            found = client.get_experiment_by_name(experiment)
            if found is None:
                folder = (Path(artifacts) / experiment).absolute()
                return client, str(client.create_experiment(experiment, artifact_location=folder.as_uri()))
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(found.experiment_id)
            return client, str(found.experiment_id)


@contextmanager
def tracking_errors(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow and its database raise inside the block into a :class:`TrackingError`, without their traces."""
    loggers = [logging.getLogger(name) for name in _NOISY]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    except (MlflowException, SQLAlchemyError, sqlite3.Error, CommandError, OSError) as error:
        raise TrackingError(_sentence(tracking_uri, error)) from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_run(
    client: MlflowClient,
    experiment_id: str,
    folder: Path,
    *,
    run_name: str,
    wanted: Mapping[str, str | None],
    tags: Mapping[str, str],
) -> Run:
    """Continue the run that belongs to a folder, or make one; its id is kept in ``folder/mlflow-run.json``.

    No other process may be writing into the folder.

    Parameters
    ----------
    wanted
        Tags that a run must have (None: must not have) to be continued; a new run gets them.
    tags
        Further tags, set on either.
    """
    kept = folder / RUN_FILE
    run = _kept_run(client, kept)
    if not kept.is_file():
        # A process that was killed between making the run and noting its id leaves the tag alone.
        run = _search(client, experiment_id, {FOLDER_TAG: str(folder.absolute()), **wanted})
    if run is None or any(run.data.tags.get(key) != value for key, value in wanted.items()):
        if run is not None and run.info.status == "RUNNING":
            # The folder is ours now: the process that left the run open is gone.
            client.set_terminated(run.info.run_id, "KILLED")
        given = {key: value for key, value in wanted.items() if value is not None}
        run = client.create_run(
            experiment_id, run_name=run_name, tags={FOLDER_TAG: str(folder.absolute()), **given, **tags}
        )
    else:
        client.update_run(run.info.run_id, status="RUNNING")
        for key, value in tags.items():
            if run.data.tags.get(key) != value:
                client.set_tag(run.info.run_id, key, value)
    folder.mkdir(parents=True, exist_ok=True)
    part = kept.with_name(f"{kept.name}.{os.getpid()}.part")
    part.write_text(json.dumps({"run_id": run.info.run_id}))
    part.replace(kept)
    return run


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Return a run, or None if it is unknown here or was deleted."""
    try:
        run = client.get_run(run_id)
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise
    return run if run.info.lifecycle_stage == "active" else None


def runs_with_tags(client: MlflowClient, experiment_id: str, tags: Mapping[str, str | None]) -> list[Run]:
    """Return the runs of an experiment that have these tags, the newest first (None: without this tag)."""
    # MLflow's filter knows no escapes: what holds both quotes is compared here alone.
    marks = {key: '"' if "'" in value else "'" for key, value in tags.items() if value is not None}
    terms = [f"tags.`{key}` = {mark}{tags[key]}{mark}" for key, mark in marks.items() if mark not in str(tags[key])]
    runs = client.search_runs([experiment_id], " and ".join(terms))
    return [run for run in runs if all(run.data.tags.get(key) == value for key, value in tags.items())]


def log_params(client: MlflowClient, run: Run, params: Mapping[str, Any]) -> None:
    """Log the parameters that a run lacks; those that it has stay (MLflow changes none)."""
    new = [
        Param(key, str(value)[:_PARAM_LENGTH]) for key, value in sorted(params.items()) if key not in run.data.params
    ]
    for start in range(0, len(new), _PARAMS_PER_CALL):
        client.log_batch(run.info.run_id, params=new[start : start + _PARAMS_PER_CALL])


def log_metrics(client: MlflowClient, run_id: str, metrics: Iterable[Metric]) -> None:
    """Log metrics in as few calls as MLflow allows: each costs as much as a training step."""
    rows = list(metrics)
    for start in range(0, len(rows), _METRICS_PER_CALL):
        client.log_batch(run_id, metrics=rows[start : start + _METRICS_PER_CALL])


def log_metrics_once(client: MlflowClient, run_id: str, metrics: Iterable[Metric]) -> None:
    """Log the metrics that a run does not have yet with the same step and value."""
    rows = list(metrics)
    known = {
        _identity(metric)
        for key in {metric.key for metric in rows} & client.get_run(run_id).data.metrics.keys()
        for metric in client.get_metric_history(run_id, key)
    }
    log_metrics(client, run_id, (metric for metric in rows if _identity(metric) not in known))


def metrics_of(values: Mapping[str, float], step: int, timestamp: int | None = None) -> list[Metric]:
    """Return MLflow's metrics for named values at one step; `timestamp` in ms, now by default."""
    now = int(time.time() * 1000) if timestamp is None else timestamp
    return [Metric(name, float(value), now, step) for name, value in values.items()]


def flat(config: Mapping[str, Any], separator: str = ".", prefix: str = "") -> dict[str, Any]:
    """Return nested mappings as one level with joined names.

    >>> flat({"a": {"b": 1, "c": [2]}})
    {'a.b': 1, 'a.c': [2]}
    """
    found: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        found |= flat(value, separator, f"{name}{separator}") if isinstance(value, Mapping) else {name: value}
    return found


def _check(database: Path) -> bool:
    """Whether the file is an MLflow database of this version that can be written; False where there is none.

    MLflow itself would try a file that is none for minutes, and convert an older one without a word.
    """
    if not database.exists() or (database.is_file() and database.stat().st_size == 0):
        return False
    with closing(sqlite3.connect(f"file:{quote(str(database))}?mode=rw", uri=True, timeout=_LOCK_S)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" not in tables or "experiments" not in tables:
            raise sqlite3.DatabaseError("file is not a database of MLflow")
        found = [version for (version,) in connection.execute("SELECT version_num FROM alembic_version")]
        connection.rollback()
    expected = _get_latest_schema_revision()
    if found != [expected]:
        raise MlflowException(f"database schema {found}, expected {expected}")
    return True


def _make(database: Path, artifacts: str) -> None:
    """Make a new database beside its place and rename it."""
    for stale in database.parent.glob(f"{database.name}.*.part*"):
        stale.unlink()
    part = database.with_name(f"{database.name}.{os.getpid()}.part")
    try:
        try:
            SqlAlchemyStore(f"{_PREFIX}{part}", Path(artifacts).absolute().as_uri())
        finally:
            engine = SqlAlchemyStore._engine_map.pop(f"{_PREFIX}{part}", None)
            if engine is not None:
                engine.dispose()
        part.replace(database)
    finally:
        for left in (part, part.with_name(f"{part.name}-journal")):
            left.unlink(missing_ok=True)


def _kept_run(client: MlflowClient, kept: Path) -> Run | None:
    try:
        run_id = json.loads(kept.read_text())["run_id"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return find_run(client, str(run_id))


def _search(client: MlflowClient, experiment_id: str, tags: Mapping[str, str | None]) -> Run | None:
    runs = runs_with_tags(client, experiment_id, tags)
    return runs[0] if runs else None


def _identity(metric: Metric) -> tuple[str, int, str]:
    """Key, step and value as MLflow keeps it: without infinities."""
    limit = sys.float_info.max
    value = metric.value if metric.value != metric.value else min(max(metric.value, -limit), limit)
    return metric.key, metric.step, repr(float(value))


def _sentence(tracking_uri: str, error: BaseException) -> str:
    where = tracking_uri.removeprefix(_PREFIX)
    text = " ".join(str(error).split())
    low = text.lower()
    elsewhere = "name another file with logger.tracking_uri"
    if "locked" in low or isinstance(error, TimeoutError):
        return (
            f"MLflow's database {where} is locked by another process; close the program that holds it (a database "
            f"browser, a stopped job), or {elsewhere}"
        )
    if "not a database" in low or "malformed" in low:
        return f"{where} is no database of MLflow ({text[:200]}); move it away, or {elsewhere}"
    if "schema" in low or isinstance(error, CommandError):
        return (
            f"MLflow's database {where} was made by another version of MLflow ({text[:200]}); keep a copy and run "
            f"`mlflow db upgrade {tracking_uri}`, or {elsewhere}"
        )
    if "disk is full" in low or "no space left" in low or "disk i/o" in low or _full(Path(where)):
        return f"MLflow's database {where} cannot be written ({text[:200]}); make room on the disk, or {elsewhere}"
    return (
        f"MLflow's database {where} cannot be used ({text[:200]}); see that its folder exists and can be written, or "
        f"{elsewhere}"
    )


def _full(database: Path) -> bool:
    folder = next((parent for parent in database.absolute().parents if parent.is_dir()), Path("/"))
    return shutil.disk_usage(folder).free < 1 << 20
