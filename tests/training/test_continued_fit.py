"""A fit whose process is killed goes on, and ends as if nothing had happened."""

import json
import multiprocessing
import os
import resource
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from sddfkit.training import fit_member
from sddfkit.training.checkpoint import CHECKPOINT, find_checkpoint
from sddfkit.training.tracking import PARENT_TAG, open_experiment

# Real processes that start quickly: they are forked from one that has imported what a fit needs.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["sddfkit.training", "mlflow.store.tracking.sqlalchemy_store"])

DROPOUT_NET = '''
import torch
from sddfkit.models import GEN


class Toy(GEN):
    """A network of one's own, with random numbers in its forward pass."""

    def encode(self, x, edges):
        return torch.nn.functional.dropout(super().encode(x, edges), 0.1, self.training)
'''
ONE_CYCLE = {"_target_": "torch.optim.lr_scheduler.OneCycleLR", "max_lr": 0.01, "total_steps": "steps"}
COSINE = {"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": "steps"}
ADAMW = {"_target_": "torch.optim.AdamW", "lr": 0.01, "betas": [0.9, 0.99]}
SGD = {"_target_": "torch.optim.SGD", "lr": 1e-4, "momentum": 0.9}
NETS = {
    "gen": {"_target_": "sddfkit.models.gen.GEN", "width": 16, "layers": 1, "cutoff": 5.0},
    "pna": {"_target_": "sddfkit.models.pna.PNA", "width": 16, "layers": 1, "cutoff": 5.0},
    "toy": {"_target_": "dropping_toy.Toy", "width": 16, "layers": 1, "cutoff": 5.0},
}


def run_of(tracking: dict) -> dict:
    client, experiment = open_experiment(**tracking)
    parent = client.create_run(experiment).info.run_id
    return {**tracking, "parent_run_id": parent, "log_every_s": 0.0}


def history(job: dict, run_id: str, key: str) -> list[tuple[int, float]]:
    client = MlflowClient(job["mlflow"]["tracking_uri"])
    return [(metric.step, metric.value) for metric in client.get_metric_history(run_id, key)]


def killed(job: dict, checkpoints: int, then_s: float = 0.0, signal_: int = signal.SIGKILL) -> int | None:
    """Start a fit in a process, end it once it has written so many checkpoints, and return its exit code."""
    path = Path(job["folder"]) / CHECKPOINT
    process = PROCESSES.Process(target=fit_member, args=(job,))
    seen = {path.stat().st_mtime_ns if path.exists() else 0}
    wanted = len(seen) + checkpoints
    process.start()
    while len(seen) < wanted and process.is_alive():
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        time.sleep(0.001)
    time.sleep(then_s)
    assert process.pid is not None
    os.kill(process.pid, signal_)
    process.join(60)
    return process.exitcode


def alike(card: dict) -> dict:
    return {key: value for key, value in card.items() if key not in ("wall_s", "mlflow_run_id")}


PLAIN = {"max_epochs": 24, "patience": None}
# Without an average of the weights the validation loss goes up and down, and stops the fit in its twenties.
STOPPING = {"max_epochs": 60, "patience": 6, "ema_decay": 0.0}


@pytest.mark.parametrize(
    ("net", "optimizer", "scheduler", "trainer"),
    [
        ("gen", ADAMW, ONE_CYCLE, PLAIN),
        ("pna", ADAMW, COSINE, PLAIN),
        ("toy", SGD, None, PLAIN),
        ("gen", ADAMW, None, STOPPING),
    ],
    ids=["gen-onecycle", "pna-cosine", "own-net-with-dropout", "gen-early-stopping"],
)
def test_a_killed_fit_ends_like_an_undisturbed_one(
    fit_job: dict,
    tracking: dict,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    net: str,
    optimizer: dict,
    scheduler: dict | None,
    trainer: dict,
) -> None:
    (tmp_path / "dropping_toy.py").write_text(DROPOUT_NET)
    monkeypatch.syspath_prepend(tmp_path)
    fit_job["net"] = NETS[net]
    fit_job["module"] |= {"optimizer": optimizer, "scheduler": scheduler}
    fit_job["trainer"] |= trainer
    undisturbed = fit_member({**fit_job, "folder": str(tmp_path / "undisturbed")})
    assert trainer is PLAIN or undisturbed["epochs"] < trainer["max_epochs"]

    fit_job |= {"checkpoint_every_s": 0.0, "mlflow": run_of(tracking)}
    assert killed(fit_job, 2) == -signal.SIGKILL
    folder = Path(fit_job["folder"])
    started = json.loads((folder / "mlflow-run.json").read_text())["run_id"]
    client = MlflowClient(fit_job["mlflow"]["tracking_uri"])
    assert client.get_run(started).info.status == "RUNNING"
    spent = torch.load(folder / CHECKPOINT, weights_only=True)["sddfkit"]["wall_s"]
    # The second part writes checkpoints rarely: it has told MLflow epochs that the third part does again.
    assert killed({**fit_job, "checkpoint_every_s": 0.2}, 1, then_s=0.1) == -signal.SIGKILL
    assert torch.load(folder / CHECKPOINT, weights_only=True)["sddfkit"]["wall_s"] > spent > 0
    card = fit_member(fit_job)

    assert alike(card) == alike(undisturbed)
    assert card["wall_s"] > spent
    weights = [(path / "weights.safetensors").read_bytes() for path in (folder, tmp_path / "undisturbed")]
    assert weights[0] == weights[1]
    assert sorted(path.name for path in folder.iterdir()) == [
        ".lock", "member.json", "mlflow-run.json", "weights.safetensors"
    ]  # fmt: skip
    assert card["mlflow_run_id"] == started
    run = client.get_run(started)
    assert run.info.status == "FINISHED"
    assert run.data.tags[PARENT_TAG] == fit_job["mlflow"]["parent_run_id"]
    for key in ("train/loss", "validation/loss"):
        assert [step for step, _ in history(fit_job, started, key)] == list(range(card["epochs"]))
    assert run.data.metrics["best/validation/loss"] == card["metrics"]["validation/loss"]


