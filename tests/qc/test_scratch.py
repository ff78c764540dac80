"""Scratch folders: what is kept, what is deleted, and what their disk says."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sddfkit.qc.scratch import LEAST_FREE_MIB, Scratch


@pytest.fixture
def parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture
def small_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A file system that is hardly large enough, as the system's temporary folder."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={LEAST_FREE_MIB + 2}m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"file systems cannot be mounted here: {error}")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_and_a_read_only_disk_are_said(small_disk: Path) -> None:
    scratch = Scratch()
    assert scratch.shortage() is None
    (small_disk / "other").write_bytes(b"x" * 4 * 2**20)
    said = scratch.shortage()
    assert said is not None and f"{small_disk} has {LEAST_FREE_MIB - 2} MiB free" in said and "TMPDIR" in said
    (small_disk / "other").unlink()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = scratch.shortage()
    assert said is not None and "read-only" in said and "TMPDIR" in said
    scratch.remove()  # as far as it goes


def test_files_are_cleared_but_not_those_of_a_process_that_runs(parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outer = Scratch()
    monkeypatch.setattr(tempfile, "tempdir", outer.environment()["TMPDIR"])
    inner = Scratch()
    (inner.files / "psi.32").write_text("")
    (outer.files / "a file").write_text("")
    (outer.files / "folder" / "below").mkdir(parents=True)
    (outer.files / "a link").symlink_to(parent)
    outer.clear()
    assert [path.name for path in outer.files.iterdir()] == [inner.path.name]
    assert (inner.files / "psi.32").exists()
    inner.remove()
    outer.remove()
    assert list(parent.iterdir()) == []


def test_a_folder_that_was_never_locked_is_removed_after_a_while(parent: Path) -> None:
    fresh, old = parent / "sddfkit-scratch-fresh", parent / "sddfkit-scratch-old"
    for folder, age in ((fresh, 60), (old, 7200)):
        folder.mkdir()
        os.utime(folder, (time.time() - age,) * 2)
    Scratch().remove()
    assert fresh.exists() and not old.exists()


def test_processes_that_were_given_a_folder_end_with_it(parent: Path) -> None:
    first, second = Scratch(), Scratch()
    sleep = [sys.executable, "-S", "-c", "import time; time.sleep(600)"]
    mine, others = (
        subprocess.Popen(sleep, env={**os.environ, **scratch.environment()}, start_new_session=True)
        for scratch in (first, second)
    )
    try:
        while not psutil.Process(mine.pid).environ() or not psutil.Process(others.pid).environ():
            time.sleep(0.01)  # until both have become what they shall be
        first.remove()
        assert mine.wait(60) == -9 and others.poll() is None
    finally:
        others.kill()
        others.wait()
        second.remove()
    assert list(parent.iterdir()) == []
