"""What may happen to a worker process, and that it is always an outcome."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
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

from sddfkit.qc import Level, atomic_input, compute, extract, supervisor
from sddfkit.qc.scratch import Scratch
from sddfkit.qc.spool import Owner, running_elsewhere
from sddfkit.qc.supervisor import calculate, calculate_many, close
from sddfkit.qc.usage import Meter
from sddfkit.qc.worker_process import WorkerProcess

FIELDS = {
    *("key", "success", "host", "pid", "wall_s", "cpu_s", "peak_rss_mib", "started", "finished"),
    *("engine", "timeout_s", "memory_gib", "recipe", "error_class", "error_message", "output_tail"),
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


@pytest.fixture
def engine(tmp_path: Path, scratch_parent: Path) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """``engine(jobs)``: a process of its own that computes jobs into ``tmp_path / "spool"``."""
    script = (
        "import json, sys\nfrom sddfkit.qc.supervisor import calculate_many\n"
        "calculate_many(json.load(open(sys.argv[1])), spool=sys.argv[2], timeout_s=60, memory_gib=2)"
    )
    search_path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    started: list[subprocess.Popen[bytes]] = []

    def start(jobs: list[dict[str, Any]]) -> subprocess.Popen[bytes]:
        (tmp_path / "jobs.json").write_text(json.dumps(jobs))
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "jobs.json"), str(tmp_path / "spool")],
            env={**os.environ, "TMPDIR": str(scratch_parent), "PYTHONPATH": search_path},
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs what Linux tells of processes")


@pytest.fixture
def deed(monkeypatch: pytest.MonkeyPatch, molecules: Any) -> Callable[..., dict[str, Any]]:
    """``deed(what, key, …)``: a job for the program of misbehaving.py."""
    here = str(Path(__file__).parent)
    monkeypatch.syspath_prepend(here)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")])))
    monkeypatch.setenv("SLEEPERS", str(os.getpid()))
    program = "misbehaving.Misbehaving"

    def make(what: str, key: str, **more: Any) -> dict[str, Any]:
        level = Level("constant", "constant", None, {program: {"do": what}})
        document = atomic_input(*molecules["water"], level.specification(program))
        return {"key": key, "input": document.model_dump(mode="json"), **more}

    return make


@pytest.fixture
def misbehaving(deed: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., list[dict[str, Any]]]:
    """``misbehaving(*deeds, …)``: the answers to jobs that do that."""

    def run(*deeds: str, **more: Any) -> list[dict[str, Any]]:
        jobs = [deed(what, str(number), **more) for number, what in enumerate(deeds)]
        return calculate_many(jobs, spool=str(tmp_path / "spool"), timeout_s=60, memory_gib=2)

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


def test_short_jobs_share_a_message_and_each_has_its_answer(
    tmp_path: Path, make_input: Callable[..., AtomicInput], molecules: Any
) -> None:
    water = make_input("tblite", molecules["water"]).model_dump(mode="json")
    jobs: list[Any] = [
        {"key": "a", "input": water},
        {"key": "b", "input": {"molecule": {}}},
        "no job",
        {"key": "c", "input": water, "timeout_s": 30, "memory_gib": 1.5},
        {"key": "d", "input": water, "timeout_s": -1},
    ]
    answers = calculate_many(jobs, spool=str(tmp_path / "spool"), timeout_s=60, memory_gib=2)
    assert [answer["key"] for answer in answers] == ["a", "b", None, "c", "d"]
    assert [answer["error_class"] for answer in answers] == [None, "input", "input", None, "input"]
    assert "timeout_s is -1, expected a positive number" in answers[4]["error_message"]
    assert [(a["timeout_s"], a["memory_gib"]) for a in answers] == [(60, 2)] * 3 + [(30, 1.5), (60, 2)]
    assert {answer["engine"] for answer in answers} == {f"{socket.gethostname()}:{os.getpid()}"}
    for answer in answers:
        read(answer)
    assert len(list((tmp_path / "spool").iterdir())) == 5, "and no marker"
    assert calculate_many([], spool=str(tmp_path / "spool")) == []


def test_a_death_in_the_middle_of_a_message_loses_nothing_finished(
    tmp_path: Path, deed: Callable[..., dict[str, Any]], engine: Callable[..., subprocess.Popen[bytes]]
) -> None:
    keys = ["a", "b", "long", "never"]
    process = engine([deed("hang" if key == "long" else "", key) for key in keys])
    spool = tmp_path / "spool"
    wait_until(lambda: (spool / "b.json").exists())
    time.sleep(0.3)
    marker = running_elsewhere(spool)["long"]
    assert sorted(running_elsewhere(spool)) == sorted(keys)
    assert marker["pid"] == process.pid and marker["host"] == socket.gethostname()
    process.kill()
    process.wait()
    assert running_elsewhere(spool) == {}
    assert sorted(path.name for path in spool.iterdir()) == ["a.json", "b.json"]
    assert all(json.loads(path.read_text())["success"] for path in spool.iterdir())
    Scratch().remove()  # what the killed one left


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


def sleepers() -> set[str]:
    """What the program's children are waiting for."""
    return {process.cmdline()[1].partition(".")[0] for process in _sleepers()}


def end_sleepers() -> None:
    for process in _sleepers():
        process.kill()


def _sleepers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = process.cmdline()
            if command[:1] == ["sleep"] and command[1].endswith(f".{os.getpid()}"):
                found.append(process)
    return found


