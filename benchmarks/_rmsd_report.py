"""Tables and plots of the RMSD benchmark: CSV for programs, Markdown and PNG for people."""

import csv
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]
COLOURS = {"ours": "#0b6e4f", "rdkit": "#c8553d", "spyrmsd": "#7b6d8d", "obrms": "#d9a21b", "flashrmsd_c": "#2f6690"}
NAMES = {
    "ours": "flashrmsd_cy",
    "rdkit": "RDKit",
    "spyrmsd": "spyrmsd",
    "obrms": "obrms (whole process)",
    "flashrmsd_c": "FlashRMSD (C)",
}
MODES = ("fixed", "minimised")


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """All rows, one column for each key that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, columns)
        table.writeheader()
        table.writerows(rows)


def markdown(results: Row, timed: Sequence[Row], others: Sequence[Row]) -> str:
    """The whole report."""
    machine = results["machine"]
    parts = [
        "# Symmetry-corrected RMSD: figures of one run",
        f"{machine['cores']} cores, load {machine['load']}, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + ". Single thread unless said otherwise; least of interleaved repeats.",
        "## What is claimed, and whether it held here",
        _table(
            ("claim", "measured", "claimed", "holds"),
            [
                (b["bar"], _number(b["value"]), b["target"], {True: "yes", False: "no", None: "–"}[b["holds"]])
                for b in results["bars"]
            ],
        ),
    ]
    if results["correctness"].get("problems"):
        parts += ["## Disagreements", "\n".join(f"- {problem}" for problem in results["correctness"]["problems"])]
    for section, title in (
        ("drugs", "Ordinary drugs, all pairs, µs per pair"),
        ("growth", "Families of growing symmetry, unrelated conformers, µs per pair"),
        ("classes", "The shared set by symmetry, µs per pair"),
    ):
        rows = [row for row in timed if row["section"] == section and row["kind"] != "similar"]
        if rows:
            parts += [f"## {title}", _by_program(rows)]
    equal = [row for row in timed if row["section"] == "equal size"]
    parts += ["## |Aut| grows at equal size, ours, µs per pair", _equal(equal)]
    whole = [row for row in others if row["section"] == "whole process"]
    parts += ["## Whole processes, ms", _whole(whole)]
    return "\n\n".join(parts) + "\n"


def _by_program(rows: Sequence[Row]) -> str:
    programs = [name for name in NAMES if any(r["program"] == name and r["us_per_pair"] is not None for r in rows)]
    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        key = row["mode"], row["family"], row["molecule"], row["n_atoms"], f"{row['n_automorphisms']:.3g}"
        value = row["us_per_pair"]
        said = _number(value) if value is not None else _short(row["why"])
        if value is not None and row["differs_from_ours"] is not None and row["differs_from_ours"] > 2e-4:
            said += f" (differs by {row['differs_from_ours']:.2g} Å)"
        lines.setdefault(key, {})[row["program"]] = said
    header = ("mode", "family", "molecule", "atoms", "|Aut|", *(NAMES[name] for name in programs))
    return _table(header, [(*key, *(said.get(name, "") for name in programs)) for key, said in lines.items()])


def _short(why: str) -> str:
    return "–" if why == "not asked" else why.split(":")[0]


def _equal(rows: Sequence[Row]) -> str:
    keys = list(dict.fromkeys((r["family"], r["molecule"], r["n_atoms"], r["n_automorphisms"]) for r in rows))
    times = {(r["molecule"], r["family"], r["mode"], r["kind"]): r["us_per_pair"] for r in rows}
    columns = [(mode, kind) for mode in MODES for kind in ("similar", "unrelated")]
    return _table(
        ("family", "member", "atoms", "|Aut|", *(f"{mode}, {kind}" for mode, kind in columns)),
        [
            (family, name, n, f"{count:.2g}", *(_number(times.get((name, family, *column))) for column in columns))
            for family, name, n, count in keys
        ],
    )


def _whole(rows: Sequence[Row]) -> str:
    lines: dict[tuple, dict[str, str]] = {}
    for row in rows:
        key = row["molecule"], row["mode"], row["conformers"]
        seconds = row["seconds"]
        lines.setdefault(key, {})[row["program"]] = _number(1e3 * seconds) if seconds is not None else row["why"]
    programs = list(dict.fromkeys(row["program"] for row in rows))
    return _table(
        ("molecule", "mode", "conformers", *programs),
        [(*key, *(said.get(program, "") for program in programs)) for key, said in lines.items()],
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if value == 0 or 1e-3 <= abs(value) < 1e6:
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:.1e}"


def plots(folder: Path, timed: Sequence[Row], others: Sequence[Row]) -> None:
    """Time against |Aut| and against size, growth at equal size, whole processes."""
    import matplotlib

    matplotlib.use("Agg")
    _scatter(folder / "time_by_symmetry.png", timed, "n_automorphisms", "|Aut|, ways to match the atoms")
    _scatter(folder / "time_by_size.png", timed, "n_atoms", "atoms compared")
    _lines(folder / "growth_at_equal_size.png", [row for row in timed if row["section"] == "equal size"])
    _bars(folder / "whole_process.png", [row for row in others if row["section"] == "whole process"])


def _panels(n: int, height: float = 4.2) -> tuple[Any, Any]:
    from matplotlib import pyplot as plt

    return plt.subplots(1, n, figsize=(5.2 * n, height), sharey=True, layout="constrained", squeeze=False)


def _scatter(path: Path, rows: Sequence[Row], column: str, label: str) -> None:
    figure, axes = _panels(2)
    for axis, mode in zip(axes[0], MODES, strict=True):
        here = [row for row in rows if row["mode"] == mode and row["section"] != "equal size"]
        late = 0
        for program, name in NAMES.items():
            mine = [row for row in here if row["program"] == program]
            done = [row for row in mine if row["us_per_pair"] is not None]
            if not done:
                continue
            axis.loglog(
                [row[column] for row in done],
                [row["us_per_pair"] for row in done],
                ".",
                ms=7 if program == "ours" else 6,
                color=COLOURS[program],
                label=name,
                alpha=0.75,
                zorder=3 if program == "ours" else 2,
                mew=0,
            )
            # Those that came to no end stand above the rest, a row for each program.
            lost = [row[column] for row in mine if row["why"].startswith("timed out")]
            if lost:
                axis.plot(
                    lost,
                    [0.97 - 0.025 * late] * len(lost),
                    "x",
                    ms=4,
                    color=COLOURS[program],
                    transform=axis.get_xaxis_transform(),
                    clip_on=False,
                )
                late += 1
        axis.set(title="in place" if mode == "fixed" else "after the best fit", xlabel=label)
        axis.grid(alpha=0.25)
        low, high = axis.get_ylim()
        axis.set_ylim(low, high)
    axes[0][0].set_ylabel("µs per pair")
    axes[0][0].set_ylim(None, 12 * axes[0][0].get_ylim()[1])
    marks, names = axes[0][0].get_legend_handles_labels()
    figure.legend(
        marks, names, fontsize=9, loc="outside lower center", ncols=len(names) + 1, title="× no answer in time"
    )
    _save(figure, path)


def _lines(path: Path, rows: Sequence[Row]) -> None:
    figure, axes = _panels(2)
    for axis, kind in zip(axes[0], ("similar", "unrelated"), strict=True):
        for number, family in enumerate(dict.fromkeys(row["family"] for row in rows)):
            for mode in MODES:
                here = [r for r in rows if (r["family"], r["kind"], r["mode"]) == (family, kind, mode)]
                here = sorted(
                    (row for row in here if row["us_per_pair"] is not None), key=lambda r: r["n_automorphisms"]
                )
                if not here:
                    continue
                label = f"{family} ({here[0]['n_atoms']} atoms)" if mode == "minimised" else None
                axis.loglog(
                    [row["n_automorphisms"] for row in here],
                    [row["us_per_pair"] for row in here],
                    "o-" if mode == "minimised" else "o:",
                    ms=3,
                    color=f"C{number}",
                    label=label,
                )
        axis.set(title=f"{kind} conformers", xlabel="|Aut|")
        axis.grid(alpha=0.25)
    axes[0][0].set_ylabel("µs per pair; dotted: in place")
    marks, names = axes[0][0].get_legend_handles_labels()
    figure.legend(marks, names, fontsize=8, loc="outside lower center", ncols=3)
    _save(figure, path)


def _bars(path: Path, rows: Sequence[Row]) -> None:
    shown = [row for row in rows if not row["program"].endswith(("own figure", "by hundreds"))]
    figure, axes = _panels(2)
    for axis, mode in zip(axes[0], MODES, strict=True):
        here = [row for row in shown if row["mode"] == mode]
        sizes = sorted({row["conformers"] for row in here})
        programs = list(dict.fromkeys(row["program"] for row in here))
        for place, program in enumerate(programs):
            name = program.split(",")[0]
            times = {k: [] for k in sizes}
            for row in here:
                if row["program"] == program and row["seconds"] is not None:
                    times[row["conformers"]].append(1e3 * row["seconds"])
            heights = [median(times[k] or [0]) for k in sizes]
            x = [i + (place - (len(programs) - 1) / 2) * 0.8 / len(programs) for i in range(len(sizes))]
            colour = COLOURS.get(name, "#999999")
            label = NAMES.get(name, name).split(" (w")[0]
            drawn = axis.bar(x, heights, 0.75 / len(programs), color=colour, label=label)
            axis.bar_label(drawn, [f"{height:,.0f}" if height else "" for height in heights], fontsize=7)
            for at, height in zip(x, heights, strict=True):
                if not height:
                    axis.text(
                        at,
                        0.02,
                        "no answer in time",
                        rotation=90,
                        ha="center",
                        fontsize=7,
                        color=colour,
                        transform=axis.get_xaxis_transform(),
                    )
        axis.set_yscale("log")
        axis.set_xticks(range(len(sizes)), [f"{k}" for k in sizes])
        axis.set(title="flashrmsd FILE -x" + (" -m" if mode == "minimised" else ""), xlabel="conformers in the file")
    axes[0][0].set_ylabel("ms, whole process")
    marks, names = axes[0][0].get_legend_handles_labels()
    figure.legend(marks, names, fontsize=9, loc="outside lower center", ncols=len(names))
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
