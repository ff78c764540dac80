"""Records by fold: who may learn, who may stop the learning, and who only judges."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from rdkit import Chem

from sddfkit.data.records import Record
from sddfkit.data.splits import assert_no_leak, fold_of, split_hash
from sddfkit.workflows.label import elements, generator

Split = Callable[..., pa.Table]
SPLIT = "split.json"
"""File in the folder of a run."""


@dataclass(frozen=True)
class Folds:
    """Records by fold. Only ``pool`` ever reaches a strategy, and only its labels reach the reference energies.

    ``unseen`` are validation and test records with an element that no record of the pool has: no model trained on
    the pool can predict them, so they are set aside, and named.
    """

    table: pa.Table
    pool: list[Record]
    validation: list[Record]
    test: list[Record]
    unseen: list[Record]

    def write(self, folder: Path) -> None:
        """Write ``split.json`` into a folder: the hash of the split, and the molecule ids of each fold.

        An ensemble keeps it too, so that it is never judged, wherever it goes, on what it was trained on.
        """
        fold = fold_of(self.table)
        names = ("train", "validation", "test", "excluded")
        ids = {name: sorted(key for key, of in fold.items() if of == name) for name in names}
        text = json.dumps({"hash": split_hash(self.table), **ids}, indent=1, ensure_ascii=False)
        (folder / SPLIT).write_text(text, encoding="utf-8")

    def document(self, records: Sequence[Record]) -> dict[str, Any]:
        """Return the split as a report shows it: molecules, scaffolds and records by fold."""
        rows = self.table.to_pylist()
        fold = fold_of(self.table)
        counts = {
            name: {
                "molecules": sum(row["fold"] == name for row in rows),
                "scaffolds": len({row["scaffold"] for row in rows if row["fold"] == name}),
                "records": sum(fold[record.molecule_id] == name for record in records),
            }
            for name in ("train", "validation", "test", "excluded")
        }
        excluded = {row["molecule_id"]: row["reason"] for row in rows if row["fold"] == "excluded"}
        excluded |= {record.molecule_id: "holds an element that no training molecule has" for record in self.unseen}
        return {
            "hash": split_hash(self.table),
            "folds": counts,
            "excluded": [{"molecule_id": key, "reason": reason} for key, reason in sorted(excluded.items())],
        }


def split_records(records: Sequence[Record], molecules: Mapping[str, Chem.Mol | str], split: Split, seed: int) -> Folds:
    """Split molecules by scaffold and sort their records into folds; refuse a split with an empty fold."""
    present = {record.molecule_id for record in records}
    table = split({key: mol for key, mol in molecules.items() if key in present}, rng=generator(seed, "split"))
    assert_no_leak(table)
    fold = fold_of(table)
    pool, validation, test = (
        [record for record in records if fold[record.molecule_id] == name] for name in ("train", "validation", "test")
    )
    known = elements(pool)
    unseen = [record for record in [*validation, *test] if not elements([record]) <= known]
    unseen_ids = {record.record_id for record in unseen}
    folds = Folds(
        table,
        pool,
        [record for record in validation if record.record_id not in unseen_ids],
        [record for record in test if record.record_id not in unseen_ids],
        unseen,
    )
    for name, rows in (("train", folds.pool), ("validation", folds.validation), ("test", folds.test)):
        if not rows:
            aside = f" and {len(unseen)} records hold elements that no training molecule has" if unseen else ""
            raise ValueError(
                f"the {name} fold is empty: {len(present)} molecules have too few different scaffolds for a strict "
                f"split{aside}; add molecules, or change split.fractions"
            )
    return folds
