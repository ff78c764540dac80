"""From one version of the tables to the next: Alembic scripts, one for each version, run inside one transaction.

A change of :mod:`sddfkit.factory.schema` raises ``SCHEMA_VERSION`` and comes with a script in ``versions`` whose
``revision`` is that version. The version of a store stands in its table ``meta``. Only this package loads Alembic.
"""

from pathlib import Path

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory

from sddfkit.factory.schema import SCHEMA_VERSION, meta


def migrate(connection: sa.Connection, version: int) -> None:
    """Bring the tables from `version` to ``SCHEMA_VERSION``, in the transaction that is open."""
    scripts = ScriptDirectory(str(Path(__file__).parent))
    steps = list(scripts.iterate_revisions(str(SCHEMA_VERSION), str(version)))
    with Operations.context(MigrationContext.configure(connection)):
        for step in reversed(steps):
            step.module.upgrade()
    connection.execute(meta.update().where(meta.c.name == "schema_version").values(value=str(SCHEMA_VERSION)))
