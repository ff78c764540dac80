"""Rows of a file of conformers: records with their GFN2-xTB energy, or the reason why a row is refused."""

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.data import Record, conformer_records, to_records
from sddfkit.data.readers import Frame, Refused, Source, Stated, labelled_record
from sddfkit.data.readers.conformer_benchmark import frame_at
from sddfkit.qc import InputError, Level, atomic_input, compute
from sddfkit.units import HARTREE_TO_EV

BASELINE = "GFN2-xTB"
KEPT = ("energy", "reason", "seconds")
SMALL = ("CCCO", "CCCN", "OCCO", "NCCO", "CC(=O)OC", "CCC(=O)C", "CCOCC", "NCC(=O)O", "OCC=C", "CC(O)CN")


@dataclass(frozen=True)
class Rows:
    """All rows of a file, in its order.

    Attributes
    ----------
    arrays : name → array
        As they stand in the file.
    records : list of Record or None
        Labelled with GFN2-xTB, eV; None where refused.
    reasons : (n,) str
        Empty, or why the row is refused.
    seconds : float
        Processor time of the calculations, s.
    """

    arrays: dict[str, NDArray[Any]]
    records: list[Record | None]
    reasons: NDArray[np.str_]
    seconds: float

    @property
    def gfn2(self) -> NDArray[np.float64]:
        """Energies (n,), eV; NaN where refused."""
        return np.array([np.nan if record is None else record.energy for record in self.records])


def read_rows(path: Path, workers: int, cache: Path | None = None) -> Rows:
    """Read a file and compute the GFN2-xTB energy of each row, in `workers` processes, or find it in `cache`."""
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    count = len(arrays["offset"]) - 1
    source = Source(path, "conformer-benchmark", BASELINE, frames=lambda: iter(()))
    records: list[Record | None] = []
    reasons = []
    seconds = 0.0
    outcomes = _kept(cache) if cache is not None and cache.is_file() else _gfn2(arrays, workers)
    kept = []
    for number, (frame, outcome) in enumerate(zip(_frames(arrays), outcomes, strict=True), 1):
        kept.append(outcome)
        energy, reason, taken = outcome
        seconds += taken
        made = labelled_record(frame._replace(energy=energy), source) if not reason else None
        if isinstance(made, Refused):
            reason, made = made.reason, None
        elif made is not None and not len(made.bonds):
            reason, made = "its bonds could not be told", None
        records.append(made)
        reasons.append(reason)
        if number % 500 == 0 or number == count:
            print(f"  {number:6} of {count} conformers have their {BASELINE} energy", flush=True)
    if cache is not None and not cache.is_file():
        part = cache.with_suffix(".part.npz")
        np.savez(part, **{name: np.array(values) for name, values in zip(KEPT, zip(*kept, strict=True), strict=True)})
        part.replace(cache)
    return Rows(arrays, records, np.array(reasons), seconds)


def small_set(folder: Path) -> tuple[Path, Path]:
    """A file of conformers of small molecules, labelled with GFN1-xTB, and one without labels.

    The second has a last row with an element that is not in the first.
    """
    records = [record for smiles in SMALL for record in _embedded(smiles, 6)]
    strange = _embedded("CCP", 1)
    paths = folder / "labelled.npz", folder / "bare.npz"
    for path, rows in zip(paths, (records, records + strange), strict=True):
        sizes = [len(record.atomic_numbers) for record in rows]
        bonds = [record.bonds for record in rows]
        arrays = {
            "Z": np.concatenate([record.atomic_numbers for record in rows]),
            "xyz": np.concatenate([record.positions for record in rows]),
            "offset": np.concatenate([[0], np.cumsum(sizes)]),
            "bonds": np.concatenate(bonds),
            "bond_offset": np.concatenate([[0], np.cumsum([len(part) for part in bonds])]),
            "name": np.array([record.molecule_id for record in rows]),
            "charge": np.array([record.charge for record in rows]),
            "smiles": np.array([record.smiles for record in rows]),
        }
        if path is paths[0]:
            found = [_one((r.atomic_numbers, r.positions, r.charge), "GFN1-xTB") for r in rows]
            arrays["wb97x_nod"] = np.array([energy for energy, _, _ in found]) / HARTREE_TO_EV
            arrays["wb97x_nod"][0] = np.nan
        np.savez(path, **arrays)
    return paths


def _embedded(smiles: str, count: int) -> list[Record]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, count, randomSeed=7)
    return to_records(conformer_records(mol))


def _kept(cache: Path) -> Iterator[tuple[float, str, float]]:
    with np.load(cache, allow_pickle=False) as archive:
        columns = [archive[name].tolist() for name in KEPT]
    yield from zip(*columns, strict=True)


def _frames(arrays: dict[str, NDArray[Any]]) -> Iterator[Frame]:
    for i in range(len(arrays["offset"]) - 1):
        yield frame_at(arrays, i, i, Stated())


def _gfn2(arrays: dict[str, NDArray[Any]], workers: int) -> Iterator[tuple[float, str, float]]:
    rows = [(frame.atomic_numbers, frame.positions, frame.charge) for frame in _frames(arrays)]
    if workers == 1:
        yield from map(_one, rows)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield from pool.map(_one, rows, chunksize=16)


def _one(row: tuple[Any, Any, int], method: str = BASELINE) -> tuple[float, str, float]:
    """Energy (eV), reason of a failure, and seconds of one row."""
    numbers, positions, charge = row
    specification = Level(method, method.lower(), None, {"tblite": {"accuracy": 1.0}}).specification("tblite", "energy")
    try:
        outcome = compute(atomic_input(numbers, positions, charge, 1, specification), climb=True)
    except InputError as error:
        return np.nan, str(error), 0.0
    if not outcome.success:
        return np.nan, f"{outcome.error.error_type}: {outcome.error.error_message.splitlines()[0]}", 0.0
    return float(outcome.return_result) * HARTREE_TO_EV, "", float(outcome.provenance.wall_time or 0.0)
