"""From a store to a snapshot: what was labelled by any number of runs, in one table with units."""

import json
from pathlib import Path

import sqlalchemy as sa
from qcelemental import periodictable

from sddfkit.data.records import from_document
from sddfkit.data.references import fit_reference_energies
from sddfkit.factory import Store
from sddfkit.factory.export import atom_energies, labelled
from sddfkit.factory.jobs import Calculation
from sddfkit.factory.store import calculations
from sddfkit.workflows.label import Labels, save_snapshot


def export_snapshot(store: Store, folder: Path, *, level: str | None = None, program: str | None = None) -> Path:
    """Write all labelled records of one level by one program as a snapshot, with the isolated atoms beside it.

    Parameters
    ----------
    store
        The store.
    folder
        Must not exist yet.
    level, program
        Needed only where the store holds several. Of a record that was computed more than once at the level, by two
        versions of the program say, the latest counts.

    Raises
    ------
    ValueError
        If the folder exists, or the store does not hold finished calculations of exactly one such level and program.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; a snapshot is never overwritten, choose another folder")
    done = sa.select(calculations).where(calculations.c.state == "done")
    for column, value in ((calculations.c.level, level), (calculations.c.program, program)):
        done = done if value is None else done.where(column == value)
    found = [
        Calculation(**{**{name: row[name] for name in Calculation._fields}, "input": json.loads(row["input"])})
        for row in store.select(done.order_by(calculations.c.created, calculations.c.key))
    ]
    asked = [item for item in found if item.record_id is not None]
    several = sorted({(item.level, item.program) for item in asked})
    if len(several) != 1:
        names = ", ".join(f"{name} by {of}" for name, of in several) or "nothing that is labelled"
        hint = ": choose one by --level and --program" if several else ", look at `sddfkit store stats`"
        raise ValueError(f"{store.name} holds {names}{hint}")
    ((level, program),) = several
    atoms = {
        item.input["molecule"]["symbols"][0]: item
        for item in found
        if item.record_id is None and (item.level, item.program) == (level, program)
    }
    ids = sorted({item.record_id for item in asked if item.record_id is not None})
    records = labelled(store, asked, [from_document(store.record(record_id)) for record_id in ids])
    labels = Labels(records={record.record_id: record for record in records})
    labels.atoms = atom_energies(store, {periodictable.to_Z(symbol): item for symbol, item in atoms.items()})
    return save_snapshot(labels, fit_reference_energies(records, labels.atoms), folder)
