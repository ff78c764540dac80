"""What all tests share: the option ``--members FOLDER``, Ctrl-C as Python has it, and the order of work.

``--members FOLDER`` runs the contracts on members that live outside the source tree.
"""

import os
import signal
import sys
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from xdist.scheduler import LoadScopeScheduling

VARIABLE = "SDDFKIT_TEST_MEMBERS"

# No test is timed: a busy machine is no failure.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# warm.py and contracts/members.py are imported as `warm` and `members`, from wherever pytest was started.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent / "contracts")]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--members",
        action="append",
        default=[],
        metavar="FOLDER",
        help="also run the contracts of tests/contracts on the members in FOLDER (*.py, conf/<group>/*.yaml)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the folders importable, here and in child processes, and known to `members` at collection time."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        # Inherited by whatever a shell starts in the background; children would ignore Ctrl-C as well.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    asked = [Path(folder).absolute() for folder in config.getoption("members")]
    for folder in asked:
        if not folder.is_dir():
            raise pytest.UsageError(f"--members {folder}: there is no such folder")
        if not [*folder.glob("*.py"), *folder.glob("conf/*/*.yaml")]:
            raise pytest.UsageError(
                f"--members {folder}: it holds no member; expected *.py there, and conf/<group>/<name>.yaml below"
            )
    known = _folders(VARIABLE)
    folders = list(dict.fromkeys([*known, *map(str, asked)]))
    if folders:
        os.environ[VARIABLE] = os.pathsep.join(folders)
        sys.path[:0] = [folder for folder in folders if folder not in sys.path]
        os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([*folders, *_folders("PYTHONPATH")]))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what takes long first, so that all workers end at about the same time."""
    marks = ("xdist_group", "slow")
    items.sort(key=lambda item: next((i for i, mark in enumerate(marks) if item.get_closest_marker(mark)), len(marks)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling | None:
    if config.getoption("dist") != "loadgroup":
        return None
    config.option.loadscopereorder = False  # by number of tests, which says nothing of how long they take
    return WholeModules(config, log)


class WholeModules(LoadScopeScheduling):
    """Modules with an ``xdist_group`` go to one worker as a whole, all other tests one by one, in the order collected.

    pytest-xdist's own scheduler finds the groups in the names of the tests, where pytest 9.2 no longer lets it write
    them: https://github.com/pytest-dev/pytest-xdist/issues/1386.
    """

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.partition("::")[0]
        return path if _is_grouped(self.config.rootpath / path) else nodeid


@cache
def _is_grouped(path: Path) -> bool:
    return path.suffix == ".py" and "mark.xdist_group" in path.read_text(encoding="utf-8")


def pytest_report_header() -> list[str]:
    return [f"members: {folder}" for folder in _folders(VARIABLE)]


def _folders(variable: str) -> list[str]:
    return [folder for folder in os.environ.get(variable, "").split(os.pathsep) if folder]
