import json
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pandas

from sddfkit.training.parent_run import ParentRun
from sddfkit.training.sweep_run import BEST_TAG, SweepRun

OVERRIDES = ["strategy=random,disagreement", "experiment=smoke"]


def test_a_sweep_has_one_run_with_its_jobs_below_and_a_table(tracking, tmp_path):
    sweep = SweepRun(tracking, run_name="sweep", overrides=OVERRIDES, folder=tmp_path)
    jobs = []
    for name in ("random", "disagreement"):
        folder = tmp_path / name
        with ParentRun(tracking, run_name=name, config={}, folder=folder, parent_run_id=sweep.run_id) as parent:
            jobs.append(parent.run_id)
    rows = [
        {"strategy": "random", "mae": 0.51234, "mlflow_run_id": jobs[0]},
        {"strategy": "disagreement", "mae": None, "mlflow_run_id": jobs[1], "error": "it | broke"},
    ]
    note = tmp_path / "note.txt"
    note.write_text("here")
    sweep.finish(rows, 1, [note], "FAILED")

    again = SweepRun(tracking, run_name="sweep", overrides=OVERRIDES, folder=tmp_path)
    assert again.run_id == sweep.run_id
    client = again.client
    assert client.get_run(sweep.run_id).info.status == "RUNNING"
    again.finish(rows, 0, [note], "FINISHED")
    run = client.get_run(sweep.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"overrides": " ".join(OVERRIDES)}
    assert run.data.tags["best_run_id"] == jobs[0]
    assert run.data.tags["mlflow.note.content"].splitlines()[2].startswith("| **random** | **0.5123** |")
    assert [BEST_TAG in client.get_run(job).data.tags for job in jobs] == [True, False]
    assert {client.get_run(job).data.tags["mlflow.parentRunId"] for job in jobs} == {sweep.run_id}
    assert {file.path for file in client.list_artifacts(sweep.run_id)} == {"summary.json", "note.txt"}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "summary.json", "type": "table"}]
    folder = Path(url2pathname(urlsplit(run.info.artifact_uri).path))
    table = pandas.read_json(folder / "summary.json", orient="split")  # as MLflow reads it
    assert table["mae"][0] == 0.51234
    assert len(table) == 2


def test_a_sweep_without_a_best_job_ends_too(tracking, tmp_path):
    sweep = SweepRun(tracking, run_name="sweep", overrides=OVERRIDES, folder=tmp_path)
    sweep.finish([{"job": 0, "error": "no"}], None, [], "KILLED")
    assert sweep.client.get_run(sweep.run_id).info.status == "KILLED"


def test_a_sweep_outlives_what_mlflow_refuses(tracking, tmp_path, caplog):
    sweep = SweepRun(tracking, run_name="sweep", overrides=OVERRIDES, folder=tmp_path)
    sweep.client.delete_run(sweep.run_id)
    sweep.finish([{"job": 0}], 0, [], "FINISHED")
    assert len(sweep.warnings) == 1
    assert "the sweep's own files hold the same" in caplog.text
