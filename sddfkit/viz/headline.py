"""The top of a report: what was done, what was learned and what it cost, in sentences made from the numbers."""

import math
from collections.abc import Mapping
from typing import Any

from sddfkit.viz.page import Markup, element, joined
from sddfkit.viz.words import core_time, count, duration, level_of, number, number_of, program_of, spelled

ENERGY = "energy_mae_kcal_mol"
FORCE = "force_mae_kcal_mol_A"


def headline(report: Mapping[str, Any], derived: Mapping[str, Any]) -> Markup:
    """Return title, verdict, key numbers and the paragraph that says what they mean."""
    created = str(report["created"]).replace("T", " ")[:16]
    return Markup(
        f"""<header>
{element("p", f"sddfkit · {created} · seed {report['seed']}", class_="eyebrow")}
{element("h1", report["title"])}
{element("p", verdict(report), class_="verdict")}
{element("dl", joined(_tiles(report, derived)), class_="tiles")}
{element("dl", joined(_summary(report, derived)), class_="summary")}
{joined(element("p", warning, class_="note") for warning in warnings(report, derived))}
</header>"""
    )


def verdict(report: Mapping[str, Any]) -> str:
    """Return in one sentence how the error on the test fold moved, also when it did not fall."""
    first, last = report["rounds"][0], report["rounds"][-1]
    before, after = (r["metrics"]["ensemble"][ENERGY] for r in (first, last))
    guess = last["metrics"]["baseline"][ENERGY]
    if not known(after):
        return "The energy error on the test fold is not known."
    if known(guess) and after >= guess:
        return (
            f"The energies are no better than a guess yet: they are off by {number(after)} kcal/mol, the composition "
            f"alone by {number(guess)}."
        )
    if len(report["rounds"]) == 1 or not known(before):
        against = f", against {number(guess)} from the composition alone" if known(guess) else ""
        return f"Energy error {number(after)} kcal/mol on unseen scaffolds{against}."
    verb = "fell" if after < 0.97 * before else "rose" if after > 1.03 * before else "stayed"
    rounds = spelled(len(report["rounds"]) - 1, "round")
    path = f"from {number(before)} to {number(after)}" if verb != "stayed" else f"near {number(after)}"
    against = f" (composition alone: {number(guess)})" if known(guess) else ""
    return f"In {rounds} of active learning the energy error on unseen scaffolds {verb} {path} kcal/mol{against}."


def warnings(report: Mapping[str, Any], derived: Mapping[str, Any]) -> list[str]:
    """Return what a careful reader should know before believing the numbers."""
    found = []
    n, molecules = derived["energy"]["n"], derived["energy"]["molecules"]
    if molecules < 10:
        found.append(
            f"The test fold is small ({count(n, 'conformer')} of {count(molecules, 'molecule')}): "
            "read every error as a rough figure."
        )
    guesses = [report["rounds"][i]["metrics"]["baseline"][ENERGY] for i in (0, -1)]
    if all(map(known, guesses)) and guesses[0] > 1.25 * guesses[1]:
        found.append(
            f"The guess from the composition alone improved from {number(guesses[0])} to {number(guesses[1])} kcal/mol "
            "over the same rounds: that part of the fall is owed to reference energies fitted to more labels."
        )
    stated, again = report["rounds"][-1]["metrics"]["ensemble"][ENERGY], derived["energy"]["mae"]
    if known(stated) and known(again) and not math.isclose(stated, again, rel_tol=0.01):
        found.append(
            f"The last round's metrics give an energy MAE of {number(stated)} kcal/mol, the predictions listed here "
            f"{number(again)}: they were not made on the same conformers or not by the same networks."
        )
    if missing := len(report["predictions"]) - n:
        found.append(f"{count(missing, 'test conformer')} without a finite label or prediction are left out.")
    return found


def known(value: float | None) -> bool:
    """Say whether a metric is a finite number."""
    return value is not None and math.isfinite(value)


def _tiles(report: Mapping[str, Any], derived: Mapping[str, Any]) -> list[Markup]:
    calculations, level = report["calculations"], report["level"]
    labelled = calculations["labelled"]
    molecules = report["molecules"]["accepted"]
    wall = sum(t["wall_s"] for t in report["timings"])
    return [
        _tile(
            "Energy error (MAE)",
            number(_last(report, ENERGY)),
            "kcal/mol",
            _interval(derived["energy"]["mae_interval"]),
            *_before(report, ENERGY, "composition alone"),
        ),
        _tile(
            "Force error (MAE)",
            number(_last(report, FORCE)),
            "kcal/mol/Å",
            *_before(report, FORCE, "no force at all"),
        ),
        _tile("Labels", number_of(labelled), "conformers", f"from {count(molecules, 'molecule')}", level_of(level)),
        _tile(
            "Cost",
            *core_time(calculations["core_hours"]),
            f"of {program_of(level)} in this run",
            f"whole run: {duration(wall)}",
        ),
    ]


