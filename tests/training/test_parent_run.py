import pytest

from sddfkit.training.parent_run import ParentRun
from sddfkit.training.tracking import PARENT_TAG, open_experiment

CONFIG = {"seed": 0, "level": {"method": "wb97x"}, "model": {"gen": {"width": 48}}}
ERRORS = {"energy_mae_kcal_mol": 2.0, "force_mae_kcal_mol_A": 1.0}
ROUND = {
    "round": 1,
    "n_labelled_train": 30,
    "metrics": {"ensemble": ERRORS, "baseline": ERRORS, "members": {"gen": ERRORS}},
}


@pytest.fixture
def settings(tmp_path):
    return {
        "tracking_uri": f"sqlite:///{tmp_path}/mlflow.db",
        "artifacts": str(tmp_path / "artifacts"),
        "experiment": "test",
    }


def test_a_job_continued_in_its_folder_writes_into_the_same_run(settings, tmp_path):
    with pytest.raises(KeyboardInterrupt), ParentRun(settings, run_name="r", config=CONFIG, folder=tmp_path) as first:
        raise KeyboardInterrupt
    assert first.client.get_run(first.run_id).info.status == "KILLED"
    with ParentRun(settings, run_name="r", config=CONFIG, folder=tmp_path) as second:
        assert second.run_id == first.run_id
        assert second.client.get_run(second.run_id).info.status == "RUNNING"
    run = second.client.get_run(second.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"seed": "0", "level.method": "wb97x", "model.gen.width": "48"}


def test_members_known_from_elsewhere_get_a_nested_run_that_says_so(settings, tmp_path):
    with ParentRun(settings, run_name="r", config=CONFIG, folder=tmp_path) as parent:
        mine = parent.client.create_run(parent.experiment_id, tags={PARENT_TAG: parent.run_id}).info.run_id
        parent.log_round(ROUND, {"gen": {"mlflow_run_id": mine}})
        for unknown in ("0" * 32, None):
            parent.log_round(ROUND, {"gen": {"mlflow_run_id": unknown}})
    client = parent.client
    assert client.get_run(mine).data.metrics["test/energy_mae_kcal_mol"] == 2.0
    nested = client.search_runs([parent.experiment_id], f"tags.`{PARENT_TAG}` = '{parent.run_id}'")
    assert sorted(run.data.tags.get("sddfkit.known_from", "") for run in nested) == ["", "0" * 32, "None"]
    assert client.get_run(parent.run_id).data.metrics["n_labelled_train"] == 30


def test_other_stores_than_sqlite_are_refused(tmp_path):
    with pytest.raises(ValueError, match="sqlite:///"):
        open_experiment(str(tmp_path / "mlruns"), str(tmp_path), "test")
