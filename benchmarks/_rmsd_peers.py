"""The programs that are timed against each other, ours among them, each behind a limit that ends it.

Libraries (ours, RDKit, spyrmsd) live in a process each, which is killed and started anew when one answer takes too
long: some of them never come back from a symmetric molecule. Programs that read files (``obrms`` of Open Babel, the C
tool FlashRMSD) are run as processes, and their whole time counts. All get the molecular graph alone: RDKit and Open
Babel see single bonds, so that everybody answers the same question.
"""

import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from _rmsd_molecules import Example, Float, sdf

START_LIMIT_S = 60.0
AT_LEAST_S = 0.05  # of work by a library, in repeats if need be
START_S = 0.1  # of the process that starts a program
LAUNCHER = """
import os, sys, time
report, *arguments = sys.argv[1:]
start = time.perf_counter()
child = os.posix_spawnp(arguments[0], arguments, os.environ)
_, status, usage = os.wait4(child, 0)
seconds = time.perf_counter() - start
code = os.waitstatus_to_exitcode(status)
with open(report, "w") as file:
    print(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss, code, file=file)
"""
FLASHRMSD_RECORDS = 100  # the C tool reads no more of a file


class Answer(NamedTuple):
    """What one program did with one set of conformers: seconds, or why not.

    `seconds` is the search of all pairs, in processor time: on a busy machine the clock on the wall would measure
    others. Of programs that prepare a molecule apart, `preparation` is not part of it.
    """

    seconds: float | None = None
    preparation: float = 0.0
    matrix: Float | None = None
    why: str = ""


class Run(NamedTuple):
    """One finished process."""

    seconds: float  # by the clock on the wall
    cpu_seconds: float
    peak_rss_mb: float
    code: int
    out: str
    err: str


def _ours(example: Example, x: Float, align: bool, threads: int = 0) -> Answer:
    """With `threads` the seconds are those of the clock on the wall, else processor time of a plain call."""
    from flashrmsd_cy import rmsd_matrix

    start = time.process_time()
    molecule = example.molecule()
    assert molecule.n_automorphisms
    prepared = time.process_time()
    if not threads:
        matrix = rmsd_matrix(x, molecule, align=align)
    else:
        wall = time.perf_counter()
        matrix = rmsd_matrix(x, molecule, align=align, threads=threads)
        return Answer(time.perf_counter() - wall, prepared - start, matrix)
    return Answer(time.process_time() - prepared, prepared - start, matrix)


def _rdkit(example: Example, x: Float, align: bool) -> Answer:
    from rdkit import Chem
    from rdkit.Chem import rdMolAlign
    from rdkit.Geometry import Point3D

    mol = Chem.RWMol()
    for element in example.elements:
        atom = Chem.Atom(element)
        atom.SetNoImplicit(True)
        mol.AddAtom(atom)
    for i, j in example.bonds:
        mol.AddBond(i, j, Chem.BondType.SINGLE)
    mol.UpdatePropertyCache(False)
    for positions in x:
        conformer = Chem.Conformer(len(positions))
        for i, point in enumerate(positions.tolist()):
            conformer.SetAtomPosition(i, Point3D(*point))
        mol.AddConformer(conformer, assignId=True)
    lower = np.tril_indices(len(x), -1)
    matrix = np.zeros((len(x), len(x)))
    if align:
        start = time.process_time()
        values = rdMolAlign.GetAllConformerBestRMS(mol, numThreads=1)
    else:
        single = [Chem.Mol(mol, confId=conformer.GetId()) for conformer in mol.GetConformers()]
        start = time.process_time()
        values = [rdMolAlign.CalcRMS(single[i], single[j]) for i, j in zip(*lower, strict=True)]
    seconds = time.process_time() - start
    matrix[lower] = values
    return Answer(seconds, 0.0, matrix + matrix.T)


def _spyrmsd(example: Example, x: Float, align: bool) -> Answer:
    """It keeps the isomorphisms of one call, and a call is one row."""
    from spyrmsd.rmsd import symmrmsd

    numbers = np.array(example.elements)
    joined = np.zeros((len(numbers), len(numbers)), dtype=int)
    for i, j in example.bonds:
        joined[i, j] = joined[j, i] = 1
    matrix = np.zeros((len(x), len(x)))
    start = time.process_time()
    for i in range(1, len(x)):
        matrix[i, :i] = symmrmsd(x[i], list(x[:i]), numbers, numbers, joined, joined, minimize=align)
    return Answer(time.process_time() - start, 0.0, matrix + matrix.T)


