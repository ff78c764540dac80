"""Molecules in three dimensions, drawn by 3Dmol.js from the copy that ships with the package: no network is needed.

Rego and Koes, Bioinformatics 31, 1322 (2015), doi:10.1093/bioinformatics/btu829. The moving parts are in
static/view.js, for reports and notebooks alike; bonds are those of the molecule, never guessed from distances.
"""

import base64
import gzip
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem

import flashrmsd_cy
from flashrmsd_cy import Molecule
from sddfkit.viz.page import Markup

Float = NDArray[np.float64]

FIT_LIMIT_S: Final = 1.0
"""Time for the exact fit of one structure; after it the best fit found so far is taken."""
_ORDERS: Final = {Chem.BondType.DOUBLE: 2, Chem.BondType.TRIPLE: 3}


class MissingScriptError(FileNotFoundError):
    """The 3D viewer's script is not where the package ships it."""


def script() -> str:
    """Return the text of 3Dmol-min.js, with its licence in front; raises MissingScriptError."""
    licence = _static("3Dmol-LICENSE").replace("*/", "* /")
    text = f"/*\n{licence}\n*/\n{_static('3Dmol-min.js')}"
    # A page reads a script up to the first end tag, even inside a string.
    return text.replace("</script", "<\\/script")


def mount_script() -> str:
    """Return the script that, after `script`, gives a page `sddfkitMount(root)`."""
    return f"window.sddfkitMount = {_static('view.js').strip()}($3Dmol);"


@lru_cache(maxsize=1)
def library() -> tuple[str, str]:
    """Return (key, both scripts as base64 of gzip): a view carries them along, a page runs the first copy of a key.

    The scripts run in a scope of their own: another 3Dmol.js on the page, or a module loader, is left alone.
    """
    wrapped = f"""const other = window.$3Dmol;
(function (define, module, exports) {{
{script()}
}}).call({{}});
const own = window.$3Dmol;
if (other) window.$3Dmol = other;
const mount = {_static("view.js").strip()}(own);
return mount;
"""
    packed = gzip.compress(wrapped.encode(), compresslevel=9, mtime=0)
    return hashlib.sha256(packed).hexdigest()[:12], base64.b64encode(packed).decode()


def _static(name: str) -> str:
    file = resources.files("sddfkit.viz") / "static" / name
    if not file.is_file():
        raise MissingScriptError(
            f"the 3D viewer needs {file}, which is not there: run `make viewer` in the checkout to fetch it "
            "(an installed wheel carries it)"
        )
    return file.read_text(encoding="utf-8")


