"""The figures of a report: plain arrays in, one Matplotlib Figure out.

Each figure holds one panel, so that a page can lay the panels out in columns or, on a phone, below each other.
"""

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from sddfkit.viz.panels import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    SERIES,
    legend,
    log_axis,
    nothing,
    panel,
    plain_log_ticks,
)
from sddfkit.viz.words import duration, number, number_of

# A scatter of more points than this is a black blob: beyond it the points are binned and the counts shaded.
MOST_POINTS: Final = 1500


def learning_curve(
    n_labelled: ArrayLike,
    ensemble: ArrayLike,
    members: Mapping[str, ArrayLike],
    baseline: ArrayLike,
    *,
    quantity: str,
    unit: str,
    guess_name: str = "composition only",
) -> Figure:
    """Draw test error against the number of labelled training conformers, one point per round.

    Parameters
    ----------
    n_labelled : (rounds,) int, labelled conformers in the training fold.
    ensemble : (rounds,) float, error of the ensemble's mean, in `unit`; NaN where unknown.
    members : name → (rounds,) float, error of each network by itself, in `unit`.
    baseline : (rounds,) float, error of a guess made without a network, in `unit`; `guess_name` is its name.
    quantity, unit : what the error is of, for the axis: "energy error (MAE)", "kcal/mol".
    """
    x, mean, guess = (np.asarray(values, dtype=float) for values in (n_labelled, ensemble, baseline))
    figure, axes = panel(4.7, 3.75)
    axes.plot(x, mean, color=BLUE, marker="o", lw=2.4, ms=6, label="ensemble", zorder=5)
    axes.plot(x, guess, color=INK, ls=(0, (5, 3)), lw=1.4, label=guess_name)
    if x.size == 1:
        axes.axhline(guess[0], color=INK, ls=(0, (5, 3)), lw=1.4)
    for i, (name, errors) in enumerate(members.items()):
        colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        axes.plot(
            x, np.asarray(errors, dtype=float), color=colour, marker=marker, lw=0.9, ms=3.5, alpha=0.85, label=name
        )
    every = [*mean, *guess, *(value for errors in members.values() for value in np.asarray(errors, dtype=float))]
    log_axis(axes, np.array(every))
    _round_ticks(axes, x)
    axes.set_xlabel("labelled conformers in the training fold")
    axes.set_ylabel(f"{quantity}, {unit}")
    legend(figure, axes)
    return figure


def parity(
    reference: ArrayLike,
    predicted: ArrayLike,
    *,
    quantity: str,
    unit: str,
    source: str,
    spread: ArrayLike | None = None,
    empty: str = "no finite pair of values",
) -> Figure:
    """Draw predicted against reference values on equal axes, with y = x, MAE and RMSE.

    Parameters
    ----------
    reference, predicted : (n,) float, in `unit`; pairs with a NaN are left out.
    source : where the reference values come from ("ωB97X/6-31G(d)"), for the axis.
    spread : (n,) float or None, standard deviation over the ensemble in `unit`, drawn as error bars.
    empty : what to say when there is nothing to draw.
    """
    x, y = np.asarray(reference, dtype=float), np.asarray(predicted, dtype=float)
    known = np.isfinite(x) & np.isfinite(y)
    x, y = x[known], y[known]
    figure, axes = panel(3.6, 3.4)
    # Placed by hand: the panels of a row then line up whatever the width of their tick labels.
    figure.set_layout_engine("none")
    axes.set_position((0.2, 0.155, 0.77, 0.815))
    axes.set_xlabel(f"{source} {quantity}, {unit}")
    axes.set_ylabel(f"predicted {quantity}, {unit}")
    if not x.size:
        return nothing(figure, axes, empty)
    bars = np.zeros_like(y) if spread is None else np.nan_to_num(np.asarray(spread, dtype=float)[known], posinf=0.0)
    low, high = float(min(x.min(), (y - bars).min())), float(max(x.max(), (y + bars).max()))
    margin = 0.05 * (high - low) or 1.0
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=MUTED, lw=1.0, zorder=1)
    if x.size > MOST_POINTS:
        _density(axes, x, y, limits)
    else:
        if spread is not None:
            axes.errorbar(x, y, yerr=bars, fmt="none", ecolor=BLUE, elinewidth=0.8, alpha=0.45, zorder=2)
        axes.plot(x, y, "o", color=BLUE, ms=4, alpha=0.7, mew=0, zorder=3)
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    locator = MaxNLocator(5)
    axes.xaxis.set_major_locator(locator)
    axes.yaxis.set_major_locator(FixedLocator(locator.tick_values(*limits)))
    axes.set(xlim=limits, ylim=limits)
    error = y - x
    mae, rmse = number(np.abs(error).mean()), number(math.sqrt((error**2).mean()))
    lines = f"MAE {mae} {unit}\nRMSE {rmse} {unit}\nn = {number_of(x.size)}"
    axes.text(0.035, 0.965, lines, transform=axes.transAxes, va="top", color=INK, fontsize=9, linespacing=1.45)
    return figure


