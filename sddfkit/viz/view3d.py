"""Molecules in three dimensions, drawn by 3Dmol.js from the copy that ships with the package: no network is needed.

Rego and Koes, Bioinformatics 31, 1322 (2015), doi:10.1093/bioinformatics/btu829.
"""

import base64
import html
import json
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import rdMolAlign

MOST_IN_ONE_VIEW: Final = 24
STYLE: Final = {"stick": {"radius": 0.11, "colorscheme": "Jmol"}, "sphere": {"scale": 0.22, "colorscheme": "Jmol"}}


class MissingScriptError(FileNotFoundError):
    """The 3D viewer's script is not where the package ships it."""


def script() -> str:
    """Return the text of 3Dmol-min.js, with its licence in front; raises MissingScriptError."""
    licence = _static("3Dmol-LICENSE").replace("*/", "* /")
    text = f"/*\n{licence}\n*/\n{_static('3Dmol-min.js')}"
    # A page reads a script up to the first end tag, even inside a string.
    return text.replace("</script", "<\\/script")


def _static(name: str) -> str:
    file = resources.files("sddfkit.viz") / "static" / name
    if not file.is_file():
        raise MissingScriptError(
            f"the 3D viewer needs {file}, which is not there: run `make viewer` in the checkout to fetch it "
            "(an installed wheel carries it)"
        )
    return file.read_text(encoding="utf-8")


def viewer(views: Sequence[Mapping[str, Any]], molblocks: Mapping[str, str]) -> str:
    """Return the HTML of the report's 3D viewer: stage, picker, and the structures as JSON.

    Parameters
    ----------
    views : mappings with "record_id", "name" and "caption", in the order in which to step through them.
    molblocks : record id → molblock (V2000 or V3000, hydrogens included).

    Raises
    ------
    ValueError
        A view without its molblock, or a molblock that RDKit cannot read.
    """
    if missing := [view["record_id"] for view in views if view["record_id"] not in molblocks]:
        raise ValueError(f"no molblock for {len(missing)} of {len(views)} views, the first being {missing[0]}")
    turned = aligned([molblocks[view["record_id"]] for view in views])
    structures = [
        {"id": view["record_id"], "name": view["name"], "caption": view["caption"], "molblock": block}
        for view, block in zip(views, turned, strict=True)
    ]
    options = "".join(
        f'<option value="{i}">{i + 1}. {html.escape(str(view["name"] or view["record_id"]))}</option>'
        for i, view in enumerate(views)
    )
    # "<" would let a name close the script element; JSON may write it as an escape.
    data = json.dumps(structures).replace("<", "\\u003c")
    return f"""<figure class="viewer" id="viewer" tabindex="0" aria-label="3D viewer: left and right arrow keys step">
<div class="stage" id="viewer-stage" role="img" aria-label="3D structure"></div>
<p class="note" id="viewer-missing" hidden>This browser offers no WebGL, so the 3D structures cannot be drawn here;
everything else in this report is complete.</p>
<div class="controls" id="viewer-controls">
<button type="button" id="viewer-previous" aria-label="previous structure">← Previous</button>
<label class="picker"><span class="visually-hidden">Structure</span><select id="viewer-pick">{options}</select></label>
<button type="button" id="viewer-next" aria-label="next structure">Next →</button>
<span class="muted" id="viewer-position"></span>
<span class="spacer"></span>
<label><input type="checkbox" id="viewer-labels"> Label heteroatoms</label>
<label><input type="checkbox" id="viewer-spin"> Spin</label>
<button type="button" id="viewer-reset">Reset view</button>
</div>
<figcaption id="viewer-caption" aria-live="polite"></figcaption>
<noscript><p class="note">The 3D view needs JavaScript.</p></noscript>
</figure>
<script type="application/json" id="viewer-structures">{data}</script>"""


def aligned(molblocks: Sequence[str]) -> list[str]:
    """Turn structures for looking at: longest axis across, conformers of one molecule on top of each other.

    Only rotations and translations: every distance stays. A conformer is fitted by its heavy atoms to the first
    structure with the same atoms and bonds, so that stepping through shows what differs.
    """
    first: dict[tuple[Any, ...], Chem.Mol] = {}
    turned = []
    for i, block in enumerate(molblocks):
        mol = Chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
        if mol is None:
            raise ValueError(f"RDKit cannot read the molblock of structure {i}: {block.splitlines()[:1]}")
        graph = _graph(mol)
        heavy = [(a.GetIdx(), a.GetIdx()) for a in mol.GetAtoms() if a.GetAtomicNum() > 1]
        if graph in first and len(heavy) > 2:
            rdMolAlign.AlignMol(mol, first[graph], atomMap=heavy)
        else:
            mol.GetConformer().SetPositions(_along_axes(mol.GetConformer().GetPositions()))
        first.setdefault(graph, mol)
        turned.append(Chem.MolToMolBlock(mol, kekulize=False, forceV3000="V3000" in block))
    return turned


def _along_axes(positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (n, 3) positions about their centre, turned so that they spread most along x and least along z."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=True)[2]
    if np.linalg.det(axes) < 0:  # a reflection would swap the enantiomers
        axes[2] *= -1
    return np.ascontiguousarray(centred @ axes.T)


def _graph(mol: Chem.Mol) -> tuple[Any, ...]:
    bonds = sorted((min(b), max(b)) for b in ((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()))
    return tuple(atom.GetAtomicNum() for atom in mol.GetAtoms()), tuple(bonds)


def show(mol_or_mols: Chem.Mol | Iterable[Chem.Mol], *, width: int = 640, height: int = 420) -> Any:
    """Return a py3Dmol view for a notebook, drawn by the packaged script: it works offline.

    Several structures stand side by side and turn together; a Mol with several conformers counts as several.

    Parameters
    ----------
    mol_or_mols : RDKit molecule(s) with 3D conformers.
    width, height : size of the whole view in pixels.

    Raises
    ------
    ValueError
        No conformer at all, or more than 24.
    """
    import py3Dmol

    mols = [mol_or_mols] if isinstance(mol_or_mols, Chem.Mol) else list(mol_or_mols)
    blocks = [Chem.MolToMolBlock(mol, confId=c.GetId(), kekulize=True) for mol in mols for c in mol.GetConformers()]
    if not 0 < len(blocks) <= MOST_IN_ONE_VIEW:
        raise ValueError(
            f"show() draws 1 to {MOST_IN_ONE_VIEW} conformers and was given {len(blocks)} in {len(mols)} molecule(s): "
            + ("embed them first" if not blocks else "pick some of them")
        )
    columns = min(len(blocks), 4 if len(blocks) > 6 else 3)
    grid = (-(-len(blocks) // columns), columns)
    source = "data:text/javascript;base64," + base64.b64encode(script().encode()).decode()
    view = py3Dmol.view(width=width, height=height, viewergrid=grid, js=source)
    for i, block in enumerate(aligned(blocks)):
        view.addModel(block, "sdf", {"keepH": True}, viewer=divmod(i, columns))
    view.setStyle(STYLE)
    view.zoomTo()
    view.zoom(0.9)
    return view
