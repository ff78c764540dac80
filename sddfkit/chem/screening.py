"""Molecules by the million: one chunk of a file to counts, and the few molecules that are worth keeping.

A function of its arguments alone, so that processes share the chunks of a file.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from multiprocessing.connection import wait
from typing import Any, Final, NamedTuple

from rdkit import Chem, rdBase
from rdkit.Chem import FilterCatalog, rdMolDescriptors

from sddfkit.chem.messages import reason_for
from sddfkit.chem.molecules import MoleculeError, element_numbers, element_symbol, molecule_id
from sddfkit.chem.parsers import Chunk, Entry, Unreadable, parsed

SAMPLES: Final = 3
"""Lines that are kept of a chunk for each reason of rejection."""


@dataclass(frozen=True)
class Screen:
    """Which molecules are let through, and how they are ranked.

    Parameters
    ----------
    elements : allowed elements, symbols or atomic numbers; None allows all. Hydrogens count
    min_heavy_atoms, max_heavy_atoms : inclusive limits
    min_charge, max_charge : inclusive limits of the total charge, e
    pains : refuse pan-assay interference compounds (Baell and Holloway, J. Med. Chem. 2010, 53, 2719), families A to C.
        It takes several times as long as all the rest
    fraction : of the lines that is looked at, by a hash of the SMILES: the same lines each time
    seed : of that hash, and of those that draw the sample and decide between equal scores
    weights : 167 numbers, what each MACCS key adds to the score; none where molecules are not ranked
    constant : the score without any key
    """

    elements: tuple[int | str, ...] | None = None
    min_heavy_atoms: int = 1
    max_heavy_atoms: int | None = None
    min_charge: int | None = None
    max_charge: int | None = None
    pains: bool = False
    fraction: float = 1.0
    seed: int = 0
    weights: tuple[float, ...] | None = field(default=None, repr=False)
    constant: float = 0.0

    def __post_init__(self) -> None:
        element_numbers(self.elements)
        if not 0.0 < self.fraction <= 1.0:
            raise MoleculeError(f"fraction is {self.fraction}, expected a number above 0, at most 1")
        for name, low, high in (
            ("heavy_atoms", self.min_heavy_atoms, self.max_heavy_atoms),
            ("charge", self.min_charge, self.max_charge),
        ):
            if low is not None and high is not None and low > high:
                raise MoleculeError(f"max_{name}={high} is below min_{name}={low}")
        if self.weights is not None and len(self.weights) != 167:
            raise MoleculeError(f"weights has {len(self.weights)} numbers, expected one for each of 167 MACCS keys")


class Found(NamedTuple):
    """A molecule that may be among the best, or in the sample."""

    key: tuple[float, ...]
    identity: str
    line: int
    smiles: str
    name: str
    score: float | None


class Refused(NamedTuple):
    """A line that was rejected."""

    line: int
    text: str
    reason: str


class Screened(NamedTuple):
    """What became of a chunk.

    Parameters
    ----------
    line, offset : where the next chunk begins
    read : bytes of the file, packed as it may be, that were read for it
    lines : how many there were
    skipped : molecules that `Screen.fraction` left out
    molecules : how many were let through
    reasons : how many were not, by reason without its details
    refused : some of those
    top, sample : candidates for the best and for the sample, better than the thresholds that were given
    """

    line: int
    offset: int
    read: int
    lines: int
    skipped: int
    molecules: int
    reasons: Counter[str]
    refused: list[Refused]
    top: list[Found]
    sample: list[Found]


Threshold = tuple[float, ...] | None


def screen_chunk(chunk: Chunk, screen: Screen, top: Threshold, sample: Threshold) -> Screened:
    """Parse, filter and rank the molecules of a chunk.

    Parameters
    ----------
    chunk
    screen
    top, sample
        Only candidates with a smaller key are returned; None lets all through, ``()`` none.
    """
    check = _filter(screen)
    done = Screened(chunk.line + chunk.n_lines, chunk.end, chunk.read, chunk.n_lines, 0, 0, Counter(), [], [], [])
    skipped = molecules = 0
    lock = rdBase.BlockLogs()
    for entry in parsed(chunk):
        if isinstance(entry, Unreadable):
            _refuse(done, entry, f"unreadable: {entry.reason}")
            continue
        if screen.fraction < 1.0 and lot(_text(entry), screen.seed, "fraction") >= screen.fraction:
            skipped += 1
            continue
        found = _molecule(entry)
        if isinstance(found, str):
            _refuse(done, entry, found)
        elif reason := check(found):
            _refuse(done, entry, reason)
        else:
            molecules += 1
            _offer(found, entry, screen, done, top, sample)
    del lock
    return done._replace(skipped=skipped, molecules=molecules)


def begin() -> None:
    """In a new process: Ctrl-C is the parent's affair, and nobody outlives the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def warm(screen: Screen) -> None:
    """Make what is made once in a process; slow enough that each of them gets one of these."""
    screen_chunk(Chunk("smiles", 1, 0, 0, 1, b"C\n", None), screen, (), ())
    time.sleep(0.05)


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def score(mol: Chem.Mol, screen: Screen) -> float:
    """Return the score of a molecule without explicit hydrogens, rounded to nine digits so that equals are equal.

    Key by key in order: the sum is the same in any company.
    """
    weights = screen.weights or ()
    keys = rdMolDescriptors.GetMACCSKeysFingerprint(mol).GetOnBits()
    return round(screen.constant + sum([weights[key] for key in keys]), 9)


