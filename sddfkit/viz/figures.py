"""Matplotlib figures and RDKit molecules as SVG that lives inside an HTML page.

Colours become CSS variables, so that one drawing serves light and dark pages; ids are made unique for the page; text
stays text (searchable, in the page's own font); nothing points outside the document.
"""

import html
import io
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final

import matplotlib
from matplotlib.figure import Figure
from rdkit import Chem
from rdkit.Chem.Draw import rdMolDraw2D

from sddfkit.viz import panels

_THEME: Final = {
    panels.INK: "--ink",
    panels.MUTED: "--muted",
    panels.GRID: "--line",
    panels.BLUE: "--series-main",
    panels.ORANGE: "--series-bin",
    **{colour: f"--series-{i}" for i, colour in enumerate(panels.SERIES)},
}
# Element colours near the usual ones, dark enough to read on white; report.css lightens them for dark pages.
_ATOMS: Final = {
    0: "#000000",
    1: "#555555",
    5: "#b5651d",
    7: "#2b4fd0",
    8: "#c8102e",
    9: "#0b7d7d",
    14: "#8a6d3b",
    15: "#b35900",
    16: "#8a6d00",
    17: "#1a7f37",
    35: "#8a3b12",
    53: "#6a0dad",
}


def svg(figure: Figure, name: str, description: str) -> str:
    """Return `figure` as an inline `<svg>`, the same text for the same figure.

    Parameters
    ----------
    name : prefix of every id in the drawing; must differ between the figures of a page.
    description : what the figure shows, for readers who do not see it.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Matplotlib's style sheet selects `*`: inside a page it would reach every other drawing.
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;\"]*;?", "", text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(url\(#|href="#)', rf"\g<1>{name}-", text)
    text = _themed(text, _THEME)
    text = re.sub(r'<svg ([^>]*?)width="[\d.]+pt" height="[\d.]+pt"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


@lru_cache(maxsize=4096)
def drawing(smiles: str, width: int = 170, height: int = 112) -> str | None:
    """Return a 2D drawing of a molecule as an inline `<svg>`, or None if RDKit cannot read the SMILES."""
    mol = Chem.MolFromSmiles(smiles)
    return None if mol is None else drawing_of(mol, width, height, description=f"2D structure of {smiles}")


def drawing_of(
    mol: Chem.Mol,
    width: int,
    height: int,
    *,
    description: str,
    colours: Mapping[int, str] | None = None,
    names: Mapping[int, str] | None = None,
) -> str:
    """Return a 2D drawing of a molecule as an inline `<svg>`.

    Parameters
    ----------
    mol : without hydrogens; its conformers are not used.
    width, height : pixels.
    description : for readers who do not see it.
    colours : atom → one of `sddfkit.viz.panels.SERIES`, drawn as a disc behind the atom.
    names : atom → what to write instead of its element.
    """
    drawn = Chem.Mol(mol)
    drawn.RemoveAllConformers()
    for atom, name in (names or {}).items():
        drawn.GetAtomWithIdx(atom).SetProp("atomLabel", name)
    canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = canvas.drawOptions()
    options.clearBackground = False
    options.fixedBondLength = 38 if names else 24
    options.bondLineWidth = 1.4
    options.minFontSize = 9
    options.padding = 0.04
    options.fillHighlights = True
    options.highlightRadius = 0.38
    options.updateAtomPalette({z: _rgb(colour) for z, colour in _ATOMS.items()} | {-1: _rgb(_ATOMS[0])})
    discs = {atom: _rgb(colour) for atom, colour in (colours or {}).items()}
    rdMolDraw2D.PrepareAndDrawMolecule(
        canvas, drawn, highlightAtoms=list(discs), highlightAtomColors=discs, highlightBonds=[]
    )
    canvas.FinishDrawing()
    text = canvas.GetDrawingText()
    text = re.sub(r"<!--.*?-->", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"\sfill='(#[0-9A-Fa-f]{6})'", r" style='fill:\1'", text)
    text = re.sub(r"\s*(?:xmlns:rdkit|xmlns:xlink|xml:space|version|baseProfile)='[^']*'", "", text)
    text = re.sub(r" class='[^']*'", "", text)
    text = _themed(text, {colour: f"--atom-{z}" for z, colour in _ATOMS.items()})
    for i, colour in enumerate(panels.SERIES):
        # Half transparent, so that a name on it can be read on light and dark pages.
        disc = f"color-mix(in srgb, var(--series-{i}, {colour}) 50%, transparent)"
        text = re.sub(rf"\b(fill|stroke):{colour}", rf"\1:{disc}", text, flags=re.IGNORECASE)
    return text.replace("<svg", f"<svg role='img' aria-label='{html.escape(description, quote=True)}'", 1)


def _themed(text: str, theme: dict[str, str]) -> str:
    """Replace each colour by the CSS variable that stands for it, keeping the colour for pages without the sheet."""
    pattern = re.compile("|".join(theme), re.IGNORECASE)
    return pattern.sub(lambda hit: f"var({theme[hit[0].lower()]}, {hit[0]})", text)


def _rgb(colour: str) -> tuple[float, float, float]:
    return tuple(int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))  # type: ignore[return-value]
