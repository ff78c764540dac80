"""What all readers of labelled files share: what is stated of a file, its frames, and how one becomes a record."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from rdkit import Chem, rdBase

from sddfkit.chem.molecules import MoleculeError, molecule_id, parse_smiles
from sddfkit.chem.perception import perceive, placed, unbonded
from sddfkit.data.records import bonds_of
from sddfkit.data.schema import GRID, Record, RecordError, record_id
from sddfkit.units import BOHR_TO_ANGSTROM, EV_TO_KCAL_MOL, HARTREE_TO_EV

ENERGY_UNITS: Final[Mapping[str, float]] = {
    "hartree": HARTREE_TO_EV,
    "eV": 1.0,
    "meV": 1e-3,
    "kcal/mol": 1.0 / EV_TO_KCAL_MOL,
    "kJ/mol": 1.0 / (4.184 * EV_TO_KCAL_MOL),
}
"""eV in each unit of energy."""
LENGTH_UNITS: Final[Mapping[str, float]] = {"angstrom": 1.0, "bohr": BOHR_TO_ANGSTROM, "nm": 10.0}
"""Å in each unit of length."""
_ALSO: Final = {
    **dict.fromkeys(("ha", "eh", "h", "au", "a.u."), "hartree"),
    **dict.fromkeys(("å", "ang", "a", "angstroms"), "angstrom"),
    **dict.fromkeys(("a0", "bohrs"), "bohr"),
}

WEAKEST_ATOM: Final = -0.35
"""Hartree per atom: the total energy of a molecule of nonmetals lies below it by every method, semiempirical or not."""
_NONMETALS: Final = frozenset({1, 6, 7, 8, 9, 15, 16, 17, 35, 53})

UPHILL: Final = 0.9
"""Correlation of energy differences with the work of the forces beyond which their sign is beyond doubt."""


class ReaderError(ValueError):
    """A file as a whole that cannot be read, or of which something must be stated first; the sentence says what."""


class Refused(NamedTuple):
    """A frame that did not become a record: the file, where in it, and why."""

    source: str
    place: str
    reason: str


@dataclass(frozen=True)
class Stated:
    """What the caller says of a file; what is left out is said by the file or its format, or the file is refused.

    Parameters
    ----------
    energy : which of the energies that the file holds, by its name there
    energy_unit, length_unit : as in `ENERGY_UNITS` and `LENGTH_UNITS`
    force_unit : such as "hartree/bohr"; from the two others if None
    forces : whether what the file calls forces are "forces" or the "gradient"
    zero : "total" energies, or energies "above-atoms": without those of the isolated atoms, which are added again
    isolated_atoms : energy of each isolated atom in the unit of energy, by atomic number
    level : level of theory, such as "wB97X/6-31G(d)"
    charge : total charge of every molecule, e
    multiplicity : 2S + 1 of every molecule
    bonds : "auto": of the file, by its SMILES, or perceived; "none": left out
    """

    energy: str | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    forces: Literal["forces", "gradient"] | None = None
    zero: Literal["total", "above-atoms"] | None = None
    isolated_atoms: Mapping[int, float] | None = None
    level: str | None = None
    charge: int | None = None
    multiplicity: int | None = None
    bonds: Literal["auto", "none"] = "auto"


class Frame(NamedTuple):
    """One labelled geometry, in Å, eV and eV/Å, before it is checked and has bonds.

    ``mol`` is the molecule of a file that holds whole ones, in the order of the atoms; ``pairs`` (b, 2) are joined
    atoms of a file that lists them.
    """

    place: str
    name: str
    conformer: int
    atomic_numbers: NDArray[np.integer]
    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64] | None = None
    dipole: NDArray[np.float64] | None = None
    charge: int = 0
    multiplicity: int = 1
    smiles: str = ""
    pairs: NDArray[np.integer] | None = None
    mol: Chem.Mol | None = None
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A file that was opened: what is known of it, and its frames.

    Parameters
    ----------
    path : file or folder
        Where it is.
    format : str
        Name of its format, a key of `sddfkit.data.readers.FORMATS`.
    level : str
        Level of theory.
    frames : callable
        () → iterator of `Frame` or `Refused`, in an order that never changes; a block of frames is in memory at a time.
    count : int or None
        Number of frames, where that is known beforehand.
    isolated_atoms : mapping
        eV by atomic number; empty if not known.
    assumed : tuple of str
        Sentences: units and conventions, and who says so.
    bonds : "auto" or "none"
    """

    path: Path
    format: str
    level: str
    frames: Callable[[], Iterator[Frame | Refused]]
    count: int | None = None
    isolated_atoms: Mapping[int, float] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    bonds: str = "auto"

    def records(self) -> Iterator[Record | Refused]:
        """Yield a labelled record, or a refusal with its reason, for each frame."""
        for frame in self.frames():
            yield frame if isinstance(frame, Refused) else labelled_record(frame, self)


