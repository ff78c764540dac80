"""Figures about the conformers of one molecule, RMSD and energies: plain arrays in, one Matplotlib Figure out."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from sddfkit.viz.panels import (
    BLUE,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    SERIES,
    canvas,
    dress,
    legend,
    nothing,
    panel,
)
from sddfkit.viz.words import number, number_of

# More names than this along an axis, or beside points, cannot be read.
MOST_NAMES: Final = 36


def rmsd_heatmap(matrix: ArrayLike, names: Sequence[object] | None = None) -> Figure:
    """Draw an RMSD matrix with its rows ordered by average linkage, and the tree of that linkage above it.

    Conformers that are alike stand together: a dark block on the diagonal is a family.

    Parameters
    ----------
    matrix : (k, k) float, RMSD in Å, symmetric.
    names : (k,) what to write beside each row; 0 … k − 1 if not given.

    Raises
    ------
    ValueError
        The matrix is not square, or `names` has another length.
    """
    from scipy.cluster.hierarchy import dendrogram, linkage
    from scipy.spatial.distance import squareform

    rmsd = np.asarray(matrix, dtype=float)
    labels = list(range(len(rmsd))) if names is None else list(names)
    if rmsd.ndim != 2 or rmsd.shape != (len(labels), len(labels)):
        raise ValueError(f"matrix has shape {rmsd.shape}, expected (k, k) with k = {len(labels)}, the number of names")
    if len(rmsd) < 2:
        figure, axes = panel(5.2, 5.2)
        return nothing(figure, axes, "no pair of conformers")
    tree = dendrogram(linkage(squareform(rmsd, checks=False), "average", optimal_ordering=True), no_plot=True)
    order = tree["leaves"]

    figure = canvas(5.4, 5.5)
    grid = figure.add_gridspec(2, 2, height_ratios=(1, 6), width_ratios=(24, 1), hspace=0.02, wspace=0.03)
    heat = figure.add_subplot(grid[1, 0])
    above = figure.add_subplot(grid[0, 0], sharex=heat)
    for axes in (heat, above):
        dress(axes)
        axes.grid(False)
    mesh = heat.pcolormesh(
        rmsd[np.ix_(order, order)], cmap="cividis", vmin=0, edgecolors="face", lw=0.4, rasterized=len(rmsd) > MOST_NAMES
    )
    heat.invert_yaxis()
    heat.set_aspect("equal")
    for x, y in zip(tree["icoord"], tree["dcoord"], strict=True):
        above.plot(np.array(x) / 10, y, color=MUTED, lw=1.0)
    above.spines[["left", "bottom"]].set_visible(False)
    above.tick_params(bottom=False, labelbottom=False, left=False, labelleft=False)
    above.set_ylim(0, 1.05 * float(np.max(tree["dcoord"])) or 1.0)
    heat.spines[["left", "bottom"]].set_visible(False)
    heat.tick_params(length=0)
    heat.set_xlabel("conformer, similar ones side by side")
    heat.set_ylabel("conformer")
    heat.set(xticks=[], yticks=[])
    if len(rmsd) <= MOST_NAMES:
        ordered, places = [str(labels[i]) for i in order], np.arange(len(rmsd)) + 0.5
        size = 9 if len(rmsd) <= 20 else 7.5
        heat.set_xticks(places, ordered, fontsize=size, rotation=90 if max(map(len, ordered)) > 2 else 0)
        heat.set_yticks(places, ordered, fontsize=size)
    if len(rmsd) <= 14:
        _write_cells(heat, rmsd[np.ix_(order, order)])
    bar = figure.colorbar(mesh, cax=figure.add_subplot(grid[1, 1]))
    bar.set_label("symmetry-corrected RMSD, Å", color=INK, fontsize=9.5)
    bar.ax.tick_params(color=MUTED, labelcolor=MUTED, labelsize=9)
    bar.outline.set_visible(False)
    return figure


def naive_against_exact(naive: ArrayLike, exact: ArrayLike) -> Figure:
    """Draw, for each pair of conformers, the RMSD that compares atom i with atom i against the exact one.

    Parameters
    ----------
    naive, exact : (k, k) float, RMSD in Å among the same conformers.
    """
    pairs = np.triu_indices(len(np.asarray(exact)), 1)
    x, y = np.asarray(exact, dtype=float)[pairs], np.asarray(naive, dtype=float)[pairs]
    figure, axes = panel(4.4, 4.3)
    axes.set_xlabel("symmetry-corrected RMSD, Å")
    axes.set_ylabel("RMSD with atoms as numbered, Å")
    if not x.size:
        return nothing(figure, axes, "no pair of conformers")
    top = 1.06 * float(max(x.max(), y.max())) or 1.0
    axes.plot((0, top), (0, top), color=MUTED, lw=1.0, label="numbering does not matter")
    wrong = y - x > 0.05
    axes.plot(x[~wrong], y[~wrong], "o", color=BLUE, ms=4.5, alpha=0.7, mew=0, label="a pair of conformers")
    axes.plot(x[wrong], y[wrong], "D", color=ORANGE, ms=5, alpha=0.9, mec=INK, mew=0.4, label="a pair set apart by it")
    axes.set(xlim=(0, top), ylim=(0, top), aspect="equal")
    said = f"{number_of(int(wrong.sum()))} of {number_of(x.size)} pairs\nmore than 0.05 Å too far,\nat worst by "
    said += f"{number(float((y - x).max()))} Å" if wrong.any() else "nothing"
    axes.text(
        0.97, 0.04, said, transform=axes.transAxes, ha="right", va="bottom", color=INK, fontsize=9, linespacing=1.4
    )
    legend(figure, axes, room=56)
    return figure


def energy_against_rmsd(
    rmsd: ArrayLike, energy: ArrayLike, names: Sequence[object] | None = None, *, source: str
) -> Figure:
    """Draw the energy of each conformer above the lowest against its RMSD to that one.

    Parameters
    ----------
    rmsd : (k,) float, Å, to the conformer of lowest energy.
    energy : (k,) float, kcal/mol above the lowest; NaN is left out.
    names : (k,) what to write beside each point; 0 … k − 1 if not given.
    source : how the energies were computed ("GFN2-xTB"), for the axis.
    """
    x, y = np.asarray(rmsd, dtype=float), np.asarray(energy, dtype=float)
    labels = list(range(len(x))) if names is None else list(names)
    known = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    figure, axes = panel(5.4, 4.0)
    axes.set_xlabel("symmetry-corrected RMSD to the conformer of lowest energy, Å")
    axes.set_ylabel(f"{source} energy above the lowest, kcal/mol")
    if not known.size:
        return nothing(figure, axes, "no conformer with an energy")
    axes.plot(x[known], y[known], "o", color=BLUE, ms=6, alpha=0.85, mew=0)
    lowest = known[np.argsort(y[known])]
    axes.plot(x[lowest[0]], y[lowest[0]], "o", color=ORANGE, ms=8, mec=INK, mew=0.8)
    width, height = float(x[known].max()) or 1.0, float(y[known].max()) or 1.0
    named = lowest[: MOST_NAMES if known.size <= MOST_NAMES else 8]
    points = np.column_stack([x / width, y / height])
    for i, offset in zip(named, _free_places(points[named], points[known]), strict=True):
        axes.annotate(
            str(labels[i]), (x[i], y[i]), xytext=(310 * offset[0], 220 * offset[1]), textcoords="offset points",
            ha="center", va="center", fontsize=8.5, color=MUTED,
        )  # fmt: skip
    axes.set_xlim(-0.06 * width, 1.1 * width)
    axes.set_ylim(-0.06 * height, 1.12 * height)
    return figure


def predicted_energies(
    members: Mapping[str, ArrayLike], reference: ArrayLike | None = None, *, source: str = "reference"
) -> Figure:
    """Draw what each network says about the conformers of one molecule, the mean, and how far they disagree.

    Energies are taken relative to the mean over the conformers, network by network: what ranks conformers.

    Parameters
    ----------
    members : name → (k,) float, energies of the conformers in kcal/mol.
    reference : (k,) float or None, the same from a calculation.
    source : name of that calculation, for the legend.
    """
    energies = {name: _relative(values) for name, values in members.items()}
    every = np.array(list(energies.values()))
    figure, axes = panel(5.6, 3.9)
    axes.set_xlabel("conformer, from low to high predicted energy")
    axes.set_ylabel("energy relative to the mean\nof the conformers, kcal/mol")
    if not every.size:
        return nothing(figure, axes, "no conformer")
    mean, spread = every.mean(axis=0), every.std(axis=0)
    order = np.argsort(mean, kind="stable")
    places = np.arange(len(order))
    for i, (name, values) in enumerate(energies.items()):
        offset = 0.36 * ((i + 0.5) / len(energies) - 0.5)
        colour, marker = SERIES[i % len(SERIES)], MARKERS[i % len(MARKERS)]
        axes.plot(places + offset, values[order], marker, color=colour, ms=4, alpha=0.85, mew=0, label=name)
    axes.errorbar(
        places, mean[order], yerr=spread[order], fmt="_", color=BLUE, ms=16, mew=2.4, elinewidth=1.4, capsize=3,
        label="ensemble ± σ", zorder=5,
    )  # fmt: skip
    if reference is not None:
        axes.plot(
            places, _relative(reference)[order], "D", color=ORANGE, ms=6.5, mec=INK, mew=0.7, label=source, zorder=6
        )
    axes.set_xticks(places, [str(i) for i in order], fontsize=9 if len(order) <= 20 else 7)
    axes.grid(False, axis="x")
    legend(figure, axes)
    return figure


def _relative(values: ArrayLike) -> NDArray[np.float64]:
    given = np.asarray(values, dtype=float)
    return np.asarray(given - given.mean()) if given.size else given


def _free_places(named: NDArray[np.float64], points: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return for each point where to write its name, as an offset: where neither a point nor another name is.

    Parameters
    ----------
    named, points : (m, 2) and (k, 2) float, in fractions of the panel.
    """
    taken = list(points)
    places = []
    for point in named:
        others = [other for other in taken if not np.array_equal(other, point)]
        tried = [(0.03, 0.025), (-0.03, 0.025), (0.0, -0.05), (0.0, 0.055), (0.035, -0.02), (-0.035, -0.02)]
        free = (
            place
            for place in tried
            if not any((np.abs(other - point - place) < (0.035, 0.04)).all() for other in others)
        )
        places.append(next(free, tried[0]))
        taken.append(point + places[-1])
    return places


def _write_cells(axes: Axes, values: NDArray[np.float64]) -> None:
    """Write each RMSD into its cell, in the colour that stands out from it."""
    middle = 0.5 * float(values.max())
    for i, j in zip(*np.nonzero(~np.eye(len(values), dtype=bool)), strict=True):
        colour = "#ffffff" if values[i, j] < middle else "#000000"
        axes.text(j + 0.5, i + 0.5, f"{values[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=7.5)
