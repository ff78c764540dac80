"""Millions of molecules from a file to the few that are worth a conformer: filtered, ranked, drawn."""

import csv
import io
import json
import multiprocessing
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from tqdm import tqdm

from sddfkit.active.streaming import Best, Candidate
from sddfkit.chem.parsers import Chunk, chunks, open_packed
from sddfkit.chem.screening import Found, Refused, Screen, Screened, begin, screen_chunk, warm
from sddfkit.chem.sources import located
from sddfkit.runs import write_whole
from sddfkit.workflows.console import LINE_EVERY_S, say

CHECKPOINT: Final = "screening.json"
LOSS_PREDICTOR: Final = "loss_predictor.json"
"""In the folder of a run whose strategy was the loss predictor: what it had learnt last."""
IN_FLIGHT: Final = 4
"""Chunks per process that are parsed or wait: enough that none idles, few enough that memory stays flat."""


@dataclass
class Screening:
    """How far a file has been screened, and what has been found.

    Parameters
    ----------
    top, sample : the best by score, and a random sample
    line, offset : where to go on: a line from 1, and bytes of the unpacked file
    read : bytes of the file, packed as it may be, that have been read
    lines, skipped, molecules : how many were read, left out by the lot, and let through
    reasons : why lines were rejected, how often
    refused : some lines for each reason, as an example
    seconds : spent so far, without the start of processes
    """

    top: Best
    sample: Best
    line: int = 1
    offset: int = 0
    read: int = 0
    lines: int = 0
    skipped: int = 0
    molecules: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    refused: dict[str, list[Refused]] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, done: Screened, examples: int) -> None:
        """Take in what became of the next chunk."""
        self.line, self.offset, self.read = done.line, done.offset, done.read
        self.lines += done.lines
        self.skipped += done.skipped
        self.molecules += done.molecules
        self.reasons += done.reasons
        for refused in done.refused:
            kept = self.refused.setdefault(refused.reason.partition(":")[0], [])
            if len(kept) < examples:
                kept.append(refused)
        self.top.offer(map(_candidate, done.top))
        self.sample.offer(map(_candidate, done.sample))

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON-able values."""
        values = {name: getattr(self, name) for name in _COUNTS}
        return values | {
            "reasons": dict(self.reasons),
            "refused": self.refused,
            "top": [list(candidate) for candidate in self.top.sorted()],
            "sample": [list(candidate) for candidate in self.sample.sorted()],
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any], top: int, sample: int) -> "Screening":
        """Return what :meth:`document` described."""
        found = cls(Best(top), Best(sample), **{name: document[name] for name in _COUNTS})
        found.reasons.update(document["reasons"])
        found.refused = {kind: [Refused(*row) for row in rows] for kind, rows in document["refused"].items()}
        for best, name in ((found.top, "top"), (found.sample, "sample")):
            best.offer(Candidate(tuple(key), identity, tuple(row)) for key, identity, row in document[name])
        return found


_COUNTS: Final = ("line", "offset", "read", "lines", "skipped", "molecules", "seconds")


def screen_file(
    path: str | Path,
    screen: Screen,
    *,
    top: int = 0,
    sample: int = 0,
    workers: int | None = None,
    chunk_lines: int = 1000,
    examples: int = 20,
    checkpoint: Path | None = None,
    checkpoint_every_s: float = 30.0,
    smiles_column: str | None = None,
    name_column: str | None = None,
    show: "Show | None" = None,
) -> Screening:
    """Screen a file of molecules on all cores, in memory that does not grow with it.

    What is found depends on the file, `screen`, `top` and `sample` alone: not on the number of processes, the size of
    chunks, or where it was interrupted.

    Parameters
    ----------
    path : see :func:`sddfkit.chem.sources.read_molecules` for the suffixes
    screen : filters, and the weights of the score
    top : how many distinct molecules with the highest scores are kept
    sample : how many are drawn, each line's molecule with equal chance, equal molecules being one
    workers : processes; None takes one for each core that this process may use
    chunk_lines : lines that a process gets at a time
    examples : rejected lines that are kept for each reason
    checkpoint : a file, written every `checkpoint_every_s` seconds; where it is there and of the same file and
        settings, the screening goes on from it
    smiles_column, name_column : columns of a table; guessed from the header if None
    show : told of each chunk that is done; by default a line on standard error now and then

    Raises
    ------
    MoleculeError
        A file that cannot be read.
    ValueError
        The checkpoint is of another file or other settings.
    RuntimeError
        A process was killed; what was found before is in the checkpoint.
    """
    file = located(path)
    if top and screen.weights is None:
        raise ValueError(f"{top=} molecules were asked for, and there is nothing to rank them by: name a predictor")
    identity = _identity(file, screen, top=top, sample=sample, columns=(smiles_column, name_column))
    state = _resumed(checkpoint, identity, top, sample)
    portions = chunks(
        file,
        size=chunk_lines,
        begin=(state.line, state.offset),
        smiles_column=smiles_column,
        name_column=name_column,
    )
    show = show or Lines(file)
    whole = True
    before, begun, saved = state.seconds, 0.0, time.monotonic()
    try:
        for done in _in_order(portions, screen, state, workers or len(os.sched_getaffinity(0))):
            now = time.monotonic()
            if done is None:  # the processes are ready
                begun = now
                continue
            whole = False  # a signal may come in the midst
            state.add(done, examples)
            whole = True
            state.seconds = before + now - begun
            show(state)
            if checkpoint and now - saved >= checkpoint_every_s:
                _save(checkpoint, identity, state)
                saved = time.monotonic()
    except BrokenProcessPool as error:
        raise RuntimeError(
            f"a process was killed (out of memory?) near line {state.line} of {file}; "
            "the same command goes on from there"
        ) from error
    finally:
        if checkpoint and state.lines and whole:
            _save(checkpoint, identity, state)
    return state


def screen_molecules(
    *,
    molecules: str,
    screen: Screen,
    top: int,
    sample: int,
    workers: int | None,
    folder: Path,
    smiles_column: str | None = None,
    name_column: str | None = None,
) -> Path:
    """Screen a file, and write ``top.csv``, ``sample.csv``, ``rejected.csv`` and ``screen.json`` to a folder.

    Interrupted and started again in its folder it goes on where it was. Returns the path of the table of the best, or
    of the sample where nothing is ranked.
    """
    state = screen_file(
        molecules,
        screen,
        top=top,
        sample=sample,
        workers=workers,
        checkpoint=folder / CHECKPOINT,
        smiles_column=smiles_column,
        name_column=name_column,
    )
    rejected = sum(state.reasons.values())
    rate = state.lines / state.seconds if state.seconds else 0.0
    say(f"{state.lines} lines, {rate:.0f} a second: {state.molecules} molecules let through, {rejected} lines rejected")
    for reason, count in state.reasons.most_common():
        first = state.refused[reason][0]
        say(f"  {reason} ×{count}, such as line {first.line}: {first.reason}   {first.text}")
    columns = ("smiles", "name", "line", "predicted_error_ev_per_atom")
    for name, best in (("top", state.top), ("sample", state.sample)):
        if best.k:
            rows = [(smiles, label, line, score) for line, smiles, label, score in (c.row for c in best.sorted())]
            _write_csv(folder / f"{name}.csv", columns if name == "top" else columns[:3], rows)
    refused = [row for rows in state.refused.values() for row in rows]
    _write_csv(folder / "rejected.csv", Refused._fields, sorted(refused))
    counts = {name: getattr(state, name) for name in ("lines", "skipped", "molecules", "seconds")}
    summary = {"source": str(located(molecules)), **counts, "rejected": dict(state.reasons.most_common())}
    write_whole(folder / "screen.json", json.dumps(summary, indent=1))
    (folder / CHECKPOINT).unlink(missing_ok=True)
    return folder / ("top.csv" if top else "sample.csv")


def find_predictor(predictor: str, root: Path) -> Path:
    """Return the file of a loss predictor: a file, in the folder of a run, or "latest", of the newest run with one."""
    if predictor != "latest":
        path = Path(predictor).expanduser()
        named = root / "runs" / predictor
        path = path if path.exists() or not named.is_dir() else named
        return path / LOSS_PREDICTOR if path.is_dir() else path
    found = sorted((root / "runs").glob(f"*/{LOSS_PREDICTOR}"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise ValueError(
            f"no run below {root / 'runs'} has left a loss predictor: make one by `sddfkit active "
            "strategy=loss_predictor`, name a file with predictor=…, or draw at random with predictor=null sample=1000"
        )
    return found[-1]


def load_predictor(path: Path) -> tuple[tuple[float, ...], float]:
    """Return the weights of the 167 MACCS keys and the constant that a loss predictor left in a file, eV/atom.

    Raises
    ------
    ValueError
        If there is no such file, or it is something else.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        weights = tuple(float(value) for value in document["weights"])
        constant = float(document["constant"])
    except OSError as error:
        raise ValueError(
            f"no loss predictor in {path}: a run of `sddfkit active strategy=loss_predictor` leaves one"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} holds no loss predictor: {error!r}") from error
    return weights, constant


