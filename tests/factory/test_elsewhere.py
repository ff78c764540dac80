"""A second machine: controller and engines of somebody else, another user, in another folder, without our disk."""

import functools
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import pytest
import sqlalchemy as sa

from sddfkit.factory import Batch, Cluster, Store, plan
from sddfkit.factory.jobs import record_document
from sddfkit.factory.store import attempts, results
from sddfkit.qc.levels import Level

ROOT = Path(__file__).parents[2]
LEVEL = Level(name="GFN2-xTB", method="GFN2-xTB", basis=None, programs={"tblite": {}})
IMPORTS = (
    "import ipyparallel, qcengine, tblite, psutil, sddfkit.qc.supervisor, subprocess, sys\n"
    "subprocess.run([sys.executable, '-c', ''], check=True)"  # an engine starts others like itself
)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX users")]


class Far(NamedTuple):
    """How to run things on the other machine: a prefix of commands, and the environment there."""

    prefix: list[str]
    python: str
    environment: dict[str, str]
    home: Path

    def start(self, *arguments: str, log: str) -> subprocess.Popen:
        with (self.home / log).open("ab") as stream:
            return subprocess.Popen(
                [*self.prefix, self.python, *arguments],
                env=self.environment, cwd=self.home, stdout=stream, stderr=stream, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip


def candidates() -> list[tuple[list[str], str]]:
    """Ways to run a Python with our packages as another user (or, without the right to do so, as this one)."""
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        return [([], sys.executable)]
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    name = f"python{sys.version_info.major}.{sys.version_info.minor}"
    system = [path for path in (f"/usr/bin/{name}", f"/usr/local/bin/{name}") if Path(path).exists()]
    read_all = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]
    return [(nobody, sys.executable), *((nobody, path) for path in system), ([*nobody, *read_all], sys.executable)]


@functools.cache
def way_there(search_path: str) -> tuple[list[str], str]:
    """The first way that works; skips, with the reason, where none does."""
    for prefix, python in candidates():
        tried = subprocess.run(
            [*prefix, python, "-c", IMPORTS], env={"PATH": "/usr/bin:/bin", "PYTHONPATH": search_path}, cwd="/",
            check=False, capture_output=True, text=True,
        )  # fmt: skip
        if tried.returncode == 0:
            return prefix, python
    pytest.skip(f"no Python that another user may run finds the packages: {tried.stderr.strip()[-300:]}")


@pytest.fixture
def far():
    """The other machine's home folder and the way to run things there; nothing of it may be alive afterwards."""
    home = Path(tempfile.mkdtemp(prefix="sddfkit-far-"))  # not below tmp_path, which nobody else may enter
    if os.getuid() == 0:
        os.chown(home, 65534, 65534)
    environment = {
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": os.pathsep.join([str(ROOT), sysconfig.get_paths()["purelib"]]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
    }
    before = {p.pid for p in psutil.process_iter()}
    try:
        yield Far(*way_there(environment["PYTHONPATH"]), environment, home)
    finally:
        for process in psutil.process_iter():
            if process.pid not in before and str(home) in _environment(process).get("HOME", ""):
                process.kill()
        shutil.rmtree(home, ignore_errors=True)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def started(far: Far, engines: int) -> Path:
    """Start a controller and engines there; returns a copy of the client's connection file."""
    profile = far.home / "profile"
    far.start(
        "-m", "ipyparallel.controller", f"--profile-dir={profile}", "--ip=127.0.0.1",
        "--IPController.enable_curve=True", log="controller.log",
    )  # fmt: skip
    files = [profile / "security" / f"ipcontroller-{kind}.json" for kind in ("client", "engine")]
    wait_until(lambda: all(file.exists() and file.stat().st_size for file in files))
    for _ in range(engines):
        far.start("-m", "ipyparallel.engine", f"--profile-dir={profile}", log="engines.log")
    return files[0]


