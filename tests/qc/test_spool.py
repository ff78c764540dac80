"""Spool files are whole or absent."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from sddfkit.qc.spool import (
    TOKEN_FILE,
    Owner,
    drop_kept,
    folders_for,
    kept,
    own_folders,
    read_kept,
    remove_stale,
    spool_path,
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


@pytest.mark.parametrize("found", ["token", "the token of another run", None])
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
    assert folders[: 2 if found == "token" else 1] == ([spool, *own] if found == "token" else own)
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
