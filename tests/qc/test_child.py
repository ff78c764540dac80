"""A child process that is spoken to in JSON lines: whatever it says or does is an answer or a sentence."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sddfkit.qc.child import ChildLostError, JsonLineChild


@pytest.fixture
def child(tmp_path: Path) -> Iterator[Callable[[str], JsonLineChild]]:
    """``child(script)``: a process that runs it."""
    made: list[JsonLineChild] = []

    def start(script: str) -> JsonLineChild:
        command = [sys.executable, "-S", "-c", f"import os, sys, time\n{script}"]
        made.append(JsonLineChild(command, directory=tmp_path, environment=dict(os.environ), new_group=True))
        return made[-1]

    yield start
    for process in made:
        process.kill()


def test_messages_of_any_length_and_in_any_pieces_arrive_whole(child: Callable[[str], JsonLineChild]) -> None:
    process = child("for line in sys.stdin:\n sys.stdout.write(line); sys.stdout.flush()")
    for size in (1, 2**16, 3 * 10**6):
        process.send({"text": "ü" * size})
        assert process.receive(60) == {"text": "ü" * size}
    process.send(json.dumps({"a": 1}) + "\n" + json.dumps({"b": 2}))
    assert [process.receive(60), process.receive(60), process.receive(0.05)] == [{"a": 1}, {"b": 2}, None]


def test_half_a_message_is_waited_for_until_the_child_ends(child: Callable[[str], JsonLineChild]) -> None:
    process = child("os.write(1, b'{\"event\": '); sys.stdin.readline(); os.write(1, b'1}\\n{\"succ'); os._exit(7)")
    assert process.receive(0.5) is None
    process.send({})
    assert process.receive(60) == {"event": 1}
    with pytest.raises(ChildLostError, match="ended with exit code 7"):
        process.receive(60)


@pytest.mark.parametrize("said", ["[1, 2]", "no JSON", "3", "\\xff\\xfe"])
def test_what_is_no_message_ends_the_child(child: Callable[[str], JsonLineChild], said: str) -> None:
    process = child(f"os.write(1, b'{said}\\n'); time.sleep(600)")
    with pytest.raises(ChildLostError, match="something that is not a message"):
        process.receive(60)
    assert not process.alive()
