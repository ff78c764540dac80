"""The sections of a report that show what was learned: curves, parity, uncertainty, and what was chosen."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

import numpy as np

from sddfkit.viz import plots
from sddfkit.viz.evidence import Fold, within_molecules
from sddfkit.viz.figures import drawing, svg
from sddfkit.viz.headline import ENERGY, FORCE, known, ranking
from sddfkit.viz.page import Markup, element, figure, folded, joined, long_table, paragraph, section, table
from sddfkit.viz.words import count, level_of, number

METRICS: Final = (
    (ENERGY, "Energy MAE, kcal/mol"),
    ("energy_rmse_kcal_mol", "Energy RMSE, kcal/mol"),
    ("energy_mae_mev_per_atom", "Energy MAE, meV/atom"),
    (FORCE, "Force MAE, kcal/mol/Å"),
    ("force_rmse_kcal_mol_A", "Force RMSE, kcal/mol/Å"),
)
_GUESSES: Final = {
    ENERGY: ("a guess from the composition alone", "composition only"),
    FORCE: ("predicting no force at all", "no force at all"),
}
# A drawing weighs about 8 kB; beyond this many molecules a round's table names the molecule without drawing it.
MOST_DRAWN: Final = 60


def learning(report: Mapping[str, Any]) -> Markup:
    """Return the learning curves with their numbers."""
    rounds = report["rounds"]
    random = "random" in report["strategy"].lower()
    control = (
        ""
        if random or len(rounds) == 1
        else f"The run has no random-choice control: the curve shows what more data chosen by “{report['strategy']}” "
        "did, not that the choice beats chance."
    )
    return section(
        "learning",
        "What was learned",
        paragraph(
            "Errors on one test fold, the same in every round; the training fold holds none of its scaffolds.",
            control,
        ),
        learning_curves(report),
    )


def learning_curves(report: Mapping[str, Any]) -> Markup:
    """Return the curves of the energy and the force error, and the numbers behind them."""
    rounds = report["rounds"]
    n = [r["n_labelled_train"] for r in rounds]
    curves = [_curve(report, n, ENERGY, "Energy", "kcal/mol"), _curve(report, n, FORCE, "Force", "kcal/mol/Å")]
    numbers = folded("The numbers of every round", joined(_round_numbers(r) for r in rounds))
    return joined([element("div", joined(curves), class_="pair"), numbers])


def _curve(report: Mapping[str, Any], n: list[int], key: str, name: str, unit: str) -> Markup:
    def errors(metrics_of: Any) -> list[float]:
        return [np.nan if (v := metrics_of(r["metrics"])[key]) is None else v for r in report["rounds"]]

    words, short = _GUESSES[key]
    drawn = plots.learning_curve(
        n,
        errors(lambda m: m["ensemble"]),
        {member: errors(lambda m, member=member: m["members"][member]) for member in report["members"]},
        errors(lambda m: m["baseline"]),
        quantity=f"{name.lower()} error (MAE)",
        unit=unit,
        guess_name=short,
    )
    ensemble = ", ".join(number(e) for e in errors(lambda m: m["ensemble"]))
    about = f"{name} error against labelled training conformers {n}; ensemble: {ensemble} {unit}"
    caption = f"{name} error of the ensemble (thick) and its members (thin). Dashed: {words}."
    return figure(svg(drawn, f"curve-{name.lower()}", about), caption)


def _round_numbers(entry: Mapping[str, Any]) -> Markup:
    metrics = entry["metrics"]
    rows = [("ensemble", metrics["ensemble"]), *metrics["members"].items(), ("composition only", metrics["baseline"])]
    caption = f"Round {entry['round']}: {count(entry['n_labelled_train'], 'training conformer')}"
    heads = ["Network", *(head for _, head in METRICS)]
    return table(
        caption, heads, [[name, *(number(m[key]) for key, _ in METRICS)] for name, m in rows], numeric=range(1, 6)
    )


def parity(report: Mapping[str, Any], fold: Fold) -> Markup:
    """Return predicted against reference: energies, relative conformer energies, force components."""
    source = level_of(report["level"])
    return section(
        "parity",
        joined(["Predicted against", element("span", source, class_="nowrap")], " "),
        paragraph("Final ensemble, test fold: molecules it was not trained on."),
        parity_panels(report, fold),
    )


def parity_panels(report: Mapping[str, Any], fold: Fold) -> Markup:
    """Return the three parity plots: energies, relative conformer energies, force components."""
    source = level_of(report["level"])
    reference, predicted, _ = within_molecules(fold)
    panels = [
        (
            "energy",
            plots.parity(
                fold.energy, fold.energy_pred, quantity="energy", unit="kcal/mol", source=source, spread=fold.spread
            ),
            "Energy minus the reference energies of the atoms. Bars: ±1 σ of the ensemble; line: y = x.",
        ),
        (
            "relative",
            plots.parity(
                reference,
                predicted,
                quantity="relative energy",
                unit="kcal/mol",
                source=source,
                empty="no molecule with two conformers",
            ),
            "Energy minus the mean over the conformers of the same molecule: this is what ranks conformers.",
        ),
        (
            "forces",
            plots.parity(fold.forces, fold.forces_pred, quantity="force", unit="kcal/mol/Å", source=source),
            "Every force component of every test conformer.",
        ),
    ]
    figures = [
        figure(svg(drawn, f"parity-{key}", f"Parity plot. {caption}"), caption) for key, drawn, caption in panels
    ]
    return element("div", joined(figures), class_="triple")


def uncertainty(report: Mapping[str, Any], fold: Fold, derived: Mapping[str, Any]) -> Markup:
    """Return whether the ensemble knows where it is wrong, and how the error depends on size."""
    return section("uncertainty", "Does it know where it is wrong?", doubt(report, fold, derived))


def doubt(report: Mapping[str, Any], fold: Fold, derived: Mapping[str, Any]) -> Markup:
    """Return what stands in the section on uncertainty."""
    error = fold.energy_pred - fold.energy
    ratio = derived["spread"]["rms_error_over_rms_spread"]
    size = ""
    if known(ratio) and derived["spread"]["n"] >= 10:
        fit = "is too small by that factor" if ratio > 1.25 else "is too large" if ratio < 0.8 else "has the right size"
        size = f"The RMS error is {number(ratio, 2)} times the RMS spread: the spread {fit}."
    spread = plots.spread_vs_error(fold.spread, error, unit="kcal/mol")
    by_size = plots.error_by_size(fold.n_heavy, error, unit="kcal/mol")
    figures = [
        figure(
            svg(spread, "spread", "Absolute energy error against the spread of the ensemble, logarithmic axes"),
            "Error against the ensemble's spread for each test conformer, and RMS error of equally filled bins.",
        ),
        figure(
            svg(by_size, "size", "Absolute energy error against the number of heavy atoms"),
            "Error by size of the molecule; n counts test conformers.",
        ),
    ]
    said = paragraph(ranking(derived["spread"]), size)
    return joined([said, element("div", joined(figures), class_="pair"), _by_molecule(report, derived)])


def _by_molecule(report: Mapping[str, Any], derived: Mapping[str, Any]) -> Markup:
    names = {p["molecule_id"]: p["name"] for p in report["predictions"]}
    rows = [
        [
            rank,
            _picture(m["molecule_id"], rank <= MOST_DRAWN),
            _molecule(names[m["molecule_id"]], m["molecule_id"], m["n_heavy"]),
            m["n"],
            number(m["mean_error"]),
            number(m["mae"]),
            number(m["spread"]),
        ]
        for rank, m in enumerate(derived["test_molecules"], start=1)
    ]
    heads = ["Rank", "Structure", "Molecule", "Conformers", "Mean error", "MAE", "Spread σ"]
    caption = "Test molecules by energy MAE, worst first; kcal/mol, mean error = predicted − reference"
    listed = long_table(caption, heads, rows, numeric=(0, 3, 4, 5, 6), shown=4)
    return joined([element("h3", "Where it errs most"), element("div", listed, class_="cards")]) if rows else Markup("")


def chosen(report: Mapping[str, Any], derived: Mapping[str, Any]) -> Markup:
    """Return, for each round, which molecules were chosen for labelling and why, with links to the 3D view."""
    viewable = {view["record_id"] for view in report["views"]}
    return section("chosen", "Which molecules were chosen, and why", choices(report, derived, viewable))


def choices(report: Mapping[str, Any], derived: Mapping[str, Any], viewable: Collection[str] = ()) -> Markup:
    """Return what stands in the section on what was chosen; records in `viewable` get a link to the page's 3D view."""
    rounds = [r for r in report["rounds"] if r["selected"]]
    if not rounds:
        return paragraph("Nothing was chosen: this run has no round of active learning.")
    errors = {d["round"]: d["chosen_error_before"] for d in derived["rounds"]}
    parts = [_chosen_in(r, errors[r["round"]], viewable) for r in rounds]
    intro = paragraph(
        f"Strategy “{report['strategy']}”. Each conformer below was taken from the pool at the end of its round, "
        "labelled and then trained on. “Error before” is the ensemble's energy error on it before that training."
    )
    return joined([intro, *parts])


