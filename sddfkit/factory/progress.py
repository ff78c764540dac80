"""How far a batch is, or all of a store: counts, speed, cost, what is left and how long it will take.

Everything is read, nothing is changed: any process may look while another one works.
"""

import dataclasses
import datetime as dt
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import sqlalchemy as sa

from sddfkit.factory.costs import CostModel
from sddfkit.factory.spools import spools
from sddfkit.factory.store import Store, StoreError, attempts, batches, calculations, requests
from sddfkit.factory.survey import failure_groups

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

STATES: Final = ("ready", "running", "done", "failed", "held")
WINDOW_MIN: Final = 10.0
LEARN_EVERY_S: Final = 60.0
FAILURE_GROUPS: Final = 20
# An engine whose calculations take long is silent for long; one that is silent for three of them does nothing.
SILENT_CALCULATIONS: Final = 3.0


class Expects(Protocol):
    """Says how long calculations take, or that it cannot know yet."""

    def seconds(self, level: str, program: str, cost: float) -> float | None:
        """Return the wall time to expect of one calculation, s."""


@dataclass(frozen=True)
class Group:
    """How many calculations of one level are in one state, by the class of their last failure ("": none)."""

    level: str
    program: str
    state: str
    error_class: str
    calculations: int


@dataclass(frozen=True)
class EngineUse:
    """What one engine did: attempts that succeeded and failed, s inside the program, and the last minutes.

    ``busy`` is the part of the time from its first start to its last end that it spent inside the program, ``working``
    whether it has something to do now: it says so in the spool, or, where it has a spool of its own, has finished
    something not long ago. An engine is named ``host:pid``, or after its host alone where that is all that
    was written down.
    """

    engine: str
    done: int
    failed: int
    busy_s: float
    busy: float
    per_minute: float
    first: str
    last: str
    peak_rss_mib: float
    working: bool


@dataclass(frozen=True)
class FailureGroup:
    """Failures that differ in numbers alone, with one of them as the example; ``smiles`` is "" for an isolated atom."""

    error_class: str
    error_message: str
    count: int
    held: int
    key: str
    label: str
    smiles: str
    batches: tuple[str, ...]
    output_tail: str


@dataclass(frozen=True)
class Progress:
    """How far a batch (None: everything in the store) is.

    Attributes
    ----------
    time
        When this was read, UTC.
    store, batch, batches
        Where the store is, which batch this is, and which there are.
    writer
        Host, pid and heartbeat of the process that works on the store; None if there is none.
    states, error_classes
        Counts; the classes are those of failed and held calculations.
    groups
        The same by level and program.
    total, done, failed, open, running
        Calculations in all; with a result; failed or held; still to be done; of these, given to an engine.
    attempts, wall_s, core_hours, peak_rss_mib
        Attempts so far, their time inside the program (s), their processor time (h) and the largest memory (MiB).
    first, last, elapsed_s
        Start of the first attempt and end of the last one, UTC; None before there are any. The time between them, or
        until now where something is open and a process works on it (s).
    window_min, per_minute, per_minute_overall
        Results per minute over the last `window_min` minutes, and over all the time elapsed.
    engines, engines_working
        What each engine did, and how many are at work.
    rest_s, rest_core_hours
        What is open, as time inside the program (s) and processor time (h); None where it cannot be known yet.
    eta_s, eta_how
        Time until all is done (s), or None; and how that was got, or why it was not.
    failures
        What failed, alike failures together, most first.
    """

    time: str
    store: str
    batch: str | None
    batches: tuple[str, ...]
    writer: Mapping[str, Any] | None
    states: Mapping[str, int]
    error_classes: Mapping[str, int]
    groups: tuple[Group, ...]
    total: int
    done: int
    failed: int
    open: int
    running: int
    attempts: int
    wall_s: float
    core_hours: float
    peak_rss_mib: float
    first: str | None
    last: str | None
    elapsed_s: float
    window_min: float
    per_minute: float
    per_minute_overall: float
    engines: tuple[EngineUse, ...]
    engines_working: int
    rest_s: float | None
    rest_core_hours: float | None
    eta_s: float | None
    eta_how: str
    failures: tuple[FailureGroup, ...]

    def document(self) -> dict[str, Any]:
        """Return everything as a JSON-able mapping."""
        return dataclasses.asdict(self)


