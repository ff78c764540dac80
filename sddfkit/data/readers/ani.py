"""HDF5 files of the ANI family: ANI-1, ANI-1x, ANI-1ccx, COMP6, and files laid out like them.

Groups at any depth hold ``coordinates`` (k, n, 3) of k conformers of one composition, its elements as ``species`` (n,)
symbols or ``atomic_numbers`` (n,), also (k, n) with 0 or −1 for no atom, and energies (k,) named ``energies``,
``energy`` or ``<method>.energy`` with ``forces`` or ``<method>.forces`` (k, n, 3) beside them; NaN stands for missing.
The sets are published in hartree, Å and hartree/Å. What COMP6 calls forces are gradients, as its authors say
(isayev/COMP6, issue 2).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from rdkit import Chem

from sddfkit.data.readers.base import (
    Frame,
    ReaderError,
    Refused,
    Source,
    Stated,
    Units,
    atoms_above,
    check_sign,
    level_of,
    names,
    smiles_text,
    total_energy,
    units,
)
from sddfkit.data.schema import RecordError

if TYPE_CHECKING:
    import h5py

FRAMES_AT_ONCE: Final = 512
LEVELS: Final = {
    "wb97x_dz": "wB97X/6-31G(d)",
    "wb97x_tz": "wB97X/def2-TZVPP",
    "ccsd(t)_cbs": "CCSD(T)*/CBS",
    "hf_dz": "HF/cc-pVDZ",
    "hf_tz": "HF/cc-pVTZ",
    "hf_qz": "HF/cc-pVQZ",
    "mp2_dz": "MP2/cc-pVDZ",
    "mp2_tz": "MP2/cc-pVTZ",
    "mp2_qz": "MP2/cc-pVQZ",
    "npno_ccsd(t)_dz": "NPNO-CCSD(T)/cc-pVDZ",
    "npno_ccsd(t)_tz": "NPNO-CCSD(T)/cc-pVTZ",
    "tpno_ccsd(t)_dz": "TPNO-CCSD(T)/cc-pVDZ",
}
"""The levels of theory of ANI-1x and ANI-1ccx by the first part of a column's name (Smith et al., Sci. Data 7, 134)."""
_SPECIES: Final = ("species", "atomic_numbers", "numbers")
_SYMBOLS: Final = {Chem.GetPeriodicTable().GetElementSymbol(z): z for z in range(1, 119)}


def open_ani(path: Path, stated: Stated) -> Source:
    """Look at the first group of a file and return what is known of it.

    Raises
    ------
    ReaderError
        No HDF5 file, no group of this layout, several energies to choose from, or something that must be stated.
    """
    with _opened(path) as file:
        group = next(_groups(file), None)
        if group is None:
            raise ReaderError(
                f"{path} has no group with coordinates and {' or '.join(_SPECIES[:2])}; is it of the ANI family?"
            )
        energy = _energy_column(path, group, stated.energy)
        method = energy.rpartition(".")[0]
        lot = smiles_text(np.ravel(group["lot"][()])[0]) if "lot" in group else LEVELS.get(method)
        gradient = "lot" in group and "cm5" in group  # COMP6
        count = sum(len(found["coordinates"]) for found in _groups(file))
    level = level_of(path, stated, lot)
    by = "as the ANI sets are published" + (", COMP6 with gradients under the name of forces" if gradient else "")
    of = units(path, stated, energy="hartree", length="angstrom", force="hartree/angstrom", gradient=gradient, by=by)
    atoms, add = atoms_above(path, stated, of, {})

    def frames() -> Iterator[Frame | Refused]:
        with _opened(path) as file:
            for group in _groups(file):
                yield from _frames(path, group, energy, of, stated, (atoms, add))

    return Source(path, "ani", level, frames, count, atoms, (f"energies {energy!r}; {of.names}",), stated.bonds)


