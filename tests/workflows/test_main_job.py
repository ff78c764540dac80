"""The main job as a user starts it: real molecules, real DFT, interrupted once, then finished, then repeated."""

import contextlib
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient

from sddfkit.data import read_snapshot, to_records
from sddfkit.models import Ensemble

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.xdist_group("main-job")]
LIMIT_S = 600
MARK = "SDDFKIT_TEST_OF_THE_MAIN_JOB"


def start(root: Path, *overrides: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "sddfkit", "active", "experiment=smoke", *overrides]
    return subprocess.Popen(
        command, cwd=root, env={**os.environ, MARK: str(root)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def start_and_wait(root: Path, calculations: int) -> subprocess.Popen:
    """Start the job and wait until so many calculations are in the store."""
    process = start(root)
    deadline = time.monotonic() + LIMIT_S
    while finished_calculations(root) < calculations and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
    return process


def finish(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0, output
    return output


def report_of(output: str) -> dict:
    last = output.strip().splitlines()[-1]
    assert last.startswith("report: "), output
    html = Path(last.removeprefix("report: "))
    assert html.is_file()
    return json.loads(html.with_suffix(".json").read_text())


def finished_calculations(root: Path) -> int:
    store = root / "sddfkit-data" / "store.sqlite"
    if not store.is_file():
        return 0
    try:
        with sqlite3.connect(f"file:{store}?mode=ro", uri=True) as connection:
            return connection.execute("select count(*) from results").fetchone()[0]
    except sqlite3.OperationalError:
        return 0


def processes_of(root: Path) -> list[str]:
    """Return the command lines of all processes that a job started in a folder has left."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(root) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Interrupt the job after two calculations, kill it after two more, run it to its end, and run it once more."""
    root = tmp_path_factory.mktemp("a folder with spaces")
    process = start_and_wait(root, 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process of the group
    interrupted_at = time.monotonic()
    said, _ = process.communicate(timeout=60)
    stop = {"output": said, "code": process.returncode, "seconds": time.monotonic() - interrupted_at}
    stop["left"] = processes_of(root)
    known = finished_calculations(root)
    process = start_and_wait(root, known + 2)
    process.kill()  # the main process alone: its cluster goes on for a while
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, "the job was over before it could be killed"
    first = finish(start(root))
    second = finish(start(root))
    return {"root": root, "stop": stop, "known": known, "first": report_of(first), "second": report_of(second),
            "output": first, "left": processes_of(root)}  # fmt: skip


def test_an_interrupt_stops_within_seconds_and_loses_nothing(job):
    stop = job["stop"]
    assert stop["code"] == 130, stop["output"]
    assert "goes on from there" in stop["output"] and "Traceback" not in stop["output"]
    assert re.search(r"safe in .*: [2-9] finished calculations, 0 trained networks", stop["output"])
    assert stop["seconds"] < 40  # on a machine that does much else; a calculation would take longer
    assert job["known"] >= 2
    with sqlite3.connect(job["root"] / "sddfkit-data" / "store.sqlite") as connection:
        successes = connection.execute(
            "select key, count(*) from attempts where state = 'done' group by key"
        ).fetchall()
    assert successes and all(count == 1 for _, count in successes), "a finished calculation was done again"
    assert job["first"]["calculations"]["known"] >= job["known"]


def test_no_process_remains(job):
    assert job["stop"]["left"] == []
    assert job["left"] == []


def test_what_is_known_is_not_computed_again(job):
    assert job["first"]["calculations"]["computed"] > 0
    assert job["second"]["calculations"]["computed"] == 0


def test_the_same_seed_gives_the_same_selection_and_metrics(job):
    first, second = job["first"], job["second"]
    assert [[c["record_id"] for c in r["selected"]] for r in first["rounds"]] == [
        [c["record_id"] for c in r["selected"]] for r in second["rounds"]
    ]
    for a, b in zip(first["rounds"], second["rounds"], strict=True):
        assert a["metrics"]["ensemble"] == pytest.approx(b["metrics"]["ensemble"], abs=1e-6)


def test_the_report_tells_the_story(job):
    report = job["first"]
    assert report["level"]["name"] == "wB97X/6-31G(d)" and report["level"]["program"] in ("psi4", "pyscf")
    assert report["members"] == ["gen", "pna", "resgated", "general", "transformer"]
    assert len(report["rounds"]) == 3
    assert report["learning"]["n_labelled_train"] == sorted(report["learning"]["n_labelled_train"])
    assert all(len(r["selected"]) > 0 for r in report["rounds"][:-1]) and report["rounds"][-1]["selected"] == []
    assert report["calculations"]["failed"] == 0 and report["failures"] == []
    assert {"H", "C", "O"} <= set(report["references"])
    # ωB97X/6-31G(d) energies of isolated atoms pull the fit: carbon is near -37.8 Eh
    assert report["references"]["C"] == pytest.approx(-37.8 * 27.2114, abs=30)
    assert "ETA" in job["output"], "long stages show progress"


def test_the_snapshot_is_labelled_at_one_level_and_knows_its_origin(job):
    (folder,) = {Path(job["root"] / "sddfkit-data/runs/latest").resolve()}
    records = to_records(read_snapshot(folder / "snapshot"))
    assert {record.level for record in records} == {"wB97X/6-31G(d)"}
    assert len({(record.program, record.program_version) for record in records}) == 1
    for record in records:
        assert record.forces.shape == record.positions.shape and record.dipole.shape == (3,)
        np.testing.assert_allclose(record.forces.sum(axis=0), 0.0, atol=0.05)
        assert record.result_key and record.code_version and record.origin
    chosen = {c["record_id"]: r["round"] for r in job["second"]["rounds"] for c in r["selected"]}
    assert {record.record_id: record.al_round for record in records if record.al_round >= 0} == chosen
    assert pq.read_schema(next((folder / "snapshot").glob("*.parquet"))).field("energy").metadata[b"unit"] == b"eV"


def test_the_ensemble_that_was_kept_predicts_what_the_report_says(job):
    folder = (job["root"] / "sddfkit-data/runs/latest").resolve()
    ensemble = Ensemble.load(folder / "ensemble")
    records = {record.record_id: record for record in to_records(read_snapshot(folder / "snapshot"))}
    for row in job["second"]["predictions"]:
        record = records[row["record_id"]]
        predicted = ensemble.predict([record])
        zero = ensemble.references.total(record.atomic_numbers)
        assert predicted.energy[0] - zero == pytest.approx(row["energy_pred"], abs=1e-4)
        assert predicted.energy_std[0] == pytest.approx(row["energy_std"], abs=1e-4)


def test_mlflow_has_one_parent_with_nested_members(job):
    root = job["root"] / "sddfkit-data"
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiment = client.get_experiment_by_name("smoke")
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    finished = [run for run in parents if run.info.status == "FINISHED"]
    assert len(parents) == len(finished) == 2, "a job that was cut off goes on in the run that it had begun"
    for parent in finished:
        nested = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
        assert len(nested) == 5 * 3
        assert all("test/energy_mae_kcal_mol" in run.data.metrics for run in nested)
        assert parent.data.params["seed"] == "0" and parent.data.params["level.method"] == "wb97x"
        history = client.get_metric_history(parent.info.run_id, "test/energy_mae_kcal_mol")
        assert [metric.step for metric in history] == [0, 1, 2]
        assert {item.path for item in client.list_artifacts(parent.info.run_id)} >= {"report.html", "report.json"}


def test_the_test_fold_was_never_chosen(job):
    test = {row["molecule_id"] for row in job["first"]["predictions"]}
    chosen = {c["molecule_id"] for r in job["first"]["rounds"] for c in r["selected"]}
    assert test and chosen and not test & chosen


def test_terminating_is_as_good_as_ctrl_c(job):
    process = start(job["root"], "seed=3")
    time.sleep(12)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode in (130, 0), output
    assert processes_of(job["root"]) == []


def test_the_lines_of_the_readme_run(job):
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = [block.split("```")[0] for block in readme.split("```python\n")[1:]]
    # the third one belongs to flashrmsd_cy and its tests
    code, moves, many = (block for block in blocks if "sddfkit" in block)
    code += f"print('then')\n{moves}\nprint(atoms.calc.results['forces_std_max'] > 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=job["root"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said, moved = done.stdout.split("then\n")
    lines = said.strip().splitlines()
    assert len(lines) >= 2 and all(
        "±" in line and line.endswith("kcal/mol above the lowest conformer") for line in lines
    )
    assert "  0.00 ± 0.00" in said
    assert moved.count("LBFGS:") > 1 and moved.endswith("True\n")

    done = subprocess.run([sys.executable, "-c", many], cwd=job["root"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "BatchOutcome(known=0, computed=" in done.stdout and "failed=0" in done.stdout
    assert processes_of(job["root"]) == []
