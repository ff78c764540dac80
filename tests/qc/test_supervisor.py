"""What may happen to a worker process, and that it is always an outcome."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from qcelemental.models.v2 import AtomicInput, AtomicResult, FailedOperation

from sddfkit.qc import extract, supervisor
from sddfkit.qc.scratch import Scratch
from sddfkit.qc.spool import Owner
from sddfkit.qc.supervisor import calculate, close

FIELDS = {
    *("key", "success", "host", "pid", "wall_s", "cpu_s", "peak_rss_mib", "started", "finished"),
    *("error_class", "error_message", "output_tail"),
}


@pytest.fixture(autouse=True)
def scratch_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Scratch folders of this test, in a path with a space; nothing may be left there or alive afterwards."""
    parent = tmp_path / "with space"
    parent.mkdir()
    close()
    monkeypatch.setattr(tempfile, "tempdir", str(parent))
    yield parent
    close()
    assert list(parent.iterdir()) == []
    assert workers() == []


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    def run(key: str, job: AtomicInput, timeout_s: float = 60, memory_gib: float = 2, **more: Any) -> dict[str, Any]:
        request = {"key": key, "input": job.model_dump(mode="json")}
        spool = str(tmp_path / "a spool")
        return calculate(request, spool=spool, timeout_s=timeout_s, memory_gib=memory_gib, **more)

    return run


def read(summary: dict[str, Any]) -> dict[str, Any]:
    """The spool file; it must hold what the summary says."""
    document = json.loads(Path(summary["path"]).read_text())
    assert set(document) == FIELDS | {"result"}
    assert {name: value for name, value in summary.items() if name != "path"} == {
        name: value for name, value in document.items() if name != "result"
    }
    return document


