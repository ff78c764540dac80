"""Symmetry-corrected RMSD of molecular conformations, exact in the fixed frame and after a fit. NumPy only.

Concepts
--------
A molecule with symmetric parts can be numbered in many equivalent ways; comparing atom 3 with atom 3 then reports a
difference where there is none. The symmetry-corrected RMSD is the least over all *mappings*: one-to-one assignments of
atoms that keep elements and bonds (isomorphisms of the molecular graphs).

- ``align=False``, fixed frame: nothing is moved. The question asked of docking poses.
- ``align=True``, minimised: also the best rotation (never a reflection) and translation. The question of conformers.

`Molecule` prepares a graph once; `rmsd` compares two conformations of it (or of two `Molecule` objects whose atoms come
in different orders); `rmsd_matrix` compares all pairs of k conformers, `rmsd_table` all of one list with all of
another, `rmsd_stream` conformers that come one by one; `distinct` drops near copies, `neighbours` says which pairs are
near. Every answer is proved, or says that it is only bounded because a limit was given (`Result.status`).

What corresponds to what is decided by elements and bonds, and if asked by bond types, charges and stereochemistry
(`Stereo`); with ``hydrogens=False`` by the heavy atoms alone.

The command ``flashrmsd`` does the same for SDF, MOL and MOL2 files: ``flashrmsd --help``.

Arrays
------
positions (n, 3) or (k, n, 3), Å, float64 or float32, read-only arrays too; mapping (n,) indices from 0; rotation (3, 3)
and translation (3,) move b onto a: ``a[i] ≈ rotation @ b[mapping[i]] + translation``.

>>> import numpy as np
>>> from flashrmsd_cy import Molecule, rmsd, rmsd_matrix
>>> methane = Molecule([6, 1, 1, 1, 1], [(0, 1), (0, 2), (0, 3), (0, 4)])
>>> x = np.array([[0, 0, 0], [1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) * 0.63
>>> round(rmsd(x, x[[0, 2, 1, 3, 4]], methane, align=False).value, 6)
0.0
>>> rmsd_matrix([x, 1.1 * x], methane, align=True).round(3).tolist()
[[0.0, 0.098], [0.098, 0.0]]
"""

TYPE_CHECKING = False  # as type checkers know it; the module typing takes longer to load than all of this package
if TYPE_CHECKING:
    from flashrmsd_cy._api import (
        Result,
        best_mapping,
        distinct,
        neighbours,
        rmsd,
        rmsd_matrix,
        rmsd_stream,
        rmsd_table,
    )
    from flashrmsd_cy._molecule import Molecule
    from flashrmsd_cy._stereo import Stereo
    from flashrmsd_cy.errors import FormatError, NotIsomorphicError, RMSDError, SearchLimitError

__version__ = "0.1.0"

__all__ = [
    "FormatError",
    "Molecule",
    "NotIsomorphicError",
    "RMSDError",
    "Result",
    "SearchLimitError",
    "Stereo",
    "best_mapping",
    "distinct",
    "neighbours",
    "rmsd",
    "rmsd_matrix",
    "rmsd_stream",
    "rmsd_table",
]

_MODULES = {"Molecule": "_molecule", "Stereo": "_stereo"} | dict.fromkeys(
    ("FormatError", "NotIsomorphicError", "RMSDError", "SearchLimitError"), "errors"
)


def __getattr__(name: str) -> object:
    # NumPy is loaded at the first use, so that the command's --help need not wait for it.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_MODULES.get(name, '_api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
