"""Spool files are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from sddfkit.processes import started
from sddfkit.qc.spool import (
    SILENCE_S,
    STALE_AFTER_S,
    TOKEN_FILE,
    Owner,
    Running,
    drop_kept,
    folders_for,
    kept,
    own_folders,
    read_kept,
    remove_stale,
    running_elsewhere,
    spool_path,
    still_wanted,
    write_json,
    write_outcome,
)

OWNER = Owner("0123456789abcdef" * 2, "token")


def test_a_file_is_written_whole_and_replaced_whole(tmp_path: Path) -> None:
    path = spool_path(tmp_path / "a new folder", "abc")
    for value in (1, 2):
        write_json(path, {"value": value})
        assert json.loads(path.read_text()) == {"value": value}
    assert [p.name for p in path.parent.iterdir()] == ["abc.json"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "abc.json"
    write_json(path, {"value": 1})
    with pytest.raises(TypeError):
        write_json(path, {"value": object()})
    assert json.loads(path.read_text()) == {"value": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["abc.json"]


def test_what_a_killed_writer_left_is_removed_before_it_is_waited_for(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        half, mine = (tmp_path / f".abc.json.{socket.gethostname()}.{pid}.tmp" for pid in (writer.pid, os.getpid()))
        for partial in (half, mine):
            partial.write_text("{")
        remove_stale(tmp_path)
        assert half.exists(), "its writer lives"
        os.kill(writer.pid, signal.SIGKILL)
        os.waitid(os.P_PID, writer.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
        remove_stale(tmp_path)
        assert not half.exists() and mine.exists()
    finally:
        writer.kill()
        writer.communicate()


@pytest.mark.parametrize("key", ["../up", "a/b", "", ".hidden", None, 3, "x" * 300, "a b"])
def test_a_key_never_leaves_the_folder(tmp_path: Path, key: object) -> None:
    path = spool_path(tmp_path, key)
    assert path.parent == tmp_path
    assert path.name.startswith("invalid-")


@pytest.mark.parametrize("found", ["token", "another", "newer\ntoken\nolder", None])
def test_a_spool_is_shared_only_if_the_coordinators_token_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: str | None
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    spool = tmp_path / "spool"
    spool.mkdir()
    if found is not None:
        (spool / TOKEN_FILE).write_text(found)
    folders = folders_for(str(spool), OWNER)
    own = [tmp_path / "state" / "sddfkit" / "spool" / OWNER.store]
    shared = found is not None and "token" in found  # also one of an earlier opening, whose engines are still at work
    assert folders[: 2 if shared else 1] == ([spool, *own] if shared else own)
    assert still_wanted(spool, OWNER) == (found != "newer\ntoken\nolder"), "its successor gives the work out anew"
    assert folders_for(str(spool), None) == [spool]


def test_an_own_spool_is_private_and_per_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    state, temporary = own_folders(OWNER.store)
    assert temporary.is_relative_to(tmp_path / f"sddfkit-{os.getuid()}")
    base = tmp_path / f"sddfkit-{os.getuid()}"
    assert not base.exists()
    write_outcome(state / "a.json", {"key": "a"})
    write_outcome(temporary / "b.json", {"key": "b"})
    assert base.stat().st_mode & 0o777 == 0o700
    (state / "damaged.json").write_text("{")
    found = kept(OWNER.store)
    assert set(found) == {"a", "b", "damaged"} and kept("f" * 32) == {}
    assert read_kept(OWNER.store, found) == [{"key": "a"}, {"key": "b"}]
    drop_kept(OWNER.store, {"a": found["a"], "b": 0})
    assert set(kept(OWNER.store)) == {"b", "damaged"}
    base.chmod(0o777)  # somebody else could have put something there
    assert own_folders(OWNER.store) == [state]
    with pytest.raises(PermissionError, match="open to others"):
        write_outcome(temporary / "c.json", {"key": "c"})
    with pytest.raises(ValueError, match="hexadecimal"):
        own_folders("../../elsewhere")


def marker(folder: Path, host: str, pid: int, process_started: float, silent_s: float = 0.0) -> Path:
    path = folder / f".running.{host}.{pid}.json"
    write_json(path, {"host": host, "pid": pid, "process_started": process_started, "keys": [f"{host}-{pid}"]})
    os.utime(path, (time.time() - silent_s,) * 2)
    return path


def test_a_marker_says_who_computes_what_as_long_as_the_process_lives(tmp_path: Path) -> None:
    here = socket.gethostname()
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        living = marker(tmp_path, here, other.pid, started(other.pid))
        reused = marker(tmp_path, here, 1, started(1) - 100.0)  # the number is used again
        talking, silent, long_dead = (
            marker(tmp_path, host, 7, 0.0, age)
            for host, age in [("near", SILENCE_S - 60), ("far", SILENCE_S + 60), ("gone", STALE_AFTER_S + 60)]
        )
        (tmp_path / ".running.half.3.json").write_text("{")
        write_json(tmp_path / ".running.odd.3.json", {"host": "odd"})
        with Running(tmp_path, ["mine"]):
            found = running_elsewhere(tmp_path)
        assert sorted(found) == sorted([f"{here}-{other.pid}", "near-7"])
        assert found[f"{here}-{other.pid}"] == json.loads(living.read_text())
        assert not reused.exists() and silent.exists(), "a host that cannot be asked has a day"
        remove_stale(tmp_path)
        assert living.exists() and talking.exists() and silent.exists() and not long_dead.exists()
    finally:
        other.kill()
        other.communicate()
    assert list(running_elsewhere(tmp_path)) == ["near-7"] and not living.exists()


def test_threads_share_a_marker_and_the_last_one_removes_it(tmp_path: Path) -> None:
    path = tmp_path / f".running.{socket.gethostname()}.{os.getpid()}.json"
    with Running(tmp_path, ["a", "b"]):
        with Running(tmp_path, ["b", "c"]), Running(tmp_path / "elsewhere", ["d"]):
            assert json.loads(path.read_text())["keys"] == ["a", "b", "c"]
        assert json.loads(path.read_text())["keys"] == ["a", "b"]
    assert list(tmp_path.glob(".*")) == [] and list((tmp_path / "elsewhere").iterdir()) == []


def test_a_marker_is_touched_while_the_engine_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sddfkit.qc.spool.REFRESH_S", 0.0)
    path = tmp_path / f".running.{socket.gethostname()}.{os.getpid()}.json"
    with Running(tmp_path, ["a"]) as running:
        os.utime(path, (0.0, 0.0))
        running.refresh()
        assert time.time() - path.stat().st_mtime < 60
        path.unlink()
        running.refresh()  # by then somebody may have removed it


def test_a_folder_that_cannot_be_written_has_no_marker(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with Running(tmp_path / "file", ["a"]) as running:
        running.refresh()
    assert running_elsewhere(tmp_path / "file") == {}
