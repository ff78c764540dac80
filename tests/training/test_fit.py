import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from torch_geometric.data import Batch

from sddfkit.data import Record, from_records
from sddfkit.models import GEN, Ensemble, GraphError, graph, graph_stats
from sddfkit.training import EnergyModule, FitError, fit_member, job_hash
from sddfkit.training.tracking import open_experiment


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "weights.safetensors")


def test_a_fit_learns_is_reproducible_and_reused(fit_job: dict, springs: list[Record], tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    fit_job["trainer"] |= {"max_epochs": 40}
    card = fit_member(fit_job)
    assert (
        card["metrics"]["validation/force_mae"] < 0.75 * np.abs(np.concatenate([r.forces for r in springs[9:]])).mean()
    )
    assert card == json.loads((tmp_path / "gen" / "member.json").read_text())
    assert (card["train_size"], card["epochs"], card["mlflow_run_id"]) == (9, 40, None)
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()

    assert fit_member(fit_job) == card
    again = {**fit_job, "folder": str(tmp_path / "again")}
    fit_member(again)
    assert all(
        torch.equal(a, b)
        for a, b in zip(weights(fit_job["folder"]).values(), weights(again["folder"]).values(), strict=True)
    )

    prediction = Ensemble.from_members([fit_job["folder"]], preset="test").predict(springs[9:])
    error = np.abs(prediction.energy - np.array([r.energy for r in springs[9:]])).mean()
    assert error == pytest.approx(card["metrics"]["validation/energy_mae"], rel=1e-3, abs=1e-4)


def test_a_changed_job_is_another_job(fit_job: dict, springs: list[Record]) -> None:
    digest = job_hash(fit_job)
    assert job_hash({**fit_job, "folder": "elsewhere", "threads": 2}) == digest
    assert job_hash({**fit_job, "seed": 6}) != digest
    pq.write_table(from_records(springs[1:9]), fit_job["train_records"])
    assert job_hash(fit_job) != digest


def test_the_code_of_a_network_of_ones_own_belongs_to_the_job(
    fit_job: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    base, net, loss = (tmp_path / f"own_{name}.py" for name in ("base", "net", "loss"))
    base.write_text("from sddfkit.models import GEN\nclass Base(GEN):\n    pass\n")
    net.write_text("from own_base import Base\nclass Net(Base):\n    pass\n")
    loss.write_text("def squared(a, b):\n    return ((a - b) ** 2).mean()\nclass Loss:\n    __call__ = squared\n")
    fit_job["net"] |= {"_target_": "own_net.Net"}
    digests = {job_hash(fit_job)}
    fit_job["module"] |= {"loss": {"_target_": "own_loss.Loss"}}
    digests.add(job_hash(fit_job))
    for path in (base, net, loss):
        path.write_text(path.read_text() + "# other code\n")
        digests.add(job_hash(fit_job))
    assert len(digests) == 5
    with pytest.raises(ValueError, match=r"own_nett.*on PYTHONPATH"):
        fit_member({**fit_job, "net": {**fit_job["net"], "_target_": "own_nett.Net"}})


def test_a_fit_that_diverges_says_so(fit_job: dict) -> None:
    fit_job["module"] |= {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e30}, "scheduler": None}
    fit_job["trainer"] |= {"clip": None}
    with pytest.raises(FitError, match="'gen' was never finite; lower the learning rate"):
        fit_member(fit_job)


def test_a_fit_is_a_nested_run_with_parameters_and_metrics_per_epoch(fit_job: dict, tracking: dict) -> None:
    client, experiment = open_experiment(**tracking)
    parent = client.create_run(experiment).info.run_id
    fit_job["trainer"] |= {"max_epochs": 3}
    fit_job["mlflow"] = {**tracking, "parent_run_id": parent, "run_name": "gen 0", "tags": {"round": 0}}
    card = fit_member(fit_job)
    run = client.get_run(card["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "gen 0"
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["round"] == "0"
    assert run.data.params["net/width"] == "16"
    history = client.get_metric_history(run.info.run_id, "validation/loss")
    assert [metric.step for metric in history] == [0, 1, 2]
    assert card["warnings"] == []


def test_a_fit_that_fails_is_a_failed_run(fit_job: dict, tracking: dict) -> None:
    fit_job["module"] |= {"optimizer": {"_target_": "torch.optim.SGD", "lr": -1.0}}
    fit_job["mlflow"] = tracking
    with pytest.raises(ValueError, match="learning rate"):
        fit_member(fit_job)
    client, experiment = open_experiment(**tracking)
    assert [run.info.status for run in client.search_runs([experiment])] == ["FAILED"]


def test_early_stopping_and_unsuitable_jobs(fit_job: dict, springs: list[Record]) -> None:
    fit_job["module"] |= {"optimizer": {"_target_": "torch.optim.SGD", "lr": 1e-12}, "scheduler": None}
    fit_job["trainer"] |= {"patience": 2, "max_epochs": 50}
    assert fit_member(fit_job)["epochs"] < 10

    with pytest.raises(FitError, match=r"lacks \['seed'\]"):
        fit_member({key: value for key, value in fit_job.items() if key != "seed"})
    bare = springs[0]._replace(energy=None, forces=None)
    pq.write_table(from_records([bare]), fit_job["validation_records"])
    with pytest.raises(FitError, match=f"record {bare.record_id} .* has no energy"):
        fit_member(fit_job)


def test_forces_count_where_labels_have_them(fit_job: dict, springs: list[Record]) -> None:
    """Rows without forces teach energies: the result lies between that with all forces and that with none."""
    known = fit_member(fit_job)["metrics"]
    half = [r if i % 2 else r._replace(forces=None) for i, r in enumerate(springs)]
    pq.write_table(from_records(half), fit_job["train_records"])
    partly = fit_member(fit_job)["metrics"]
    assert partly["train/force_mae"] > 0 and partly != known
    none = [r._replace(forces=None) for r in springs]
    pq.write_table(from_records(none), fit_job["train_records"])
    without = fit_member(fit_job)["metrics"]
    assert without["train/force_mae"] == 0.0 and without["train/energy_mae"] > 0
    assert without["validation/force_mae"] > known["validation/force_mae"]


def test_validation_elements_must_occur_in_training(fit_job: dict, springs: list[Record]) -> None:
    pq.write_table(from_records([r for r in springs if r.smiles == "CC"]), fit_job["train_records"])
    with pytest.raises(GraphError, match="never seen O"):
        fit_member(fit_job)


def test_the_loss_between_conformers_sees_no_shift_of_a_molecule(springs: list[Record]) -> None:
    graphs = [graph(record, 5.0, energy=0.1 * k) for k, record in enumerate(springs)]
    net = GEN(stats=graph_stats(graphs), width=8, layers=1, cutoff=5.0)

    def loss(shift: dict[str, float], **weights: float) -> float:
        moved = [data.clone().update({"y": data.y + shift.get(data.molecule_id, 0.0)}) for data in graphs]
        module = EnergyModule(net, torch.optim.SGD, force_weight=0.0, **weights)
        return float(module.training_step(Batch.from_data_list(moved), 0).detach())

    first = graphs[0].molecule_id
    assert sum(data.molecule_id == first for data in graphs) > 1
    within = {"energy_weight": 0.0, "conformer_weight": 1.0}
    assert loss({first: 3.0}, **within) == pytest.approx(loss({}, **within), rel=1e-5)
    assert loss({first: 3.0}) > loss({}) + 0.1