def error_by_size(n_heavy: ArrayLike, error: ArrayLike, *, unit: str) -> Figure:
    """Draw |error| of each conformer against its number of heavy atoms, with the mean of each size.

    Parameters
    ----------
    n_heavy : (n,) int, atoms that are not hydrogen.
    error : (n,) float, predicted − reference in `unit`; NaN is left out.
    """
    sizes, errors = np.asarray(n_heavy, dtype=float), np.abs(np.asarray(error, dtype=float))
    known = np.isfinite(errors)
    sizes, errors = sizes[known], errors[known]
    figure, axes = panel(4.7, 3.5)
    axes.set_xlabel("heavy atoms in the molecule")
    axes.set_ylabel(f"|energy error|, {unit}")
    if not errors.size:
        return nothing(figure, axes, "no finite error")
    classes = np.unique(sizes)
    means = np.array([errors[sizes == size].mean() for size in classes])
    offsets = np.concatenate([_fan(int((sizes == size).sum())) for size in classes])
    ordered = np.concatenate([errors[sizes == size] for size in classes])
    axes.plot(np.sort(sizes) + offsets, ordered, "o", color=BLUE, ms=4, alpha=0.5, mew=0, label="one conformer")
    axes.plot(classes, means, color=ORANGE, marker="D", ms=6.5, ls="", mec=INK, mew=0.6, label="mean of the size")
    top = float(errors.max()) or 1.0
    axes.set_ylim(0, 1.22 * top)
    axes.set_xlim(classes[0] - 0.8, classes[-1] + 0.8)
    every = math.ceil((np.ptp(classes) + 1) / 12)
    axes.set_xticks(np.arange(classes[0], classes[-1] + 1, every), minor=False)
    step = math.ceil(len(classes) / 14)
    for size in classes[::step]:
        label = f"n={int((sizes == size).sum())}"
        axes.annotate(label, (size, 1.16 * top), ha="center", va="center", fontsize=8, color=MUTED)
    legend(figure, axes)
    return figure


