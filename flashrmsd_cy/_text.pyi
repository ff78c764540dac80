from array import array

from typing_extensions import Buffer

MOLECULE: str

class Topology:
    elements: tuple[int | str, ...]
    bonds: tuple[tuple[int, int, int], ...]
    charges: tuple[int, ...] | None
    def __init__(
        self,
        elements: tuple[int | str, ...],
        bonds: tuple[tuple[int, int, int], ...],
        charges: tuple[int, ...] | None = None,
    ) -> None: ...

class Record:
    file: str
    number: int
    line: int
    title: str
    topology: Topology | None
    positions: array[float]
    problem: str
    def place(self, atoms: Buffer, out: Buffer, first: int = 0) -> None: ...

class Topologies:
    def __init__(self, charges: bool = False) -> None: ...
    def record(
        self, file: str, number: int, line: int, text: bytes, start: int, stop: int, at_end: bool, mol2: bool
    ) -> Record: ...

def rows_text(values: Buffer, columns: int, first: int, stop: int) -> str: ...
