"""What all figures share: colours, an empty panel in the report's style, legend and logarithmic axes.

The figures are built without pyplot: nothing here touches Matplotlib's global state. Colours are Okabe and Ito's, which
colour-blind readers can tell apart (https://jfly.uni-koeln.de/color/); series differ in marker or dash as well.
"""

from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from numpy.typing import NDArray

INK: Final = "#1f2328"
MUTED: Final = "#5f6771"
GRID: Final = "#dfe3e8"
BLUE: Final = "#0072b2"
ORANGE: Final = "#e69f00"
SERIES: Final = ("#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#b59a00", "#7a7a7a")
MARKERS: Final = ("o", "s", "^", "D", "v", "P")


def panel(width: float, height: float) -> tuple[Figure, Axes]:
    """Return an empty, transparent panel of `width` × `height` inches in the report's style."""
    figure = canvas(width, height)
    axes = figure.add_subplot()
    dress(axes)
    return figure, axes


def canvas(width: float, height: float) -> Figure:
    """Return an empty, transparent figure of `width` × `height` inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    return figure


def dress(axes: Axes) -> None:
    """Give axes the report's style."""
    axes.patch.set_alpha(0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED)
    axes.tick_params(which="both", color=MUTED, labelcolor=MUTED, labelsize=9)
    axes.xaxis.label.set(color=INK, fontsize=9.5)
    axes.yaxis.label.set(color=INK, fontsize=9.5)
    axes.grid(True, color=GRID, lw=0.7)
    axes.set_axisbelow(True)


def legend(figure: Figure, axes: Axes, room: int = 70) -> None:
    """Put the legend below the panel, in as many columns as `room` characters allow (a handle counts as six)."""
    labels = axes.get_legend_handles_labels()[1]

    def width(columns: int) -> int:
        return sum(max(map(len, part)) + 6 for part in np.array_split(np.array(labels), columns) if part.size)

    columns = next((n for n in (4, 3, 2) if width(n) <= room), 1)
    style = {"frameon": False, "fontsize": 8.5, "labelcolor": INK, "columnspacing": 1.0, "handlelength": 1.6}
    figure.legend(loc="outside lower center", ncols=columns, **style)


def nothing(figure: Figure, axes: Axes, why: str) -> Figure:
    axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", va="center", color=MUTED)
    axes.set(xticks=[], yticks=[])
    return figure


def log_axis(axes: Axes, values: NDArray[np.float64]) -> None:
    """Make y logarithmic with plain numbers on it, unless an error of zero (or none at all) forbids that."""
    finite = values[np.isfinite(values)]
    if not finite.size or finite.min() <= 0:
        axes.set_ylim(bottom=0)
        return
    axes.set_yscale("log")
    axes.set_ylim(0.8 * finite.min(), 1.25 * finite.max())
    plain_log_ticks(axes.yaxis, *axes.get_ylim())


def plain_log_ticks(axis: Any, low: float, high: float) -> None:
    """Label 1, 2 and 5 of each decade as plain numbers; more of them where low to high holds fewer than three."""
    ticks: list[float] = []
    for digits in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7), tuple(range(1, 10))):
        ticks = [digit * 10.0**power for power in range(-6, 7) for digit in digits]
        if sum(low <= tick <= high for tick in ticks) >= 3:
            break
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
