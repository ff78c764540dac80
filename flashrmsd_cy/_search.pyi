from array import array
from typing import Any

from flashrmsd_cy._pack import Blocks, Packed

class Search:
    """One packed plan with the working memory of one thread. Arrays are C-contiguous float64, maps int32."""

    steps: int
    nearest: float
    def __init__(self, plan: Packed, blocks: Blocks | None = None) -> None: ...
    def copy(self) -> Search: ...
    def in_place(self, a: Any, b: Any, mapping: Any) -> float: ...
    def fit(
        self,
        a: Any,
        b: Any,
        mapping: Any,
        rotation: Any,
        translation: Any,
        step_limit: int | None = None,
        deadline: float | None = None,
    ) -> tuple[float, float, bool]: ...
    def matrix_rows(
        self,
        positions: Any,
        out: Any,
        counter: array[int],
        align: bool,
        step_limit: int | None = None,
        deadline: float | None = None,
    ) -> tuple[int, int] | None: ...
    def table_rows(
        self,
        a: Any,
        b: Any,
        out: Any,
        counter: array[int],
        align: bool,
        step_limit: int | None = None,
        deadline: float | None = None,
    ) -> tuple[int, int] | None: ...
    def first_near(
        self,
        positions: Any,
        kept: Any,
        row: int,
        threshold: float,
        align: bool,
        deadline: float | None = None,
        counter: array[int] | None = None,
    ) -> tuple[int, bool]: ...
