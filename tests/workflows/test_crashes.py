"""SIGKILL of the main job at every stage: the next run goes on, repeats nothing, and ends with the same numbers."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import warm
from mlflow.tracking import MlflowClient

sys.path.insert(0, str(Path(__file__).parent))
from kill_at import MOMENTS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("crashes")]
JOB = ("active", "experiment=smoke", "level=gfn2", "model=[gen,pna]", "loop.rounds=1", "trainer.checkpoint_every_s=0")
MARK = "SDDFKIT_TEST_OF_CRASHES"


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return warm.run(*command, cwd=root, env={**os.environ, MARK: str(root)})


def rows(root: Path, statement: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(root / "sddfkit-data" / "store.sqlite")) as connection:
        return connection.execute(statement).fetchall()


def processes_of(root: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


SOME = ("training",)  # tests/workflows/test_main_job.py kills among the labels


@pytest.fixture(
    scope="module", params=[SOME, pytest.param(tuple(MOMENTS), marks=pytest.mark.long)], ids=["some", "all"]
)
def killed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """One job, killed once at each moment and started again each time, until it is through."""
    root = tmp_path_factory.mktemp("killed")
    said = []
    try:
        for moment in request.param:
            done = run(root, str(Path(__file__).with_name("kill_at.py")), moment, *JOB)
            assert done.returncode == -signal.SIGKILL, f"{moment}: {done.stdout}{done.stderr}"
            said.append(done.stdout)
        done = run(root, "sddfkit", *JOB)
        assert done.returncode == 0, done.stdout + done.stderr
        yield root, [*said, done.stdout]
    finally:
        for process in processes_of(root):  # none, unless something went wrong on the way
            process.kill()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("undisturbed")
    done = run(root, "sddfkit", *JOB)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


def report(root: Path) -> dict:
    return json.loads((root / "sddfkit-data" / "runs" / "latest" / "report.json").read_text())


def test_each_run_goes_on_in_the_folder_of_the_first(killed: tuple[Path, list[str]]) -> None:
    root, said = killed
    (folder,) = (path for path in (root / "sddfkit-data" / "runs").iterdir() if not path.is_symlink())
    assert all("going on with the unfinished run" in text for text in said[1:])
    assert json.loads((folder / "run.json").read_text())["state"] == "finished"
    assert not (folder / "conformers.jsonl").exists()


def test_no_calculation_is_repeated(killed: tuple[Path, list[str]], undisturbed: Path) -> None:
    root, _ = killed
    finished = "select key, count(*) from attempts where state = 'done' group by key order by key"
    assert rows(root, finished) == rows(undisturbed, finished)
    assert {count for _, count in rows(root, finished)} == {1}
    assert rows(root, "select count(*) from attempts where state != 'done'") == [(0,)]
    assert list((root / "sddfkit-data" / "spool").glob("*.json")) == []


def test_the_numbers_are_those_of_an_undisturbed_run(killed: tuple[Path, list[str]], undisturbed: Path) -> None:
    found, expected = report(killed[0]), report(undisturbed)
    assert found["split"]["hash"] == expected["split"]["hash"]
    assert found["predictions"] == expected["predictions"]
    assert len(found["rounds"]) == len(expected["rounds"]) == 2
    for a, b in zip(found["rounds"], expected["rounds"], strict=True):
        assert [c["record_id"] for c in a["selected"]] == [c["record_id"] for c in b["selected"]]
        assert a["metrics"] == b["metrics"] and a["validation"] == b["validation"]


def test_mlflow_has_the_runs_of_one_job(killed: tuple[Path, list[str]]) -> None:
    database = killed[0] / "sddfkit-data" / "mlflow.db"
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("smoke")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    members = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert sorted((run.data.tags["round"], run.data.tags["member"]) for run in members) == [
        ("0", "gen"), ("0", "pna"), ("1", "gen"), ("1", "pna"),
    ]  # fmt: skip
    for run in [parent, *members]:
        history = client.get_metric_history(run.info.run_id, "test/energy_mae_kcal_mol")
        steps = [metric.step for metric in history]
        assert steps == sorted(set(steps)) and steps
    epochs = [metric.step for metric in client.get_metric_history(members[0].info.run_id, "train/loss")]
    assert epochs == list(range(4))


def test_no_process_remains(killed: tuple[Path, list[str]], undisturbed: Path) -> None:
    deadline = time.monotonic() + 20
    while processes_of(killed[0]) and time.monotonic() < deadline:  # the last of a killed job's may be on their way
        time.sleep(0.5)
    assert [process.cmdline() for process in processes_of(killed[0])] == []
    assert [process.cmdline() for process in processes_of(undisturbed)] == []


@pytest.mark.long
def test_a_sweep_that_was_killed_goes_on(tmp_path: Path) -> None:
    """The launcher's processes end with the sweep; finished jobs are not done again; the parent run is one."""
    sweep = [
        "active", "-m", *JOB[1:], "strategy=random,disagreement,loss_predictor", "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
    ]  # fmt: skip
    first = subprocess.Popen(
        [sys.executable, "-m", "sddfkit", *sweep], cwd=tmp_path, env={**os.environ, MARK: str(tmp_path)},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    done: list[Path] = []
    while not done and first.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
        jobs = tmp_path.glob("sddfkit-data/runs/*-sweep/*/run.json")
        done = [path.parent / "report.html" for path in jobs if '"finished"' in path.read_text()]
    first.kill()
    first.wait()
    assert done, "the sweep was over, or nowhere, before it could be killed"
    while processes_of(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.5)
    assert [process.cmdline() for process in processes_of(tmp_path)] == []
    before = {path: path.stat().st_mtime_ns for path in done}
    second = run(tmp_path, "sddfkit", *sweep)
    assert second.returncode == 0, second.stdout + second.stderr
    assert "going on with the unfinished sweep" in second.stdout and "finished before" in second.stdout
    assert {path: path.stat().st_mtime_ns for path in done} == before
    (folder,) = tmp_path.glob("sddfkit-data/runs/*-sweep")
    lines = (folder / "summary.csv").read_text().splitlines()
    assert len(lines) == 4 and all("finished" in line for line in lines[1:])
    assert (folder / "best" / "card.json").is_file()
    client = MlflowClient(f"sqlite:///{tmp_path / 'sddfkit-data' / 'mlflow.db'}")
    runs = client.search_runs([client.get_experiment_by_name("smoke").experiment_id], max_results=200)
    (top,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    jobs = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    assert len(jobs) == 3 and {run.info.status for run in runs} == {"FINISHED"}
    assert len(runs) == 1 + 3 + 3 * 2 * 2
    reports = [json.loads((folder / str(job) / "report.json").read_text()) for job in range(3)]
    assert [row["strategy"] for row in reports] == ["Random", "Disagreement", "LossPredictor"]
    assert len({row["split"]["hash"] for row in reports}) == 1
    assert sum(row["calculations"]["computed"] for row in reports) < sum(
        row["calculations"]["known"] for row in reports
    )