def viewer(views: Sequence[Mapping[str, Any]], molblocks: Mapping[str, str]) -> Markup:
    """Return the HTML of the report's 3D viewer, with the structures as JSON.

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
    mols = []
    for i, view in enumerate(views):
        block = molblocks[view["record_id"]]
        mol = Chem.MolFromMolBlock(block, removeHs=False, sanitize=False)
        if mol is None:
            raise ValueError(f"RDKit cannot read the molblock of structure {i}: {block.splitlines()[:1]}")
        mols.append(mol)
    data = scene(
        mols,
        titles=[str(view["name"] or view["record_id"]) for view in views],
        captions=[str(view["caption"]) for view in views],
        ids=[str(view["record_id"]) for view in views],
    )
    return stage(data, "The 3D view needs JavaScript.")


def scene(
    mols: Sequence[Chem.Mol],
    *,
    titles: Sequence[str],
    captions: Sequence[str],
    ids: Sequence[str] | None = None,
    overlay: bool = False,
    align: bool = True,
) -> dict[str, Any]:
    """Return what static/view.js draws, JSON-able: graphs once, then for each structure its graph and coordinates.

    Parameters
    ----------
    mols : molecules with one conformer each, Å.
    titles, captions : what stands under each.
    ids : by which a page may ask for a structure.
    overlay : whether all are drawn at once.
    align : turn the structures for looking, see `aligned`.
    """
    keys = [_graph(mol) for mol in mols]
    place = {key: i for i, key in enumerate(dict.fromkeys(keys))}
    positions = _aligned(mols, keys) if align else [mol.GetConformer().GetPositions() for mol in mols]
    frames = [
        {"title": title, "caption": caption, "graph": place[key], "xyz": np.round(x, 3).ravel().tolist()}
        for key, x, title, caption in zip(keys, positions, titles, captions, strict=True)
    ]
    for frame, identity in zip(frames, ids or (), strict=ids is not None):
        frame["id"] = identity
    first = [mols[keys.index(key)] for key in place]
    drawn = [{"elements": [atom.GetSymbol() for atom in mol.GetAtoms()], "bonds": _bonds(mol)} for mol in first]
    return {"graphs": drawn, "frames": frames, "overlay": overlay}


def stage(
    data: Mapping[str, Any], note: str, *, height: int | None = None, inner: str = "", **attributes: str
) -> Markup:
    """Return the element that static/view.js fills.

    Parameters
    ----------
    data : from `scene`.
    note : what to read where no script runs.
    height : of the drawing, pixels.
    inner : further HTML inside.
    attributes : of the element.
    """
    # "<" would let a name close the script element; JSON may write it as an escape.
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", "\\u003c")
    given = "".join(f' {name.replace("_", "-")}="{html.escape(value)}"' for name, value in attributes.items())
    style = f' style="--height: {height}px"' if height else ""
    # JupyterLab keeps its shortcuts for itself where lm-suppress-shortcuts is set.
    return Markup(
        f'<div class="sddfkit view" tabindex="0" role="group" aria-label="3D view: left and right arrow keys step" '
        f'data-lm-suppress-shortcuts="true"{given}{style}>{inner}'
        f'<p class="view-note">{html.escape(note)}</p>'
        f'<script type="application/json" class="view-data">{text}</script></div>'
    )


def aligned(mols: Sequence[Chem.Mol]) -> list[Float]:
    """Return positions (n, 3) in Å, turned for looking: longest axis across, conformers on top of each other.

    Only rotations and translations: every distance stays. A conformer is fitted to the first structure with the same
    atoms and bonds, by the exact symmetry-corrected RMSD of the heavy atoms (of all, if fewer than three are heavy).
    """
    return _aligned(mols, [_graph(mol) for mol in mols])


def _aligned(mols: Sequence[Chem.Mol], graphs: Sequence[tuple[Any, ...]]) -> list[Float]:
    first: dict[tuple[Any, ...], tuple[Molecule, list[int], Float]] = {}
    turned: list[Float] = []
    for mol, graph in zip(mols, graphs, strict=True):
        x = mol.GetConformer().GetPositions()
        if graph in first:
            molecule, atoms, reference = first[graph]
            fit = flashrmsd_cy.rmsd(reference[atoms], x[atoms], molecule, align=True, time_limit_s=FIT_LIMIT_S)
            x = x @ fit.rotation.T + fit.translation
        else:
            x = _along_axes(x)
            heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
            atoms = heavy if len(heavy) > 2 else list(range(mol.GetNumAtoms()))
            first[graph] = (_part(mol, atoms), atoms, x)
        turned.append(x)
    return turned


def _along_axes(positions: Float) -> Float:
    """Return (n, 3) positions about their centre, turned so that they spread most along x and least along z."""
    centred = positions - positions.mean(axis=0)
    axes = np.linalg.svd(centred, full_matrices=True)[2]
    if np.linalg.det(axes) < 0:  # a reflection would swap the enantiomers
        axes[2] *= -1
    return np.ascontiguousarray(centred @ axes.T)


def _graph(mol: Chem.Mol) -> tuple[Any, ...]:
    bonds = sorted((min(b), max(b)) for b in ((b.GetBeginAtomIdx(), b.GetEndAtomIdx()) for b in mol.GetBonds()))
    return tuple(atom.GetAtomicNum() for atom in mol.GetAtoms()), tuple(bonds)


def _part(mol: Chem.Mol, atoms: Sequence[int]) -> Molecule:
    place = {atom: i for i, atom in enumerate(atoms)}
    ends = ((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()) for bond in mol.GetBonds())
    bonds = [(place[i], place[j]) for i, j in ends if i in place and j in place]
    return Molecule([mol.GetAtomWithIdx(i).GetAtomicNum() for i in atoms], bonds)


def _bonds(mol: Chem.Mol) -> list[list[int]]:
    """Return (i, j, order) of each bond, rings with alternating bonds where RDKit can place them."""
    drawn = Chem.Mol(mol)
    try:
        Chem.Kekulize(drawn)
    except Chem.KekulizeException:
        drawn = mol
    return [[b.GetBeginAtomIdx(), b.GetEndAtomIdx(), _ORDERS.get(b.GetBondType(), 1)] for b in drawn.GetBonds()]
