"""The option ``--members FOLDER``: contracts for members that live outside the source tree."""

import os
import sys
from pathlib import Path

import pytest

VARIABLE = "SDDFKIT_TEST_MEMBERS"

# tests/contracts/members.py is imported as `members` by the contract tests, from wherever pytest was started.
sys.path.insert(0, str(Path(__file__).parent / "contracts"))


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


def pytest_report_header() -> list[str]:
    return [f"members: {folder}" for folder in _folders(VARIABLE)]


def _folders(variable: str) -> list[str]:
    return [folder for folder in os.environ.get(variable, "").split(os.pathsep) if folder]