def _last(report: Mapping[str, Any], key: str) -> float | None:
    return report["rounds"][-1]["metrics"]["ensemble"][key]


def _interval(span: list[float] | None) -> str:
    return f"95 % interval {number(span[0])} to {number(span[1])}" if span else ""


def _before(report: Mapping[str, Any], key: str, guess: str) -> list[str]:
    first, last = report["rounds"][0]["metrics"], report["rounds"][-1]["metrics"]
    start = f"in round 0: {number(first['ensemble'][key])}" if len(report["rounds"]) > 1 else ""
    return [start, f"{guess}: {number(last['baseline'][key])}"]


def _tile(name: str, value: str, unit: str, *notes: str) -> Markup:
    lines = [element("span", value, class_="value"), element("span", unit, class_="unit")]
    lines += [element("span", note, class_="of") for note in notes if note]
    return joined([Markup("<div>"), element("dt", name), element("dd", joined(lines, " ")), Markup("</div>")], "")


def _summary(report: Mapping[str, Any], derived: Mapping[str, Any]) -> list[Markup]:
    entries = [
        ("Labels", _labelled(report)),
        ("Test", _learned(report, derived)),
        ("Conformers", _relative(derived["relative_energy"])),
        ("Trust", ranking(derived["spread"])),
    ]
    return [
        joined([Markup("<div>"), element("dt", name), element("dd", said), Markup("</div>")], "")
        for name, said in entries
        if said
    ]


def _labelled(report: Mapping[str, Any]) -> str:
    level, calculations = report["level"], report["calculations"]
    labelled = calculations["labelled"]
    failed = f", {count(calculations['failed'], 'calculation')} failed" if calculations["failed"] else ", none failed"
    return (
        f"{count(labelled, 'conformer')} of the {count(report['molecules']['accepted'], 'molecule')} have energies and "
        f"forces at {level_of(level)} from {program_of(level)}; "
        f"of {number_of(calculations['known'] + calculations['computed'])} calculations, isolated atoms among them, "
        f"{number_of(calculations['known'])} were known before this run{failed}."
    )


def _learned(report: Mapping[str, Any], derived: Mapping[str, Any]) -> str:
    return (
        f"{spelled(len(report['members']), 'network').capitalize()}, trained on "
        f"{count(report['rounds'][-1]['n_labelled_train'], 'labelled conformer')}, predict "
        f"{count(derived['energy']['n'], 'conformer')} of {count(derived['energy']['molecules'], 'molecule')} "
        "whose scaffolds they never saw."
    )


def _relative(relative: Mapping[str, Any]) -> str:
    if not relative["n"]:
        return ""
    return (
        f"Energies relative to the molecule's other conformers are off by {number(relative['mae'])} kcal/mol; "
        f"calling all conformers equal would be off by {number(relative['mae_if_all_equal'])}."
    )


def ranking(spread: Mapping[str, Any]) -> str:
    """Return whether the ensemble's spread tells good predictions from bad ones, with ρ, its interval and n."""
    rho, span = spread["spearman"], spread["spearman_interval"]
    basis = f"{count(spread['n'], 'conformer')} of {count(spread['molecules'], 'molecule')}"
    if not known(rho):
        return f"Whether the ensemble's spread points to its errors cannot be said from {basis}."
    stated = f"Spearman ρ = {number(rho, 2)}" + (
        f", 95 % interval {number(span[0], 2)} to {number(span[1], 2)}" if span else ""
    )
    if span is None or span[0] <= 0 <= span[1]:
        return f"The ensemble's spread cannot be told from chance as a guide to its errors ({stated}; {basis})."
    strength = next(word for limit, word in ((0.3, "weakly"), (0.6, "moderately"), (2, "well")) if abs(rho) < limit)
    if rho < 0:
        return f"The ensemble's spread misleads: it is larger where the error is smaller ({stated}; {basis})."
    return f"The ensemble's spread ranks its own errors {strength} ({stated}; {basis})."
