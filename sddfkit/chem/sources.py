"""Molecules from files: every line becomes a molecule or a `Rejected` with its reason; nothing is fatal or silent."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rdkit import Chem

from sddfkit.chem.molecules import (
    MoleculeError,
    Stereo,
    element_numbers,
    element_symbol,
    isomers,
    molecule_id,
    molecules_from_smiles,
)
from sddfkit.chem.parsers import Entry, Unreadable, entries

LINE_PROPERTY = "sddfkit.line"
"""Property of a molecule: the line of its file."""
SETS = Path(__file__).parent / "molecule_sets"


@dataclass(frozen=True)
class Rejected:
    """A line that did not become a molecule.

    Parameters
    ----------
    source : path of the file
    line : line number, from 1; of an SDF record its first line
    text : what stands there, at most 80 characters
    reason : why it was rejected; atoms are numbered from 0 as RDKit does
    """

    source: str
    line: int
    text: str
    reason: str


def shipped(name: str) -> Path:
    """Path of a molecule set that comes with sddfkit.

    Parameters
    ----------
    name : "demo" (64 small molecules) or "smoke" (10)

    Raises
    ------
    MoleculeError
        Lists the sets there are.

    Examples
    --------
    >>> shipped("demo").name
    'demo.smi'
    """
    path = SETS / f"{name}.smi"
    if not path.is_file():
        names = ", ".join(sorted(found.stem for found in SETS.glob("*.smi")))
        raise MoleculeError(f"no molecule set {name!r} ships with sddfkit; there are: {names}")
    return path


def read_molecules(
    path: str | Path,
    *,
    elements: Iterable[int | str] | None = None,
    min_heavy_atoms: int = 1,
    max_heavy_atoms: int | None = None,
    stereo: Stereo = "enumerate",
    smiles_column: str | None = None,
    name_column: str | None = None,
) -> Iterator[Chem.Mol | Rejected]:
    """Stream molecules with explicit hydrogens from a file.

    Suffixes, in any letter case: ``.smi .smiles .txt`` (SMILES, white space, name; ``#`` opens a comment line),
    ``.csv .tsv`` (header line; comma, semicolon or tab), ``.cxsmiles`` (a tab-separated table if its first line names
    columns, else as ``.smi``), ``.sdf``; each also ``.gz`` or ``.bz2``. Lines end with LF, CR LF or CR. The 3D
    conformer of an SDF record is kept; records that follow each other and hold the same molecule, atom by atom, become
    one with all their conformers.

    Parameters
    ----------
    path : a file, or the name of a set that ships with sddfkit ("demo", "smoke")
    elements : allowed elements, symbols or atomic numbers; None allows all. Hydrogens count
    min_heavy_atoms, max_heavy_atoms : inclusive limits
    stereo : see `molecules_from_smiles`
    smiles_column, name_column : columns of a CSV file; guessed from the header if None

    Yields
    ------
    rdkit.Chem.Mol or Rejected
        In the order of the file. A second line with the same `molecule_id` is rejected as its duplicate.

    Raises
    ------
    MoleculeError
        At the call, not at the first molecule: no such file, no regular file, an unknown suffix, an empty file, no
        SMILES column.
    """
    if max_heavy_atoms is not None and max_heavy_atoms < min_heavy_atoms:
        raise MoleculeError(f"{max_heavy_atoms=} is below {min_heavy_atoms=}")
    file = located(path)
    allowed = element_numbers(elements)
    stream = entries(file, smiles_column=smiles_column, name_column=name_column)
    first = next(stream, None)
    if first is None:
        raise MoleculeError(f"{file} holds no molecules: it is empty, or has only comments and blank lines")
    limits = (allowed, min_heavy_atoms, max_heavy_atoms)
    return _molecules(itertools.chain([first], stream), str(file), limits, stereo)


def located(path: str | Path) -> Path:
    """Path of a file of molecules, or of a set that ships with sddfkit.

    Raises
    ------
    MoleculeError
        No such file, or none that can be read from its beginning.
    """
    file = Path(path).expanduser()
    if file.is_file():
        return file
    name = isinstance(path, str) and path and Path(path).name == path and not Path(path).suffix
    if name and (not file.exists() or (SETS / f"{path}.smi").is_file()):
        return shipped(str(path))
    if file.is_dir():
        raise MoleculeError(f"{file} is a folder; give a file with molecules")
    if file.exists():
        raise MoleculeError(f"{file} is no regular file (a device, pipe or socket); give a file with molecules")
    raise MoleculeError(f"no such file: {file}")


_Limits = tuple[frozenset[int] | None, int, int | None]


def _molecules(
    stream: Iterable[Entry | Unreadable], source: str, limits: _Limits, stereo: Stereo
) -> Iterator[Chem.Mol | Rejected]:
    seen: dict[str, int] = {}
    open_ended: Chem.Mol | None = None  # the records after it may hold more of its conformers
    for entry in stream:
        text = entry.text if len(entry.text) <= 80 else entry.text[:79] + "…"
        found = _accepted(entry, limits, stereo)
        if open_ended is not None:
            if not isinstance(found, str) and _same_atoms(open_ended, found[0]):
                open_ended.AddConformer(found[0].GetConformer(), assignId=True)
                continue
            yield open_ended
            open_ended = None
        if isinstance(found, str):
            yield Rejected(source, entry.line, text, found)
            continue
        for mol in found:
            first_line = seen.setdefault(molecule_id(mol), entry.line)
            mol.SetIntProp(LINE_PROPERTY, entry.line)
            if first_line != entry.line:
                yield Rejected(source, entry.line, text, f"duplicate of line {first_line}")
            elif mol.GetNumConformers():
                open_ended = mol
            else:
                yield mol
    if open_ended is not None:
        yield open_ended


def _accepted(entry: Entry | Unreadable, limits: _Limits, stereo: Stereo) -> list[Chem.Mol] | str:
    """Isomers of an entry, or why there are none."""
    if isinstance(entry, Unreadable):
        return entry.reason
    try:
        found = _isomers(entry, stereo)
    except MoleculeError as error:
        return str(error)
    return _beyond(found[0], *limits) or found  # isomers share composition and size


def _same_atoms(mol: Chem.Mol, other: Chem.Mol) -> bool:
    """Whether the other has a conformer of the same molecule, with its atoms and bonds in the same order."""
    if not other.GetNumConformers() or molecule_id(mol) != molecule_id(other):
        return False
    one, two = (
        [
            [(atom.GetAtomicNum(), atom.GetFormalCharge()) for atom in each.GetAtoms()],
            sorted((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondType()) for bond in each.GetBonds()),
        ]
        for each in (mol, other)
    )
    return one == two


def _isomers(entry: Entry, stereo: Stereo) -> list[Chem.Mol]:
    if isinstance(entry.molecule, str):
        return molecules_from_smiles(entry.molecule, name=entry.name, stereo=stereo)
    return isomers(entry.molecule, name=entry.name, stereo=stereo)


def _beyond(mol: Chem.Mol, allowed: frozenset[int] | None, smallest: int, largest: int | None) -> str:
    if allowed is not None:
        stranger = next((atom for atom in mol.GetAtoms() if atom.GetAtomicNum() not in allowed), None)
        if stranger is not None:
            names = " ".join(element_symbol(number) for number in sorted(allowed))
            return f"element {stranger.GetSymbol()} at atom {stranger.GetIdx()} is not among {names}"
    heavy = mol.GetNumHeavyAtoms()
    if heavy < smallest:
        return f"{heavy} heavy atoms, fewer than min_heavy_atoms={smallest}"
    if largest is not None and heavy > largest:
        return f"{heavy} heavy atoms, more than max_heavy_atoms={largest}"
    return ""