LIBRARIES: dict[str, Callable[..., Answer]] = {"ours": _ours, "rdkit": _rdkit, "spyrmsd": _spyrmsd}


def _serve(name: str, pipe: Connection) -> None:
    """The loop of a library's process."""
    import warnings

    warnings.simplefilter("ignore")
    module = "flashrmsd_cy" if name == "ours" else name
    try:
        for part in (module, *({"rdkit": ("rdkit.Chem.rdMolAlign",), "spyrmsd": ("spyrmsd.rmsd",)}.get(name, ()))):
            importlib.import_module(part)
    except ImportError as error:
        pipe.send(f"not installed: {error}")
        return
    pipe.send("")
    while True:
        try:
            example, x, align, options = pipe.recv()
        except EOFError:
            return
        try:
            best = LIBRARIES[name](example, x, align, **options)
            # What takes no time is asked again, or the first touch of code and memory would count.
            spent = best.seconds
            while spent < AT_LEAST_S and not options:
                again = LIBRARIES[name](example, x, align)
                spent += again.seconds + again.preparation
                best = min(best, again, key=lambda answer: answer.seconds)
            pipe.send(best)
        except Exception as error:
            pipe.send(Answer(why=f"{type(error).__name__}: {str(error)[:200]}"))


class Library:
    """One of `LIBRARIES` in a process of its own."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.absent = ""
        self._process: Any = None
        self._pipe: Any = None

    def __call__(self, example: Example, x: Float, align: bool, limit: float, **options: Any) -> Answer:
        """All pairs of conformers x (k, n, 3) within `limit` seconds."""
        if not self._started():
            return Answer(why=self.absent)
        try:
            self._pipe.send((example, x, align, options))
            if self._pipe.poll(limit):
                return self._pipe.recv()
        except (EOFError, OSError):
            self.stop()
            return Answer(why="crashed")
        self.stop()
        return Answer(why=f"timed out after {limit:g} s")

    def _started(self) -> bool:
        if self._process is None and not self.absent:
            context = get_context("spawn")
            self._pipe, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(self.name, other), daemon=True)
            self._process.start()
            other.close()
            try:
                self.absent = self._pipe.recv() if self._pipe.poll(START_LIMIT_S) else "did not start"
            except EOFError:
                self.absent = "crashed at its start"
        return not self.absent

    def stop(self) -> None:
        """End the process; the next call starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None


class Obrms:
    """Open Babel's ``obrms``: heavy atoms only; the time is that of the whole process."""

    name = "obrms"

    def __init__(self) -> None:
        self.environment = dict(os.environ)
        found = shutil.which("obrms")
        if found is None and (spec := importlib.util.find_spec("openbabel")) and spec.origin:
            # The wheel from PyPI carries the program, but puts nothing into the folder of commands for it.
            root = Path(spec.origin).parent
            inside = root / "bin" / "obrms"
            if inside.exists():
                found = str(inside)
                for variable, folder in (("BABEL_LIBDIR", "lib"), ("BABEL_DATADIR", "share")):
                    for path in (root / folder / "openbabel").glob("*"):
                        self.environment.setdefault(variable, str(path))
        self.program = found
        self.absent = "" if found else "not installed: no obrms in PATH, no openbabel wheel"

    def __call__(self, example: Example, x: Float, align: bool, limit: float) -> Answer:
        """All pairs of conformers x (k, n, 3) within `limit` seconds."""
        if self.absent:
            return Answer(why=self.absent)
        if 1 in example.elements:
            return Answer(why="compares heavy atoms only")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "conformers.sdf")
            path.write_text(sdf(example, x))
            run = self.run([path], align, limit)
        if run is None:
            return Answer(why=f"timed out after {limit:g} s")
        lines = [line for line in run.out.splitlines() if line.count(",") == len(x)]
        if run.code or len(lines) != len(x):
            return Answer(why=f"failed: {run.err.strip()[-200:] or run.code}")
        matrix = np.array([[float(word) for word in line.split(",")[1:]] for line in lines])
        return Answer(run.cpu_seconds, 0.0, matrix)

    def run(self, paths: Sequence[Path], align: bool, limit: float) -> Run | None:
        """The whole process on one file."""
        arguments = [str(self.program), "-x", *(["-m"] if align else []), str(paths[0])]
        return process(arguments, limit, self.environment)


