"""Basis sets that PySCF and Psi4 define alike, and the elements both of them cover.

Both programs read many spellings, and PySCF accepts a misspelt one such as ``6-31g(foo)`` without a word; so a
calculation may only name a basis set of this table. To add one, compare the energies of the programs first.
"""

from __future__ import annotations

import difflib
from typing import Final, NamedTuple


class BasisSet(NamedTuple):
    """What both programs need to know of a basis set.

    elements : atomic numbers that both programs cover
    cartesian : whether d functions are Cartesian (six) by the definition of the set
    """

    elements: frozenset[int]
    cartesian: bool


def _z(*ranges: tuple[int, int]) -> frozenset[int]:
    return frozenset(z for first, last in ranges for z in range(first, last + 1))


_H_TO_ZN: Final = _z((1, 30))

ORBITAL: Final[dict[str, BasisSet]] = {
    "sto-3g": BasisSet(_z((1, 36)), False),
    "6-31g": BasisSet(_H_TO_ZN, True),
    "6-31g*": BasisSet(_H_TO_ZN, True),
    "6-31g(d)": BasisSet(_H_TO_ZN, True),
    "6-31g**": BasisSet(_H_TO_ZN, True),
    "6-31g(d,p)": BasisSet(_H_TO_ZN, True),
    "6-31+g(d)": BasisSet(_z((1, 20)), True),
    "6-31+g(d,p)": BasisSet(_z((1, 20)), True),
    "cc-pvdz": BasisSet(_z((1, 18), (20, 36)), False),
    "cc-pvtz": BasisSet(_z((1, 18), (20, 36)), False),
    "def2-svp": BasisSet(_z((1, 36)), False),
    "def2-tzvp": BasisSet(_z((1, 36)), False),
}

AUXILIARY: Final[dict[str, frozenset[int]]] = {
    "cc-pvdz-jkfit": _z((1, 1), (5, 10), (13, 18), (31, 36)),
    "cc-pvtz-jkfit": _z((1, 1), (5, 10), (13, 18), (31, 36)),
}


def orbital(name: str) -> BasisSet:
    """Look up an orbital basis set by name, in any case.

    Raises
    ------
    KeyError
        For a name not in the table; the message offers the nearest names.

    Examples
    --------
    >>> orbital("6-31G(d)").cartesian
    True
    """
    try:
        return ORBITAL[name.lower()]
    except KeyError:
        near = difflib.get_close_matches(name.lower(), ORBITAL, n=3, cutoff=0.5) or sorted(ORBITAL)
        raise KeyError(
            f"basis set {name!r} is not one that PySCF and Psi4 share; did you mean {', '.join(near)}?"
        ) from None
