"""What is in a store: how much of what, what failed and how, and a row for each calculation."""

import json
import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from sddfkit.factory.spools import spooled
from sddfkit.factory.store import Store, StoreError, attempts, calculations, records, requests, results

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

COLUMNS: Final[dict[str, tuple[str, str]]] = {
    "key": ("", "hash of all that decides the result"),
    "record_id": ("", "the record that is calculated; none for an isolated atom"),
    "molecule_id": ("", "its molecule"),
    "label": ("", "its name, for people"),
    "level": ("", "level of theory"),
    "program": ("", "program"),
    "program_version": ("", "its version"),
    "state": ("", "ready, running, done, failed or held"),
    "error_class": ("", "of the last failure"),
    "error_message": ("", "of the last failure"),
    "attempts": ("1", "how often it was tried"),
    "host": ("", "where it was tried last"),
    "created": ("UTC", "when it was asked for"),
    "started": ("UTC", "start of the first attempt"),
    "finished": ("UTC", "end of the last attempt"),
    "wall_s": ("s", "wall time of all attempts"),
    "cpu_s": ("s", "processor time of all attempts, over all cores"),
    "peak_rss_mib": ("MiB", "largest memory of any attempt"),
    "energy_hartree": ("hartree", "the result"),
}
"""The columns of :func:`frame`: unit and meaning."""

_TIMES = ("created", "started", "finished")
_NUMBERS = ("wall_s", "cpu_s", "peak_rss_mib", "energy_hartree")
_NUMBER = re.compile(r"\d+(\.\d+)?([eE][+-]?\d+)?")


def _tries() -> sa.Subquery:
    """The attempts of each calculation, summed up."""
    return (
        sa.select(
            attempts.c.key,
            sa.func.count().label("attempts"),
            sa.func.min(attempts.c.started).label("started"),
            sa.func.max(attempts.c.finished).label("finished"),
            sa.func.sum(attempts.c.wall_s).label("wall_s"),
            sa.func.sum(attempts.c.cpu_s).label("cpu_s"),
            sa.func.max(attempts.c.peak_rss_mib).label("peak_rss_mib"),
            sa.func.max(attempts.c.id).label("last"),
        )
        .group_by(attempts.c.key)
        .subquery("tries")
    )


def frame(store: Store, where: str | None = None) -> "pd.DataFrame":
    """Return a row per calculation; see :meth:`sddfkit.factory.store.Store.to_frame`."""
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise StoreError("a DataFrame needs pandas: pip install pandas") from error
    tries, last = _tries(), attempts.alias("last")
    found = {
        **{name: calculations.c[name] for name in COLUMNS if name in calculations.c},
        "molecule_id": records.c.molecule_id,
        "attempts": sa.func.coalesce(tries.c.attempts, 0),
        "host": last.c.host,
        **{name: tries.c[name] for name in ("started", "finished", "wall_s", "cpu_s", "peak_rss_mib")},
        "energy_hartree": results.c.energy_hartree,
    }
    source = (
        calculations.outerjoin(records, records.c.record_id == calculations.c.record_id)
        .outerjoin(tries, tries.c.key == calculations.c.key)
        .outerjoin(last, last.c.id == tries.c.last)
        .outerjoin(results, results.c.key == calculations.c.key)
    )
    rows = sa.select(*(found[name].label(name) for name in COLUMNS)).select_from(source).subquery("rows")
    statement = sa.select(rows).order_by(rows.c.key)
    if where is not None:
        statement = statement.where(sa.literal_column(f"({where})", sa.Boolean))
    try:
        selected = store.select(statement)
    except StoreError as error:
        reason = error.__cause__.orig if isinstance(error.__cause__, sa.exc.DBAPIError) else None
        if where is None or not store.database.is_wrong_sql(reason):
            raise
        said = str(reason).splitlines()[0]
        raise StoreError(f"where={where!r}: {said}; expected SQL on the columns {', '.join(COLUMNS)}") from error
    table = pd.DataFrame([tuple(row.values()) for row in selected], columns=list(COLUMNS))
    for name in _TIMES:
        table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
    for name in _NUMBERS:
        table[name] = table[name].astype("float64")
    table.attrs["units"] = {name: unit for name, (unit, _) in COLUMNS.items()}
    return table


def groups(store: Store) -> list[dict[str, Any]]:
    """Return counts and costs by level, program, version, state and error class (of failed and held calculations)."""
    names = ("level", "program", "program_version", "state", "error_class")
    by = [calculations.c[name] for name in names]
    counts = sa.select(*by, sa.func.count().label("calculations")).group_by(*by)
    costs = (
        sa.select(
            *by,
            sa.func.count().label("attempts"),
            sa.func.sum(attempts.c.cpu_s).label("cpu_s"),
            sa.func.sum(attempts.c.wall_s).label("wall_s"),
            sa.func.max(attempts.c.peak_rss_mib).label("peak_rss_mib"),
        )
        .select_from(attempts.outerjoin(calculations, calculations.c.key == attempts.c.key))  # attempts first
        .group_by(*by)
    )
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in (*store.select(counts), *store.select(costs)):
        if row["state"] is None:
            continue  # an attempt at nothing, as verify says
        failed = row["state"] in ("failed", "held")  # an earlier failure of what is done since is no reason
        group = (*(row[name] for name in names[:4]), (row["error_class"] or "unknown") if failed else "")
        item = found.setdefault(group, {**dict(zip(names, group, strict=True)), **_NOTHING})
        item["calculations"] += row.get("calculations", 0)
        item["attempts"] += row.get("attempts", 0)
        item["core_hours"] += (row.get("cpu_s") or 0.0) / 3600.0
        item["wall_hours"] += (row.get("wall_s") or 0.0) / 3600.0
        peaks = [peak for peak in (item["peak_rss_mib"], row.get("peak_rss_mib")) if peak is not None]
        item["peak_rss_mib"] = max(peaks, default=None)
    return [found[group] for group in sorted(found)]


