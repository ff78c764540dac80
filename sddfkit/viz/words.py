"""Numbers, durations and names as a reader wants to see them."""

import math
import re
from typing import Any

PROGRAMS = {"pyscf": "PySCF", "psi4": "Psi4", "tblite": "tblite", "xtb": "xtb"}
METHODS = {"gfn1-xtb": "GFN1-xTB", "gfn2-xtb": "GFN2-xTB", "hf": "HF", "mp2": "MP2"}
COUNTED = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def number(value: float | None, digits: int | None = None) -> str:
    """Return `value` with `digits` significant digits (three from 1 upwards, else two); a dash for None and NaN.

    >>> number(12.3456), number(0.04567), number(-3.0), number(12345.6), number(None)
    ('12.3', '0.046', '−3.00', '12\u202f346', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    digits = digits or (3 if abs(value) >= 1 else 2)
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
    return f"{value:,.{decimals}f}".replace(",", "\u202f").replace("-", "−")


def count(n: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun.

    >>> count(1, "conformer"), count(1200, "conformer"), count(0, "entry", "entries")
    ('1 conformer', '1\u202f200 conformers', '0 entries')
    """
    return f"{number_of(n)} {noun if n == 1 else plural or noun + 's'}"


def number_of(n: int) -> str:
    """Return an integer with thin spaces between thousands.

    >>> number_of(12345)
    '12\u202f345'
    """
    return f"{n:,}".replace(",", "\u202f")


def spelled(n: int, noun: str) -> str:
    """Return small numbers as words, for prose.

    >>> spelled(5, "network"), spelled(1, "network"), spelled(12, "network")
    ('five networks', 'one network', '12 networks')
    """
    return f"{COUNTED[n]} {noun if n == 1 else noun + 's'}" if 0 <= n < len(COUNTED) else count(n, noun)


def duration(seconds: float | None) -> str:
    """Return a wall time with the two largest units that matter.

    >>> duration(0.4), duration(42), duration(123), duration(4321), duration(7200), duration(float("nan"))
    ('0.4 s', '42 s', '2 min 3 s', '1 h 12 min', '2 h', '–')
    """
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min")] if hours else [(minutes, "min"), (rest, "s")]
    return " ".join(f"{n} {unit}" for n, unit in parts if n)


def core_time(hours: float | None) -> tuple[str, str]:
    """Return computing time as (value, unit), in the unit that keeps the number readable.

    >>> core_time(2.31), core_time(0.1), core_time(0.001)
    (('2.31', 'core hours'), ('6.00', 'core minutes'), ('3.60', 'core seconds'))
    """
    if hours is None or hours >= 1 or not math.isfinite(hours):
        return number(hours), "core hours"
    return (number(60 * hours), "core minutes") if hours >= 1 / 60 else (number(3600 * hours), "core seconds")


def level_of(level: dict[str, Any]) -> str:
    """Return method/basis as chemists write it.

    >>> level_of({"method": "wb97x", "basis": "6-31G(d)"}), level_of({"method": "gfn2-xtb", "basis": None})
    ('ωB97X/6-31G(d)', 'GFN2-xTB')
    """
    method = METHODS.get(str(level["method"]).lower(), str(level["method"]))
    if re.match(r"wb97", method, re.IGNORECASE):
        method = "ω" + method[1:].upper()
    return f"{method}/{level['basis']}" if level.get("basis") else method


def program_of(level: dict[str, Any]) -> str:
    """Return the program with its version, in its own spelling."""
    name = str(level["program"])
    return f"{PROGRAMS.get(name.lower(), name)} {level['version']}"


def sentence(text: str) -> str:
    """Return the text with a full stop, unless it ends with one.

    >>> sentence("first that is installed"), sentence("Why not?")
    ('first that is installed.', 'Why not?')
    """
    return text if text.endswith((".", "!", "?")) else text + "."


def listing(words: list[str]) -> str:
    """Join words as in a sentence.

    >>> listing(["C", "H", "N"]), listing(["C"]), listing([])
    ('C, H and N', 'C', '')
    """
    return " and ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)
