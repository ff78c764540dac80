"""Tables and plots of the factory's benchmark: Markdown and PNG for people."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLOURS = {"ours": "#0b6e4f", "ipyparallel": "#c8553d", "dask": "#d9a21b", "parsl": "#2f6690"}
NAMES = {"ours": "sddfkit", "ipyparallel": "ipyparallel", "dask": "dask.distributed", "parsl": "parsl"}
KILL_COLOURS = {"engine": "#c8553d", "worker": "#d9a21b", "controller": "#2f6690", "coordinator": "#7b6d8d"}
HOLDS = {True: "yes", False: "no", None: "–"}


def markdown(results: Row) -> str:
    """The whole report."""
    machine = results["machine"]
    parts = [
        "# The factory: figures of one run",
        f"{machine['cores']} cores, load {machine['load']} at the start, Python {machine['python']}; "
        + ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        + f"; seed {results['seed']}. Two engines.",
        "## What is claimed, and whether it held here",
        _table(
            ("claim", "measured", "claimed", "holds"),
            [(b["bar"], _number(b["value"]), b["target"], HOLDS[b["holds"]]) for b in results["bars"]],
        ),
    ]
    if results["problems"]:
        parts += ["## Problems", "\n".join(f"- {problem}" for problem in results["problems"])]
    for name, write in (("kill", _kill), ("waste", _waste), ("scale", _scale), ("peers", _peers)):
        if name in results and "why" not in results[name]:
            parts += write(results[name])
    return "\n\n".join(parts) + "\n"


def _kill(kill: Row) -> list[str]:
    jobs = kill["jobs"]
    names = (
        "calculations", "rounds", "accepted", "lost", "repeated", "twice", "held", "attempts", "coordinator_starts",
        "hangs", "orphans", "left_in_spool", "left_scratch_folders", "verify", "seconds",
    )  # fmt: skip
    killed = ", ".join(f"{count} × {kind}" for kind, count in kill["kills"].items())
    return [
        "## Kill rounds",
        f"{jobs['gfn2']} × GFN2-xTB and {jobs['dft']} × {jobs['dft_level']} ({jobs['dft_program']}); {killed}.",
        _table(("", ""), [(name.replace("_", " "), _number(kill[name])) for name in names]),
    ]


def _waste(waste: Row) -> list[str]:
    names = (
        "jobs", "seconds_each", "span_s", "program_wall_s", "in_program_fraction", "makespan_ratio", "overhead_ms",
        "workers",
    )  # fmt: skip
    rows = [(name.replace("_", " "), _number(waste["equal"][name]), _number(waste["varied"][name])) for name in names]
    start = f"Imports of the engines and start of their workers: {waste['start']['cpu_s']} s of CPU."
    return ["## Waste", start, _table(("", "equal", "50-fold"), rows)]


def _scale(scale: Row) -> list[str]:
    columns = ("queued", "finished", "submit_ms", "status_ms", "count_ms", "first_job_ms", "next_job_ms", "peak_rss_mb")
    rows = [[_number(row[name]) for name in columns] for row in scale["queue"]]
    names = ("tasks_per_s", "cpu_ms_per_task", "ingest_per_s", "ingest_cpu_ms", "dedupe_s", "dedupe_by_key_s")
    return [
        "## Growth",
        "submit and next job: ms per calculation; status: all numbers of the live table.",
        _table([name.replace("_", " ") for name in columns], rows),
        _table(("", ""), [(name.replace("_", " "), _number(scale[name])) for name in names]),
    ]


def _peers(peers: Row) -> list[str]:
    rows, trivial = [], []
    for name, found in peers.items():
        if "why" in found:
            rows.append((NAMES[name], found["why"], "", "", "", ""))
            continue
        mixed, same = found["mixed"], found["same trivial"]
        figures = [mixed[key] for key in ("seconds", "program_wall_s", "efficiency", "overhead_ms")]
        rows.append((NAMES[name], *map(_number, figures), _number(same["tasks_per_s"])))
        trivial += [
            (NAMES[name], *(_number(row[key]) for key in ("tasks", "seconds", "tasks_per_s")))
            for row in found["trivial"]
        ]
    return [
        "## The same work by others",
        _table(("", "mixed: s", "in the program, s", "efficiency", "overhead, ms a task", "same trivial, 1/s"), rows),
        _table(("trivial tasks", "tasks", "s", "1/s"), trivial),
    ]


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _number(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, list):
        return " to ".join(map(_number, value))
    if isinstance(value, float) and value < 100:
        return f"{value:.4g}"
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def plots(folder: Path, results: Row) -> None:
    """What was killed when; growth with the queue, ours and the others'."""
    import matplotlib

    matplotlib.use("Agg")
    if "moments" in results.get("kill", {}):
        _draw_kills(folder / "kills.png", results["kill"])
    if grown := results.get("scale", {}).get("queue"):
        _draw_growth(folder / "growth.png", grown)
    if others := {name: row["trivial"] for name, row in results.get("peers", {}).items() if "trivial" in row}:
        _draw_others(folder / "others.png", others)


def _draw_kills(path: Path, kill: Row) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 3.2), layout="constrained")
    moments = sorted(kill["on_disk_s"])
    axis.step(
        [0, *moments, kill["seconds"]], [0, *range(1, len(moments) + 1), len(moments)], where="post", color="#333"
    )
    for kind, colour in KILL_COLOURS.items():
        mine = [item for item in kill["moments"] if item["kind"] == kind]
        label = f"SIGKILL: {kind} ({len(mine)})"
        axis.plot([m["at_s"] for m in mine], [m["on_disk"] for m in mine], "x", ms=8, mew=2, color=colour, label=label)
    axis.set(xlabel="s", ylabel="results on the disk", xlim=(0, None), ylim=(0, None))
    _finish(figure, axis, path)


def _draw_growth(path: Path, grown: Sequence[Row]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, label in (
        ("first_job_ms", "from run() to the first job"),
        ("status_ms", "status"),
        ("next_job_ms", "result in, next job out"),
        ("submit_ms", "submit, per calculation"),
    ):
        axis.loglog([row["queued"] for row in grown], [row[name] for row in grown], "o-", ms=4, label=label)
    axis.set(xlabel="calculations in the queue", ylabel="ms")
    _finish(figure, axis, path)


def _draw_others(path: Path, others: dict[str, list[Row]]) -> None:
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 3.8), layout="constrained")
    for name, rows in others.items():
        style = {"color": COLOURS[name], "label": NAMES[name]}
        axis.semilogx([row["tasks"] for row in rows], [row["tasks_per_s"] for row in rows], "o-", ms=4, **style)
    axis.set(xlabel="trivial tasks", ylabel="tasks per second, two engines", ylim=(0, None))
    _finish(figure, axis, path)


def _finish(figure: Any, axis: Any, path: Path) -> None:
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    figure.savefig(path, dpi=110)
    plt.close(figure)
