"""Reports and views: this package reads finished numbers and structures, and starts nothing.

- `show` draws RDKit molecules in 3D in a notebook, offline: one after the other (slider, arrow keys) or all on top of
  each other (overlay). `draw_mapping` draws which atoms a symmetric molecule swaps.
- `picture` shows figures in the colours of the page, light or dark. The figures themselves are in `sddfkit.viz.plots`
  (a trained model) and `sddfkit.viz.conformer_plots` (one molecule): plain arrays in, a Matplotlib Figure out.
- `sddfkit.viz.run` shows a finished run of active learning piece by piece.
- `write_report` turns the numbers of a run into one self-contained HTML page and the same numbers as JSON.

Arrays: (n,) over conformers of the test fold, (c,) over their force components; reports take eV and eV/Å and show
kcal/mol and kcal/mol/Å. A conformer is known by its record id, a molecule by its canonical isomeric SMILES.
"""

from sddfkit.viz.notebook import View, picture, show, side_by_side
from sddfkit.viz.report import write_report
from sddfkit.viz.symmetry import draw_mapping
from sddfkit.viz.view3d import MissingScriptError

__all__ = ["MissingScriptError", "View", "draw_mapping", "picture", "show", "side_by_side", "write_report"]
