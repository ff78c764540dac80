"""Conformers by ETKDGv3, or as given, with an account of what was asked for, what came, and why the rest did not."""

import math
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from rdkit import Chem, rdBase
from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

from sddfkit.chem.connectivity import connectivity_faults
from sddfkit.chem.fragments import place_fragments
from sddfkit.chem.molecules import PLACED_PROPERTY
from sddfkit.chem.rmsd import prune_by_rmsd

FLAGS_PROPERTY = "sddfkit.flags"
"""Property of an RDKit conformer: what to know about it before use, joined by "; "."""
T = TypeVar("T")
_ATTEMPT = "attempt: "
_LARGE = 100
"""Atoms. A conformer of fewer takes far less than a second, with RDKit's own limit on attempts."""
_CLOSEST = 0.1
"""Å. Atoms nearer to each other have no place of their own: a missing coordinate is written as 0 0 0."""
_CAUSES = tuple(rdDistGeom.EmbedFailureCauses.names.values())
_TIMEOUT = rdDistGeom.EmbedFailureCauses.EXCEEDED_TIMEOUT


@dataclass(frozen=True)
class Conformers:
    """A molecule with its conformers (ids 0 … kept − 1, Å) and the account of how they came about.

    Parameters
    ----------
    mol : molecule with explicit hydrogens and `kept` conformers
    asked, embedded, kept : counts; asked = embedded + not embedded, embedded = kept + pruned
    method : such as "ETKDGv3 + MMFF94"
    failures : reason → count. "not embedded" and "pruned within 0.30 Å" count conformers, "attempt: …" counts
        embedding attempts that RDKit gave up, with RDKit's word for the cause
    flags : things to know about the molecule or single conformers; those of a conformer are also its property
        ``sddfkit.flags``
    """

    mol: Chem.Mol
    asked: int
    embedded: int
    kept: int
    method: str
    failures: dict[str, int]
    flags: tuple[str, ...]

    def summary(self) -> str:
        """One line such as "asked 10, kept 7: 3 pruned within 0.30 Å"."""
        losses = [f"{n} {reason}" for reason, n in self.failures.items() if not reason.startswith(_ATTEMPT)]
        causes = [f"{key.removeprefix(_ATTEMPT)} ×{n}" for key, n in self.failures.items() if key.startswith(_ATTEMPT)]
        because = f" ({', '.join(causes)})" if causes and self.embedded < self.asked else ""
        return f"asked {self.asked}, kept {self.kept}" + (f": {', '.join(losses)}{because}" if losses else "")