@dataclass(frozen=True)
class Units:
    """Factors from the units of a file to Å, eV and eV/Å (``force`` with the sign of a gradient), and their names."""

    energy: float
    length: float
    force: float
    names: str


def units(
    path: Path,
    stated: Stated,
    *,
    energy: str | None,
    length: str | None,
    force: str | None = None,
    gradient: bool = False,
    by: str,
) -> Units:
    """Put together what is stated and what the file or its format says.

    Parameters
    ----------
    energy, length, force : what the file, or its format, says; None: nothing
    gradient : whether its forces are the gradient, unless stated
    by : who says so, for the sentence

    Raises
    ------
    ReaderError
        An unknown unit, or one that nobody names.
    """
    asked = (("energy", stated.energy_unit, energy), ("length", stated.length_unit, length))
    for what, mine, theirs in asked:
        if mine is None and theirs is None:
            raise ReaderError(f"{path} does not say in which unit of {what} it is; state it (--{what}-unit)")
    energy_name, length_name = ((mine or theirs or "") for _, mine, theirs in asked)
    force_name = stated.force_unit or (None if stated.energy_unit or stated.length_unit else force)
    force_name = force_name or f"{energy_name}/{length_name}"
    over = force_name.rpartition("/")
    uphill = gradient if stated.forces is None else stated.forces == "gradient"
    factor = unit(over[0], ENERGY_UNITS) / unit(over[2], LENGTH_UNITS)
    who = "stated" if stated.energy_unit and stated.length_unit else f"{by}, where nothing else is stated"
    return Units(
        unit(energy_name, ENERGY_UNITS),
        unit(length_name, LENGTH_UNITS),
        -factor if uphill else factor,
        f"energies in {spelled(energy_name)}, lengths in {spelled(length_name)}, "
        f"{'gradients' if uphill else 'forces'} in {spelled(over[0])}/{spelled(over[2])} ({who})",
    )


def unit(name: str, known: Mapping[str, float]) -> float:
    """Factor of a unit by its name, in any letter case, or one of its usual abbreviations."""
    if spelled(name) not in known:
        raise ReaderError(f"unknown unit {name!r}; known: {', '.join(known)}")
    return known[spelled(name)]


def spelled(name: str) -> str:
    """A unit as it is spelled here, or as it is given if it is unknown."""
    key = name.strip().lower()
    for known in (*ENERGY_UNITS, *LENGTH_UNITS):
        if known.lower() in (key, _ALSO.get(key)):
            return known
    return name.strip()


def level_of(path: Path, stated: Stated, said: str | None) -> str:
    """The level that is stated, or else the one the file names; as our levels are named where it is one of them."""
    name = stated.level or said
    if not name:
        raise ReaderError(f"{path} does not name its level of theory; state it (--level), such as 'wB97X/6-31G(d)'")
    method, slash, basis = name.strip().partition("/")
    basis = {"6-31g*": "6-31G(d)", "6-31g(d)": "6-31G(d)"}.get(basis.lower(), basis)
    method = {"wb97x": "wB97X", "ωb97x": "wB97X"}.get(method.lower(), method)
    return f"{method}{slash}{basis}"