def progress(
    store: Store,
    batch: str | None = None,
    *,
    model: Expects | None = None,
    window_min: float = WINDOW_MIN,
    failures: int = FAILURE_GROUPS,
) -> Progress:
    """Return how far a batch is.

    Parameters
    ----------
    store
        A store, open in whatever way.
    batch
        Its name; None for everything in the store.
    model
        Says how long calculations take; without one, what was done tells.
    window_min
        How far back "now" reaches, min.
    failures
        How many groups of failures at most.

    Raises
    ------
    StoreError
        If there is no batch of that name.
    """
    names = batch_names(store)
    if batch is not None and batch not in names:
        raise StoreError(f"the store {store.name} has no batch {batch!r}; its batches are {', '.join(names) or 'none'}")
    moment = dt.datetime.now(dt.UTC)
    part = None if _is_everything(store, batch) else batch
    costs = _by_cost(store, part)
    groups = _groups(costs, _classes(store, part))
    states = {state: sum(item.calculations for item in groups if item.state == state) for state in STATES}
    bad = [item for item in groups if item.state in ("failed", "held")]
    writer = store.writer()
    at_work = writer is not None and states["running"] > 0
    computing = _computing(store, part) if at_work else set()
    engines, tries = _engines(store, part, moment, window_min, at_work, computing)
    working = sum(item.working for item in engines)
    still_open = [row for row in costs if row["state"] in ("ready", "running")]
    rest = _rest(still_open, (model or CostModel.fit(store)) if still_open else None)
    eta_s, how = _eta(rest, working, writer is not None, states["running"])
    return Progress(
        time=moment.isoformat(timespec="milliseconds"),
        store=store.name,
        batch=batch,
        batches=names,
        writer={name: writer[name] for name in ("host", "pid", "heartbeat")} if writer else None,
        states=states,
        error_classes=_summed((item.error_class, item.calculations) for item in bad),
        groups=groups,
        total=sum(states.values()),
        done=states["done"],
        failed=states["failed"] + states["held"],
        open=states["ready"] + states["running"],
        running=states["running"],
        attempts=tries.attempts,
        wall_s=tries.wall_s,
        core_hours=tries.cpu_s / 3600.0,
        peak_rss_mib=tries.peak_rss_mib,
        first=tries.first,
        last=tries.last,
        elapsed_s=tries.elapsed_s,
        window_min=window_min,
        per_minute=tries.per_minute,
        per_minute_overall=tries.per_minute_overall,
        engines=engines,
        engines_working=working,
        rest_s=rest.seconds,
        rest_core_hours=None if rest.seconds is None else rest.seconds * tries.cores / 3600.0,
        eta_s=eta_s,
        eta_how=how,
        failures=failure_examples(store, part, failures) if bad else (),
    )


def batch_names(store: Store) -> tuple[str, ...]:
    """Return the batches of a store, oldest first; those of stores that wrote no date come before."""
    dated = sa.select(batches.c.name, batches.c.created)
    undated = (
        sa.select(requests.c.batch, sa.literal(""))
        .where(requests.c.batch.not_in(sa.select(batches.c.name)))
        .group_by(requests.c.batch)
    )
    rows = store.select(dated.union_all(undated))
    return tuple(row["name"] for row in sorted(rows, key=lambda row: (row["created"], row["name"])))


class Learnt:
    """What calculations are expected to take, for somebody who looks again and again: learnt anew every minute."""

    def __init__(self) -> None:
        self._model: CostModel | None = None
        self._at = -math.inf

    def look(self, store: Store, batch: str | None = None, **options: Any) -> Progress:
        """Return how far a batch is; see :func:`progress`."""
        if self._model is None or time.monotonic() - self._at > LEARN_EVERY_S:
            self._model, self._at = CostModel.fit(store), time.monotonic()
        now = progress(store, batch, model=self._model, **options)
        if now.rest_s is None:
            self._model = None  # the next look may know more
        return now


def failure_examples(store: Store, batch: str | None = None, limit: int | None = None) -> tuple[FailureGroup, ...]:
    """Return the failed and held calculations, alike ones together, most first."""
    names = [field.name for field in dataclasses.fields(FailureGroup) if field.name != "batches"]
    return tuple(
        FailureGroup(**{name: item[name] for name in names}, batches=tuple(item["batches"]))
        for item in failure_groups(store, batch=batch, limit=limit)
    )