def _chosen_in(entry: Mapping[str, Any], error: float, viewable: Collection[str]) -> Markup:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for s in sorted(entry["selected"], key=lambda s: s["rank"]):
        groups.setdefault(s["molecule_id"], []).append(s)
    usual = entry["metrics"]["ensemble"][ENERGY]
    lesson = ""
    if known(error) and known(usual):
        lesson = f"Their mean error before training was {number(error)} kcal/mol; the test fold's was {number(usual)}."
    what = f"{count(len(entry['selected']), 'conformer')} of {count(len(groups), 'molecule')} chosen."
    heads = ["Rank", "Structure", "Molecule", "Conformers", "Score", "Error before, kcal/mol", "Reason"]
    rows = [_molecule_row(group, i < MOST_DRAWN, viewable) for i, group in enumerate(groups.values())]
    caption = f"Chosen at the end of round {entry['round']}"
    return joined(
        [
            element("h3", f"After round {entry['round']}"),
            paragraph(what, lesson),
            element("div", long_table(caption, heads, rows, numeric=(0, 3, 4, 5), shown=5), class_="cards"),
            folded("Every chosen conformer with its record id", _conformer_table(entry)),
        ]
    )


def _molecule_row(group: Sequence[Mapping[str, Any]], draw: bool, viewable: Collection[str]) -> list[object]:
    best = group[0]
    in_3d = next((s["record_id"] for s in group if s["record_id"] in viewable), None)
    link = element("a", "Show in 3D", href="#view3d", data_view=in_3d, class_="to3d") if in_3d else Markup("")
    reasons = joined((element("span", r, class_="reason") for r in dict.fromkeys(s["reason"] for s in group)), " ")
    return [
        best["rank"],
        _picture(best["molecule_id"], draw),
        _molecule(best["name"], best["molecule_id"], best["n_heavy"], link),
        len(group),
        _range([s["score"] for s in group if known(s["score"])]) or "–",
        _range([abs(e) for s in group if known(e := s["energy_error_kcal_mol"])]) or "no label",
        reasons,
    ]


def _picture(smiles: str, draw: bool) -> object:
    if not draw:
        return "not drawn"
    return Markup(picture) if (picture := drawing(smiles)) else "RDKit cannot read this SMILES"


def _molecule(name: str, smiles: str, n_heavy: int, *more: Markup) -> Markup:
    heavy = element("span", count(n_heavy, "heavy atom"), class_="muted")
    return joined([*([element("strong", name)] if name else []), element("code", smiles), heavy, *more], " ")


def _conformer_table(entry: Mapping[str, Any]) -> Markup:
    rows = [
        [
            s["rank"],
            s["name"] or s["molecule_id"],
            element("code", s["record_id"]),
            number(s["score"]),
            number(s["energy_error_kcal_mol"]),
            s["reason"],
        ]
        for s in sorted(entry["selected"], key=lambda s: s["rank"])
    ]
    heads = ["Rank", "Molecule", "Record", "Score", "Error before, kcal/mol", "Reason"]
    return table(f"Conformers chosen at the end of round {entry['round']}", heads, rows, numeric=(0, 3, 4))


def _range(values: list[float]) -> str:
    if not values:
        return ""
    low, high = number(min(values)), number(max(values))
    return low if low == high else f"{low} to {high}"
