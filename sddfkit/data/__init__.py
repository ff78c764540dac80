"""Records, reference energies, splits and snapshots: Arrow, no torch.

Concepts
--------
A **record** is one conformer, with or without its label: one row of a `pyarrow.Table` whose schema is `RECORDS`. Units
stand in the metadata of each field: positions Å, energies eV, forces eV/Å, dipoles e·Å, all float64. `to_records`
turns rows into `Record` tuples with NumPy arrays in their shapes, (n,), (n, 3), (b, 3); `from_records` goes back.

Its **record id** hashes elements, positions (to 1e-6 Å), charge, multiplicity and bonds; the **molecule id** is the
canonical isomeric SMILES.
"""

from sddfkit.data.records import (
    RECORDS,
    Record,
    RecordError,
    check_one_level,
    conformer_records,
    from_records,
    record_id,
    to_mol,
    to_records,
)

__all__ = [
    "RECORDS",
    "Record",
    "RecordError",
    "check_one_level",
    "conformer_records",
    "from_records",
    "record_id",
    "to_mol",
    "to_records",
]
