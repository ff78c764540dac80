"""Scratch folders that do not outlive their owner for long, nor do the processes that were given them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import psutil

_PREFIX: Final = "sddfkit-scratch-"
_LOCK: Final = "owner.lock"
_FILES: Final = "files"
_MARK: Final = "SDDFKIT_SCRATCH"
"""Environment variable that tells whose process it is: children inherit it, in whatever session they are."""
_UNLOCKED_FOR_S: Final = 3600.0
_PATIENCE_S: Final = 5.0

LEAST_FREE_MIB: Final = 64
"""With less free space for scratch files no calculation is started."""


class Scratch:
    """A scratch folder below the system's temporary folder (``TMPDIR``), held by a file lock while its owner lives.

    A process that is killed cannot clean up; whoever makes the next folder removes those whose lock nobody holds, and
    ends the processes that were given them.

    Attributes
    ----------
    path : Path
        For the owner's files.
    files : Path
        For those of the calculations: `clear` empties it.
    """

    def __init__(self) -> None:
        parent = Path(tempfile.gettempdir()).resolve()
        _remove_orphans(parent)
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self.files = self.path / _FILES
        self.files.mkdir()
        unlocked = self.path / f"{_LOCK}.new"
        unlocked.touch()
        self._lock = unlocked.open("r")  # for reading, which keeps no disk from becoming read-only
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / _LOCK)  # under its real name it is locked from the first moment

    def environment(self) -> dict[str, str]:
        """The variables by which programs find their scratch folder, and the mark by which they are found."""
        folders = dict.fromkeys(("TMPDIR", "PSI_SCRATCH", "PYSCF_TMPDIR"), str(self.files))
        return {**folders, _MARK: str(self.path)}

    def shortage(self) -> str | None:
        """A sentence if a calculation could not write its files, because the disk is full or read-only, else None.

        Raises
        ------
        OSError
            If the folder is gone.
        """
        status = os.statvfs(self.files)
        if status.f_flag & os.ST_RDONLY:
            return (
                f"the scratch folder {self.path.parent} has become read-only: make it writable, or set TMPDIR to "
                "another folder"
            )
        free_mib = status.f_bavail * status.f_frsize / 2**20
        if free_mib >= LEAST_FREE_MIB:
            return None
        return (
            f"the disk of the scratch folder {self.path.parent} has {free_mib:.0f} MiB free, less than the "
            f"{LEAST_FREE_MIB} MiB that a calculation needs at least: free some space there, or set TMPDIR to a folder "
            "on a larger disk"
        )

    def clear(self) -> None:
        """Delete what calculations left, but not the folders of processes that still run."""
        for entry in os.scandir(self.files):
            if entry.is_dir(follow_symlinks=False):
                if not (entry.name.startswith(_PREFIX) and _held(Path(entry.path))):
                    shutil.rmtree(entry.path, ignore_errors=True)
            else:
                with contextlib.suppress(OSError):
                    os.unlink(entry.path)  # noqa: PTH108 (a name from scandir)

    def remove(self) -> None:
        """End the processes that were given the folder, but this one, and delete it with all in it."""
        _end_marked(self.path)
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _remove_orphans(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        if not _held(folder):
            _end_marked(folder)
            shutil.rmtree(folder, ignore_errors=True)


def _held(folder: Path) -> bool:
    """Whether the owner of a scratch folder lives, as far as its lock shows."""
    try:
        descriptor = os.open(folder / _LOCK, os.O_WRONLY)
    except FileNotFoundError:  # being made or removed just now, unless its owner was killed in the middle of that
        with contextlib.suppress(OSError):
            return time.time() - folder.stat().st_mtime < _UNLOCKED_FOR_S
        return True
    except OSError:
        return True  # another user's
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _end_marked(folder: Path) -> None:
    """Kill the processes whose environment names a scratch folder, or one inside it, and wait until they are gone."""
    import psutil

    marked = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and Path(process.environ().get(_MARK, "")).is_relative_to(folder):
                process.kill()
                marked.append(process)
    deadline = time.monotonic() + _PATIENCE_S
    while any(_runs(process) for process in marked) and time.monotonic() < deadline:
        time.sleep(0.005)


def _runs(process: psutil.Process) -> bool:
    """Whether a process still runs; it is not waited for, which is its parent's to do."""
    import psutil

    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