_NOTHING: Final[dict[str, Any]] = {
    "calculations": 0, "attempts": 0, "core_hours": 0.0, "wall_hours": 0.0, "peak_rss_mib": None,
}  # fmt: skip


def stats(store: Store) -> dict[str, Any]:
    """Return what the store holds and what it cost, as a JSON-able mapping.

    Returns
    -------
    dict
        ``store`` (path or URL), ``file_bytes`` (with the write-ahead log, or of a server's tables), ``spooled``
        (results that wait to be taken over), ``writer`` (host, pid and heartbeat of the process that writes the store,
        or None), ``records``, ``attempts``, ``states`` and ``error_classes`` (counts), ``core_hours``, ``wall_hours``,
        ``peak_rss_mib`` and ``groups``, see
        :func:`groups`.
    """
    found = groups(store)
    writer = store.writer()
    (number,) = store.select(sa.select(sa.func.count().label("records")).select_from(records))
    with store.reading() as connection:
        size = store.database.size_bytes(connection)
    return {
        "store": store.name,
        "file_bytes": size,
        "spooled": spooled(store.database),
        "writer": {name: writer[name] for name in ("host", "pid", "heartbeat")} if writer else None,
        "records": number["records"],
        "attempts": sum(row["attempts"] for row in found),
        "states": _sums(found, "state"),
        "error_classes": _sums([row for row in found if row["error_class"]], "error_class"),
        "core_hours": sum(row["core_hours"] for row in found),
        "wall_hours": sum(row["wall_hours"] for row in found),
        "peak_rss_mib": max((row["peak_rss_mib"] or 0.0 for row in found), default=0.0),
        "groups": found,
    }


def _sums(rows: list[dict[str, Any]], by: str) -> dict[str, int]:
    sums: dict[str, int] = {}
    for row in rows:
        sums[row[by]] = sums.get(row[by], 0) + row["calculations"]
    return dict(sorted(sums.items()))


def failure_groups(
    store: Store, classes: Collection[str] = (), *, batch: str | None = None, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return the failed and held calculations, those together whose messages differ in numbers alone; most first.

    Parameters
    ----------
    store
        The store.
    classes
        Error classes; without any, all.
    batch
        Only what was asked for under this name.
    limit
        How many groups at most.

    Returns
    -------
    list of dict
        ``error_class``, ``error_message``, ``count``, ``held`` (how many of them), and of one example its ``key``,
        ``label``, ``molecule_id``, ``smiles``, ``batches`` that asked for it, and ``output_tail`` of its last failed
        attempt.
    """
    bad = sa.select(
        calculations.c.error_class,
        calculations.c.error_message,
        sa.func.count().label("count"),
        sa.func.sum(sa.case((calculations.c.state == "held", 1), else_=0)).label("held"),
        sa.func.min(calculations.c.key).label("key"),
    ).where(calculations.c.state.in_(("failed", "held")))
    if classes:
        bad = bad.where(calculations.c.error_class.in_(classes))
    if batch is not None:
        bad = bad.where(sa.exists().where(requests.c.batch == batch, requests.c.key == calculations.c.key))
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    by = (calculations.c.error_class, calculations.c.error_message)
    for row in store.select(bad.group_by(*by).order_by(sa.desc("count"), *by)):
        item = {**row, "error_class": row["error_class"] or "unknown", "error_message": row["error_message"] or ""}
        alike = (item["error_class"], _NUMBER.sub("#", item["error_message"]))
        if alike in merged:
            merged[alike]["count"] += item["count"]
            merged[alike]["held"] += item["held"]
        else:
            merged[alike] = item
    found = sorted(merged.values(), key=lambda item: (-item["count"], item["error_class"], item["error_message"]))[
        :limit
    ]
    return [{**item, **_example(store, item["key"])} for item in found]


def _example(store: Store, key: str) -> dict[str, Any]:
    (row,) = store.select(
        sa.select(calculations.c.label, records.c.molecule_id, records.c.document)
        .select_from(calculations.outerjoin(records, records.c.record_id == calculations.c.record_id))
        .where(calculations.c.key == key)
    )
    tails = store.select(
        sa.select(attempts.c.output_tail)
        .where(attempts.c.key == key, attempts.c.state == "failed")
        .order_by(attempts.c.id.desc())
        .limit(1)
    )
    batches = store.select(sa.select(requests.c.batch).where(requests.c.key == key).order_by(requests.c.batch))
    return {
        "label": row["label"],
        "molecule_id": row["molecule_id"],
        "smiles": json.loads(row["document"] or "{}").get("smiles") or row["molecule_id"] or "",
        "batches": [item["batch"] for item in batches],
        "output_tail": (tails[0]["output_tail"] or "") if tails else "",
    }
