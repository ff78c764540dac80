import os
import signal
import subprocess
import sys

import psutil
import pytest

from sddfkit.processes import lives, started


def test_this_process_lives_and_began_when_psutil_says():
    assert lives(os.getpid(), started()) and started(os.getpid()) == started()
    assert lives(os.getpid(), psutil.Process().create_time())


def test_a_clock_that_is_set_kills_nobody(monkeypatch):
    if not sys.platform.startswith("linux"):
        pytest.skip("only Linux tells the start of a process by a clock that nobody sets")
    before = started()
    child = subprocess.Popen([sys.executable, "-S", "-c", "input()"], stdin=subprocess.PIPE)
    try:
        childs = started(child.pid)
        really = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda self: really(self) + 3600)
        assert started() == before and lives(os.getpid(), before) and lives(child.pid, childs)
        assert childs - before == pytest.approx(really(psutil.Process(child.pid)) - really(psutil.Process()), abs=0.05)
    finally:
        child.communicate(b"\n")


def test_a_number_that_is_used_again_is_another_process():
    assert not lives(os.getpid(), started() - 60)


def test_a_killed_process_is_dead_before_and_after_it_is_waited_for():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = started(child.pid)
    assert lives(child.pid, start)
    os.kill(child.pid, signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert not lives(child.pid, start)
    with pytest.raises(ProcessLookupError, match="dead"):
        started(child.pid)
    child.communicate()
    assert not lives(child.pid, start)
    with pytest.raises(ProcessLookupError, match="no process"):
        started(child.pid)
