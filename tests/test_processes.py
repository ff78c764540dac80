import os
import signal
import subprocess
import sys
import time

import pytest

from sddfkit.processes import lives, started


def test_this_process_lives_since_a_moment_ago():
    assert 0 < time.time() - started() < 86400
    assert lives(os.getpid(), started()) and started(os.getpid()) == started()


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
