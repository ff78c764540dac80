"""The tables of a store: the same in SQLite and in PostgreSQL."""

from typing import Any, Final

import sqlalchemy as sa

SCHEMA_VERSION: Final = 2
"""Raised with every change of the tables, together with a script in :mod:`sddfkit.factory.migrations`."""


class Text(sa.types.TypeDecorator[str]):
    """Text from outside, of which not every character can be kept in every database.

    >>> Text().process_bind_param("a\\0b \\udcff", None)
    'a\\\\x00b \\\\udcff'
    """

    impl = sa.String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        """Write NUL and halves of surrogate pairs as Python would show them."""
        return None if value is None else value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()


metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("name", sa.String, primary_key=True), sa.Column("value", sa.String))
lease = sa.Table(
    "lease",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("host", sa.String, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("process_started", sa.Float, nullable=False),
    sa.Column("heartbeat", sa.String, nullable=False),
)
records = sa.Table(
    "records",
    metadata,
    sa.Column("record_id", sa.String, primary_key=True),
    sa.Column("molecule_id", sa.String, nullable=False, index=True),
    sa.Column("name", Text, nullable=False),
    sa.Column("document", sa.String, nullable=False),  # the whole record as JSON, positions in Å
    sa.Column("created", sa.String, nullable=False),
)
calculations = sa.Table(
    "calculations",
    metadata,
    sa.Column("key", sa.String, primary_key=True),
    sa.Column("record_id", sa.String, sa.ForeignKey("records.record_id"), nullable=True, index=True),
    sa.Column("level", sa.String, nullable=False),
    sa.Column("program", sa.String, nullable=False),
    sa.Column("program_version", sa.String, nullable=False),
    sa.Column("label", Text, nullable=False),
    sa.Column("cost", sa.Float, nullable=False),  # relative; sddfkit.factory.costs turns it into seconds
    sa.Column("state", sa.String, nullable=False),  # ready, running, done, failed, held
    sa.Column("claimed_by", sa.Integer),  # lease of the coordinator that has given it to an engine
    sa.Column("error_class", sa.String),
    sa.Column("error_message", Text),
    sa.Column("created", sa.String, nullable=False),
    sa.Column("input", sa.String, nullable=False),  # AtomicInput as JSON, bohr; last, so that the others are read fast
)
sa.Index(
    "queue",
    calculations.c.state,
    calculations.c.level,
    calculations.c.program,
    calculations.c.cost.desc(),
    calculations.c.key,
)
sa.Index(  # all that is counted, so that no input is read
    "summary",
    calculations.c.level,
    calculations.c.program,
    calculations.c.program_version,
    calculations.c.state,
    calculations.c.error_class,
)
attempts = sa.Table(
    "attempts",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), nullable=False, index=True),
    sa.Column("state", sa.String, nullable=False),  # done or failed
    sa.Column("host", sa.String),
    sa.Column("pid", sa.Integer),  # of the worker
    sa.Column("engine", sa.String),  # host:pid of the engine that had the worker
    sa.Column("recipe", sa.String),  # what was done otherwise than asked, so that the SCF converges; null: nothing
    sa.Column("timeout_s", sa.Float),  # the limits it had
    sa.Column("memory_gib", sa.Float),
    sa.Column("started", sa.String),
    sa.Column("finished", sa.String),
    sa.Column("wall_s", sa.Float),
    sa.Column("cpu_s", sa.Float),
    sa.Column("peak_rss_mib", sa.Float),
    sa.Column("error_class", sa.String),
    sa.Column("error_message", Text),
    sa.Column("output_tail", Text),
    sa.UniqueConstraint("key", "host", "pid", "started", name="one_row_per_attempt"),
)
results = sa.Table(
    "results",
    metadata,
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), primary_key=True),
    sa.Column("energy_hartree", sa.Float, nullable=False),
    sa.Column("document", sa.LargeBinary, nullable=False),  # AtomicResult as JSON, zlib
    sa.Column("ingested", sa.String, nullable=False),
)
batches = sa.Table(
    "batches",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("timeout_s", sa.Float, nullable=False),
    sa.Column("memory_gib", sa.Float, nullable=False),
    sa.Column("created", sa.String, nullable=False),
)
requests = sa.Table(
    "requests",
    metadata,
    sa.Column("batch", sa.String, primary_key=True),
    sa.Column("key", sa.String, sa.ForeignKey("calculations.key"), primary_key=True),
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("record_id", sa.String, sa.ForeignKey("records.record_id"), primary_key=True),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("score", sa.Float),  # null where the strategy ranks by nothing
    sa.Column("reason", Text, nullable=False),
)
