"""A finished run of active learning in a notebook: the pictures of its report, one by one.

Each function takes the report's document, as `read_report` returns it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sddfkit.data import Record, to_mol
from sddfkit.viz import results
from sddfkit.viz.evidence import arrays, derive
from sddfkit.viz.headline import verdict, warnings
from sddfkit.viz.notebook import Shown, View, show
from sddfkit.viz.page import element, joined


def read_report(folder: str | Path) -> dict[str, Any]:
    """Return the document of a finished run: report.json in its folder.

    Raises
    ------
    FileNotFoundError
        The folder holds no report.
    """
    path = Path(folder) / "report.json"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is {folder} the folder of a finished run?")
    document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return document


def learning(report: Mapping[str, Any]) -> Shown:
    """Show how the errors on the test fold fell with the number of labels, in a sentence and as curves."""
    cautions = warnings(report, derive(report, arrays(report["predictions"])))
    said = joined([element("p", element("strong", verdict(report))), *(element("p", text) for text in cautions)])
    return Shown(joined([said, results.learning_curves(report)]))


def parity(report: Mapping[str, Any]) -> Shown:
    """Show predicted against calculated values on the test fold: energies, relative energies, forces."""
    return Shown(results.parity_panels(report, arrays(report["predictions"])))


def calibration(report: Mapping[str, Any]) -> Shown:
    """Show whether the ensemble's spread points to its errors, and which test molecules are worst."""
    fold = arrays(report["predictions"])
    return Shown(results.doubt(report, fold, derive(report, fold)))


def chosen(report: Mapping[str, Any]) -> Shown:
    """Show what each round asked to have labelled, and why, with 2D drawings."""
    return Shown(results.choices(report, derive(report, arrays(report["predictions"]))))


def chosen_structures(report: Mapping[str, Any], records: Iterable[Record]) -> View:
    """Show the chosen conformers in 3D.

    Parameters
    ----------
    records : of the run's snapshot; those that were chosen are taken.

    Raises
    ------
    ValueError
        Nothing was chosen, or a chosen record is not among `records`.
    """
    known = {record.record_id: record for record in records}
    views = report["views"]
    if missing := [view["record_id"] for view in views if view["record_id"] not in known]:
        raise ValueError(f"{len(missing)} of {len(views)} chosen records are not given, the first being {missing[0]}")
    return show(
        [to_mol(known[view["record_id"]]) for view in views],
        titles=[view["name"] or view["record_id"] for view in views],
        labels=[view["caption"] for view in views],
    )
