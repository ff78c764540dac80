"""Reports and views: this package reads finished numbers and structures, and starts nothing.

- `write_report` turns the numbers of a run into one self-contained HTML page and the same numbers as JSON.
- `show` draws RDKit molecules in a notebook, offline.
- `sddfkit.viz.plots` holds the figures one by one: plain arrays in, a Matplotlib Figure out.

Arrays: (n,) over conformers of the test fold, (c,) over their force components; reports take eV and eV/Å and show
kcal/mol and kcal/mol/Å. A conformer is known by its record id, a molecule by its canonical isomeric SMILES.
"""

from sddfkit.viz.report import write_report
from sddfkit.viz.view3d import MissingScriptError, show

__all__ = ["MissingScriptError", "show", "write_report"]