def atoms_above(path: Path, stated: Stated, units: Units, said: Mapping[int, float]) -> tuple[dict[int, float], bool]:
    """Energies (eV) of the isolated atoms, and whether they must be added to those of the file.

    Parameters
    ----------
    said : those in the file, in its unit

    Raises
    ------
    ReaderError
        The file holds some, and nobody states whether its energies are above them; or they are needed and not there.
    """
    given = said if stated.isolated_atoms is None else stated.isolated_atoms
    atoms = {int(z): float(energy) * units.energy for z, energy in given.items()}
    if stated.zero == "above-atoms" and not atoms:
        raise ReaderError(f"{path} holds no energies of isolated atoms to add; state them (--isolated-atoms)")
    if stated.zero is None and said:
        raise ReaderError(
            f"{path} holds energies of isolated atoms and does not say whether they were removed from those of the "
            "molecules; state it (--zero above-atoms: they were, add them again; --zero total: they were not)"
        )
    return atoms, stated.zero == "above-atoms"


def total_energy(path: Path, energy: float, numbers: ArrayLike, atoms: Mapping[int, float], add: bool) -> float:
    """Total energy (eV) of a molecule, with those of its isolated atoms added if they must be.

    Raises
    ------
    RecordError
        An atom is not among them.
    ReaderError
        The sum shows that the statement about the zero is wrong: a molecule has nearly the energy of its atoms.
    """
    elements = np.asarray(numbers, dtype=int)
    if not atoms:
        per_atom = energy / HARTREE_TO_EV / max(len(elements), 1)
        if per_atom > WEAKEST_ATOM and set(elements.tolist()) <= _NONMETALS:
            raise ReaderError(
                f"{path}: a molecule has {per_atom:.2f} hartree per atom, and a hydrogen atom alone has -0.4 to -0.5: "
                "these are no total energies; state the isolated atoms that were removed (--zero above-atoms, "
                "--isolated-atoms), or the right unit"
            )
        return energy
    if strangers := sorted({int(z) for z in elements} - atoms.keys()):
        if not add:
            return energy
        raise RecordError(f"no energy of the isolated atom Z={strangers[0]} to add")
    of_atoms = float(sum(atoms[int(z)] for z in elements))
    total = energy + of_atoms if add else energy
    if of_atoms and not 0.5 < total / of_atoms < 1.5:
        other = "total" if add else "above-atoms"
        raise ReaderError(
            f"{path}: a molecule has {total / HARTREE_TO_EV:.2f} hartree and its isolated atoms have "
            f"{of_atoms / HARTREE_TO_EV:.2f}: is the zero rather {other!r} (--zero), or a unit wrong?"
        )
    return total


def check_sign(path: Path, energies: ArrayLike, positions: ArrayLike, forces: ArrayLike) -> None:
    """Compare energy differences of successive geometries of one molecule with the work of their forces.

    Parameters
    ----------
    energies : (k,) eV
    positions, forces : (k, n, 3), Å and eV/Å

    Raises
    ------
    ReaderError
        They point uphill: what is called forces are gradients, or the other way round.
    """
    energy, places, force = (np.asarray(part, dtype=np.float64) for part in (energies, positions, forces))
    if len(energy) < 6:
        return
    work = np.einsum("kni,kni->k", 0.5 * (force[1:] + force[:-1]), places[1:] - places[:-1])
    gain = -np.diff(energy)
    known = np.isfinite(work) & np.isfinite(gain)
    if known.sum() < 5 or not np.ptp(work[known]) or not np.ptp(gain[known]):
        return
    if np.corrcoef(work[known], gain[known])[0, 1] < -UPHILL:
        raise ReaderError(
            f"{path}: along successive geometries the energy rises where the forces point; state the other sign "
            "(--forces gradient, or --forces forces)"
        )


