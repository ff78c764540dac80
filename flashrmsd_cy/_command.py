"""What the command does once it knows what is wanted: read, compare, print."""

from __future__ import annotations

import sys
import time

from flashrmsd_cy._compare import INFINITY, Comparer, Outcome, Settings
from flashrmsd_cy._files import STDIN, read_records
from flashrmsd_cy._text import Record, Topologies, rows_text
from flashrmsd_cy.errors import FormatError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from flashrmsd_cy.cli import Options

PAIR_COLUMNS = ("first_file", "first_record", "first_title", "second_file", "second_record", "second_title", "rmsd")
PROOF_COLUMNS = ("status", "lower", "upper", "reason")
PIECE = 100_000  # numbers of a matrix that are printed at a time


class Problems:
    """Says on standard error what could not be done, and remembers that there was something."""

    def __init__(self) -> None:
        self.any = False

    def report(self, where: object, reason: str) -> None:
        """One line: where, and why."""
        self.any = True
        self.note(f"{where}: {reason}")

    @staticmethod
    def note(text: str) -> None:
        """A remark that is no failure."""
        print(f"flashrmsd: {text}", file=sys.stderr)


def run(options: Options) -> int:
    """Compare and print; 0 if every pair was computed, else 2."""
    problems = Problems()
    comparer = Comparer(
        Settings(
            align=options.minimize,
            hydrogens=options.hydrogens,
            bond_types=options.bonds,
            naive=options.naive,
            mapping=options.assignment,
            time_limit_s=options.time_limit,
            threads=options.threads,
            level=options.level,
        )
    )
    topologies = Topologies(options.charges)
    if options.cross:
        _cross(options, comparer, list(_records(options.files, topologies, problems)), problems)
    else:
        template = _template(options.template, topologies, problems)
        if template is not None:
            queries = _records(options.files, topologies, problems)
            _queries(options, comparer, template, queries, problems)
    return 2 if problems.any else 0


def _records(paths: Sequence[str], topologies: Topologies, problems: Problems) -> Iterator[Record]:
    for path in paths:
        try:
            yield from read_records(path, topologies)
        except FormatError as error:
            problems.report("standard input" if path == STDIN else path, str(error))


def _template(path: str, topologies: Topologies, problems: Problems) -> Record | None:
    records = _records([path], topologies, problems)
    template = next(records, None)
    if next(records, None) is not None:
        problems.note(f"{path}: the template holds more than one record; the first is compared with")
    return template


def _queries(
    options: Options, comparer: Comparer, template: Record, queries: Iterator[Record], problems: Problems
) -> None:
    rows: list[dict[str, Any]] = []
    table = _table((*PAIR_COLUMNS, *PROOF_COLUMNS)) if options.csv else None
    for number, query in enumerate(queries):
        started = time.perf_counter()
        outcome = comparer.pair(template, query)
        seconds = time.perf_counter() - started
        if outcome.status != "exact":
            problems.report(query, outcome.reason)
        if table is not None:
            proof = outcome.status, f"{outcome.lower:.6f}", f"{outcome.upper:.6f}", outcome.reason
            table.writerow((*_named(template), *_named(query), f"{outcome.value:.6f}", *proof))
        elif options.json:
            rows.append(_row(query, outcome, seconds, options))
        else:
            print(_plain(number, outcome, seconds, options), end="")
    if options.json:
        _dump({"template": _about(template), "queries": rows})


def _plain(number: int, outcome: Outcome, seconds: float, options: Options) -> str:
    """Lines as the C tool FlashRMSD prints them."""
    value = f"{outcome.value:.6f}\n"
    pairs = "".join(f"{i} -> {j}\n" for i, j in outcome.mapping) if options.assignment else ""
    if outcome.status != "exact":
        pairs = ""
    if not options.verbose:
        return value + pairs
    assignment = f"Assignment: \n{pairs}" if options.assignment else ""
    return f"Conformer {number}: \nRMSD: {value}{assignment}Time taken: {seconds:.6f}\n"


def _row(query: Record, outcome: Outcome, seconds: float, options: Options) -> dict[str, Any]:
    row = _about(query) | {
        "rmsd": _number(outcome.value),
        "status": outcome.status,
        "lower": outcome.lower,
        "upper": _number(outcome.upper),
        "n_automorphisms": outcome.n_automorphisms,
        "time_s": seconds,
    }
    if outcome.reason:
        row["reason"] = outcome.reason
    if options.assignment:
        row["assignment"] = [list(pair) for pair in outcome.mapping]
    if outcome.status != "failed" and options.minimize:
        rows = [list(outcome.rotation[i : i + 3]) for i in (0, 3, 6)]
        row |= {"rotation": rows, "translation": list(outcome.translation)}
    return row


def _cross(options: Options, comparer: Comparer, records: list[Record], problems: Problems) -> None:
    started = time.perf_counter()
    matrix, reasons = comparer.matrix(records)
    k = len(records)
    seconds = time.perf_counter() - started
    for record, reason in reasons:
        problems.report(record, reason)
    if options.csv:
        table = _table(PAIR_COLUMNS)
        for j, second in enumerate(records):
            for i, first in enumerate(records[:j]):
                table.writerow((*_named(first), *_named(second), f"{matrix[i * k + j]:.6f}"))
    elif options.json:
        rows = [[_number(value) for value in matrix[i * k : i * k + k]] for i in range(k)]
        said = [_about(record) | {"reason": reason} for record, reason in reasons]
        _dump({"records": [_about(record) for record in records], "rmsd": rows, "problems": said, "time_s": seconds})
    else:
        step = PIECE // (k + 1) + 1
        for row in range(0, k, step):
            sys.stdout.write(rows_text(matrix, k, row, min(row + step, k)))
        if options.verbose:
            print(f"Cross RMSD calculation completed in {seconds:.6f} seconds.")


def _named(record: Record) -> tuple[str, int, str]:
    return record.file, record.number, record.title


def _about(record: Record) -> dict[str, Any]:
    return {"file": record.file, "record": record.number, "title": record.title}


def _number(value: float) -> float | None:
    """JSON has no infinity."""
    return value if value < INFINITY else None


def _table(columns: Sequence[str]) -> Any:
    import csv

    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(columns)
    return table


def _dump(document: dict[str, Any]) -> None:
    import json

    print(json.dumps(document, allow_nan=False))
