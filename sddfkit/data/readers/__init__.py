"""Labelled geometries from files of others: public sets and the formats of other programs.

Concepts
--------
`open_labels` looks at a file and returns a `Source`: its format, its level of theory, how many frames it has, and
sentences about what was assumed (units and conventions, and who says so). `Source.records` then streams it: each frame
becomes a labelled `Record` in Å, eV and eV/Å, or a `Refused` with the place in the file and the reason. A block of
frames is in memory at a time, however large the file.

What a file does not say must be **stated** (`Stated`): the level, units, whether energies are total or above those of
isolated atoms. Nothing is guessed silently: a file that needs a statement is refused with a sentence that names it
(`ReaderError`), statements that physics contradicts are refused too, and where the bonds of a record come from stands
in its ``origin``, what does not fit in its ``qc_flags``.

| format | files |
|---|---|
| ani | HDF5 of the ANI family: ANI-1, ANI-1x, COMP6 (`sddfkit.data.readers.ani`) |
| ase | SQLite databases of ASE, also SchNetPack's and nablaDFT's (`ase_db`) |
| sdf | SDF with energies as properties, MOL with an ``Energy:`` line (`sddf`) |
| sddf-npz | processed conformers of the smart distributed data factory, one per file (`sddf`) |
| conformer-benchmark | conformers with energies by several methods, flat in one npz (`conformer_benchmark`) |
"""

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from sddfkit.data.readers.ani import open_ani
from sddfkit.data.readers.ase_db import open_ase
from sddfkit.data.readers.base import Frame, ReaderError, Refused, Source, Stated, labelled_record
from sddfkit.data.readers.conformer_benchmark import ARRAYS, open_conformer_benchmark
from sddfkit.data.readers.sddf import NPZ_ARRAYS, SUFFIXES, files_of, open_npz, open_sdf

FORMATS: Final[Mapping[str, Callable[[Path, Stated], Source]]] = {
    "ani": open_ani,
    "ase": open_ase,
    "sdf": open_sdf,
    "sddf-npz": open_npz,
    "conformer-benchmark": open_conformer_benchmark,
}
"""Name of a format to the function that opens a file of it."""


def open_labels(path: str | Path, stated: Stated | None = None, *, format: str = "auto") -> Source:
    """Open a file, or a folder, of labelled geometries.

    Parameters
    ----------
    path : the file; a folder of SDF, MOL or npz files counts as one
    stated : what the file does not say by itself
    format : a key of `FORMATS`, or "auto": by the file's suffix and first bytes

    Raises
    ------
    ReaderError
        No such file, an unknown format, a file that cannot be read, or something that must be stated.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise ReaderError(f"no such file: {file}")
    kind = format_of(file) if format == "auto" else format
    if kind not in FORMATS:
        raise ReaderError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    return FORMATS[kind](file, stated or Stated())


def format_of(path: Path) -> str:
    """Name of the format of a file, by its suffix, its first bytes and the names of its arrays.

    Raises
    ------
    ReaderError
        None fits.
    """
    file = files_of(path)[0] if path.is_dir() else path
    name = file.name.lower()
    with file.open("rb") as stream:
        head = stream.read(16)
    if head.startswith(b"\x89HDF"):
        return "ani"
    if head.startswith(b"SQLite format 3"):
        return "ase"
    if name.endswith(".npz") and zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            arrays = {member.removesuffix(".npy") for member in archive.namelist()}
        if arrays >= ARRAYS:
            return "conformer-benchmark"
        if arrays >= NPZ_ARRAYS:
            return "sddf-npz"
        raise ReaderError(f"{file} is an npz file of no known layout: its arrays are {', '.join(sorted(arrays)[:20])}")
    if name.endswith(SUFFIXES):
        return "sdf"
    raise ReaderError(f"{file} is of no known format; known: {', '.join(FORMATS)}. Name it with --format")


__all__ = [
    "FORMATS",
    "Frame",
    "ReaderError",
    "Refused",
    "Source",
    "Stated",
    "format_of",
    "labelled_record",
    "open_labels",
]
