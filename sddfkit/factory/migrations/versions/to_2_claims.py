"""Claims, the queue as an index, batches with their limits, and what each attempt was given."""

import sqlalchemy as sa
from alembic import op

revision = "2"
down_revision = "1"


def upgrade() -> None:
    """Add tables, columns and indexes; no row is rewritten."""
    op.add_column("calculations", sa.Column("claimed_by", sa.Integer))
    op.drop_index("ix_calculations_state", "calculations")
    op.create_index("queue", "calculations", ["state", "level", "program", sa.text("cost DESC"), "key"])
    op.create_index("summary", "calculations", ["level", "program", "program_version", "state", "error_class"])
    for column in (
        sa.Column("engine", sa.String),
        sa.Column("recipe", sa.String),
        sa.Column("timeout_s", sa.Float),
        sa.Column("memory_gib", sa.Float),
    ):
        op.add_column("attempts", column)
    op.create_table(
        "batches",
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("timeout_s", sa.Float, nullable=False),
        sa.Column("memory_gib", sa.Float, nullable=False),
        sa.Column("created", sa.String, nullable=False),
    )
