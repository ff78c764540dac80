"""From a store to a snapshot: what was labelled by any number of runs, in one table with units.

Records are read a page at a time, so that the memory needed hardly depends on their number: about 0.5 kB of each stay.
"""

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import sqlalchemy as sa
from numpy.typing import NDArray
from qcelemental import periodictable

from sddfkit import __version__
from sddfkit.chem.molecules import element_symbol
from sddfkit.data.quality import Scatter, energy_scatter, flag
from sddfkit.data.records import Record, from_document, from_records
from sddfkit.data.references import ReferenceEnergies, ReferenceError_, fit_counts
from sddfkit.data.snapshots import write_snapshot
from sddfkit.factory import Store
from sddfkit.factory.export import with_label
from sddfkit.factory.store import calculations, records, results
from sddfkit.units import HARTREE_TO_EV
from sddfkit.workflows.console import say
from sddfkit.workflows.label import ISOLATED_ATOMS, isolated_atoms_text

ROWS_AT_ONCE = 1000  # as many keys as a statement takes


class _Found(NamedTuple):
    """A finished calculation of a record."""

    record_id: str
    key: str
    level: str
    program: str
    program_version: str


class _Survey(NamedTuple):
    """What the gate must know of all labels before it can judge one."""

    references: ReferenceEnergies | None
    scatter: Scatter | None


