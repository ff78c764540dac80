"""Psi4: how it is found, how its process lives, and the mistakes it does not report itself."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from qcelemental.models.v2 import AtomicInput

from sddfkit.qc import compute
from sddfkit.qc.harnesses import psi4_installation
from sddfkit.qc.harnesses.psi4_installation import Psi4NotUsableError, find


def write_executable(folder: Path, text: str) -> None:
    script = folder / "psi4"
    script.write_text(text)
    script.chmod(0o755)


def test_a_python_without_psi4_is_reported_with_its_message(monkeypatch: pytest.MonkeyPatch) -> None:
    python = "/usr/bin/false"
    monkeypatch.setenv("SDDFKIT_PSI4_PYTHON", python)
    with pytest.raises(Psi4NotUsableError, match=r"broken \(SDDFKIT_PSI4_PYTHON=/usr/bin/false\): exit code 1"):
        find()
    monkeypatch.setenv("SDDFKIT_PSI4_PYTHON", "/nowhere/python")
    with pytest.raises(Psi4NotUsableError, match="No such file"):
        find()


def test_an_import_that_fails_is_reported_with_its_message(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "lib" / "psi4"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('libmkl_rt.so.2: cannot open shared object file')")
    path = f"export PYTHONPATH={tmp_path / 'lib'}:$PYTHONPATH"
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    python = bin_folder / "python3"
    python.symlink_to(sys.executable)  # whose own path may hold a space, which the first line of a script may not
    script = f"#!{python}\nimport sys\nprint({path!r})\n"
    write_executable(bin_folder, script)
    monkeypatch.delenv("SDDFKIT_PSI4_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(bin_folder))
    with pytest.raises(Psi4NotUsableError, match=r"Psi4 is broken.*libmkl_rt\.so\.2"):
        find()


def test_an_executable_of_another_kind_is_reported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    write_executable(tmp_path, "#!/bin/sh\nexit 1\n")
    monkeypatch.delenv("SDDFKIT_PSI4_PYTHON", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Psi4NotUsableError, match="names no Python interpreter"):
        find()


def test_the_look_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SDDFKIT_PSI4_PYTHON", "/nowhere/looked_at_once/python3")
    before = psi4_installation._look.cache_info().misses
    for _ in range(3):
        with pytest.raises(Psi4NotUsableError):
            find()
    assert psi4_installation._look.cache_info().misses == before + 1


@pytest.mark.usefixtures("needs_psi4")
@pytest.mark.parametrize(
    ("keywords", "error_type", "sentence"),
    [
        ({"maxiter": 2}, "convergence", "SCF"),
        ({"dft_radial_points": "50"}, "input", "give it the right type"),
        ({"nonsense": 1}, "input", "refuses option nonsense"),
    ],
)
def test_failures_are_values_and_the_process_lives_on(
    make_input: Callable[..., AtomicInput], molecules: Any, keywords: dict[str, Any], error_type: str, sentence: str
) -> None:
    failure = compute(make_input("psi4", molecules["water"], **keywords))
    assert failure.error.error_type == error_type
    assert sentence in failure.error.error_message
    good = compute(make_input("psi4", molecules["water"], driver="energy"))
    assert good.return_result == pytest.approx(-76.388262, abs=1e-5), "options of the failed job linger"


def children_with(word: str) -> list[int]:
    """The living children of this process whose command line has a word."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it ended, or is a zombie, which has no command line
            if word in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


@pytest.mark.usefixtures("needs_psi4")
def test_a_killed_process_is_replaced(make_input: Callable[..., AtomicInput], molecules: Any) -> None:
    job = make_input("psi4", molecules["water"], driver="energy")
    before = set(Path.cwd().iterdir())
    first = compute(job)
    (process,) = children_with("psi4_worker.py")
    os.kill(process, signal.SIGKILL)
    assert compute(job).return_result == first.return_result
    assert set(Path.cwd().iterdir()) == before, "Psi4 left files in the working folder"