def wait_until(condition: Callable[[], bool], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_results_are_spooled_and_the_worker_is_reused(
    run: Callable[..., dict[str, Any]], make_input: Callable[..., AtomicInput], molecules: Any, scratch_parent: Path
) -> None:
    job = make_input("tblite", molecules["water"])
    first, second = run("first", job), run("second", job)
    assert first["success"] and first["error_class"] is None
    assert first["pid"] == second["pid"] != os.getpid()
    assert first["peak_rss_mib"] > 20
    assert len(list(scratch_parent.iterdir())) == 1
    result = AtomicResult(**read(first)["result"])
    assert extract(result)["energy"] == extract(read(second)["result"])["energy"]
    third = run("third", job, max_jobs_per_worker=2)
    assert third["success"] and third["pid"] != first["pid"]


def test_too_long_too_large_and_killed_are_outcomes(
    run: Callable[..., dict[str, Any]],
    make_input: Callable[..., AtomicInput],
    molecules: Any,
    water_cluster: Any,
    scratch_parent: Path,
) -> None:
    large, small = make_input("pyscf", water_cluster), make_input("tblite", molecules["water"])
    late = run("late", large, timeout_s=1.0)
    assert late["error_class"] == "time" and "limit of 1 s" in late["error_message"]
    assert 1.0 <= late["wall_s"] < 3.0
    assert not psutil.pid_exists(late["pid"])
    assert list(scratch_parent.iterdir()) == []

    greedy = run("greedy", large, memory_gib=0.1)
    assert greedy["error_class"] == "memory" and greedy["peak_rss_mib"] > 102.4

    def kill() -> None:
        wait_until(lambda: bool(workers()) and psutil.Process(workers()[0]).memory_info().rss > 150 * 2**20)
        os.kill(workers()[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    killed = run("killed", large)
    killer.join()
    assert killed["error_class"] == "killed" and "SIGKILL" in killed["error_message"]

    assert run("small", small)["success"], "the job after a kill"
    for outcome in (late, greedy, killed):
        failure = FailedOperation(**read(outcome)["result"])
        assert failure.error.error_type == outcome["error_class"]
        assert failure.input_data["molecule"]["symbols"][:3] == ["O", "H", "H"]


def workers() -> list[int]:
    """The living worker processes of this process."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended, or is a zombie, which has no command line
            if "sddfkit.qc.worker" in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def test_an_idle_worker_that_died_costs_nothing(
    run: Callable[..., dict[str, Any]], make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    job = make_input("tblite", molecules["water"])
    outcomes: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: outcomes.append(run("in-a-thread", job)))
    thread.start()
    thread.join()  # the kernel kills the worker now: its parent was that thread
    worker = supervisor._slot.worker
    assert worker is not None
    wait_until(lambda: not worker.child.alive())
    outcomes.append(run("after", job))
    assert [o["success"] for o in outcomes] == [True, True]


def test_an_interrupt_ends_the_worker_and_is_passed_on(
    run: Callable[..., dict[str, Any]], make_input: Callable[..., AtomicInput], water_cluster: Any
) -> None:
    def interrupt() -> None:
        wait_until(lambda: bool(workers()) and psutil.Process(workers()[0]).memory_info().rss > 150 * 2**20)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        run("interrupted", make_input("pyscf", water_cluster))
    interrupter.join()
    assert workers() == []


@pytest.mark.parametrize(
    ("job", "sentence"),
    [
        ({"key": "bad", "input": {"molecule": {"symbols": ["H"]}}}, "not a valid QCSchema AtomicInput"),
        ({"key": "bad", "input": "text"}, "is a str, expected an AtomicInput"),
        ({"key": "bad"}, "a job is a dict with the keys"),
        ({"key": "../escape", "input": {}}, "cannot be a file name"),
        ({"key": "bad", "input": {"geometry": np.zeros(3)}}, "the job is not JSON"),
    ],
)
def test_a_bad_job_is_a_stored_input_error(tmp_path: Path, job: dict[str, Any], sentence: str) -> None:
    summary = calculate(job, spool=str(tmp_path / "spool"), timeout_s=10, memory_gib=1)
    assert not summary["success"] and summary["error_class"] == "input"
    assert sentence in summary["error_message"]
    assert Path(summary["path"]).parent == tmp_path / "spool"
    assert read(summary)["result"]["success"] is False


def test_an_engine_without_the_coordinators_disk_keeps_and_answers_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    owner = Owner("a" * 32, "token")
    job = {"key": "k", "input": make_input("tblite", molecules["water"]).model_dump(mode="json")}
    asked = {"spool": str(tmp_path / "not here"), "timeout_s": 60, "memory_gib": 2, "owner": owner}
    first, second = calculate(job, **asked), calculate(job, **asked)
    assert first["success"] and Path(first["path"]).is_relative_to(tmp_path / "state")
    assert second == first, "what lies in the spool is not computed again"
    assert not (tmp_path / "not here").exists()
    assert json.loads(Path(first.pop("path")).read_text()) == first


def test_a_spool_that_cannot_be_written_is_said(
    tmp_path: Path, make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    (tmp_path / "file").write_text("")
    job = {"key": "k", "input": make_input("tblite", molecules["water"]).model_dump(mode="json")}
    summary = calculate(job, spool=str(tmp_path / "file"), timeout_s=10, memory_gib=1)
    assert not summary["success"] and summary["error_class"] == "disk"


@pytest.mark.usefixtures("needs_psi4")
def test_psi4_lives_in_the_group_and_dies_with_it(
    run: Callable[..., dict[str, Any]], make_input: Callable[..., AtomicInput], molecules: Any, water_cluster: Any
) -> None:
    assert run("water", make_input("psi4", molecules["water"]))["success"]
    (worker,) = workers()
    (psi4,) = psutil.Process(worker).children()
    assert os.getpgid(psi4.pid) == worker
    late = run("late", make_input("psi4", water_cluster), timeout_s=1.0)
    assert late["error_class"] == "time"
    wait_until(lambda: not psi4.is_running() or psi4.status() == psutil.STATUS_ZOMBIE)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs PR_SET_PDEATHSIG")
def test_nothing_survives_a_killed_supervisor(
    tmp_path: Path, make_input: Callable[..., AtomicInput], water_cluster: Any, scratch_parent: Path
) -> None:
    job = {"key": "k", "input": make_input("pyscf", water_cluster).model_dump(mode="json")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    script = (
        "import json, sys\nfrom sddfkit.qc.supervisor import calculate\n"
        "calculate(json.load(open(sys.argv[1])), spool=sys.argv[2], timeout_s=60, memory_gib=2)"
    )
    root = Path(__file__).parents[2]
    engine = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "job.json"), str(tmp_path)],
        env={**os.environ, "TMPDIR": str(scratch_parent), "PYTHONPATH": str(root)},
    )
    wait_until(lambda: bool(psutil.Process(engine.pid).children()))
    (worker,) = psutil.Process(engine.pid).children()
    time.sleep(0.5)
    engine.kill()
    engine.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert len(list(scratch_parent.iterdir())) == 1, "a killed process cannot clean up"
    Scratch().remove()
    assert list(scratch_parent.iterdir()) == [], "but the next one does"
