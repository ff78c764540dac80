"""Write the report of a run: one HTML file that needs no network, and its numbers as JSON."""

import json
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sddfkit.viz import background, results
from sddfkit.viz.evidence import arrays, derive
from sddfkit.viz.headline import headline
from sddfkit.viz.page import Markup, document, joined, paragraph, section, static
from sddfkit.viz.view3d import mount_script, script, viewer

CONTENTS = (
    ("learning", "Learned"),
    ("parity", "Parity"),
    ("uncertainty", "Uncertainty"),
    ("chosen", "Chosen"),
    ("view3d", "3D"),
    ("data", "Data"),
    ("calculations", "Calculations"),
    ("time", "Time"),
    ("provenance", "Provenance"),
)


def write_report(report: Mapping[str, Any], molblocks: Mapping[str, str], folder: Path) -> Path:
    """Write report.html and report.json into `folder`; each appears complete or not at all.

    Parameters
    ----------
    report : the run's numbers, JSON-able, energies in eV unless a key names its unit.
    molblocks : record id → molblock with hydrogens (V2000 or V3000), for every entry of report["views"].
    folder : made if it is not there.

    Returns
    -------
    The path of report.html, which holds its style, figures, scripts and structures itself.

    Raises
    ------
    MissingScriptError
        The 3D viewer's script has not been fetched.
    ValueError
        The report has no round, or a structure to show has no readable molblock.
    """
    if not report["rounds"]:
        raise ValueError("the report has no round: a run reports after at least one training")
    fold = arrays(report["predictions"])
    derived = derive(report, fold)
    scripts = [script(), mount_script(), static("report.js")] if report["views"] else [static("report.js")]
    body = joined(
        [
            headline(report, derived),
            results.learning(report),
            results.parity(report, fold),
            results.uncertainty(report, fold, derived),
            results.chosen(report, derived),
            _view3d(report, molblocks),
            background.data(report),
            background.calculations(report),
            background.timings(report),
            background.provenance(report),
        ]
    )
    page = document(str(report["title"]), CONTENTS, body, scripts)
    numbers = json.dumps(
        plain({**report, "derived": derived}), allow_nan=False, ensure_ascii=False, indent=1, sort_keys=True
    )
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "report.json", numbers + "\n")
    _write(folder / "report.html", page)
    return folder / "report.html"


def plain(value: Any) -> Any:
    """Return `value` made of JSON's own types: arrays as lists, NaN and infinities as None.

    >>> plain({"mae": float("nan"), 1: np.arange(2)})
    {'mae': None, '1': [0, 1]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _view3d(report: Mapping[str, Any], molblocks: Mapping[str, str]) -> Markup:
    if not report["views"]:
        return section("view3d", "Chosen conformers in 3D", paragraph("No structure was chosen to be shown."))
    intro = paragraph(
        "Drag to turn. Once clicked, scroll to zoom, arrow keys to step. Conformers of one molecule are aligned."
    )
    return section("view3d", "Chosen conformers in 3D", intro, viewer(report["views"], molblocks))


def _write(path: Path, text: str) -> None:
    """Write beside the target and rename, so that a reader never sees half a file."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
