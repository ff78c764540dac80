"""Records, reference energies, splits and snapshots: Arrow, no torch.

Concepts
--------
A **record** is one conformer, with or without its label: one row of a `pyarrow.Table` whose schema is `RECORDS`. Units
stand in the metadata of each field: positions Å, energies eV, forces eV/Å, dipoles e·Å, all float64. `to_records`
turns rows into `Record` tuples with NumPy arrays in their shapes, (n,), (n, 3), (b, 3); `from_records` goes back.

Its **record id** hashes elements, positions (to 1e-6 Å), charge, multiplicity and bonds; the **molecule id** is the
canonical isomeric SMILES.

A **snapshot** freezes records as Parquet shards with a manifest: sha256 of each file, unit and meaning of each column,
level, program and its versions, reference energies, and where imported labels came from.

**Readers** (`sddfkit.data.readers`) turn labelled files of others into records, with stated units.

**Reference energies** (eV per atom of each element) are fitted to training labels towards the energies of isolated
atoms; what a net learns is the energy above their sum.

A **split** is a table molecule id → scaffold → fold ("train", "validation", "test", "excluded"), made once by
`strict_scaffold_split`, frozen by `split_hash` and checked by `assert_no_leak`.

**Conformer scores** compare predicted with true energies (n,) within each molecule: `within_molecule` gives mean
absolute error, r² and R² of every molecule, `median_intervals` their medians and `compare_medians` the difference of
two methods, with bootstrap intervals over molecules.

The **quality gate** `flag` gives reasons to doubt a label. Nothing is ever dropped.
"""

from sddfkit.data.conformer_scores import (
    ConformerScores,
    NothingToRankError,
    compare_medians,
    median_intervals,
    within_molecule,
)
from sddfkit.data.quality import flag
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
from sddfkit.data.references import ReferenceEnergies, ReferenceError_, fit_reference_energies
from sddfkit.data.snapshots import read_snapshot, write_snapshot
from sddfkit.data.splits import SplitError, assert_no_leak, fold_of, split_hash, strict_scaffold_split

__all__ = [
    "RECORDS",
    "ConformerScores",
    "NothingToRankError",
    "Record",
    "RecordError",
    "ReferenceEnergies",
    "ReferenceError_",
    "SplitError",
    "assert_no_leak",
    "check_one_level",
    "compare_medians",
    "conformer_records",
    "fit_reference_energies",
    "flag",
    "fold_of",
    "from_records",
    "median_intervals",
    "read_snapshot",
    "record_id",
    "split_hash",
    "strict_scaffold_split",
    "to_mol",
    "to_records",
    "within_molecule",
    "write_snapshot",
]