Show = Callable[[Screening], None]


class Lines:
    """Rate, share and time left on standard error: a bar at a terminal, a line now and then in a log."""

    def __init__(self, file: Path) -> None:
        self._size = file.stat().st_size
        self._bar = (
            tqdm(total=self._size, desc="screening", unit="B", unit_scale=True, dynamic_ncols=True)
            if sys.stderr.isatty()
            else None
        )
        self._said = time.monotonic()

    def __call__(self, state: Screening) -> None:
        """Show how far it is."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{state.lines} lines, {_rate(state):.0f}/s", refresh=False)
            self._bar.update(state.read - self._bar.n)
            return
        if time.monotonic() - self._said >= LINE_EVERY_S:
            self._said = time.monotonic()
            left = state.seconds * (self._size - state.read) / max(state.read, 1)
            print(
                f"screening: {state.lines} lines, {_rate(state):.0f}/s, {state.molecules} molecules let through, "
                f"{state.read / max(self._size, 1):.1%}, ETA {left:.0f} s",
                file=sys.stderr,
                flush=True,
            )


def _rate(state: Screening) -> float:
    return state.lines / state.seconds if state.seconds else 0.0


def _in_order(portions: Iterator[Chunk], screen: Screen, state: Screening, workers: int) -> Iterator[Screened | None]:
    """Yield None when the processes are ready, then what became of each chunk, in the order of the file."""
    context = multiprocessing.get_context("spawn")  # threads of other libraries do not survive a fork
    with ProcessPoolExecutor(workers, mp_context=context, initializer=begin) as pool:
        try:
            for ready in [pool.submit(warm, screen) for _ in range(workers)]:
                ready.result()
            yield None
            waiting: deque[Future[Screened]] = deque()
            for chunk in portions:
                waiting.append(pool.submit(screen_chunk, chunk, screen, state.top.threshold, state.sample.threshold))
                if len(waiting) >= IN_FLIGHT * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _candidate(found: Found) -> Candidate:
    return Candidate(found.key, found.identity, (found.line, found.smiles, found.name, found.score))


def _identity(file: Path, screen: Screen, **asked: Any) -> dict[str, Any]:
    """Return what a checkpoint must share with what is asked, as JSON gives it back."""
    status = file.stat()
    with open_packed(file) as stream:
        head = stream.read(256).hex() if status.st_size else ""
    document = {"file": str(file.resolve()), "size": status.st_size, "head": head, "screen": asdict(screen), **asked}
    return dict(json.loads(json.dumps(document)))


def _resumed(checkpoint: Path | None, identity: dict[str, Any], top: int, sample: int) -> Screening:
    if checkpoint is None or not checkpoint.is_file():
        return Screening(Best(top), Best(sample))
    kept = json.loads(checkpoint.read_text(encoding="utf-8"))
    differing = [name for name, value in identity.items() if kept["of"].get(name) != value]
    if differing:
        raise ValueError(
            f"{checkpoint} is of another screening ({', '.join(differing)} differ): name another, or remove it"
        )
    state = Screening.from_document(kept["state"], top, sample)
    say(f"going on at line {state.line}")
    return state


def _save(checkpoint: Path, identity: dict[str, Any], state: Screening) -> None:
    write_whole(checkpoint, json.dumps({"of": identity, "state": state.document()}))


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(header)
    writer.writerow(names)
    writer.writerows(list(row)[: len(names)] for row in rows)
    write_whole(path, text.getvalue())
