"""What a notebook shows: 3D views and figures as plain HTML, for JupyterLab, Notebook 7, VS Code and saved pages.

Nothing is loaded from anywhere. Each output stands for itself: it survives the removal of any other, a second run of
its cell, and the export of the notebook as HTML.
"""

import base64
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from rdkit import Chem

from sddfkit.chem import Conformers
from sddfkit.viz import view3d
from sddfkit.viz.figures import svg
from sddfkit.viz.page import Markup, element, figure, joined, static
from sddfkit.viz.words import count, number

SIDE_BY_SIDE: Final = 24
"""Most structures of one `side_by_side`."""
PIXELS_PER_INCH: Final = 96

# Runs the scripts of the first view on the page, and hands the others what came of it.
_START: Final = """(() => {
  const root = document.querySelector('[data-view="%(token)s"]:not([data-mounted])');
  if (!root) return;
  root.dataset.mounted = "yes";
  const library = root.querySelector("script.view-library");
  const kept = (window.sddfkitViews ??= {});
  kept["%(key)s"] ??= (async () => {
    const bytes = Uint8Array.from(atob(library.textContent), (c) => c.charCodeAt(0));
    const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Function(await new Response(unpacked).text())();
  })();
  kept["%(key)s"].then((mount) => mount(root)).catch((error) => {
    root.querySelector(".view-note").textContent = `The 3D view could not be drawn: ${error}`;
    console.error(error);
  });
})();"""


class Shown:
    """HTML that a notebook displays as the value of a cell."""

    def __init__(self, content: str) -> None:
        self.content = content

    def _repr_html_(self) -> str:
        # A page may show the same drawing twice, and the ids of one must not lead into the other.
        token = uuid.uuid4().hex[:8]
        content = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>s{token}-", self.content)
        return f'<style>{static("parts.css")}</style><div class="sddfkit shown">{content}</div>'


class View(Shown):
    """A 3D view of some structures; `save_html` keeps it as a page that opens anywhere."""

    def __init__(self, scene: Mapping[str, Any], height: int) -> None:
        self.scene = scene
        self.height = height

    def _repr_html_(self) -> str:
        key, packed = view3d.library()
        token = uuid.uuid4().hex[:12]
        what = count(len(self.scene["frames"]), "structure")
        note = f"3D view of {what}: run this cell, or trust this notebook, to see it."
        code = Markup(f'<script type="text/plain" class="view-library">{packed}</script>')
        root = view3d.stage(self.scene, note, height=self.height, inner=code, data_view=token)
        return f"<style>{static('parts.css')}</style>{root}<script>{_START % {'token': token, 'key': key}}</script>"

    def __repr__(self) -> str:
        return f"<3D view of {count(len(self.scene['frames']), 'structure')}>"

    def save_html(self, path: str | Path) -> Path:
        """Write a page that shows the view without a network or a notebook; returns its path."""
        target = Path(path)
        head = '<meta charset="utf-8"><meta name="color-scheme" content="light dark"><title>3D view</title>'
        target.write_text(f"<!DOCTYPE html>\n<html>\n<head>{head}</head>\n<body>{self._repr_html_()}</body>\n</html>\n")
        return target


def show(
    structures: Chem.Mol | Conformers | Iterable[Chem.Mol | Conformers],
    *,
    labels: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    values: Mapping[str, ArrayLike] | None = None,
    conformers: Iterable[int] | None = None,
    overlay: bool = False,
    align: bool = True,
    height: int = 400,
) -> View:
    """Show structures in 3D: step through them (slider, arrow keys), or see all at once (overlay).

    Parameters
    ----------
    structures : molecule(s) with conformers in Å, or what `sddfkit.chem.etkdg` returns; a conformer is a structure.
    labels : a line of text under each structure.
    titles : its name; otherwise the molecule's (or its SMILES), or the conformer's id where there is one molecule.
    values : numbers under each structure, by name and unit: ``{"ΔE, kcal/mol": (n,) array}``.
    conformers : ids of the conformers to show of each molecule, in this order; all otherwise.
    overlay : start with all structures at once, carbon coloured from blue (first) to orange (last).
    align : fit each structure to the first of the same molecule, by its heavy atoms and symmetry-corrected; False
        leaves every structure where it is.
    height : of the drawing, pixels.

    Raises
    ------
    ValueError
        No conformer at all, or a list whose length is not that of the structures.

    Examples
    --------
    >>> import numpy as np
    >>> from sddfkit.chem import etkdg
    >>> found = etkdg(Chem.MolFromSmiles("CCO"), 3, np.random.default_rng(0), prune_rmsd=None)
    >>> show(found, values={"ΔE, kcal/mol": [0.0, 0.1, 0.4]}, overlay=True)
    <3D view of 3 structures>
    """
    mols = _single(structures, conformers)
    if not mols:
        raise ValueError("there is no conformer to show: embed the molecule first (sddfkit.chem.etkdg)")
    given: dict[str, Any] = {
        "labels": labels,
        "titles": titles,
        **{f"values[{name!r}]": v for name, v in (values or {}).items()},
    }
    for name, items in given.items():
        if items is not None and np.shape(items) != (len(mols),):
            raise ValueError(
                f"{name} has shape {np.shape(items)}, expected one entry for each of {len(mols)} structures"
            )
    captions = [
        " · ".join(filter(None, [_values(values or {}, i), labels[i] if labels else ""])) for i in range(len(mols))
    ]
    scene = view3d.scene(
        mols,
        titles=list(titles) if titles is not None else _titles(mols),
        captions=captions,
        overlay=overlay,
        align=align,
    )
    return View(scene, height)


