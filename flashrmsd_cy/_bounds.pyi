from array import array
from typing import final

from typing_extensions import Buffer

@final
class Profiles:
    """What bounds need of k conformers, prepared once: positions (k, n, 3) float64, Å; classes (n,) int32."""

    n_conformers: int
    n_atoms: int
    n_classes: int
    align: bool
    def __init__(self, positions: Buffer, classes: Buffer, align: bool) -> None: ...
    def lower(self, i: int, j: int) -> float: ...
    def lower_row(self, i: int, out: Buffer) -> None: ...
    def undecided(self, i: int, others: Buffer, threshold: float, left: Buffer) -> int: ...

def orbits(n_atoms: int, pair_i: Buffer, pair_j: Buffer) -> array[int]: ...
