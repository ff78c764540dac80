"""``sddfkit store``: what a store holds, what failed, and what can be done about it.

Help loads nothing; a command loads the factory.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from sddfkit.plain_command import UsageError, ended

if TYPE_CHECKING:
    from sddfkit.factory.store import Store

STORE_NAME: Final = "store.sqlite"
TAIL_LINES: Final = 12
TAKEN_WITHIN_S: Final = 5.0


def main(argv: Sequence[str]) -> int:
    """Run one command and return the exit code: 0 done, 1 failed or the store is not well, 2 used wrongly."""
    given = _parser().parse_args(argv)
    return ended("store", lambda: int(given.run(given)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sddfkit store",
        description="What a store holds, what failed, and what can be done. Looking never disturbs a running job.",
        epilog="Exit codes: 0 done, 1 failed, or something is wrong with the store, 2 the command is wrong.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.add_argument(
            "--store",
            metavar="STORE",
            help="a file, its folder, sqlite:///PATH or postgresql+psycopg://USER@HOST/DATABASE (default: store.sqlite "
            "in SDDFKIT_ROOT or ./sddfkit-data)",
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("stats", _stats, "counts by state, error class and level; core hours, memory, file size")
    form = sub.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="everything as one JSON object")
    form.add_argument("--csv", action="store_true", help="the table by level, program, state and error class")

    sub = command("failures", _failures, "what failed, alike failures together, each with an example")
    sub.add_argument("--class", dest="classes", action="append", default=[], metavar="C", help="only this error class")
    sub.add_argument("--limit", type=_positive, metavar="N", help="N groups at most (default: 10, in JSON all)")
    sub.add_argument("--json", action="store_true", help="a JSON list")

    sub = command("retry", _retry, "failed and held calculations are tried again by the next job that asks for them")
    sub.add_argument("--class", dest="classes", action="append", default=[], metavar="C", help="only this error class")
    sub.add_argument(
        "--key", dest="keys", nargs="+", default=[], metavar="KEY",
        help="only these (the first digits are enough), also if their input is wrong",
    )  # fmt: skip

    sub = command("stop", _stop, "the job gives nothing more to its engines, takes in what they finish, and ends")
    sub.add_argument("--batch", metavar="NAME", help="only if it works on this batch")
    sub.add_argument("--now", action="store_true", help="do not wait for what the engines compute")

    sub = command("verify", _verify, "read everything and say what is damaged, missing or senseless")
    sub.add_argument("--json", action="store_true", help="one JSON object")

    sub = command("merge", _merge, "take over the results of other stores; conflicts are named and kept out")
    sub.add_argument("others", nargs="+", metavar="OTHER", help="another store")

    sub = command(
        "export", _export, "labelled records as a Parquet snapshot with a manifest, ready for `sddfkit train`"
    )
    sub.add_argument("folder", type=Path, metavar="FOLDER", help="where the snapshot is made; must not exist")
    sub.add_argument("--level", help="which level, if there are several")
    sub.add_argument("--program", help="by which program, if there are several")
    sub.add_argument("--licence", default="", help="under which the data may be used, for the manifest")
    sub.add_argument("--citation", default="", help="what to cite, for the manifest")

    sub = command("import", _import, "labels that were computed elsewhere: HDF5 of the ANI family, ASE, SDF, npz")
    _import_options(sub)
    return parser


def _import_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a file, or a folder of SDF, MOL or npz files")
    formats = "auto, ani, ase, sdf, sddf-npz or conformer-benchmark"
    sub.add_argument("--format", default="auto", metavar="F", help=f"{formats} (default: by suffix and content)")
    sub.add_argument("--level", metavar="L", help="level of theory, where the file does not name it: 'wB97X/6-31G(d)'")
    sub.add_argument("--program", default="unknown", metavar="P", help="program that computed the labels")
    sub.add_argument("--program-version", default="", metavar="V", help="its version")
    sub.add_argument("--energy", metavar="NAME", help="which of the energies that the file holds")
    sub.add_argument("--energy-unit", metavar="U", help="hartree, eV, meV, kcal/mol or kJ/mol")
    sub.add_argument("--length-unit", metavar="U", help="angstrom, bohr or nm")
    sub.add_argument("--force-unit", metavar="U", help="such as hartree/bohr (default: from the two others)")
    sub.add_argument("--forces", choices=("forces", "gradient"), help="what the forces of the file really are")
    sub.add_argument(
        "--zero", choices=("total", "above-atoms"),
        help="whether energies are total, or those of isolated atoms were removed and are to be added again",
    )  # fmt: skip
    sub.add_argument("--isolated-atoms", type=Path, metavar="JSON", help='their energies: {"H": -0.5, "C": -37.8}')
    sub.add_argument("--charge", type=int, metavar="Q", help="total charge of every molecule, where the file is silent")
    sub.add_argument("--multiplicity", type=_positive, metavar="M", help="2S + 1 of every molecule (default: 1)")
    sub.add_argument("--bonds", choices=("auto", "none"), default="auto", help="none: leave them out")
    sub.add_argument("--limit", type=_positive, metavar="N", help="the first N frames of each file")


def _stats(given: argparse.Namespace) -> int:
    from sddfkit.factory.survey import stats

    with reading(given.store) as store:
        found = stats(store)
    if given.json:
        print(json.dumps(found, indent=1))
        return 0
    names = [
        "level", "program", "program_version", "state", "error_class",
        "calculations", "attempts", "core_hours", "wall_hours", "peak_rss_mib",
    ]  # fmt: skip
    if given.csv:
        import csv

        writer = csv.DictWriter(sys.stdout, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(found["groups"])
        return 0
    who = found["writer"]
    by = (
        f"process {who['pid']} on {who['host']} writes it (last heard of {who['heartbeat']})"
        if who
        else "nobody writes it"
    )
    print(f"store: {found['store']}, {found['file_bytes'] / 2**20:.1f} MiB; {by}")
    print(f"calculations: {_counted(found['states'])} of {found['records']} records; {found['attempts']} attempts")
    if found["error_classes"]:
        print(f"failures: {_counted(found['error_classes'])}; see sddfkit store failures")
    if found["spooled"]:
        print(f"spool: {found['spooled']} results wait; the next job takes them over")
    print(
        f"cost: {found['core_hours']:.3f} core hours, {found['wall_hours']:.3f} h of program wall time, "
        f"at most {found['peak_rss_mib']:.0f} MiB"
    )
    head = ["level", "program", "version", "state", "error", "number", "attempts", "core h", "wall h", "peak MiB"]
    print(_table(head, [[_cell(row[name]) for name in names] for row in found["groups"]]), end="")
    return 0


def _failures(given: argparse.Namespace) -> int:
    from sddfkit.factory.survey import failure_groups

    _check_classes(given.classes)
    with reading(given.store) as store:
        found = failure_groups(store, given.classes)
    if given.json:
        print(json.dumps(found[: given.limit], indent=1))
        return 0
    limit = given.limit or 10
    if not found:
        print("no failures" + (f" of class {', '.join(given.classes)}" if given.classes else ""))
    for item in found[:limit]:
        held = f", {item['held']} of them held" if item["held"] else ""
        print(f"{item['count']} × {item['error_class']}{held}: {item['error_message']}")
        molecule = f" ({item['molecule_id']})" if item["molecule_id"] else ""
        print(f"  for example {item['key'][:12]}, {item['label']}{molecule}")
        for line in item["output_tail"].rstrip().splitlines()[-TAIL_LINES:]:
            print(f"    | {line}")
    if len(found) > limit:
        rest = sum(item["count"] for item in found[limit:])
        print(f"and {len(found) - limit} groups more, with {rest} failures: --limit {len(found)} shows all")
    return 0


def _retry(given: argparse.Namespace) -> int:
    from sddfkit.factory.reopen import ReopenError, reopen
    from sddfkit.factory.store import Store

    _check_classes(given.classes)
    with reading(given.store) as reader:  # nothing is made or changed where no store is
        writer, folder = reader.writer(), reader.inbox
        alone = not reader.database.shared
    if writer is not None and alone:
        return _ask(writer, folder, {"do": "retry", "classes": given.classes, "keys": given.keys})
    try:
        with Store(_where(given.store)) as store:
            found = reopen(store, classes=given.classes, keys=given.keys)
    except ReopenError as error:
        raise UsageError(str(error)) from error
    if found:
        print(f"ready again: {_counted(found)}; give the command that asked for them once more")
    else:
        print("nothing to retry")
    return 0


def _stop(given: argparse.Namespace) -> int:
    with reading(given.store) as reader:
        writer, folder = reader.writer(), reader.inbox
    if writer is None:
        print("nothing to stop: no process writes the store")
        return 0
    return _ask(writer, folder, {"do": "stop", "batch": given.batch, "now": given.now})


def _ask(writer: Any, folder: Path, request: dict[str, Any]) -> int:
    """Leave a request for the process that writes the store, and say whether it has taken it."""
    from sddfkit.factory import inbox

    who = f"process {writer['pid']} on {writer['host']}, which writes the store"
    if inbox.waits_for(inbox.leave(folder, request), TAKEN_WITHIN_S):
        print(f"{request['do']}: taken over by {who}")
    else:
        print(f"{request['do']}: left for {who}; it takes it over as soon as it computes")
    return 0


def _verify(given: argparse.Namespace) -> int:
    from sddfkit.factory.verify import verify

    with reading(given.store) as store:
        found = verify(store)
        name = store.name
    if given.json:
        problems = [problem._asdict() for problem in found.problems]
        print(json.dumps({"store": name, **found._asdict(), "problems": problems}, indent=1))
    else:
        for key, what in found.problems:
            print(f"{key[:12]}: {what}" if key else what)
        words = f"not whole ({len(found.problems)} found)" if found.problems else "whole"
        again = f" ({found.repeated} done more than once)" if found.repeated else ""
        print(f"{name}: {words}; {found.calculations} calculations and {found.done} results read{again}")
    return 1 if found.problems else 0


def _merge(given: argparse.Namespace) -> int:
    from sddfkit.factory.merge import merge
    from sddfkit.factory.store import Store

    where = _where(given.store)
    for other in given.others:  # before anything is changed
        reading(other).close()
    if isinstance(where, Path):
        if where.exists():
            reading(given.store).close()  # nothing is changed where something else is
        else:
            print(f"a new store: {where}")
    conflicts = 0
    with Store(where) as store:
        for name in given.others:
            with reading(name) as other:
                found = merge(store, other)
            print(
                f"{other.name}: {found.taken} results and {found.failures} failures taken over, {found.known} known "
                f"before, {found.open} still open there, {len(found.conflicts)} conflicts"
            )
            for conflict in found.conflicts:
                print(f"  kept out {conflict.key[:12]}, {conflict.label}: {conflict.reason}")
            conflicts += len(found.conflicts)
    return 1 if conflicts else 0


def _export(given: argparse.Namespace) -> int:
    from sddfkit.factory.store import StoreError
    from sddfkit.workflows.export import export_snapshot

    with reading(given.store) as store:
        try:
            export_snapshot(
                store,
                given.folder.absolute(),
                **{name: getattr(given, name) for name in ("level", "program", "licence", "citation")},
            )
        except OSError as error:
            raise StoreError(f"{given.folder} cannot be written: {error.strerror}; choose another folder") from error
    return 0


def _import(given: argparse.Namespace) -> int:
    from sddfkit.data.readers import Stated, open_labels
    from sddfkit.factory.store import Store
    from sddfkit.workflows.imports import import_labels, read_isolated_atoms, say_imported

    names = ("energy", "energy_unit", "length_unit", "force_unit", "forces", "zero", "level", "charge", "bonds")
    atoms = None if given.isolated_atoms is None else read_isolated_atoms(given.isolated_atoms)
    stated = Stated(
        isolated_atoms=atoms, multiplicity=given.multiplicity, **{name: getattr(given, name) for name in names}
    )
    of = {"format": given.format, "program": given.program, "version": given.program_version, "limit": given.limit}
    if missing := [str(file) for file in given.files if not file.exists()]:
        raise UsageError(f"no such file: {missing[0]}")
    for file in given.files:  # before anything is made or changed
        open_labels(file, stated, format=given.format)
    bad = 0
    with Store(_where(given.store)) as store:
        for file in given.files:
            found = import_labels(store, file, stated, **of)
            say_imported(file, found)
            bad += bool(found.conflicts) or found.new + found.known == 0
    return 1 if bad else 0


def _where(text: str | None) -> Path | str:
    """Return the file or the server's database that is meant by a path, a folder, a URL, or nothing."""
    if text is None:
        return _root() / STORE_NAME
    scheme, separator, rest = text.partition("://")
    if separator and scheme in ("postgres", "postgresql", "postgresql+psycopg"):
        return text
    if separator and (scheme != "sqlite" or not rest.removeprefix("/")):
        raise UsageError(
            f"--store {text}: expected the path of an SQLite file, sqlite:///PATH or "
            "postgresql+psycopg://USER@HOST/DATABASE"
        )
    path = Path(rest.removeprefix("/") if separator else text).expanduser().absolute()
    return path / STORE_NAME if path.is_dir() else path


def reading(text: str | None) -> "Store":
    """Open the store that is meant by a path, a folder, a URL, or nothing, for a look."""
    from sddfkit.factory.store import Store, StoreError

    where = _where(text)
    if isinstance(where, Path) and not where.is_file():
        raise StoreError(f"there is no store at {where}: label something first, or give --store STORE")
    return Store(where, spool=None if isinstance(where, Path) else _root() / "spool", read_only=True)


def _root() -> Path:
    return Path(os.environ.get("SDDFKIT_ROOT") or "sddfkit-data").absolute()


def _check_classes(classes: Collection[str]) -> None:
    if not classes:
        return
    from sddfkit.factory.retry import BUDGET

    if unknown := sorted(set(classes) - BUDGET.keys()):
        raise UsageError(f"there is no error class {unknown[0]!r}; the classes are {', '.join(BUDGET)}")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def _counted(counts: dict[str, int]) -> str:
    """3 (done 2, failed 1)."""
    each = ", ".join(f"{name} {count}" for name, count in counts.items())
    return f"{sum(counts.values())} ({each})" if counts else "0"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be: words to the left, numbers (from the sixth on) to the right."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i < 5 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    )
    return "".join(f"{line.rstrip()}\n" for line in lines) if rows else ""
