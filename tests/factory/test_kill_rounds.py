"""Nothing lost, nothing repeated: SIGKILL at random moments to every kind of process while a batch runs."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sddfkit.factory import Batch, Store
from sddfkit.factory.ingest import collect
from sddfkit.qc import supervisor

pytest.importorskip("rdkit")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """The modules of the benchmark, as its script finds them."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import _factory_account
    import _factory_kill
    import _factory_waste
    import _factory_work

    class Modules:
        account, kill, waste, work = _factory_account, _factory_kill, _factory_waste, _factory_work

    monkeypatch.setenv("PYTHONPATH", "")
    _factory_work.environment()
    return Modules


@pytest.mark.long
def test_kill_rounds(tmp_path):
    """Three rounds on a small batch."""
    command = [sys.executable, str(BENCHMARKS / "factory.py"), "--only", "kill", "--kill-rounds", "3", "--jobs", "30"]
    run = subprocess.run([*command, "--seed", "3", "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    figures = json.loads(run.stdout.splitlines()[-1])
    assert run.returncode == 0, (figures["problems"], run.stderr[-3000:])
    assert (figures["rounds"], figures["lost"], figures["repeated"], figures["orphans"]) == (3, 0, 0, 0)
    assert figures["verify"] == "clean" and Path(figures["store"]).is_file()


def test_what_is_lost_or_done_again_is_noticed(benchmark, tmp_path):
    first, second, never = benchmark.work.constants(0, 3)
    with Store(tmp_path / "store.sqlite") as store:
        Batch(store, "b").add([first, second, never])

        def compute(item):
            supervisor.calculate(
                {"key": item.key, "input": item.input}, spool=str(store.spool), timeout_s=60, memory_gib=2
            )

        compute(first)
        seen = {first.key: time.time()}
        compute(first)  # nobody has asked an owner, so what lies in the spool does not count
        compute(second)
        collect(store)
        found = benchmark.account.account(store, "b", [first.key, second.key, never.key], seen)
        again = benchmark.account.account(store, "b", [first.key, second.key], {})
    supervisor.close()
    assert (found["accepted"], found["lost"], found["repeated_keys"]) == (2, 1, [first.key])
    assert (again["lost"], again["repeated"], again["verify"]) == (0, 0, "clean")
    said = benchmark.account.wrong(
        {**found, "orphans": 0, "hangs": 0, "left_in_spool": 0, "rounds": 2, "rounds_asked": 3}
    )
    assert said == [
        "1 calculations without a result",
        "1 calculations done again although their result was on the disk",
        "only 2 of 3 rounds took place",
    ]


def test_waste_is_what_it_is_said_to_be(benchmark):
    rows = [
        {
            "started": f"2026-01-01T00:00:{start:02}+00:00",
            "finished": f"2026-01-01T00:00:{end:02}+00:00",
            "wall_s": wall,
        }
        for start, end, wall in ((0, 10, 9.0), (0, 6, 6.0), (6, 10, 3.0))
    ]
    times = benchmark.waste._times(rows)
    assert (times["span_s"], times["in_program_fraction"], times["makespan_ratio"]) == (10.0, 0.9, 1.1111)


def test_victims_take_turns_and_moments_spread(benchmark):
    import numpy as np

    rng = np.random.default_rng(0)
    kinds = benchmark.kill._kinds(12, rng)
    assert all(kinds.count(kind) == 3 for kind in benchmark.kill.KINDS)
    shares = benchmark.kill._shares(10, rng)
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    assert np.histogram(shares, bins=5, range=(0, benchmark.kill.LAST_SHARE))[0].tolist() == [2] * 5
