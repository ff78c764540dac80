import numpy as np
from numpy.typing import NDArray

from flashrmsd_cy._pack import Blocks, Packed

Float = NDArray[np.float64]

class Search:
    """One packed plan with the working memory of one thread. Arrays are C-contiguous float64, maps int32."""

    steps: int
    def __init__(self, plan: Packed, blocks: Blocks | None = None) -> None: ...
    def in_place(self, a: Float, b: Float, mapping: NDArray[np.int32]) -> float: ...
    def in_place_row(self, positions: Float, row: int, out: Float) -> None: ...
    def fit(
        self,
        a: Float,
        b: Float,
        mapping: NDArray[np.int32],
        rotation: Float,
        translation: Float,
        step_limit: int | None = None,
        deadline: float | None = None,
    ) -> tuple[float, float, bool]: ...
    def fit_row(
        self,
        positions: Float,
        row: int,
        out: Float,
        step_limit: int | None = None,
        deadline: float | None = None,
    ) -> int: ...
    def first_near(
        self,
        positions: Float,
        kept: NDArray[np.intp],
        row: int,
        threshold: float,
        align: bool,
        deadline: float | None = None,
    ) -> tuple[int, bool]: ...
