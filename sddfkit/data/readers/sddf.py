"""The files of the smart distributed data factory (deeporiginbio/smartdatafactory-experiments).

- ``.sdf`` with a property ``energy``, and ``.mol`` with a line ``Energy: …``: total energy in hartree, positions in Å;
- ``.npz``, one conformer each: ``x`` (n, 1) atom types, ``edge_index`` (2, e) and ``edge_attr_1`` (e,) bond types (6:
  no bond), ``pos`` (n, 3) Å in single precision, ``smiles``, ``file_name``, ``initial_target`` in hartree.

A folder counts as all files of these kinds in it.
"""

import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from rdkit import Chem, rdBase

from sddfkit.chem.messages import reason_for
from sddfkit.chem.molecules import charge_and_multiplicity
from sddfkit.chem.parsers import sdf_blocks
from sddfkit.data.readers.base import (
    Frame,
    ReaderError,
    Refused,
    Source,
    Stated,
    Units,
    atoms_above,
    level_of,
    names,
    smiles_text,
    total_energy,
    units,
)
from sddfkit.data.schema import RecordError
from sddfkit.units import HARTREE_TO_EV

ELEMENTS: Final = (1, 6, 7, 8, 16, 17, 35, 9)
"""Atomic number of each atom type; 8, the next one, stands for any other element."""
NO_BOND: Final = 6
SUFFIXES: Final = (".sdf", ".sdf.gz", ".mol", ".npz")
NPZ_ARRAYS: Final = frozenset({"x", "pos", "edge_index", "edge_attr_1", "initial_target"})
FLOAT32_MATTERS_EV: Final = 1e-3
"""Energies whose single precision is coarser than this are flagged."""
_TAG: Final = re.compile(r"^>.*<([^>]+)>")


def open_sdf(path: Path, stated: Stated) -> Source:
    """Return what is known of an SDF or MOL file, or of a folder of them.

    Raises
    ------
    ReaderError
        Something that must be stated.
    """
    tag = stated.energy or "energy"
    count = sum(1 for file in files_of(path) for _ in sdf_blocks(file))
    about = f"energies of the property {tag!r}"
    return _source(path, stated, "sdf", about, count, lambda file: _molecules(file, tag, stated))


def open_npz(path: Path, stated: Stated) -> Source:
    """Return what is known of a processed conformer, or of a folder of them.

    Raises
    ------
    ReaderError
        Something that must be stated.
    """
    if stated.energy not in (None, "initial_target"):
        raise ReaderError(f"{path} has no energies named {stated.energy!r}; it has initial_target")
    count = len(files_of(path))
    return _source(path, stated, "sddf-npz", "energies 'initial_target'", count, lambda file: _conformer(file, stated))


def files_of(path: Path) -> list[Path]:
    """The file, or the files of a folder, in the order of their names."""
    if not path.is_dir():
        return [path]
    found = sorted(file for file in path.iterdir() if file.is_file() and file.name.lower().endswith(SUFFIXES))
    if not found:
        raise ReaderError(f"the folder {path} holds no file that ends with {names(SUFFIXES)}")
    return found


_Read = Callable[[Path], Iterator[Frame | Refused]]


def _source(path: Path, stated: Stated, kind: str, about: str, count: int, read: _Read) -> Source:
    files = files_of(path)
    of = units(path, stated, energy="hartree", length="angstrom", by="as the format defines")
    level = level_of(path, stated, None)
    atoms, add = atoms_above(path, stated, of, {})

    def frames() -> Iterator[Frame | Refused]:
        for file in files:
            where = f"{file.name}, " if path.is_dir() else ""
            try:
                for found in read(file):
                    if isinstance(found, Refused):
                        yield found
                        continue
                    try:
                        yield _scaled(file, found, where, of, (atoms, add))
                    except RecordError as error:
                        yield Refused(str(file), found.place, str(error))
            except OSError as error:
                yield Refused(str(file), "the file", f"it cannot be read: {error.strerror or error}")

    return Source(path, kind, level, frames, count, atoms, (f"{about}; {of.names}",), stated.bonds)


def _scaled(file: Path, frame: Frame, where: str, of: Units, zero: tuple[dict[int, float], bool]) -> Frame:
    """A frame in its file's units in ours."""
    return frame._replace(
        place=f"{where}{frame.place}",
        positions=frame.positions * of.length,
        energy=total_energy(file, frame.energy * of.energy, frame.atomic_numbers, *zero),
    )


