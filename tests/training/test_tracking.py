import multiprocessing
import os
import resource
import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from sddfkit.training import TrackingError, fit_member
from sddfkit.training.member_run import MemberRun
from sddfkit.training.tracking import open_experiment

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sddfkit.training", "mlflow.store.tracking.sqlalchemy_store"])


def place(folder: Path) -> dict:
    return {
        "tracking_uri": f"sqlite:///{folder}/mlflow.db",
        "artifacts": str(folder / "artifacts"),
        "experiment": "test",
    }


@pytest.mark.parametrize("delay_s", [0.0, 0.3])
def test_a_kill_while_the_database_is_made_leaves_nothing_half_made(tmp_path, delay_s):
    process = PROCESSES.Process(target=open_experiment, kwargs=place(tmp_path))
    process.start()
    while not list(tmp_path.glob("mlflow.db.*.part")) and process.is_alive():
        time.sleep(0.001)
    time.sleep(delay_s)
    process.kill()
    process.join()
    assert not (tmp_path / "mlflow.db").exists()
    assert list(tmp_path.glob("*.part"))
    client, experiment = open_experiment(**place(tmp_path))
    assert client.get_experiment(experiment).artifact_location == (tmp_path / "artifacts" / "test").as_uri()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_jobs_that_start_together_make_one_database_and_one_experiment(tmp_path):
    processes = [PROCESSES.Process(target=open_experiment, kwargs=place(tmp_path)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    client, _ = open_experiment(**place(tmp_path))
    assert sorted(experiment.name for experiment in client.search_experiments()) == ["Default", "test"]


def test_an_empty_file_becomes_a_database(tmp_path):
    (tmp_path / "mlflow.db").touch()
    client, experiment = open_experiment(**place(tmp_path))
    assert client.create_run(experiment).info.status == "RUNNING"


def text_file(database: Path) -> None:
    database.write_text("no database" * 1000)


def other_database(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE jobs (id)")


def other_version(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = 'of tomorrow'")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (text_file, r"mlflow\.db is no database of MLflow .*move it away"),
        (other_database, r"mlflow\.db is no database of MLflow .*move it away"),
        (other_version, r"another version of MLflow .*of tomorrow.*`mlflow db upgrade sqlite:///"),
        (Path.mkdir, r"mlflow\.db cannot be used .*logger\.tracking_uri"),
    ],
    ids=["text", "other database", "other version", "folder"],
)
def test_a_file_that_cannot_be_the_database_is_explained_at_once(empty_database, tmp_path, spoil, message):
    database = tmp_path / "mlflow.db"
    if spoil is other_version:
        shutil.copy(empty_database, database)
    spoil(database)
    before = None if database.is_dir() else database.read_bytes()
    start = time.monotonic()
    with pytest.raises(TrackingError, match=message):
        open_experiment(**place(tmp_path))
    assert time.monotonic() - start < 10
    assert before is None or database.read_bytes() == before


def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path):
    (tmp_path / "root").touch()
    with pytest.raises(TrackingError, match=r"root/mlflow\.db cannot be used .*see that its folder exists"):
        open_experiment(**place(tmp_path / "root"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_explained(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be used .*can be written"):
        open_experiment(**place(tmp_path))


def test_a_full_disk_is_explained_and_leaves_nothing(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(TrackingError, match=r"mlflow\.db cannot be written .*make room on the disk"):
            open_experiment(**place(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db.lock"]
    open_experiment(**place(tmp_path))


def test_a_locked_database_is_explained(tracking, monkeypatch):
    monkeypatch.setattr("sddfkit.training.tracking._LOCK_S", 0.1)
    with closing(sqlite3.connect(tracking["tracking_uri"].removeprefix("sqlite:///"))) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(TrackingError, match="locked by another process; close the program"):
            open_experiment(**tracking)


def test_other_stores_than_sqlite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="sqlite:///"):
        open_experiment(str(tmp_path / "mlruns"), str(tmp_path), "test")


HISTORY = [{"epoch": float(k), "train/loss": 1.0 / (k + 1), "validation/loss": float("nan")} for k in range(4)]


def test_a_fit_tells_later_what_mlflow_refused(tracking, fit_job, tmp_path):
    run = MemberRun({**tracking, "log_every_s": 0.0}, fit_job, "hash", tmp_path / "gen")
    client = open_experiment(**tracking)[0]
    assert run.run_id is not None
    run.log(HISTORY[:1])
    client.delete_run(run.run_id)
    run._next = 0.0
    run.log(HISTORY[:2])
    for epoch in (2, 3):
        run.log(HISTORY[: epoch + 1])  # not yet: a call that failed is not repeated at once
    assert len(run.warnings) == 1
    client.restore_run(run.run_id)
    run.finish(HISTORY, {"validation/loss": 0.5}, 1.5)
    for key in ("train/loss", "validation/loss"):
        assert [metric.step for metric in client.get_metric_history(run.run_id, key)] == [0, 1, 2, 3]
    found = client.get_run(run.run_id)
    assert (found.info.status, found.data.metrics["wall_s"]) == ("FINISHED", 1.5)


def test_a_fit_outlives_a_database_that_is_broken_or_locked(tracking, fit_job, tmp_path, monkeypatch):
    monkeypatch.setattr("sddfkit.training.tracking._LOCK_S", 0.1)
    database = Path(tracking["tracking_uri"].removeprefix("sqlite:///"))
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        card = fit_member({**fit_job, "mlflow": tracking})
    assert card["epochs"] == 12 and card["mlflow_run_id"] is None
    assert "locked by another process" in card["warnings"][0]
    text_file(database)
    card = fit_member({**fit_job, "folder": str(tmp_path / "other"), "mlflow": tracking})
    assert card["epochs"] == 12 and "no database of MLflow" in card["warnings"][0]