def test_a_fit_that_is_told_to_stop_says_so_and_goes_on_later(fit_job: dict, tracking: dict) -> None:
    fit_job |= {"checkpoint_every_s": 0.0, "mlflow": run_of(tracking)}
    fit_job["trainer"] |= {"max_epochs": 5000}
    assert killed(fit_job, 1, signal_=signal.SIGTERM) == -signal.SIGTERM
    client = MlflowClient(fit_job["mlflow"]["tracking_uri"])
    run_id = json.loads((Path(fit_job["folder"]) / "mlflow-run.json").read_text())["run_id"]
    assert client.get_run(run_id).info.status == "KILLED"

    handler = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        fit_member(fit_job)
    timer.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert client.get_run(run_id).info.status == "KILLED"
    epochs = [step for step, _ in history(fit_job, run_id, "validation/loss")]
    assert epochs == list(range(len(epochs))) != []


def test_below_another_parent_a_member_gets_a_run_with_all_its_epochs(fit_job: dict, tracking: dict) -> None:
    fit_job |= {"checkpoint_every_s": 0.0, "mlflow": run_of(tracking)}
    fit_job["trainer"] |= {"max_epochs": 30}
    assert killed(fit_job, 2) == -signal.SIGKILL
    first = json.loads((Path(fit_job["folder"]) / "mlflow-run.json").read_text())["run_id"]
    fit_job["mlflow"] = run_of(tracking)
    second = fit_member(fit_job)["mlflow_run_id"]
    assert second != first
    assert [step for step, _ in history(fit_job, second, "train/loss")] == list(range(30))
    client = MlflowClient(fit_job["mlflow"]["tracking_uri"])
    assert client.get_run(second).data.tags[PARENT_TAG] == fit_job["mlflow"]["parent_run_id"]
    assert client.get_run(first).info.status == "KILLED"


def test_a_checkpoint_that_does_not_fit_is_left_aside_with_a_word(fit_job: dict, tmp_path: Path) -> None:
    undisturbed = fit_member({**fit_job, "folder": str(tmp_path / "undisturbed")})
    fit_job |= {"checkpoint_every_s": 0.0}
    path = Path(fit_job["folder"]) / CHECKPOINT
    longer = {**fit_job, "trainer": {**fit_job["trainer"], "max_epochs": 60}}
    assert killed(longer, 1) == -signal.SIGKILL
    other = path.read_bytes()
    middle = len(other) // 2
    for content, message in (
        (other, "belongs to another job"),
        (other[:middle], "is damaged"),
        (b"", "is damaged"),
        (other[:middle] + bytes([other[middle] ^ 1]) + other[middle + 1 :], "is damaged"),
    ):
        (path.parent / "member.json").unlink(missing_ok=True)
        path.write_bytes(content)
        card = fit_member(fit_job)
        assert message in card["warnings"][0]
        assert alike({**card, "warnings": []}) == alike(undisturbed)
        assert not path.exists()
    assert find_checkpoint(path, card["job_hash"]) == (None, 0.0, None)


def test_a_disk_without_room_for_a_checkpoint_does_not_end_the_fit(fit_job: dict, tmp_path: Path) -> None:
    fit_job |= {"checkpoint_every_s": 0.0}
    undisturbed = fit_member({**fit_job, "folder": str(tmp_path / "undisturbed")})
    room = 2 * (tmp_path / "undisturbed" / "weights.safetensors").stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        card = fit_member(fit_job)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(card["warnings"]) == 1 and "no checkpoint could be written" in card["warnings"][0]
    assert alike({**card, "warnings": []}) == alike(undisturbed)
    assert not list(Path(fit_job["folder"]).glob("*.part"))


def test_two_processes_do_not_train_the_same_member_twice(fit_job: dict) -> None:
    queue = PROCESSES.SimpleQueue()
    processes = [PROCESSES.Process(target=_into, args=(queue, fit_job)) for _ in range(2)]
    for process in processes:
        process.start()
    cards = [queue.get() for _ in processes]
    for process in processes:
        process.join()
    assert cards[0] == cards[1]  # wall_s too: one of them trained


def _into(queue, job: dict) -> None:
    queue.put(fit_member(job))
