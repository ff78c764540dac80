import pytest
from mlflow import MlflowClient

from sddfkit.training.parent_run import ParentRun
from sddfkit.training.tracking import PARENT_TAG

CONFIG = {"seed": 0, "level": {"method": "wb97x"}, "model": {"gen": {"width": 48}}}
ERRORS = {"energy_mae_kcal_mol": 2.0, "force_mae_kcal_mol_A": 1.0}
ROUND = {
    "round": 1,
    "n_labelled_train": 30,
    "metrics": {"ensemble": ERRORS, "baseline": ERRORS, "members": {"gen": ERRORS}},
}


def test_a_job_continued_in_its_folder_writes_into_the_same_run(tracking, tmp_path):
    with pytest.raises(KeyboardInterrupt), ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path) as first:
        raise KeyboardInterrupt
    assert first.client.get_run(first.run_id).info.status == "KILLED"
    with ParentRun(tracking, run_name="r", config={**CONFIG, "seed": 1}, folder=tmp_path) as second:
        assert second.run_id == first.run_id
        assert second.client.get_run(second.run_id).info.status == "RUNNING"
    run = second.client.get_run(second.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "level.method": "wb97x", "model.gen.width": "48"}


def test_a_run_whose_id_was_not_noted_is_found_again(tracking, tmp_path):
    folder = tmp_path / "it's here"
    first = ParentRun(tracking, run_name="r", config=CONFIG, folder=folder)
    for damage in (None, "", "[]"):
        if damage is None:
            (folder / "mlflow-run.json").unlink()
            assert ParentRun(tracking, run_name="r", config=CONFIG, folder=folder).run_id == first.run_id
        else:
            (folder / "mlflow-run.json").write_text(damage)
            assert ParentRun(tracking, run_name="r", config=CONFIG, folder=folder).run_id != first.run_id


def test_a_new_database_gets_a_new_run(tracking, tmp_path):
    first = ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path)
    (tmp_path / "mlflow.db").unlink()
    with ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path) as second:
        second.log_round(ROUND, {})
    assert second.run_id != first.run_id
    run = MlflowClient(tracking["tracking_uri"]).get_run(second.run_id)
    assert (run.info.status, run.data.metrics["n_labelled_train"]) == ("FINISHED", 30)


def test_a_deleted_run_or_experiment_does_not_stand_in_the_way(tracking, tmp_path):
    first = ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path)
    first.client.delete_experiment(first.experiment_id)
    second = ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path)
    assert second.experiment_id == first.experiment_id
    second.client.delete_run(second.run_id)
    assert ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path).run_id != second.run_id


def test_rounds_logged_again_are_there_once(tracking, tmp_path):
    for part in range(2):
        with ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path, parent_run_id="above") as parent:
            if part == 0:
                mine = parent.client.create_run(parent.experiment_id, tags={PARENT_TAG: parent.run_id}).info.run_id
            for run_id in (mine, "0" * 32):
                parent.log_round(ROUND, {"gen": {"mlflow_run_id": run_id}})
            parent.log_round({**ROUND, "round": 2}, {})
            parent.finish({"calculations": {"done": 3}, "split": {"hash": "abc"}}, [])
    client = parent.client
    runs = client.search_runs([parent.experiment_id], f"tags.`{PARENT_TAG}` = '{parent.run_id}'")
    assert len(runs) == 2  # the member's own, and one for the unknown member
    assert client.get_run(parent.run_id).data.tags[PARENT_TAG] == "above"
    for run_id, key, steps in (
        (parent.run_id, "test/energy_mae_kcal_mol", [1, 2]),
        (parent.run_id, "calculations/done", [0]),
        (mine, "test/force_mae_kcal_mol_A", [1]),
    ):
        assert [metric.step for metric in client.get_metric_history(run_id, key)] == steps


def test_what_mlflow_refuses_is_written_later_and_ends_nothing(tracking, tmp_path):
    with ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path) as parent:
        parent.client.delete_run(parent.run_id)
        parent.log_round(ROUND, {"gen": {"mlflow_run_id": None}})
        assert len(parent.warnings) == 1
        parent.client.restore_run(parent.run_id)
    run = parent.client.get_run(parent.run_id)
    assert (run.info.status, run.data.metrics["n_labelled_train"]) == ("FINISHED", 30)


def test_members_known_from_elsewhere_get_a_nested_run_that_says_so(tracking, tmp_path):
    with ParentRun(tracking, run_name="r", config=CONFIG, folder=tmp_path) as parent:
        mine = parent.client.create_run(parent.experiment_id, tags={PARENT_TAG: parent.run_id}).info.run_id
        parent.log_round(ROUND, {"gen": {"mlflow_run_id": mine}})
        for unknown in ("0" * 32, None):
            parent.log_round(ROUND, {"gen": {"mlflow_run_id": unknown}})
    client = parent.client
    assert client.get_run(mine).data.metrics["test/energy_mae_kcal_mol"] == 2.0
    nested = client.search_runs([parent.experiment_id], f"tags.`{PARENT_TAG}` = '{parent.run_id}'")
    assert sorted(run.data.tags.get("sddfkit.known_from", "") for run in nested) == ["", "0" * 32, "None"]
    assert client.get_run(parent.run_id).data.metrics["n_labelled_train"] == 30