def frames(store: Store, batch: str | None = None) -> dict[str, "pd.DataFrame"]:
    """Return every number as DataFrames: ``states``, ``engines``, ``failures`` and ``attempts``."""
    now = progress(store, batch, failures=10**9)
    return {
        "states": states_frame(now),
        "engines": engines_frame(now),
        "failures": failures_frame(now),
        "attempts": attempts_frame(store, batch),
    }


def states_frame(now: Progress) -> "pd.DataFrame":
    """Return a row per level, program, state and error class, with the number of calculations."""
    return _frame(Group, now.groups, {})


def engines_frame(now: Progress) -> "pd.DataFrame":
    """Return a row per engine: done, failed, busy_s, busy, per_minute, first, last, peak_rss_mib, working."""
    units = {"busy_s": "s", "per_minute": "1/min", "first": "UTC", "last": "UTC", "peak_rss_mib": "MiB"}
    return _frame(EngineUse, now.engines, units)


def failures_frame(now: Progress) -> "pd.DataFrame":
    """Return a row per group of alike failures, with an example: key, label, SMILES, output_tail."""
    return _frame(FailureGroup, now.failures, {})


ATTEMPT_UNITS: Final = {
    "id": "", "key": "", "label": "", "level": "", "program": "", "state": "", "engine": "", "host": "", "pid": "",
    "recipe": "", "started": "UTC", "finished": "UTC", "wall_s": "s", "cpu_s": "s", "peak_rss_mib": "MiB",
    "timeout_s": "s", "memory_gib": "GiB", "error_class": "", "error_message": "",
}  # fmt: skip
"""The columns of :func:`attempts_frame`, and their units."""


def attempts_frame(store: Store, batch: str | None = None) -> "pd.DataFrame":
    """Return a row per attempt, oldest first, without the output (that of failures is in :func:`failures_frame`)."""
    columns = [attempts.c[name] if name in attempts.c else calculations.c[name] for name in ATTEMPT_UNITS]
    statement = sa.select(*columns).join(calculations, calculations.c.key == attempts.c.key).order_by(attempts.c.id)
    rows = store.select(_of(statement, attempts.c.key, batch))
    return _table([tuple(row.values()) for row in rows], ATTEMPT_UNITS)


def _frame(kind: type, rows: Sequence[Any], units: Mapping[str, str]) -> "pd.DataFrame":
    names = [field.name for field in dataclasses.fields(kind)]
    return _table([tuple(getattr(row, name) for name in names) for row in rows], {n: units.get(n, "") for n in names})


def _table(rows: Sequence[tuple[Any, ...]], units: Mapping[str, str]) -> "pd.DataFrame":
    try:
        import pandas as pd
    except ModuleNotFoundError as error:
        raise StoreError("a DataFrame needs pandas: pip install pandas") from error
    table = pd.DataFrame(rows, columns=list(units))
    for name, unit in units.items():
        if unit == "UTC":
            table[name] = pd.to_datetime(table[name], utc=True, errors="coerce", format="ISO8601")
        elif unit:
            table[name] = table[name].astype("float64")
    table.attrs["units"] = dict(units)
    return table


def _is_everything(store: Store, batch: str | None) -> bool:
    """Say whether a batch holds all of a store, as most do: nothing need be looked up, then."""
    number = sa.func.count()
    mine = sa.select(number).select_from(requests).where(requests.c.batch == batch).scalar_subquery()
    every = sa.select(number).select_from(calculations).scalar_subquery()
    (row,) = store.select(sa.select(mine.label("mine"), every.label("every")))
    return bool(row["mine"] == row["every"])


def _of(statement: sa.Select[Any], key: sa.ColumnElement[str], batch: str | None) -> sa.Select[Any]:
    """Keep the rows of one batch. EXISTS, so that the table is read in the order of its index."""
    if batch is None:
        return statement
    return statement.where(sa.exists().where(requests.c.batch == batch, requests.c.key == key))


def _by_cost(store: Store, batch: str | None) -> list[sa.RowMapping]:
    """Return level, program, state, cost and how many; all of it is in the index ``queue``, so no input is read."""
    by = (calculations.c.level, calculations.c.program, calculations.c.state, calculations.c.cost)
    statement = sa.select(*by, sa.func.count().label("calculations")).group_by(*by)
    hinted = statement.with_hint(calculations, "INDEXED BY queue", "sqlite")
    return store.select(_of(hinted, calculations.c.key, batch))


