"""The run of a sweep in MLflow: its jobs are nested below it, and it keeps one table of them all."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS, MLFLOW_RUN_NOTE

from sddfkit.training.tracking import TrackingError, find_run, log_params, open_experiment, open_run, tracking_errors

BEST_TAG = "sddfkit.best"
_TABLE = "summary.json"
_log = logging.getLogger(__name__)


class SweepRun:
    """The run that the jobs of a sweep are nested below; made (or found again) here, ended by :meth:`finish`.

    Parameters
    ----------
    settings
        ``tracking_uri`` (a ``sqlite:///`` address), ``artifacts`` (a folder) and ``experiment`` (a name).
    run_name
        Names the run.
    overrides
        What is swept, as typed (``strategy=random,disagreement``); one parameter of the run.
    folder
        The sweep's folder. It keeps the run's id, so that a sweep continued there writes into the same run.

    Raises
    ------
    TrackingError
        If the database cannot be used. Later on, what it refuses is said in :attr:`warnings` and loses no job.
    """

    def __init__(self, settings: Mapping[str, Any], *, run_name: str, overrides: Sequence[str], folder: Path) -> None:
        self.settings = dict(settings)
        self.warnings: list[str] = []
        self.client, self.experiment_id = open_experiment(**self.settings)
        with tracking_errors(self.settings["tracking_uri"]):
            run = open_run(self.client, self.experiment_id, folder, run_name=run_name, wanted={}, tags={})
            log_params(self.client, run, {"overrides": " ".join(overrides)})
        self.run_id = str(run.info.run_id)

    def finish(
        self,
        rows: Sequence[Mapping[str, Any]],
        best: int | None,
        files: Sequence[Path] = (),
        status: str = "FINISHED",
    ) -> None:
        """Log the summary of the jobs and end the run.

        The table is the run's description (MLflow's page of the run opens with it) and the artifact ``summary.json``,
        which MLflow shows as a table too.

        Parameters
        ----------
        rows
            One per job, of plain scalars; a key that a row lacks is empty there. Where a row has ``mlflow_run_id``,
            the best job's own run gets the tag ``sddfkit.best``.
        best
            Index of the best job, or None.
        files
            Kept as artifacts.
        status
            FINISHED, FAILED or KILLED.
        """
        try:
            with tracking_errors(self.settings["tracking_uri"]):
                self._log_table(rows, best)
                self._tag_best(rows, best)
                for path in files:
                    self.client.log_artifact(self.run_id, str(path))
                self.client.set_terminated(self.run_id, status)
        except TrackingError as error:
            _log.warning("%s; the sweep's own files hold the same", error)
            self.warnings.append(str(error))

    def _log_table(self, rows: Sequence[Mapping[str, Any]], best: int | None) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        table = {"columns": columns, "data": [[row.get(key) for key in columns] for row in rows]}
        self.client.log_text(self.run_id, json.dumps(table), _TABLE)
        shown = json.dumps([{"path": _TABLE, "type": "table"}])
        self.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, shown)
        self.client.set_tag(self.run_id, MLFLOW_RUN_NOTE, markdown_table(rows, best))

    def _tag_best(self, rows: Sequence[Mapping[str, Any]], best: int | None) -> None:
        for index, row in enumerate(rows):
            run = find_run(self.client, str(row["mlflow_run_id"])) if row.get("mlflow_run_id") else None
            if run is not None and index == best:
                self.client.set_tag(run.info.run_id, BEST_TAG, "true")
            elif run is not None and BEST_TAG in run.data.tags:
                self.client.delete_tag(run.info.run_id, BEST_TAG)
        if best is not None:
            self.client.set_tag(self.run_id, "best_job", str(best))
            if rows[best].get("mlflow_run_id"):
                self.client.set_tag(self.run_id, "best_run_id", str(rows[best]["mlflow_run_id"]))


def markdown_table(rows: Sequence[Mapping[str, Any]], best: int | None = None) -> str:
    """Return rows of scalars as a table in Markdown, the row `best` in bold; numbers with four digits.

    >>> print(markdown_table([{"job": 0, "mae": 1.23456}, {"job": 1, "mae": None}], best=0))
    | job | mae |
    |---|---|
    | **0** | **1.235** |
    | 1 |  |
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    for index, row in enumerate(rows):
        cells = [_cell(row.get(key)) for key in columns]
        if index == best:
            cells = [f"**{cell}**" if cell else cell for cell in cells]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