def etkdg(
    mol: Chem.Mol,
    n_conformers: int,
    rng: np.random.Generator,
    *,
    mmff: bool = False,
    prune_rmsd: float | None = 0.3,
    prune_hydrogens: bool = True,
    max_attempts: int = 0,
    timeout_s: float = 60.0,
) -> Conformers:
    """Embed conformers with ETKDGv3 (Wang et al., J. Chem. Inf. Model. 2020, 60, 2044, doi:10.1021/acs.jcim.0c00025).

    Conformers that distance geometry cannot embed are tried once more from random coordinates. A molecule that cannot
    be embedded at all comes back with kept = 0 and the reasons; it is not an error.

    Ctrl-C is answered at once: RDKit embeds and relaxes in a thread of its own. Where the process lives on, as in a
    notebook, that thread ends with RDKit's call.

    Parameters
    ----------
    mol : molecule; missing hydrogens are added, conformers it has are replaced in a copy
    n_conformers : how many to ask for
    rng : all seeds are drawn from it; same state, same conformers
    mmff : relax with MMFF94 as implemented in RDKit (Tosco et al., J. Cheminform. 2014, 6, 37,
        doi:10.1186/s13321-014-0037-3). Molecules without parameters, minimisations that do not converge and bonds
        that changed are flagged
    prune_rmsd : drop a conformer whose exact symmetry-corrected RMSD after superposition to an earlier one is below
        this, Å; None keeps all
    prune_hydrogens : whether hydrogens count in that RMSD
    max_attempts : per conformer; 0 is RDKit's rule, ten per atom
    timeout_s : limit per conformer and fragment in each of the two embedding runs, s (RDKit counts whole seconds, and
        not the preparation that the conformers share). A run of a molecule of more than 100 atoms, or with
        max_attempts, asks for one conformer first, and for no more if that one comes too late. So a molecule whose
        conformers all come too late takes 2·timeout_s per fragment; one whose conformers just come in time takes up
        to n_conformers·timeout_s

    Raises
    ------
    ValueError
        n_conformers below 1, negative prune_rmsd, timeout_s not positive.
    """
    if n_conformers < 1:
        raise ValueError(f"{n_conformers=}; expected at least 1")
    if prune_rmsd is not None and not prune_rmsd >= 0:
        raise ValueError(f"{prune_rmsd=}; expected Å, 0 or more, or None")
    if not timeout_s > 0:
        raise ValueError(f"{timeout_s=}; expected more than 0 s")
    work = Chem.AddHs(mol)
    attempts = _embed(work, n_conformers, rng, max_attempts, math.ceil(timeout_s))
    embedded = work.GetNumConformers()
    failures = {"not embedded": n_conformers - embedded} if embedded < n_conformers else {}
    flags: list[str] = []
    if embedded and place_fragments(work, rng):
        flags.append("fragments embedded one by one and placed in contact at random")
    if embedded and mmff:
        flags += _relax(work)
    if embedded and prune_rmsd is not None:
        pruned = _prune(work, prune_rmsd, prune_hydrogens)
        failures |= {f"pruned within {prune_rmsd:.2f} Å": pruned} if pruned else {}
    kept = work.GetNumConformers()
    for number, conformer in enumerate(list(work.GetConformers())):
        conformer.SetId(number)
        if conformer.HasProp(FLAGS_PROPERTY):
            flags.append(f"conformer {number}: {conformer.GetProp(FLAGS_PROPERTY)}")
    method = "ETKDGv3 + MMFF94" if mmff else "ETKDGv3"
    return Conformers(work, n_conformers, embedded, kept, method, failures | attempts, tuple(flags))


def given(mol: Chem.Mol, *, rng: np.random.Generator) -> Conformers:
    """Take the conformers that a molecule brings, such as those of an SDF record, as they are.

    Nothing is embedded, relaxed or pruned. A conformer without a third dimension, or with atoms that have no place of
    their own, is left out with that reason; a molecule that lacks hydrogens keeps none.

    Parameters
    ----------
    mol : molecule with explicit hydrogens and 3D conformers, Å; it is copied
    rng : unused: nothing is drawn
    """
    del rng
    work = Chem.Mol(mol)
    conformers = list(work.GetConformers())
    hydrogens = sum(atom.GetTotalNumHs() for atom in work.GetAtoms())
    hydrogens += work.GetIntProp(PLACED_PROPERTY) if work.HasProp(PLACED_PROPERTY) else 0
    failures: Counter[str] = Counter()
    if not conformers:
        failures["without 3D coordinates (conformers=etkdg makes some)"] += 1
    for conformer in conformers:
        reason = f"without positions of {hydrogens} hydrogens" if hydrogens else _misplaced(conformer)
        if reason:
            failures[reason] += 1
            work.RemoveConformer(conformer.GetId())
    kept = work.GetNumConformers()
    for number, conformer in enumerate(list(work.GetConformers())):
        conformer.SetId(number)
    return Conformers(work, max(1, len(conformers)), kept, kept, "given", dict(failures), ())


def _misplaced(conformer: Chem.Conformer) -> str:
    """Why the positions of a conformer cannot be used; empty when they can."""
    positions = conformer.GetPositions()
    if not conformer.Is3D():
        return "flat (a 2D drawing)"
    if not np.isfinite(positions).all():
        return "with coordinates that are no numbers"
    distances = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    first, second = np.nonzero(np.triu(distances < _CLOSEST, k=1))
    return f"with atoms {first[0]} and {second[0]} at one place" if len(first) else ""