def export_snapshot(
    store: Store,
    folder: Path,
    *,
    level: str | None = None,
    program: str | None = None,
    licence: str = "",
    citation: str = "",
) -> Path:
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
    licence, citation
        For the manifest.

    Raises
    ------
    ValueError
        If the folder exists, or the store does not hold finished calculations of exactly one such level and program.
    """
    if folder.exists():
        raise ValueError(f"{folder} exists; a snapshot is never overwritten, choose another folder")
    level, program = _choice(store, level, program)
    found = _latest(store, level, program)
    atoms = _isolated_atoms(store, level, program)
    survey = _surveyed(store, found, atoms)
    sources: dict[str, str] = {}
    counts = {"rows": 0, "flagged": 0}
    about: dict[str, Any] = {
        **{name: text for name, text in (("licence", licence), ("citation", citation)) if text},
        "isolated_atoms": {"unit": "eV", "energies": {element_symbol(z): e for z, e in sorted(atoms.items())}},
        "reference_energies": survey.references and {"unit": "eV", **survey.references.to_dict()},
    }

    def tables() -> Iterator[pa.Table]:
        for page in _pages(found):
            rows = _labelled_page(store, page, sources)
            flags = flag(rows, survey.references, scatter=survey.scatter)
            counts["rows"] += len(rows)
            counts["flagged"] += sum(
                bool(reasons) or bool(row.qc_flags) for row, reasons in zip(rows, flags, strict=True)
            )
            yield from_records(
                [row._replace(qc_flags=(*row.qc_flags, *reasons)) for row, reasons in zip(rows, flags, strict=True)]
            )
        about["sources"] = [{"file": file, "sha256": digest} for digest, file in sorted(sources.items())]

    files = {ISOLATED_ATOMS: isolated_atoms_text(atoms)}
    write_snapshot(tables(), folder, code_version=__version__, about=about, files=files)
    say(f"snapshot: {counts['rows']} records, {counts['flagged']} of them flagged, in {folder}")
    return folder


def _choice(store: Store, level: str | None, program: str | None) -> tuple[str, str]:
    """The one level and program of the finished calculations, among those that are asked for."""
    statement = sa.select(calculations.c.level, calculations.c.program).distinct()
    statement = statement.where(calculations.c.state == "done", calculations.c.record_id.is_not(None))
    for column, value in ((calculations.c.level, level), (calculations.c.program, program)):
        statement = statement if value is None else statement.where(column == value)
    several = sorted((row["level"], row["program"]) for row in store.select(statement))
    if len(several) != 1:
        names = ", ".join(f"{name} by {of}" for name, of in several) or "nothing that is labelled"
        hint = ": choose one by --level and --program" if several else ", look at `sddfkit store stats`"
        raise ValueError(f"{store.name} holds {names}{hint}")
    return several[0]


def _latest(store: Store, level: str, program: str) -> list[_Found]:
    """The latest finished calculation of each record, in the order of their ids."""
    columns = (calculations.c[name] for name in _Found._fields)
    statement = (
        sa.select(*columns)
        .where(
            calculations.c.state == "done",
            calculations.c.level == level,
            calculations.c.program == program,
            calculations.c.record_id.is_not(None),
        )
        .order_by(calculations.c.record_id, calculations.c.created, calculations.c.key)
    )
    return list({row["record_id"]: _Found(**row) for row in store.select(statement)}.values())


def _isolated_atoms(store: Store, level: str, program: str) -> dict[int, float]:
    """Energies (eV) of the isolated atoms, by atomic number."""
    statement = (
        sa.select(calculations.c.input, results.c.energy_hartree)
        .join(results, results.c.key == calculations.c.key)
        .where(
            calculations.c.state == "done",
            calculations.c.level == level,
            calculations.c.program == program,
            calculations.c.record_id.is_(None),
        )
        .order_by(calculations.c.created, calculations.c.key)
    )
    return {
        periodictable.to_Z(json.loads(row["input"])["molecule"]["symbols"][0]): row["energy_hartree"] * HARTREE_TO_EV
        for row in store.select(statement)
    }


def _surveyed(store: Store, found: Sequence[_Found], atoms: Mapping[int, float]) -> _Survey:
    """Fit the reference energies to all labels, and see how these scatter about them."""
    counts = np.zeros((len(found), 119), dtype=np.uint16)
    energies = np.full(len(found), np.nan)
    row = 0
    for page in _pages(found):
        documents, labels = _documents(store, page), _energies(store, page)
        for item in page:
            numbers = np.asarray(documents[item.record_id]["atomic_numbers"], dtype=np.int64)
            counts[row] = np.bincount(numbers, minlength=119)
            energies[row] = labels[item.key] * HARTREE_TO_EV
            row += 1
    elements = np.flatnonzero(counts.any(axis=0)).tolist()
    try:
        references = fit_counts(counts[:, elements].astype(np.float64), elements, energies, atoms)
    except ReferenceError_ as error:
        say(f"no reference energies, so no energy can be told to be an outlier: {error}")
        return _Survey(None, None)
    per_element: NDArray[np.float64] = np.array([references.energies[z] for z in elements])
    above = energies - counts[:, elements] @ per_element
    return _Survey(references, energy_scatter(above / counts.sum(axis=1)))


def _labelled_page(store: Store, page: Sequence[_Found], sources: dict[str, str]) -> list[Record]:
    """Labelled records of a page; files that imported ones were read from are added to `sources` (sha256 → name)."""
    documents = _documents(store, page)
    statement = sa.select(results.c.key, results.c.document).where(results.c.key.in_([item.key for item in page]))
    labels = {row["key"]: row["document"] for row in store.select(statement)}
    rows = []
    for item in page:
        result = json.loads(zlib.decompress(labels[item.key]))
        if imported := (result.get("extras") or {}).get("imported"):
            sources[imported["sha256"]] = imported["file"]
        rows.append(with_label(from_document(documents[item.record_id]), item, result))
    return rows


def _documents(store: Store, page: Sequence[_Found]) -> dict[str, dict[str, Any]]:
    wanted = [item.record_id for item in page]
    statement = sa.select(records.c.record_id, records.c.document).where(records.c.record_id.in_(wanted))
    return {row["record_id"]: json.loads(row["document"]) for row in store.select(statement)}


def _energies(store: Store, page: Sequence[_Found]) -> dict[str, float]:
    statement = sa.select(results.c.key, results.c.energy_hartree)
    found = store.select(statement.where(results.c.key.in_([item.key for item in page])))
    return {row["key"]: row["energy_hartree"] for row in found}


def _pages(found: Sequence[_Found]) -> Iterator[Sequence[_Found]]:
    for start in range(0, len(found), ROWS_AT_ONCE):
        yield found[start : start + ROWS_AT_ONCE]