class FlashRMSD:
    """The C tool FlashRMSD, given by the path to its executable. Larger sets are cut into files that it can read."""

    name = "flashrmsd_c"
    timing = re.compile(r"^Cross RMSD calculation completed in\s*([0-9.eE+-]+)\s*(ms|us|µs|s|)", re.MULTILINE)

    def __init__(self, program: str | None) -> None:
        self.program = program
        self.absent = "" if program else "not given: --flashrmsd PATH"

    def __call__(self, example: Example, x: Float, align: bool, limit: float) -> Answer:
        """All pairs of at most 100 conformers x (k, n, 3) within `limit` seconds; its own figure, if it prints one."""
        if self.absent:
            return Answer(why=self.absent)
        if len(x) > FLASHRMSD_RECORDS:
            return Answer(why=f"reads no more than {FLASHRMSD_RECORDS} records")
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "conformers.sdf")
            path.write_text(sdf(example, x))
            run = self.run([path], align, limit, hydrogens=1 in example.elements, verbose=True)
        if run is None:
            return Answer(why=f"timed out after {limit:g} s")
        matrix = plain_matrix(run.out, len(x))
        if run.code or matrix is None:
            return Answer(why=f"failed with exit code {run.code}: {(run.err or run.out).strip()[-200:]}")
        return Answer(self.search_seconds(run), 0.0, matrix)

    def search_seconds(self, run: Run) -> float:
        """The time that the tool says it took for the pairs; of the whole process if it says none."""
        said = self.timing.search(run.out)
        return self.said(said) if said else run.cpu_seconds

    @staticmethod
    def said(match: re.Match[str]) -> float:
        """Seconds of a line that `timing` matched."""
        return float(match[1]) * {"ms": 1e-3, "us": 1e-6, "µs": 1e-6}.get(match[2], 1.0)

    def run(
        self, paths: Sequence[Path], align: bool, limit: float, *, hydrogens: bool = False, verbose: bool = False
    ) -> Run | None:
        """The whole processes on one file after the other, their times and outputs put together."""
        switches = [f"-{letter}" for letter, on in (("m", align), ("h", hydrogens), ("v", verbose)) if on]
        runs = []
        for path in paths:
            left = limit - sum(run.seconds for run in runs)
            run = process([str(self.program), str(path), "-x", *switches], left, None) if left > 0 else None
            if run is None:
                return None
            runs.append(run)
        return Run(
            sum(run.seconds for run in runs),
            sum(run.cpu_seconds for run in runs),
            max(run.peak_rss_mb for run in runs),
            max((run.code for run in runs), key=abs),
            "".join(run.out for run in runs),
            "".join(run.err for run in runs),
        )


def plain_matrix(text: str, k: int) -> Float | None:
    """(k, k) from k lines of k numbers, among lines that say other things."""
    rows = []
    for line in text.splitlines():
        words = line.split()
        try:
            values = [float(word) for word in words]
        except ValueError:
            continue
        if len(values) == k:
            rows.append(values)
    return np.array(rows) if len(rows) == k else None


def process(arguments: Sequence[str], limit: float, environment: dict[str, str] | None = None) -> Run | None:
    """Run to the end; None if that takes more than `limit` seconds.

    A small process starts the program and measures it: memory counts from the size of whoever starts it.
    """
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        report = Path(folder, "report")
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", LAUNCHER, str(report), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment,
            start_new_session=True,
        )
        try:
            child.wait(limit + START_S)
        except subprocess.TimeoutExpired:
            return None
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
        if not report.exists():
            raise OSError(f"{arguments[0]} could not be started: {texts[1].strip()[-300:]}")
        seconds, cpu_seconds, peak, code = report.read_text().split()
    # macOS counts bytes, others kilobytes.
    megabytes = float(peak) / (1e6 if sys.platform == "darwin" else 1e3)
    return Run(float(seconds), float(cpu_seconds), megabytes, int(code), *texts)
