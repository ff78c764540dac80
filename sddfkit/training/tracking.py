"""What a fit tells MLflow."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.entities import Metric
from pytorch_lightning.loggers import MLFlowLogger

_METRICS_PER_CALL = 1000
"""MLflow's own limit of one batch."""


def track(
    tracking: Mapping[str, Any], job: Mapping[str, Any], history: Sequence[Mapping[str, float]], card: Mapping[str, Any]
) -> str:
    """Write one finished fit as one MLflow run, and return the run's id.

    Parameters
    ----------
    tracking : dict
        ``tracking_uri``, ``experiment``, ``run_name``, ``parent_run_id`` (or None), ``tags``.
    job : dict
        Its settings become parameters.
    history : list of dict
        One row per epoch; all go in a few batches, since each call of MLflow costs as much as a training step.
    card : dict
        ``best_epoch``, ``wall_s`` and ``metrics`` of the fit.
    """
    tags = {key: str(value) for key, value in (tracking.get("tags") or {}).items()}
    if tracking.get("parent_run_id"):
        tags["mlflow.parentRunId"] = tracking["parent_run_id"]
    logger = MLFlowLogger(
        experiment_name=tracking["experiment"],
        run_name=tracking.get("run_name") or job["name"],
        tracking_uri=tracking["tracking_uri"],
        tags=tags,
        log_model=False,
    )
    logger.log_hyperparams({key: job[key] for key in ("name", "net", "module", "trainer", "seed", "threads")})
    now = int(time.time() * 1000)
    metrics = [
        Metric(key, value, now, int(row["epoch"])) for row in history for key, value in row.items() if key != "epoch"
    ]
    last = int(history[-1]["epoch"])
    best = {f"best/{key}": value for key, value in card["metrics"].items()}
    metrics += [Metric(key, float(value), now, last) for key, value in (best | {"wall_s": card["wall_s"]}).items()]
    run_id = str(logger.run_id)
    for start in range(0, len(metrics), _METRICS_PER_CALL):
        logger.experiment.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_CALL])
    logger.finalize("success")
    return run_id