@pytest.mark.parametrize(
    ("what", "kind"), [("full", "disk"), ("read_only", "disk"), ("starve", "memory"), ("stumble", "unknown")]
)
def test_what_a_program_raises_has_its_class_whatever_its_harness_does(
    deed: Callable[..., dict[str, Any]], what: str, kind: str
) -> None:
    outcome = compute(AtomicInput(**deed(what, "k")["input"]))
    assert isinstance(outcome, FailedOperation) and outcome.error.error_type == kind
    assert outcome.error.error_message.startswith("KeyError('orbital')" if kind == "unknown" else "misbehaving.")


@LINUX
def test_what_a_program_does_beside_its_task_is_kept_within_bounds(
    misbehaving: Callable[..., list[dict[str, Any]]], scratch_parent: Path
) -> None:
    deeds = ("", "rubbish", "files", "files", "peak", "", "clock", "")
    plain, printed, first, second, high, low, jumped, after = answers = misbehaving(*deeds)
    assert {answer["error_class"] for answer in answers} == {None}, [answer["error_message"] for answer in answers]
    assert len({answer["pid"] for answer in answers}) == 1, "the worker lives on"
    assert printed["output_tail"].endswith("the last words\n") and len(printed["output_tail"]) == 4000
    assert plain["output_tail"] == first["output_tail"] == ""
    (scratch,) = scratch_parent.iterdir()
    assert list((scratch / "files").iterdir()) == [], "files are gone after each calculation"
    assert sum(file.stat().st_size for file in scratch.iterdir() if file.is_file()) < 20 * 2**20
    assert high["peak_rss_mib"] > low["peak_rss_mib"] + 290, "no sample is needed to see a peak, nor is it seen twice"
    for answer in (plain, second, jumped, after):
        assert 0 <= answer["wall_s"] < 30 and 0 <= answer["cpu_s"] < 30
    provenance = read(jumped)["result"]["provenance"]
    assert 0 <= provenance["wall_time"] < 30, "a duration is no difference of two looks at the clock"


@LINUX
def test_nothing_that_a_program_has_started_outlives_its_worker(
    misbehaving: Callable[..., list[dict[str, Any]]], deed: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    jobs = [
        deed("children eat", "greedy", memory_gib=1),
        deed("children kill", "killed"),
        deed("children hang", "late", timeout_s=3, rung=1),
    ]
    greedy, killed, late = (calculate(job, spool=str(tmp_path), timeout_s=60, memory_gib=2) for job in jobs)
    assert greedy["error_class"] == "memory" and greedy["peak_rss_mib"] > 1024
    assert killed["error_class"] == "killed" and "SIGKILL" in killed["error_message"]
    assert late["error_class"] == "time" and late["recipe"] == "with more patience"
    # One that had neither parent nor mark, when its worker killed itself, is known to nobody.
    assert sleepers() <= {"603"}
    end_sleepers()


def test_a_worker_that_cannot_begin_is_not_the_calculations_fault(
    misbehaving: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nprint('no such library', flush=True)\nos._exit(3)\n")
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ['PYTHONPATH']}")
        supervisor.close()
        (lost,) = misbehaving("")
    assert lost["error_class"] == "unknown" and "could not take the job" in lost["error_message"]
    assert misbehaving("")[0]["success"], "and it is tried again by itself"


def test_no_calculation_is_started_without_scratch_space(
    misbehaving: Callable[..., list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr("sddfkit.qc.scratch.LEAST_FREE_MIB", 2**40)
        (full,) = misbehaving("")
    assert full["error_class"] == "disk" and "MiB free" in full["error_message"] and "TMPDIR" in full["error_message"]
    assert misbehaving("")[0]["success"], "and it is tried again by itself"
    said = iter([None, "the disk is full by now"])
    with monkeypatch.context() as patched:
        patched.setattr(Scratch, "shortage", lambda _: next(said))
        (filled,) = misbehaving("kill")
    assert filled["error_class"] == "disk" and filled["error_message"].endswith("SIGKILL; the disk is full by now")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "file"))
    (unwritable,) = misbehaving("")
    assert unwritable["error_class"] == "disk" and "set TMPDIR to another folder" in unwritable["error_message"]


def test_a_worker_is_replaced_when_a_start_costs_little_beside_its_work() -> None:
    worker = WorkerProcess.__new__(WorkerProcess)
    worker.meter = Meter(os.getpid())
    worker.start_s, worker.worked_s, worker.jobs = 2.0, 200.0, 49
    assert worker.worn(49, 64.0) and not worker.worn(50, 64.0)
    assert not worker.worn(None, 64.0), "it has not done fifty"
    worker.jobs = 50
    assert worker.worn(None, 64.0)
    worker.worked_s = 199.0
    assert not worker.worn(None, 64.0)
    assert worker.worn(None, worker.meter.rss_mib / 1024), "it keeps more than half of the memory limit"


@LINUX
def test_nothing_survives_a_killed_supervisor(
    deed: Callable[..., dict[str, Any]], scratch_parent: Path, engine: Callable[..., subprocess.Popen[bytes]]
) -> None:
    process = engine([deed("children hang", "k")])
    wait_until(lambda: sleepers() == {"601", "602", "603", "604"})
    (worker,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    wait_until(lambda: not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE)
    assert len(list(scratch_parent.iterdir())) == 1, "a killed process cannot clean up"
    Scratch().remove()
    assert list(scratch_parent.iterdir()) == [], "but the next one does"
    assert sleepers() <= {"603"}, "it has neither parent nor mark"
    end_sleepers()
