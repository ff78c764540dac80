"""Programs behind QCEngine's `ProgramHarness`, one file each.

`register` puts ours into QCEngine's table of this process (replacing its own "psi4", which cannot drive Psi4 before
1.4). Importing this package loads none of the programs; a harness does so when it first computes.
"""

from __future__ import annotations

from typing import Final

import qcengine

from sddfkit.qc.harnesses.base import Harness
from sddfkit.qc.harnesses.psi4 import Psi4Harness
from sddfkit.qc.harnesses.pyscf import PyscfHarness
from sddfkit.qc.harnesses.tblite import TbliteHarness

HARNESSES: Final[dict[str, Harness]] = {
    harness.name: harness for harness in (Psi4Harness(), PyscfHarness(), TbliteHarness())
}
"""Program name to its harness."""


def register() -> None:
    """Make QCEngine use our harnesses; calling it again changes nothing."""
    for name, harness in HARNESSES.items():
        if name in qcengine.list_all_programs():
            qcengine.unregister_program(name)
        qcengine.register_program(harness)


__all__ = ["HARNESSES", "Harness", "register"]
