"""The command ``flashrmsd``: arguments and help. Its start is much of its time: it loads little, and no NumPy."""

from __future__ import annotations

import os
import sys

from flashrmsd_cy import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HELP = """\
usage: flashrmsd QUERY... TEMPLATE [-m] [options]     each record of QUERY against the first record of TEMPLATE
       flashrmsd FILE... -x [-m] [options]            all pairs among the records of the files

Exact symmetry-corrected RMSD in Å: the least over all ways to match atoms that keep elements and bonds.
Files: SDF and MOL (V2000, V3000), MOL2; also gzipped; '-' is standard input.

  -m, --minimize      after the best rotation and translation (conformers); without it nothing is moved (docking poses)
  -x, --cross         the matrix of all pairs
  -h, --hydrogens     compare all atoms; without it those that are not H, D or T
  -b, --bonds         bonds match only bonds of the same type, as written in the files (aromatic is a type of its own)
  --charges           atoms match only atoms of the same formal charge (SDF and MOL; MOL2 has none)
  -n, --naive         try every matching, one by one: slow, for validation
  -a, --assignment    after each number the matching: atom of the template -> atom of the query (not with -x)
  -v, --verbose       say in words, with timings

  --template FILE     the template; all other files are queries
  --level N           a plainer search, slow and as exact: 1 atom by atom, 2 forced atoms first, 3 parts by themselves
  --time-limit S      at most S seconds for a pair
  --threads N         so many threads for the matrix of -x; the numbers are the same
  --csv, --json       tables and documents instead of bare numbers
  --help, --version

Output: one number for each record, or n lines of n numbers, 6 decimals. Records and atoms count from 0.
A pair that could not be computed prints 'inf' in its place, and the reason on standard error: another molecule, a
record that cannot be read, or the time limit, when the RMSD is known to lie between two bounds only.
Exit code: 0 if every pair was computed, else 2.
"""


class UsageError(Exception):
    """Arguments that make no sense together, or that are unknown."""


class Options:
    """What was asked for."""

    minimize = cross = hydrogens = bonds = naive = assignment = verbose = False
    charges = csv = json = help = version = False
    template: str = ""
    threads: int = 1
    level: int | None = None
    time_limit: float | None = None

    def __init__(self) -> None:
        self.files: list[str] = []


LETTERS = {
    "m": "minimize",
    "x": "cross",
    "h": "hydrogens",
    "b": "bonds",
    "n": "naive",
    "a": "assignment",
    "v": "verbose",
}
SWITCHES = (*LETTERS.values(), "charges", "csv", "json", "help", "version")
WITH_VALUE = ("template", "time-limit", "threads", "level")
MOST_THREADS = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0 if every pair was computed, else 2; 130 if interrupted."""
    try:
        options = parse(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        print(f"flashrmsd: {error}\ntry: flashrmsd --help", file=sys.stderr)
        return 2
    if options.help:
        print(HELP, end="")
        return 0
    if options.version:
        print(f"flashrmsd {__version__}")
        return 0
    from flashrmsd_cy._command import run

    try:
        code = run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("flashrmsd: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        # A pipe whose reader went away is no news, a full disk is. Nothing may be written at exit either.
        if not isinstance(error, BrokenPipeError):
            print(f"flashrmsd: the output could not be written: {error.strerror or error}", file=sys.stderr)
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115
        return 2
    return code


def parse(argv: Sequence[str]) -> Options:
    """Arguments to options; switches may stand anywhere and be joined (``-xm``). Raises UsageError."""
    options = Options()
    words = list(argv)
    while words:
        word = words.pop(0)
        if word == "--":
            options.files += words
            break
        if word.startswith("--"):
            _long_option(options, word, words)
        elif word.startswith("-") and word != "-":
            for letter in word[1:]:
                if letter not in LETTERS:
                    raise UsageError(f"there is no option -{letter}; the short ones are -{' -'.join(LETTERS)}")
                setattr(options, LETTERS[letter], True)
        else:
            options.files.append(word)
    if not (options.help or options.version):
        _check(options)
    return options


def _long_option(options: Options, word: str, words: list[str]) -> None:
    name, equals, value = word[2:].partition("=")
    if name in SWITCHES and not equals:
        setattr(options, name, True)
    elif name in WITH_VALUE:
        if not equals:
            if not words:
                raise UsageError(f"--{name} needs a value")
            value = words.pop(0)
        if name == "template":
            options.template = value
        elif name == "threads":
            options.threads = _whole(name, value, MOST_THREADS)
        elif name == "level":
            options.level = _whole(name, value, 3)
        else:
            options.time_limit = _seconds(value)
    else:
        from difflib import get_close_matches

        near = get_close_matches(name, (*SWITCHES, *WITH_VALUE), n=1)
        raise UsageError(f"there is no option {word}" + (f"; did you mean --{near[0]}?" if near else ""))


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise UsageError(f"--time-limit {text}: expected a number of seconds, more than zero")
    return seconds


def _whole(name: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or not 1 <= int(text[:9]) <= most:
        raise UsageError(f"--{name} {text}: expected a number from 1 to {most}")
    return int(text)


def _check(options: Options) -> None:
    """Refuse what contradicts itself; name the template."""
    if options.csv and options.json:
        raise UsageError("--csv and --json are two forms of one output: choose one")
    if options.naive and options.time_limit is not None:
        raise UsageError("--naive has no time limit: it is the plain search that the other is checked against")
    if options.naive and options.level is not None:
        raise UsageError("--naive and --level are two searches: choose one")
    if options.cross and options.template:
        raise UsageError("-x compares the records with each other, so --template has no part in it")
    if not options.files:
        raise UsageError("a file is missing")
    if not options.cross and not options.template:
        if len(options.files) < 2:
            raise UsageError("a template to compare with is missing; or -x, for all pairs among the records of a file")
        options.template = options.files.pop()
    if [*options.files, options.template].count("-") > 1:
        raise UsageError("standard input can be read only once")
