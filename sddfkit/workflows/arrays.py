"""The arrays of a pool, made from records, an ensemble and what calculations have taken."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final

import numpy as np

from sddfkit.active import farthest_order
from sddfkit.chem.fingerprints import maccs
from sddfkit.chem.rmsd import conformer_rmsd_matrix
from sddfkit.data.records import Record, to_mol
from sddfkit.factory import Store
from sddfkit.factory.costs import CostModel
from sddfkit.factory.jobs import estimated_cost
from sddfkit.models.ensemble import Ensemble, EnsemblePrediction
from sddfkit.qc.levels import Level

ARRAYS: Final = frozenset(
    {
        "conformer_order",
        "expected_minutes",
        "maccs",
        "member_energies",
        "member_forces",
        "n_atoms",
        "shifted_energies",
    }
)
"""What a strategy may need of the pool."""

Array = np.ndarray[Any, Any]
Minutes = Callable[[Sequence[Record]], Array]


def pool_arrays(
    records: Sequence[Record], ensemble: Ensemble, needs: frozenset[str], minutes: Minutes | None = None
) -> dict[str, Array]:
    """Return the arrays `needs` of :data:`ARRAYS` for n records; shapes and units stand in :mod:`sddfkit.active`."""

    @cache
    def predicted() -> EnsemblePrediction:
        return ensemble.predict(records, forces="member_forces" in needs)

    def member_forces() -> Array:
        forces = predicted().member_forces or []
        return np.concatenate(forces, axis=1) if forces else np.empty((len(ensemble.members), 0, 3))

    def shifted_energies() -> Array:
        references = [ensemble.references.total(record.atomic_numbers) for record in records]
        return predicted().member_energies - np.array(references)

    def expected() -> Array:
        if minutes is None:
            raise ValueError("expected_minutes is needed, and nothing says what calculations take")
        return minutes(records)

    makers: dict[str, Callable[[], Array]] = {
        "conformer_order": lambda: conformer_order(records),
        "expected_minutes": expected,
        "maccs": lambda: maccs([record.smiles for record in records]),
        "member_energies": lambda: predicted().member_energies,
        "member_forces": member_forces,
        "n_atoms": lambda: np.array([len(record.atomic_numbers) for record in records]),
        "shifted_energies": shifted_energies,
    }
    # A conformer's forces stand among those of all by the number of its atoms.
    wanted = needs | {"n_atoms"} if "member_forces" in needs else needs
    return {name: makers[name]() for name in sorted(wanted)}


def conformer_order(records: Sequence[Record]) -> Array:
    """Return each record's place among those of its molecule, shape (n,), each far by SC-RMSD from those before."""
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row in sorted(range(len(records)), key=lambda i: records[i].record_id):
        rows[records[row].molecule_id].append(row)
    places = np.zeros(len(records), np.intp)
    for own in rows.values():
        if len(own) > 1:
            mols = [to_mol(records[row]) for row in own]
            heavy = mols[0].GetNumHeavyAtoms() > 0
            places[own] = farthest_order(conformer_rmsd_matrix(mols, align=True, hydrogens=not heavy))
    return places


def expected_minutes(records: Sequence[Record], store: Store, level: Level, program: str) -> Array:
    """Return how many minutes the calculations of records are expected to take, shape (n,).

    Raises
    ------
    ValueError
        If the store holds no finished calculation at this level by this program.
    """
    model = CostModel.fit(store)
    hessian = bool(level.specification(program).keywords.get("hessian"))
    costs = [estimated_cost(record.atomic_numbers, record.multiplicity, hessian=hessian) for record in records]
    seconds = [model.seconds(level.name, program, cost) for cost in costs]
    if None in seconds:
        raise ValueError(
            f"no calculation at {level.name} by {program} is finished yet: nothing says what one would take"
        )
    return np.array(seconds, dtype=np.float64) / 60.0
