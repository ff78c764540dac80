"""Spool files are whole or absent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sddfkit.qc.spool import spool_path, write_json


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


@pytest.mark.parametrize("key", ["../up", "a/b", "", ".hidden", None, 3, "x" * 300, "a b"])
def test_a_key_never_leaves_the_folder(tmp_path: Path, key: object) -> None:
    path = spool_path(tmp_path, key)
    assert path.parent == tmp_path
    assert path.name.startswith("invalid-")
