from array import array
from typing import Any, final

@final
class Profiles:
    """What bounds need of k conformers, prepared once: positions (k, n, 3) float64, Å; classes (n,) int32."""

    n_conformers: int
    n_atoms: int
    n_classes: int
    align: bool
    def __init__(self, positions: Any, classes: Any, align: bool) -> None: ...
    def lower(self, i: int, j: int) -> float: ...
    def lower_row(self, i: int, out: Any) -> None: ...
    def undecided(self, i: int, others: Any, threshold: float, left: Any) -> int: ...

def orbits(n_atoms: int, pair_i: Any, pair_j: Any) -> array[int]: ...