def spread_vs_error(spread: ArrayLike, error: ArrayLike, *, unit: str, bins: int = 6) -> Figure:
    """Draw |error| against the ensemble's spread on logarithmic axes, with the RMS error of equally filled bins.

    A calibrated ensemble has RMS error = RMS spread in every bin (the dashed line), as in the reliability diagram of
    Levi et al., Sensors 22, 5540 (2022), doi:10.3390/s22155540.

    Parameters
    ----------
    spread : (n,) float, standard deviation over the members in `unit`.
    error : (n,) float, predicted − reference in `unit`. Pairs with a NaN are left out.
    bins : most bins to draw; each holds at least five conformers.
    """
    sigma, size = np.asarray(spread, dtype=float), np.abs(np.asarray(error, dtype=float))
    known = np.isfinite(sigma) & np.isfinite(size) & (sigma > 0)
    sigma, size = sigma[known], size[known]
    figure, axes = panel(4.7, 3.5)
    axes.set_xlabel(f"spread of the ensemble (σ), {unit}")
    axes.set_ylabel(f"|energy error|, {unit}")
    if not sigma.size:
        return nothing(figure, axes, "no conformer with a spread and an error")
    # A conformer hit exactly would leave a logarithmic axis; it is drawn at the axis' foot instead.
    foot = 0.05 * float(np.median(sigma))
    ends = (0.7 * float(sigma.min()), 1.4 * float(sigma.max()))
    axes.plot(ends, ends, color=INK, ls=(0, (5, 3)), lw=1.3, label="calibrated: RMS error = σ")
    axes.plot(sigma, np.maximum(size, foot), "o", color=BLUE, ms=4, alpha=0.6, mew=0, label="one conformer")
    groups = np.array_split(np.argsort(sigma, kind="stable"), max(1, min(bins, sigma.size // 5)))
    centres = [math.sqrt(float((sigma[group] ** 2).mean())) for group in groups]
    rms = [math.sqrt(float((size[group] ** 2).mean())) for group in groups]
    axes.plot(centres, rms, color=ORANGE, marker="D", ms=6, lw=1.4, mec=INK, mew=0.6, label="RMS error of a bin")
    axes.set_xscale("log")
    plain_log_ticks(axes.xaxis, *ends)
    log_axis(axes, np.concatenate([np.maximum(size, foot), np.array(ends)]))
    axes.set_xlim(*ends)
    legend(figure, axes)
    return figure


def timings(stages: Sequence[str], wall_s: ArrayLike) -> Figure:
    """Draw one bar per stage, in the order given, each with its wall time in words.

    Parameters
    ----------
    stages : names of the stages, first one on top.
    wall_s : (stages,) float, seconds.
    """
    seconds = np.nan_to_num(np.asarray(wall_s, dtype=float))
    figure, axes = panel(6.4, 0.75 + 0.3 * max(1, len(stages)))
    axes.grid(False, axis="y")
    if not len(stages):
        return nothing(figure, axes, "no stage was timed")
    unit, divisor = next((u, d) for u, d in (("hours", 3600), ("minutes", 60), ("seconds", 1)) if _fits(seconds, d))
    rows = np.arange(len(stages))
    total = float(seconds.sum()) or 1.0
    axes.barh(rows, seconds / divisor, height=0.62, color=BLUE)
    for row, value in zip(rows, seconds, strict=True):
        axes.annotate(
            f"{duration(float(value))} · {_percent(value / total)}",
            (value / divisor, row),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=INK,
            fontsize=9,
        )
    axes.set_yticks(rows, [textwrap.shorten(stage, 34, placeholder="…") for stage in stages])
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.38 * float(seconds.max()) / divisor or 1.0)
    axes.set_xlabel(f"wall time, {unit}")
    return figure


def _round_ticks(axes: Axes, x: NDArray[np.float64]) -> None:
    """Put a tick at each round while they are few; leave room beside a single point."""
    if x.size and x.size <= 7:
        axes.set_xticks(x, [f"{value:g}" for value in x])
    margin = 0.06 * float(np.ptp(x)) if x.size > 1 else 1.0
    if x.size:
        axes.set_xlim(x.min() - (margin or 1.0), x.max() + (margin or 1.0))


def _density(axes: Axes, x: NDArray[np.float64], y: NDArray[np.float64], limits: tuple[float, float]) -> None:
    """Shade hexagons by the logarithm of their count; one colour and its opacity, so that it works on dark pages."""
    bins = axes.hexbin(x, y, gridsize=48, extent=(*limits, *limits), mincnt=1, linewidths=0)
    counts = np.asarray(bins.get_array(), dtype=float)
    opacity = 0.18 + 0.82 * np.log1p(counts - 1) / max(np.log1p(counts.max() - 1), 1e-9)
    bins.set_array(None)
    rgb = tuple(int(BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5))
    bins.set_facecolor([(*rgb, float(alpha)) for alpha in opacity])
    label = f"shade: 1 to {int(counts.max())} components"
    axes.text(0.965, 0.035, label, transform=axes.transAxes, ha="right", color=MUTED, fontsize=8.5)


def _fan(n: int) -> NDArray[np.float64]:
    """Return n horizontal offsets, spread over ±0.25 in an order that does not follow the values."""
    if n == 1:
        return np.zeros(1)
    return np.asarray(0.5 * ((np.arange(n) * 0.6180339887) % 1.0) - 0.25)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.01 else "under 1 %"


def _fits(seconds: NDArray[np.float64], divisor: int) -> bool:
    return divisor == 1 or float(seconds.max()) >= 2 * divisor