def labelled_record(frame: Frame, source: Source) -> Record | Refused:
    """Record of a frame, bonds included, or the refusal that says why there is none."""
    reason = _fault(frame)
    if reason:
        return Refused(str(source.path), frame.place, reason)
    positions = np.rint(np.asarray(frame.positions, dtype=np.float64) / GRID) * GRID
    mol, how, doubts = _molecule(frame, positions, source.bonds)
    bonds = bonds_of(mol)
    identity = _identity(mol, frame.smiles, how)
    numbers = np.asarray(frame.atomic_numbers, dtype=np.int32)
    return Record(
        record_id(numbers, positions, frame.charge, frame.multiplicity, bonds),
        identity,
        frame.name or identity,
        identity,
        frame.conformer,
        frame.charge,
        frame.multiplicity,
        numbers,
        positions,
        bonds,
        np.array([atom.GetFormalCharge() for atom in mol.GetAtoms()], dtype=np.int32),
        energy=float(frame.energy),
        forces=frame.forces,
        dipole=frame.dipole,
        level=source.level,
        origin=f"{source.path.name}, {frame.place}; bonds: {how}",
        qc_flags=(*frame.doubts, *doubts),
    )


def _fault(frame: Frame) -> str:
    numbers, positions = np.asarray(frame.atomic_numbers), np.asarray(frame.positions)
    if numbers.ndim != 1 or not len(numbers):
        return "it holds no atoms"
    if numbers.min() < 1 or numbers.max() > 118:
        return f"there is no element with Z={int(numbers.min() if numbers.min() < 1 else numbers.max())}"
    if positions.shape != (len(numbers), 3):
        return f"its positions have the shape {positions.shape} for {len(numbers)} atoms"
    if not np.isfinite(positions).all():
        return "a position is not finite"
    if not np.isfinite(frame.energy):
        return "it has no energy"
    if frame.forces is not None and np.shape(frame.forces) != positions.shape:
        return f"its forces have the shape {np.shape(frame.forces)} for {len(numbers)} atoms"
    if frame.forces is not None and not np.isfinite(frame.forces).all():
        return "a force is not finite"
    if frame.dipole is not None and (np.shape(frame.dipole) != (3,) or not np.isfinite(frame.dipole).all()):
        return "its dipole moment is not three finite numbers"
    return ""


def _molecule(frame: Frame, positions: NDArray[np.float64], bonds: str) -> tuple[Chem.Mol, str, tuple[str, ...]]:
    """The molecule of a frame, whence its bonds come, and doubts about them."""
    if bonds == "none":
        return placed(unbonded(frame.atomic_numbers).GetMol(), positions), "left out, as asked", ()
    if frame.mol is not None:
        return frame.mol, "of the file", ()
    found = perceive(frame.atomic_numbers, positions, charge=frame.charge, smiles=frame.smiles, pairs=frame.pairs)
    words = {"SMILES": "by the SMILES of the file", "none": "none"}
    return found.mol, words.get(found.how, "perceived by RDKit"), found.doubts


def _identity(mol: Chem.Mol, smiles: str, how: str) -> str:
    """What the molecule is: where the positions do not show what the file names, the name of the file stands."""
    with rdBase.BlockLogs():
        if smiles and not how.startswith("by the SMILES"):
            try:
                return molecule_id(parse_smiles(smiles))
            except MoleculeError:
                pass  # the record is flagged for it
        return molecule_id(mol)


def smiles_text(value: object) -> str:
    """A SMILES as files hold it: text, bytes, or an array of single characters."""
    if isinstance(value, bytes):
        return value.decode("utf-8", errors="replace")
    if isinstance(value, np.ndarray) and value.ndim:
        return "".join(smiles_text(item) for item in value.tolist())
    return str(value.item() if isinstance(value, np.ndarray) else value)[:10_000] if value is not None else ""


def names(found: Sequence[str]) -> str:
    """A list for a sentence, not too long."""
    shown = ", ".join(found[:12])
    return f"{shown} and {len(found) - 12} more" if len(found) > 12 else shown or "none"