def _classes(store: Store, batch: str | None) -> list[sa.RowMapping]:
    """Return level, program, state, class of the last failure and how many calculations, of those that have failed."""
    by = (calculations.c.level, calculations.c.program, calculations.c.state, calculations.c.error_class)
    counted = sa.select(*by, sa.func.count().label("calculations")).group_by(*by)
    ended = counted.where(calculations.c.state.in_(("failed", "held")))
    tried = sa.select(attempts.c.key).where(attempts.c.state == "failed")
    to_be_tried_again = counted.where(
        calculations.c.state.in_(("ready", "running")),
        calculations.c.error_class.is_not(None),
        calculations.c.key.in_(tried),
    )
    return [row for each in (ended, to_be_tried_again) for row in store.select(_of(each, calculations.c.key, batch))]


def _groups(costs: Iterable[sa.RowMapping], classes: Iterable[sa.RowMapping]) -> tuple[Group, ...]:
    counts: dict[tuple[str, str, str, str], int] = {}
    for row in costs:
        fresh = (row["level"], row["program"], row["state"], "")
        counts[fresh] = counts.get(fresh, 0) + row["calculations"]
    for row in classes:
        fresh = (row["level"], row["program"], row["state"], "")
        known = (*fresh[:3], row["error_class"] or "unknown")
        moved = min(row["calculations"], counts.get(fresh, 0))  # the batch goes on between two looks
        counts[fresh] = counts.get(fresh, 0) - moved
        counts[known] = counts.get(known, 0) + moved
    order = {state: place for place, state in enumerate(STATES)}
    keys = sorted(counts, key=lambda key: (*key[:2], order.get(key[2], len(STATES)), key[3]))
    return tuple(Group(*key, counts[key]) for key in keys if counts[key])


@dataclass(frozen=True)
class _Tries:
    attempts: int
    wall_s: float
    cpu_s: float
    cores: float  # mean number that a calculation kept busy
    peak_rss_mib: float
    first: str | None
    last: str | None
    elapsed_s: float
    per_minute: float
    per_minute_overall: float


def _computing(store: Store, batch: str | None) -> set[str]:
    """Return the engines that say in the spool that they compute something of the batch."""
    from sddfkit.qc.spool import running_elsewhere  # with all of qc, for which a table of numbers need not wait

    markers = {key: mark for folder in spools(store.database) for key, mark in running_elsewhere(folder).items()}
    if batch is not None and markers:
        mine = sa.select(requests.c.key).where(requests.c.batch == batch, requests.c.key.in_(markers))
        markers = {row["key"]: markers[row["key"]] for row in store.select(mine)}
    return {f"{marker['host']}:{marker['pid']}" for marker in markers.values()}


