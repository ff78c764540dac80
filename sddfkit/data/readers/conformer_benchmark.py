"""Conformers of drug-like molecules with energies by several methods, flat in one ``.npz`` file.

``Z`` and ``xyz`` (Å) are flat over atoms, ``offset[i]:offset[i + 1]`` is conformer i; ``bonds`` (b, 3) a, b, order
within the conformer with ``bond_offset``; ``name``, ``conf``, ``charge`` and ``smiles`` of each; energies in hartree, a
column per method, NaN where missing. The set is that of Folmsbee and Hutchison, doi 10.1002/qua.26381.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from sddfkit.data.readers.base import (
    Frame,
    ReaderError,
    Refused,
    Source,
    Stated,
    atoms_above,
    level_of,
    names,
    total_energy,
    units,
)
from sddfkit.data.schema import RecordError

LEVELS: Final = {
    "wb97xd3": "wB97X-D3/def2-TZVP",
    "wb97x_nod": "wB97X/def2-TZVP",
    "dlpno": "DLPNO-CCSD(T)/cc-pVTZ",
    "mp2": "MP2/cc-pVTZ",
    "b3lyptz_d3": "B3LYP-D3/def2-TZVP",
    "b973c": "B97-3c",
    "ani2x": "ANI-2x",
    "ani1x": "ANI-1x",
}
"""Level of theory of each column of energies."""
ARRAYS: Final = frozenset({"Z", "xyz", "offset", "bonds", "bond_offset", "name", "charge", "smiles"})


def open_conformer_benchmark(path: Path, stated: Stated) -> Source:
    """Read a file whole (it is small) and return what is known of it.

    Raises
    ------
    ReaderError
        Arrays that are missing or do not fit, no choice among its energies, or something that must be stated.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            held = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise ReaderError(f"{path} cannot be read as npz: {error}") from error
    if missing := sorted(ARRAYS - held.keys()):
        raise ReaderError(f"{path} lacks the arrays {names(missing)}")
    count = len(held["offset"]) - 1
    columns = [
        name
        for name, values in held.items()
        if name not in ARRAYS and values.dtype.kind == "f" and len(values) == count
    ]
    if stated.energy is None or stated.energy not in columns:
        asked = f"has no energies {stated.energy!r}" if stated.energy else "holds energies by several methods"
        raise ReaderError(f"{path} {asked}: say which of {names(columns)} (--energy)")
    if held["offset"][-1] != len(held["Z"]) or held["Z"].shape != held["xyz"].shape[:1]:
        raise ReaderError(f"{path}: the arrays Z, xyz and offset do not fit each other")
    of = units(path, stated, energy="hartree", length="angstrom", by="as the set is published")
    level = level_of(path, stated, LEVELS.get(stated.energy))
    atoms, add = atoms_above(path, stated, of, {})
    column: str = stated.energy
    about = f"energies {stated.energy!r}; {of.names}"

    def frames() -> Iterator[Frame | Refused]:
        number = 0
        for i in range(count):
            number = number + 1 if i and held["name"][i] == held["name"][i - 1] else 0
            frame = frame_at(held, i, number, stated)
            try:
                energy = total_energy(path, float(held[column][i]) * of.energy, frame.atomic_numbers, atoms, add)
            except RecordError as error:
                yield Refused(str(path), frame.place, str(error))
                continue
            yield frame._replace(energy=energy, positions=frame.positions * of.length)

    return Source(path, "conformer-benchmark", level, frames, count, atoms, (about,), stated.bonds)


def frame_at(held: dict[str, NDArray], i: int, number: int, stated: Stated) -> Frame:
    """Conformer i without its energy, in the units of the file."""
    atoms, bonds = (slice(*held[name][i : i + 2]) for name in ("offset", "bond_offset"))
    conformer = f" {held['conf'][i]}" if "conf" in held else ""
    return Frame(
        place=f"{held['name'][i]}{conformer}",
        name=str(held["name"][i]),
        conformer=number,
        atomic_numbers=held["Z"][atoms].astype(np.int64),
        positions=held["xyz"][atoms].astype(np.float64),
        energy=float("nan"),
        charge=int(held["charge"][i]) if stated.charge is None else stated.charge,
        multiplicity=stated.multiplicity or 1,
        smiles=str(held["smiles"][i]),
        pairs=held["bonds"][bonds, :2].astype(np.int64),
    )