def wait_until(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def cubes(n: int, side: int) -> list:
    """Clusters of water molecules, each another geometry."""
    from sddfkit.data.records import Record

    one = np.array([[0.0, 0.0, 0.1173], [0.0, 0.7572, -0.4692], [0.0, -0.7572, -0.4692]])
    grid = 3.0 * np.stack(np.meshgrid(*[np.arange(float(side))] * 3), axis=-1).reshape(-1, 1, 3)
    count = side**3
    return [
        Record(
            record_id=f"cube-{i}",
            molecule_id="O",
            name=f"cube {i}",
            smiles=".".join(["O"] * count),
            conformer=i,
            charge=0,
            multiplicity=1,
            atomic_numbers=np.tile(np.array([8, 1, 1], dtype=np.int32), count),
            positions=((1.0 + 0.002 * i) * one + grid).reshape(-1, 3),
            bonds=np.zeros((0, 3), dtype=np.int32),
            formal_charges=np.zeros(3 * count, dtype=np.int32),
        )
        for i in range(n)
    ]


def kept_there(far: Far) -> list[Path]:
    return sorted((far.home / ".local" / "state" / "sddfkit" / "spool").glob("*/*.json"))


def prepared(path: Path, n: int, side: int):
    records = cubes(n, side)
    asked, refused = plan(records, LEVEL, LEVEL.choose())
    assert refused == []
    with Store(path) as store:
        store.add_records(record_document(record) for record in records)
        Batch(store, "b").add(asked)
    return asked


def test_engines_of_another_user_on_another_disk_lose_nothing(far, tmp_path):
    file = started(far, 2)
    path = tmp_path / "data" / "store.sqlite"
    prepared(path, 12, 1)
    tmp_path.chmod(0o700)
    with Store(path) as store, Cluster(tmp_path / "clusters" / "c", engines=2, connection_file=file) as cluster:
        executor, _ = cluster.executor()
        if os.getuid() == 0:
            assert executor.submit(os.getuid).result() == 65534
        outcome = Batch(store, "b").run(cluster.executor)
        assert (outcome.computed, outcome.failed) == (12, 0)
        assert {row["pid"] for row in store.select(sa.select(attempts.c.pid))} & {p.pid for p in psutil.process_iter()}
        assert [p.name for p in store.spool.glob("*.json")] == [] and kept_there(far) == []
    # the engines are still there for the next one, which has nothing to compute and does not even ask
    with Cluster(tmp_path / "clusters" / "c", engines=2, connection_file=file) as cluster:
        assert cluster.executor()[1] == 2


def test_what_far_engines_finished_after_the_coordinator_was_killed_is_handed_over(far, tmp_path):
    file = started(far, 2)
    path = tmp_path / "data" / "store.sqlite"
    asked = prepared(path, 6, 3)
    code = (
        "import sys; from sddfkit.factory import *\n"
        f"with Store({str(path)!r}) as store, Cluster({str(tmp_path / 'c')!r}, connection_file={str(file)!r}) as c:\n"
        "    print(Batch(store, 'b').run(c.executor))"
    )
    first = subprocess.Popen([sys.executable, "-c", code])
    wait_until(lambda: bool(kept_there(far)))
    first.send_signal(signal.SIGKILL)
    first.wait()
    with Store(path, read_only=True) as store:
        in_store = len(store.select(sa.select(results.c.key)))
    assert in_store < len(asked)
    # what was given to the engines before the kill is finished by them, although nobody listens
    wait_until(lambda: len(kept_there(far)) >= 2)
    waiting = {file.stem: file.stat().st_mtime_ns for file in kept_there(far)}
    with Store(path) as store, Cluster(tmp_path / "c", engines=2, connection_file=file) as cluster:
        batch = Batch(store, "b")
        asked_for: list[str] = []

        def watched():
            executor, n = cluster.executor()
            give = executor.submit

            def submit(function, jobs, **more):
                asked_for.extend(job["key"] for job in jobs)
                return give(function, jobs, **more)

            executor.submit = submit
            return executor, n

        outcome = batch.run(watched)
        assert (outcome.known + outcome.computed, outcome.failed) == (6, 0)
        assert waiting.keys() & set(asked_for) == set(), "what lay in the engines' own spools is not given out again"
        tries = store.select(sa.select(attempts.c.key, attempts.c.state))
        assert len(store.select(sa.select(results.c.key))) == 6
        assert all(row["state"] == "done" for row in tries)
        assert kept_there(far) == []


def test_an_engine_without_the_package_is_said(far, tmp_path):
    bare = far._replace(
        environment={**far.environment, "PYTHONPATH": far.environment["PYTHONPATH"].split(os.pathsep)[1]}
    )
    hidden = bare.home / "hidden"
    hidden.mkdir()
    (hidden / "sddfkit.py").write_text("raise ImportError('no sddfkit here')")
    bare.environment["PYTHONPATH"] = os.pathsep.join([str(hidden), bare.environment["PYTHONPATH"]])
    file = started(bare, 1)
    path = tmp_path / "store.sqlite"
    prepared(path, 1, 1)
    with (
        Store(path) as store,
        Cluster(tmp_path / "c", engines=1, connection_file=file) as cluster,
        pytest.raises(RuntimeError, match=r"engine 0 cannot run sddfkit.*no sddfkit here.*install"),
    ):
        Batch(store, "b").run(cluster.executor)
    assert Batch(Store(path), "b").open_count() == 1