def _engines(
    store: Store, batch: str | None, moment: dt.datetime, window_min: float, at_work: bool, computing: set[str]
) -> tuple[tuple[EngineUse, ...], _Tries]:
    """Return what each engine did, and all of them together, from one reading of the attempts."""
    since = (moment - dt.timedelta(minutes=window_min)).isoformat()
    name = sa.func.coalesce(attempts.c.engine, attempts.c.host, "unknown")
    done = attempts.c.state == "done"

    def number(condition: sa.ColumnElement[bool]) -> sa.ColumnElement[int]:
        return sa.func.sum(sa.case((condition, 1), else_=0))

    statement = sa.select(
        name.label("engine"),
        sa.func.count().label("attempts"),
        number(done).label("done"),
        number(sa.and_(done, attempts.c.finished >= since)).label("lately"),
        sa.func.coalesce(sa.func.sum(attempts.c.wall_s), 0.0).label("wall_s"),
        sa.func.coalesce(sa.func.sum(attempts.c.cpu_s), 0.0).label("cpu_s"),
        sa.func.coalesce(sa.func.max(attempts.c.peak_rss_mib), 0.0).label("peak_rss_mib"),
        sa.func.min(attempts.c.started).label("first"),
        sa.func.max(attempts.c.finished).label("last"),
    ).group_by(name)
    rows = store.select(_of(statement, attempts.c.key, batch))
    first = min((row["first"] for row in rows if row["first"]), default=None)
    last = max((row["last"] for row in rows if row["last"]), default=None)
    elapsed = _minutes(first, moment) - (0.0 if at_work else _minutes(last, moment))
    window = min(window_min, max(_minutes(first, moment), 1.0 / 60.0))
    sharing = {_host(engine) for engine in computing}  # hosts whose engines write into our spool
    engines = [_fresh(engine) for engine in computing - {row["engine"] for row in rows}]
    for row in rows:
        silent_min = _minutes(row["last"], moment)
        usual_min = row["wall_s"] / row["attempts"] / 60.0
        between = _minutes(row["first"], moment) - silent_min
        heard = _host(row["engine"]) not in sharing and silent_min < max(window_min, SILENT_CALCULATIONS * usual_min)
        engines.append(
            EngineUse(
                engine=row["engine"],
                done=row["done"],
                failed=row["attempts"] - row["done"],
                busy_s=row["wall_s"],
                busy=min(1.0, row["wall_s"] / (60.0 * between)) if between > 0 else 0.0,
                per_minute=row["lately"] / window,
                first=row["first"] or "",
                last=row["last"] or "",
                peak_rss_mib=row["peak_rss_mib"],
                working=at_work and (row["engine"] in computing or heard),
            )
        )
    wall_s, cpu_s = sum(row["wall_s"] for row in rows), sum(row["cpu_s"] for row in rows)
    return tuple(sorted(engines, key=lambda item: item.engine)), _Tries(
        attempts=sum(row["attempts"] for row in rows),
        wall_s=wall_s,
        cpu_s=cpu_s,
        cores=cpu_s / wall_s if wall_s > 0 else 1.0,
        peak_rss_mib=max((row["peak_rss_mib"] for row in rows), default=0.0),
        first=first,
        last=last,
        elapsed_s=60.0 * elapsed,
        per_minute=sum(row["lately"] for row in rows) / window,
        per_minute_overall=sum(row["done"] for row in rows) / elapsed if elapsed > 0 else 0.0,
    )


def _fresh(engine: str) -> EngineUse:
    """Return an engine that has finished nothing yet."""
    return EngineUse(engine, 0, 0, 0.0, 0.0, 0.0, "", "", 0.0, working=True)


def _host(engine: str) -> str:
    return engine.rpartition(":")[0] or engine


def _minutes(then: str | None, moment: dt.datetime) -> float:
    """Return how long before a moment that was, min."""
    return 0.0 if not then else (moment - dt.datetime.fromisoformat(then)).total_seconds() / 60.0


@dataclass(frozen=True)
class _Rest:
    seconds: float | None
    longest_s: float
    unknown: tuple[str, ...]  # levels of which nothing is known


def _rest(still_open: Iterable[sa.RowMapping], model: Expects | None) -> _Rest:
    total = longest = 0.0
    unknown: dict[str, None] = {}
    for row in still_open:
        assert model is not None
        seconds = model.seconds(row["level"], row["program"], row["cost"])
        if seconds is None:
            unknown[row["level"]] = None
        else:
            total += seconds * row["calculations"]
            longest = max(longest, seconds)
    return _Rest(None if unknown else total, longest, tuple(unknown))


def _eta(rest: _Rest, working: int, writing: bool, running: int) -> tuple[float | None, str]:
    if rest.seconds == 0.0:
        return 0.0, "nothing is open"
    if rest.seconds is None:
        return None, f"nothing at {', '.join(rest.unknown)} has finished yet"
    if not writing:
        return None, "no process works on the store"
    if not running:
        return None, "nothing is running"
    if not working:
        return None, "no engine has finished anything lately"
    how = f"{_amount(rest.seconds)} of calculations on {working} engine{'s' if working > 1 else ''}"
    return max(rest.seconds / working, rest.longest_s), how


def _amount(seconds: float) -> str:
    for unit, length in (("h", 3600.0), ("min", 60.0)):
        if seconds >= 3.0 * length:
            return f"{seconds / length:,.0f} {unit}".replace(",", " ")
    return f"{seconds:.2g} s" if seconds < 10.0 else f"{seconds:.0f} s"


def _summed(items: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for name, count in items:
        sums[name] = sums.get(name, 0) + count
    return dict(sorted(sums.items()))