def lot(text: str, seed: int, purpose: str) -> float:
    """Return a number from 0 up to 1 that a text, a seed and a purpose decide."""
    content = f"{purpose}\0{seed}\0{text}".encode()
    return int.from_bytes(hashlib.blake2b(content, digest_size=6).digest(), "big") / 2**48


def _refuse(done: Screened, entry: Entry | Unreadable, reason: str) -> None:
    kind = reason.partition(":")[0]
    done.reasons[kind] += 1
    if done.reasons[kind] <= SAMPLES:
        done.refused.append(Refused(entry.line, entry.text[:80], reason))


def _molecule(entry: Entry) -> Chem.Mol | str:
    """Molecule without explicit hydrogens, or why there is none."""
    text = entry.molecule
    if not isinstance(text, str):
        return Chem.RemoveHs(text)
    mol = Chem.MolFromSmiles(text, _PARAMETERS)
    if mol is None:
        why = reason_for(lambda: Chem.MolFromSmiles(text, _PARAMETERS))
        return f"RDKit refuses it: {why or 'without a reason'}"
    return mol if mol.GetNumAtoms() else "no atoms"


def _text(entry: Entry) -> str:
    return entry.molecule if isinstance(entry.molecule, str) else Chem.MolToSmiles(Chem.RemoveHs(entry.molecule))


def _offer(mol: Chem.Mol, entry: Entry, screen: Screen, done: Screened, top: Threshold, sample: Threshold) -> None:
    if screen.weights is not None and top != ():
        value = score(mol, screen)
        if top is None or -value <= top[0]:
            key: tuple[float, ...] = (-value, lot(_text(entry), screen.seed, "tie"), float(entry.line))
            if top is None or key < top:
                done.top.append(Found(key, molecule_id(mol), entry.line, _text(entry), entry.name, value))
    if sample != ():
        # Of the spelling: the canonical SMILES of every molecule would cost a fifth of the time of all the rest.
        key = (lot(_text(entry), screen.seed, "sample"), float(entry.line))
        if sample is None or key < sample:
            done.sample.append(Found(key, molecule_id(mol), entry.line, _text(entry), entry.name, None))


@cache
def _filter(screen: Screen) -> Callable[[Chem.Mol], str]:
    """Return what says why a molecule is not let through, "" where it is."""
    allowed = element_numbers(screen.elements)
    stranger = Chem.MolFromSmarts("[#0]" if allowed is None else f"[{'&'.join(f'!#{z}' for z in sorted(allowed))}]")
    hydrogen = Chem.MolFromSmarts("[!H0]") if allowed is not None and 1 not in allowed else None
    smallest, largest = screen.min_heavy_atoms, screen.max_heavy_atoms
    lowest, highest = screen.min_charge, screen.max_charge
    pains = _pains() if screen.pains else None

    def check(mol: Chem.Mol) -> str:
        heavy = mol.GetNumHeavyAtoms()
        if heavy < smallest:
            return f"too small: {heavy} heavy atoms"
        if largest is not None and heavy > largest:
            return f"too large: {heavy} heavy atoms"
        if mol.HasSubstructMatch(stranger):
            atom = mol.GetAtomWithIdx(mol.GetSubstructMatch(stranger)[0])
            return f"element not allowed: {atom.GetSymbol()} at atom {atom.GetIdx()}"
        if hydrogen is not None and mol.HasSubstructMatch(hydrogen):
            return f"element not allowed: {element_symbol(1)}"
        if lowest is not None or highest is not None:
            charge = Chem.GetFormalCharge(mol)
            if (lowest is not None and charge < lowest) or (highest is not None and charge > highest):
                return f"charge not allowed: {charge:+d}"
        if pains is not None and (match := pains.GetFirstMatch(mol)) is not None:
            return f"PAINS: {match.GetDescription()}"
        return ""

    return check


def _pains() -> FilterCatalog.FilterCatalog:
    parameters: Any = FilterCatalog.FilterCatalogParams()
    parameters.AddCatalog(FilterCatalog.FilterCatalogParams.FilterCatalogs.PAINS)
    return FilterCatalog.FilterCatalog(parameters)


def _parameters() -> Any:
    parameters: Any = Chem.SmilesParserParams()
    parameters.allowCXSMILES = True
    parameters.strictCXSMILES = parameters.parseName = False
    return parameters


_PARAMETERS: Final = _parameters()