def _opened(path: Path) -> "h5py.File":
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise ReaderError(f"{path}: HDF5 files need h5py: pip install 'sddfkit[data]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise ReaderError(f"{path} cannot be read as HDF5: {error}; is it whole?") from error


def _groups(group: "h5py.Group") -> Iterator["h5py.Group"]:
    """Groups of the layout, in the order of their names."""
    if "coordinates" in group and any(name in group for name in _SPECIES):
        yield group
        return
    for name in sorted(group):
        child = group[name]
        if hasattr(child, "keys"):
            yield from _groups(child)


def _energy_column(path: Path, group: "h5py.Group", asked: str | None) -> str:
    found = [name for name in group if name in ("energies", "energy") or name.endswith(".energy")]
    if asked is not None:
        for name in (asked, f"{asked}.energy"):
            if name in found or name in group:
                return name
        raise ReaderError(f"{path} has no energies named {asked!r}; it has {names(found)}")
    if len(found) != 1:
        raise ReaderError(
            f"{path} holds {'several energies' if found else 'no energies'}: {names(found or sorted(group))}; "
            "say which (--energy)"
        )
    return found[0]


def _frames(
    path: Path, group: "h5py.Group", column: str, of: Units, stated: Stated, zero: tuple[dict[int, float], bool]
) -> Iterator[Frame | Refused]:
    place, source = group.name.strip("/") or "/", str(path)
    try:
        species = _numbers(group)
        count = len(group["coordinates"])
        energies = np.asarray(group[column][()], dtype=np.float64).reshape(-1)
        forces = _beside(group, column, "forces")
        dipoles = _beside(group, column, "dipole") if "." in column else None  # e·Å in ANI-1x, elsewhere not said
        smiles = smiles_text(group["smiles"][()]) if "smiles" in group and np.size(group["smiles"]) else ""
    except (KeyError, OSError, ValueError, TypeError) as error:
        yield Refused(source, place, f"the group cannot be read: {error}")
        return
    if species.shape[-1:] != group["coordinates"].shape[1:2] or len(energies) != count:
        shapes = f"{group['coordinates'].shape}, {species.shape} and {energies.shape}"
        yield Refused(source, place, f"the shapes of coordinates, elements and energies do not fit: {shapes}")
        return
    for start in range(0, count, FRAMES_AT_ONCE):
        rows = slice(start, min(start + FRAMES_AT_ONCE, count))
        try:
            places = np.asarray(group["coordinates"][rows], dtype=np.float64) * of.length
            force = None if forces is None else np.asarray(forces[rows], dtype=np.float64) * of.force
            dipole = None if dipoles is None else np.asarray(dipoles[rows], dtype=np.float64)
        except (OSError, ValueError) as error:
            yield Refused(source, f"{place}, frames {rows.start} to {rows.stop - 1}", f"they cannot be read: {error}")
            continue
        if force is not None and force.shape == places.shape:
            check_sign(path, energies[rows] * of.energy, places, force)
        for k in range(len(places)):
            numbers = species if species.ndim == 1 else species[start + k]
            there = numbers > 0
            try:
                energy = total_energy(path, energies[start + k] * of.energy, numbers[there], *zero)
            except RecordError as error:
                yield Refused(source, f"{place}, frame {start + k}", str(error))
                continue
            yield Frame(
                place=f"{place}, frame {start + k}",
                name=place,
                conformer=start + k,
                atomic_numbers=numbers[there],
                positions=places[k][there],
                energy=energy,
                forces=None if force is None else force[k][there],
                dipole=dipole[k] if dipole is not None and np.isfinite(dipole[k]).all() else None,
                charge=stated.charge or 0,
                multiplicity=stated.multiplicity or 1,
                smiles=smiles,
            )


def _beside(group: "h5py.Group", column: str, what: str) -> Any:
    """The data set of forces or dipoles that belongs to a column of energies, or None."""
    method = column.rpartition(".")[0]
    return group.get(f"{method}.{what}" if method else what)


def _numbers(group: "h5py.Group") -> np.ndarray:
    """Atomic numbers (n,) or (k, n); 0 is no atom."""
    values = np.asarray(group[next(name for name in _SPECIES if name in group)][()])
    if values.dtype.kind in "iu":
        return np.maximum(values.astype(np.int64), 0)
    texts = [smiles_text(value).strip() for value in values.ravel().tolist()]
    unknown = sorted(set(texts) - _SYMBOLS.keys() - {""})
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a chemical element")
    return np.array([_SYMBOLS.get(text, 0) for text in texts], dtype=np.int64).reshape(values.shape)