def picture(*figures: Figure, caption: str = "") -> Shown:
    """Show Matplotlib figures side by side as drawings that follow the light or dark theme of the page.

    Parameters
    ----------
    figures : from `sddfkit.viz.plots` and its neighbours, or one's own in their colours.
    caption : stands below all of them.
    """
    drawings = []
    for i, drawn in enumerate(figures):
        width = round(PIXELS_PER_INCH * drawn.get_size_inches()[0])
        text = figure(svg(drawn, f"figure-{i}", _about(drawn)), "")
        drawings.append(Markup(f'<div class="plot" style="width: {width}px; max-width: 100%">{text}</div>'))
    below = element("figcaption", caption) if caption else ""
    return Shown(element("figure", joined([element("div", joined(drawings), class_="row"), below])))


def side_by_side(structures: Chem.Mol | Iterable[Chem.Mol], *, width: int = 640, height: int = 420) -> Any:
    """Return a py3Dmol view of structures that stand beside each other and turn together, for py3Dmol's own commands.

    Parameters
    ----------
    structures : molecule(s) with conformers; each conformer is one structure.
    width, height : of the whole view, pixels.

    Raises
    ------
    ValueError
        No conformer at all, or more than 24.
    """
    import py3Dmol

    mols = _single(structures, None)
    if not 0 < len(mols) <= SIDE_BY_SIDE:
        raise ValueError(
            f"side_by_side() draws 1 to {SIDE_BY_SIDE} conformers and was given {len(mols)}: "
            + ("embed them first" if not mols else "pick some of them, or use show()")
        )
    columns = min(len(mols), 4 if len(mols) > 6 else 3)
    source = "data:text/javascript;base64," + base64.b64encode(view3d.script().encode()).decode()
    view = py3Dmol.view(width=width, height=height, viewergrid=(-(-len(mols) // columns), columns), js=source)
    for i, (mol, positions) in enumerate(zip(mols, view3d.aligned(mols), strict=True)):
        turned = Chem.Mol(mol)
        turned.GetConformer().SetPositions(np.ascontiguousarray(positions))
        view.addModel(Chem.MolToMolBlock(turned), "sdf", {"keepH": True}, viewer=divmod(i, columns))
    view.setStyle({"stick": {"radius": 0.11, "colorscheme": "Jmol"}, "sphere": {"scale": 0.22, "colorscheme": "Jmol"}})
    view.zoomTo()
    view.zoom(0.9)
    return view


def _single(structures: Any, conformers: Iterable[int] | None) -> list[Chem.Mol]:
    """Return one molecule for each conformer."""
    given = [structures] if isinstance(structures, Chem.Mol | Conformers) else list(structures)
    asked = None if conformers is None else [int(i) for i in conformers]
    mols = []
    for item in given:
        mol = item.mol if isinstance(item, Conformers) else item
        known = [c.GetId() for c in mol.GetConformers()]
        if unknown := set(asked or ()) - set(known):
            raise ValueError(f"there is no conformer {min(unknown)}; the ids are {known}")
        mols += [Chem.Mol(mol, confId=i) for i in (known if asked is None else asked)]
    return mols


def _titles(mols: Sequence[Chem.Mol]) -> list[str]:
    names = [m.GetProp("_Name") if m.HasProp("_Name") else "" for m in mols]
    names = [name or Chem.MolToSmiles(Chem.RemoveHs(m, sanitize=False)) for name, m in zip(names, mols, strict=True)]
    if len(mols) > 1 and len(set(names)) == 1:
        return [f"conformer {m.GetConformer().GetId()}" for m in mols]
    return [
        f"{name}, conformer {m.GetConformer().GetId()}" if names.count(name) > 1 else name
        for name, m in zip(names, mols, strict=True)
    ]


def _values(values: Mapping[str, ArrayLike], i: int) -> str:
    words = []
    for name, column in values.items():
        quantity, _, unit = name.partition(",")
        words.append(f"{quantity} {number(float(np.asarray(column, dtype=float)[i]))} {unit.strip()}".strip())
    return " · ".join(words)


def _about(drawn: Figure) -> str:
    axes = drawn.axes[0]
    return f"{axes.get_ylabel()} against {axes.get_xlabel()}"
