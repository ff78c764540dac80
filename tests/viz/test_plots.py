"""Figures: what they show, checked on the artists, not on pixels."""

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from sddfkit.viz import plots
from sddfkit.viz.figures import drawing, svg

N = np.array([10, 20, 30])


def texts(figure) -> list[str]:
    return [t.get_text() for t in figure.axes[0].texts]


def overhang(figure) -> float:
    """Return how far anything that is drawn reaches beyond the edge of the figure, in inches."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    box = figure.get_tightbbox(canvas.get_renderer())
    width, height = figure.get_size_inches()
    return max(-box.x0, -box.y0, box.x1 - width, box.y1 - height)


def curve(**change):
    values = {"ensemble": [4.0, 2.0, 1.0], "members": {"a": [5.0, 3.0, 2.0]}, "baseline": [9.0, 9.0, 9.0]} | change
    return plots.learning_curve(N, **values, quantity="energy error (MAE)", unit="kcal/mol")


def test_learning_curve_draws_ensemble_thick_members_thin_baseline_dashed():
    lines = {line.get_label(): line for line in curve().axes[0].lines}
    assert list(lines["ensemble"].get_ydata()) == [4.0, 2.0, 1.0]
    assert lines["ensemble"].get_linewidth() > 2 * lines["a"].get_linewidth()
    assert lines["composition only"].is_dashed()
    assert curve().axes[0].get_yscale() == "log"


def test_learning_curve_shows_an_error_of_zero_on_a_linear_axis():
    assert curve(ensemble=[4.0, 2.0, 0.0]).axes[0].get_yscale() == "linear"


def test_parity_states_errors_and_leaves_out_gaps():
    figure = plots.parity([0.0, 1.0, np.nan], [1.0, 1.0, 5.0], quantity="energy", unit="kcal/mol", source="PBE")
    assert texts(figure) == ["MAE 0.50 kcal/mol\nRMSE 0.71 kcal/mol\nn = 2"]
    axes = figure.axes[0]
    assert axes.get_xlim() == axes.get_ylim()


def test_parity_of_many_points_counts_all_of_them():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    figure = plots.parity(x, x + rng.normal(size=x.size), quantity="force", unit="kcal/mol/Å", source="PBE")
    assert "n = 20\u202f000" in texts(figure)[1]
    hexagons = figure.axes[0].collections[0]
    assert len(hexagons.get_facecolors()) < 3000


def test_error_by_size_draws_the_mean_of_each_size():
    figure = plots.error_by_size([3, 3, 5], [-1.0, 3.0, 2.0], unit="kcal/mol")
    means = next(line for line in figure.axes[0].lines if line.get_label().startswith("mean"))
    assert list(means.get_xdata()) == [3, 5] and list(means.get_ydata()) == [2.0, 2.0]
    assert texts(figure) == ["n=2", "n=1"]
    points = next(line for line in figure.axes[0].lines if line.get_label() == "one conformer")
    assert sorted(points.get_ydata()) == [1.0, 2.0, 3.0]
    assert np.abs(np.sort(points.get_xdata()) - [3, 3, 5]).max() < 0.5


def test_sizes_are_whole_numbers_also_when_there_is_one():
    axes = plots.error_by_size([3, 3], [1.0, 2.0], unit="kcal/mol").axes[0]
    assert list(axes.get_xticks()) == [3]


def test_error_bars_stay_inside_the_panel():
    figure = plots.parity([0.0, 1.0], [0.0, 1.0], quantity="e", unit="eV", source="PBE", spread=[9.0, np.nan])
    low, high = figure.axes[0].get_ylim()
    assert low < -9 and high > 9


def test_bins_of_a_calibrated_ensemble_lie_on_the_line():
    rng = np.random.default_rng(3)
    sigma = rng.uniform(0.5, 5, 20_000)
    figure = plots.spread_vs_error(sigma, rng.normal(0, sigma), unit="kcal/mol")
    bins = next(line for line in figure.axes[0].lines if line.get_label().startswith("RMS"))
    assert bins.get_ydata() == pytest.approx(bins.get_xdata(), rel=0.05)


def test_timings_writes_each_duration_and_its_share():
    figure = plots.timings(["label", "train", "report"], [3600, 1200, 1])
    assert texts(figure) == ["1 h · 75 %", "20 min · 25 %", "1.0 s · under 1 %"]


@pytest.mark.parametrize(
    "figure",
    [
        curve(members={f"network number {i}": [5.0, 3.0, 2.0] for i in range(6)}),
        plots.parity([-1234.5, 2345.6], [0, 1], quantity="relative energy", unit="kcal/mol", source="ωB97X/6-31G(d)"),
        plots.error_by_size(np.arange(1, 30), np.ones(29), unit="kcal/mol"),
        plots.spread_vs_error([0.001, 1, 900], [1, 2, 3], unit="kcal/mol"),
        plots.timings(["a stage whose name goes on and on without an end in sight", "b"], [7322.0, 1.0]),
    ],
    ids=["curve", "parity", "size", "spread", "timings"],
)
def test_no_text_is_clipped(figure):
    assert overhang(figure) < 0.02


@pytest.mark.parametrize("values", [[], [np.nan]])
def test_figures_without_data_say_so(values):
    figures = [
        plots.parity(values, values, quantity="energy", unit="kcal/mol", source="PBE"),
        plots.error_by_size(values, values, unit="kcal/mol"),
        plots.spread_vs_error(values, values, unit="kcal/mol"),
    ]
    assert all(len(texts(figure)) == 1 and texts(figure)[0].startswith("no ") for figure in figures)
    assert texts(plots.timings([], [])) == ["no stage was timed"]


def test_svg_is_deterministic_prefixed_and_themed():
    first, second = (svg(curve(), "one", 'what "it" shows') for _ in range(2))
    assert first == second
    assert 'aria-label="what &quot;it&quot; shows"' in first
    assert 'id="one-' in first and first.count('id="') == first.count('id="one-')
    assert "var(--series-main, #0072b2)" in first
    assert "one-" not in svg(curve(), "two", "")


def test_drawing_has_every_atom_label_and_no_background():
    picture = drawing("C[C@H](N)C(=O)O")
    assert picture is not None and "var(--atom-7" in picture and "var(--atom-8" in picture
    assert "<rect" not in picture
    assert drawing("not a molecule(") is None


def test_importing_the_package_does_not_load_pyplot_or_torch():
    code = "import sys, sddfkit.viz; print([m for m in ('matplotlib.pyplot', 'torch', 'py3Dmol') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