def _embed(mol: Chem.Mol, n: int, rng: np.random.Generator, max_attempts: int, timeout: int) -> dict[str, int]:
    """Embed in place; return the causes of failed attempts."""
    mol.RemoveAllConformers()
    causes: Counter[str] = Counter()
    for random_coordinates in (False, True):
        seed = int(rng.integers(1, 2**31 - 1))  # drawn even if unused: the next draw must not depend on success
        if mol.GetNumConformers() == n:
            continue
        params: Any = rdDistGeom.ETKDGv3()  # RDKit's stubs mistype its setters
        params.randomSeed = seed
        params.numThreads = 1
        params.useRandomCoords = random_coordinates
        params.clearConfs = False
        params.maxIterations = max_attempts
        params.timeout = timeout
        params.trackFailures = True
        missing = n - mol.GetNumConformers()
        try:
            if missing > 1 and (max_attempts or mol.GetNumAtoms() > _LARGE):
                first = _embed_some(Chem.Mol(mol, True), 1, params)  # without conformers
                if first[_cause_name(_TIMEOUT)]:
                    causes += first
                    causes[f"not asked for after {_cause_name(_TIMEOUT)}"] += missing - 1
                    continue
            causes += _embed_some(mol, missing, params)
        except (ValueError, RuntimeError) as error:  # inconsistent bounds, broken invariants
            causes[" ".join(str(error).split())[:120]] += missing
    return {f"{_ATTEMPT}{cause}": count for cause, count in sorted(causes.items())}


def _embed_some(mol: Chem.Mol, n: int, params: Any) -> Counter[str]:
    """Embed in place; count the causes of failed attempts. The first conformer is the same for any n."""

    def embed() -> None:
        with rdBase.BlockLogs():
            rdDistGeom.EmbedMultipleConfs(mol, n, params)

    _interruptible(embed)
    counts = params.GetFailureCounts() or ()
    return +Counter({_cause_name(cause): counts[int(cause)] for cause in _CAUSES if int(cause) < len(counts)})


def _cause_name(cause: Any) -> str:
    return str(cause.name).lower().replace("_", " ")


def _interruptible(call: Callable[[], T]) -> T:
    """Call RDKit in a thread of its own, where it works without the interpreter's lock, and wait for what it returns.

    A signal handler of Python runs in the main thread, between two steps of Python: it would have to wait for RDKit.
    """
    answer: Future[T] = Future()

    def run() -> None:
        try:
            answer.set_result(call())
        except BaseException as error:
            answer.set_exception(error)

    threading.Thread(target=run, name="rdkit", daemon=True).start()  # the process may end before RDKit does
    return answer.result()


def _relax(mol: Chem.Mol) -> list[str]:
    """MMFF94 in place; flags of the molecule are returned, those of a conformer set as its property."""
    with rdBase.BlockLogs():
        parametrised = rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol)
    if not parametrised:
        return ["MMFF94 has no parameters for this molecule; conformers are as embedded"]
    before = {conformer.GetId(): set(_faults(conformer)) for conformer in mol.GetConformers()}
    outcome = _interruptible(lambda: rdForceFieldHelpers.MMFFOptimizeMoleculeConfs(mol, numThreads=1, maxIters=2000))
    for conformer, (status, _) in zip(list(mol.GetConformers()), outcome, strict=True):
        notes = ["MMFF94 not converged"] if status != 0 else []
        new = [fault for fault in _faults(conformer) if fault not in before[conformer.GetId()]]
        notes += [f"bonds changed in MMFF94: {fault}" for fault in new]
        if notes:
            conformer.SetProp(FLAGS_PROPERTY, "; ".join(notes))
    return []


def _faults(conformer: Chem.Conformer) -> list[str]:
    mol = conformer.GetOwningMol()
    ionic = {Chem.BondType.IONIC: 4, Chem.BondType.HYDROGEN: 5}
    bonds = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), ionic.get(b.GetBondType(), 0)) for b in mol.GetBonds()]
    return connectivity_faults([a.GetAtomicNum() for a in mol.GetAtoms()], conformer.GetPositions(), bonds)


def _prune(mol: Chem.Mol, threshold: float, hydrogens: bool) -> int:
    """Remove near-duplicates in place; how many."""
    compare_hydrogens = hydrogens or mol.GetNumHeavyAtoms() == 0
    kept = set(prune_by_rmsd(mol, threshold, hydrogens=compare_hydrogens, align=True))
    dropped = [conformer.GetId() for conformer in mol.GetConformers() if conformer.GetId() not in kept]
    for identifier in dropped:
        mol.RemoveConformer(identifier)
    return len(dropped)
