"""Scratch folders that do not outlive their owner for long."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

_PREFIX: Final = "sddfkit-scratch-"
_LOCK: Final = "owner.lock"


class Scratch:
    """A scratch folder below the system's temporary folder (``TMPDIR``), held by a file lock while its owner lives.

    A process that is killed cannot clean up; whoever makes the next folder removes those whose lock nobody holds.
    """

    def __init__(self) -> None:
        _remove_orphans(Path(tempfile.gettempdir()))
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX))
        unlocked = self.path / f"{_LOCK}.new"
        self._lock = unlocked.open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / _LOCK)  # under its real name it is locked from the first moment

    def environment(self) -> dict[str, str]:
        """The variables by which programs find their scratch folder."""
        return {name: str(self.path) for name in ("TMPDIR", "PSI_SCRATCH", "PYSCF_TMPDIR")}

    def remove(self) -> None:
        """Delete the folder and all in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        try:
            descriptor = os.open(folder / _LOCK, os.O_WRONLY)
        except OSError:
            continue  # being made or removed just now, or another user's
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its owner lives
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
