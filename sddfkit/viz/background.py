"""The sections of a report that say what it rests on: molecules, conformers, folds, calculations, time, provenance."""

from collections.abc import Mapping
from typing import Any

from sddfkit.viz import plots
from sddfkit.viz.figures import svg
from sddfkit.viz.page import Markup, element, figure, folded, joined, long_table, paragraph, section, table
from sddfkit.viz.words import core_time, count, duration, level_of, listing, number_of, program_of, sentence


def data(report: Mapping[str, Any]) -> Markup:
    """Return where the molecules came from, their conformers, and how they were divided."""
    left = element("div", joined([_molecules(report), _conformers(report)]))
    right = element("div", _split(report))
    return section("data", "Molecules, conformers, folds", element("div", joined([left, right]), class_="pair"))


def _molecules(report: Mapping[str, Any]) -> Markup:
    molecules = report["molecules"]
    rejected = molecules["rejected"]
    read = paragraph(
        f"{count(molecules['accepted'], 'molecule')} read from {molecules['source']}; "
        f"{count(len(rejected), 'line')} rejected."
    )
    rows = [[f"{r['source']}:{r['line']}", element("code", r["text"]), r["reason"]] for r in rejected]
    refused = long_table("Rejected input lines", ["Line", "Text", "Reason"], rows) if rows else ""
    return joined([element("h3", "Molecules"), read, refused])


def _conformers(report: Mapping[str, Any]) -> Markup:
    conformers = report["conformers"]
    asked, embedded, kept = (number_of(conformers[key]) for key in ("asked", "embedded", "kept"))
    reasons = [f"{reason} ({number_of(n)})" for reason, n in sorted(conformers["failures"].items())]
    why = f"Counted on the way: {listing(reasons)}." if reasons else "No embedding failed."
    sentence = f"{asked} conformers asked for, {embedded} embedded, {kept} kept after pruning by RMSD."
    rows = [
        [m["name"] or m["molecule_id"], m["asked"], m["embedded"], m["kept"], _counts(m["failures"])]
        for m in conformers["molecules"]
    ]
    heads = ["Molecule", "Asked", "Embedded", "Kept", "Counted on the way"]
    each = folded("Conformers of each molecule", table("Conformers of each molecule", heads, rows, numeric=(1, 2, 3)))
    return joined([element("h3", "Conformers"), paragraph(sentence, why), each if rows else ""])


def _counts(failures: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} ({n})" for reason, n in sorted(failures.items())) or "none"


def _split(report: Mapping[str, Any]) -> Markup:
    split = report["split"]
    order = [fold for fold in ("train", "validation", "test", "excluded") if fold in split["folds"]]
    folds = [(name, split["folds"][name]) for name in [*order, *sorted(set(split["folds"]) - set(order))]]
    rows = [[name, *(number_of(f[key]) for key in ("molecules", "scaffolds", "records"))] for name, f in folds]
    heads = ["Fold", "Molecules", "Scaffolds", "Conformers"]
    excluded = [[element("code", e["molecule_id"]), e["reason"]] for e in split["excluded"]]
    left_out = long_table("Molecules left out of every fold", ["Molecule", "Reason"], excluded) if excluded else ""
    about = Markup(
        "Whole scaffold groups go to one fold, so no test molecule has a scaffold, a stereoisomer or a conformer "
        f"in the training fold. Split {element('code', split['hash'][:12])}."
    )
    return joined(
        [
            element("h3", "Folds"),
            element("p", about),
            table("Size of each fold", heads, rows, numeric=(1, 2, 3)),
            left_out,
        ]
    )


def calculations(report: Mapping[str, Any]) -> Markup:
    """Return what was calculated, what failed, and the reference energies."""
    level, numbers = report["level"], report["calculations"]
    done = (
        f"{level_of(level)} by {program_of(level)}: {count(numbers['computed'], 'calculation')} done in this run, "
        f"{number_of(numbers['known'])} known before, {number_of(numbers['failed'])} failed. "
        f"{' '.join(core_time(numbers['core_hours']))}, {duration(numbers['program_wall_s'])} inside the program."
    )
    return section(
        "calculations",
        "Calculations and failures",
        paragraph(done, sentence(f"Why this program: {level['why']}")),
        element("div", joined([_failures(report), _references(report)]), class_="pair"),
    )


def _failures(report: Mapping[str, Any]) -> Markup:
    heading = element("h3", "Failures by class")
    if not report["failures"]:
        return element("div", joined([heading, paragraph("None.")]))
    rows = [[f["class"], number_of(f["count"]), joined(map(_example, f["examples"]))] for f in report["failures"]]
    failed = table("Failed calculations", ["Class", "Count", "Examples"], rows, numeric=(1,))
    return element("div", joined([heading, failed]))


def _example(example: Mapping[str, Any]) -> Markup:
    who = joined([element("strong", example["name"]), element("code", example["record_id"])], " ")
    return element("div", joined([who, element("pre", example["message"])]), class_="example")


def _references(report: Mapping[str, Any]) -> Markup:
    rows = [
        [element_, f"{energy:,.3f}".replace(",", "\u202f").replace("-", "−")]
        for element_, energy in report["references"].items()
    ]
    about = paragraph(
        "Subtracted from each energy, atom by atom, before training; fitted on the training fold, "
        "towards the energies of isolated atoms."
    )
    energies = table("Reference energy of each element", ["Element", "eV"], rows, numeric=(1,))
    return element("div", joined([element("h3", "Reference energies"), about, energies]))


def timings(report: Mapping[str, Any]) -> Markup:
    """Return the wall time of each stage as bars and as numbers."""
    stages = [t["stage"] for t in report["timings"]]
    seconds = [t["wall_s"] for t in report["timings"]]
    total = duration(sum(seconds))
    drawn = plots.timings(stages, seconds)
    about = "Wall time: " + "; ".join(f"{stage} {duration(s)}" for stage, s in zip(stages, seconds, strict=True))
    bars = figure(svg(drawn, "timings", about), f"Wall time by stage; {total} in all.")
    return section(
        "time",
        "Where the time went",
        element("div", bars, class_="single"),
    )


def provenance(report: Mapping[str, Any]) -> Markup:
    """Return everything needed to make this run again."""
    level = report["level"]
    rows: list[list[object]] = [
        ["Command", element("code", report["command"])],
        ["Created", report["created"]],
        ["Seed", report["seed"]],
        ["Strategy", report["strategy"]],
        ["Preset", report["preset"]],
        ["Networks", listing(list(report["members"]))],
        ["Level", f"{level['name']}: {level_of(level)}, {program_of(level)}"],
        ["Split", element("code", report["split"]["hash"])],
        *([name, version] for name, version in sorted(report["environment"].items())),
    ]
    return section(
        "provenance",
        "How to make this run again",
        table("Provenance", ["What", "Value"], rows),
        element("p", Markup('The numbers of this page are in <a href="report.json">report.json</a> beside it.')),
    )