def _molecules(file: Path, tag: str, stated: Stated) -> Iterator[Frame | Refused]:
    """Molecules of a file in its own units; those that follow each other under one title are numbered."""
    title, number = "", -1
    for line, text, problem in sdf_blocks(file):
        place = f"line {line}"
        if problem:
            yield Refused(str(file), place, problem)
            continue
        with rdBase.BlockLogs():
            mol = Chem.MolFromMolBlock(text, removeHs=False)
        if mol is None:
            reason = reason_for(lambda: Chem.MolFromMolBlock(text, removeHs=False))  # noqa: B023 (called at once)
            yield Refused(str(file), place, reason or "RDKit refuses it without a reason")
            continue
        energy = _energy(text, tag)
        reason = _unusable(mol, energy, tag)
        if reason:
            yield Refused(str(file), place, reason)
            continue
        name = text.split("\n", 1)[0].strip()
        number = number + 1 if name == title else 0
        title = name
        Chem.AssignStereochemistryFrom3D(mol)
        charge, multiplicity = charge_and_multiplicity(mol)
        yield Frame(
            place=place,
            name=name,
            conformer=number,
            atomic_numbers=np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            positions=mol.GetConformer().GetPositions(),
            energy=float(energy or 0.0),
            charge=charge if stated.charge is None else stated.charge,
            multiplicity=stated.multiplicity or multiplicity,
            mol=mol,
        )


def _unusable(mol: Chem.Mol, energy: str | None, tag: str) -> str:
    if mol.GetNumAtoms() == 0:
        return "the record holds no atoms"
    if energy is None:
        return f"it has no property <{tag}> and no line 'Energy:'"
    try:
        float(energy)
    except ValueError:
        return f"its energy is {energy!r}, no number"
    if not mol.GetConformer().Is3D():
        return "it is a drawing: its positions are flat"
    if any(atom.GetTotalNumHs() > 0 for atom in mol.GetAtoms()):
        return "hydrogens are missing, and the energy is that of a molecule with all of them"
    return ""


def _energy(text: str, tag: str) -> str | None:
    """The value of a property of an SDF record, or what follows ``Energy:`` in a MOL file."""
    lines = text.split("\n")
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        match = _TAG.match(line)
        if match and match[1].strip() == tag:
            return after.strip()
    for line in lines:
        if line.startswith("Energy:") and len(line.split()) > 1:
            return line.split()[1]
    return None


def _conformer(file: Path, stated: Stated) -> Iterator[Frame | Refused]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            arrays: Mapping[str, Any] = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
        yield Refused(str(file), "the file", f"it cannot be read: {error}")
        return
    if missing := sorted(NPZ_ARRAYS - arrays.keys()):
        yield Refused(str(file), "the file", f"it lacks {names(missing)}")
        return
    types = np.asarray(arrays["x"]).reshape(-1)
    if types.size and (types.min() < 0 or types.max() >= len(ELEMENTS)):
        yield Refused(
            str(file),
            "the file",
            f"its atom type {int(types.max())} stands for no element (of 0 to {len(ELEMENTS) - 1})",
        )
        return
    target = np.asarray(arrays["initial_target"])
    edges, kinds = np.asarray(arrays["edge_index"]), np.asarray(arrays["edge_attr_1"]).reshape(-1)
    if target.size != 1 or edges.shape != (2, len(kinds)) or (edges.size and edges.max() >= len(types)):
        shapes = f"{target.shape}, {edges.shape} and {kinds.shape}"
        yield Refused(str(file), "the file", f"the shapes of target, edges and bond types do not fit: {shapes}")
        return
    yield Frame(
        place="the file" if "file_name" not in arrays else f"of {Path(smiles_text(arrays['file_name'])).name}",
        name=Path(smiles_text(arrays["file_name"])).stem if "file_name" in arrays else file.stem,
        conformer=0,
        atomic_numbers=np.array([ELEMENTS[kind] for kind in types], dtype=np.int64),
        positions=np.asarray(arrays["pos"], dtype=np.float64),
        energy=float(target.reshape(())),
        charge=stated.charge or 0,
        multiplicity=stated.multiplicity or 1,
        smiles=smiles_text(arrays["smiles"]) if "smiles" in arrays else "",
        pairs=np.asarray(edges.T[kinds != NO_BOND], dtype=np.int64),
        doubts=_coarse(target),
    )


def _coarse(target: np.ndarray) -> tuple[str, ...]:
    """Say how coarse an energy (hartree) is that was kept in single precision, if that matters."""
    if target.dtype != np.float32:
        return ()
    step = float(np.spacing(np.abs(target.reshape(())))) * HARTREE_TO_EV
    if step < FLOAT32_MATTERS_EV:
        return ()
    return (f"energy: kept in single precision, in steps of {step * 1000:.1f} meV",)
