"""Reference values: by brute force over listed automorphisms, by our own search, by spyrmsd; and how they agree."""

import signal
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
from numpy.typing import NDArray

from flashrmsd_cy import Molecule, SearchLimitError, rmsd, rmsd_matrix
from sddfkit.rmsd_set.symmetry import automorphisms

Float = NDArray[np.float64]
BRUTE_FORCE = "bruteforce_all_automorphisms"
OWN = "flashrmsd_cy(exact)"
TOLERANCE = 1e-5
"""Å: two methods that differ by more disagree."""
_BLOCK = 512  # mappings at a time: bounds the memory
Failure = dict[str, str]


@dataclass
class Values:
    """Symmetry-corrected RMSD (Å) of all pairs i < j of one graph, in the order of ``numpy.triu_indices(k, 1)``.

    Attributes
    ----------
    n_atoms, n_bonds, n_orbits, n_automorphisms : int
    nauty : int
        The number of automorphisms as nauty has it.
    sc, least : list of (float or None)
        In the fixed frame, and after the best fit; None where a limit stopped the search.
    method_sc, method_min : str
    spyrmsd : str
        What the third opinion said.
    failures : list of {"class", "reason"}
    """

    n_atoms: int
    n_bonds: int
    n_orbits: int
    n_automorphisms: int
    nauty: int
    sc: list[float | None] = field(default_factory=list)
    least: list[float | None] = field(default_factory=list)
    method_sc: str = ""
    method_min: str = ""
    spyrmsd: str = ""
    failures: list[Failure] = field(default_factory=list)


def reference_values(
    elements: Sequence[str],
    bonds: Sequence[tuple[int, int]],
    x: Float,
    *,
    brute_force_limit: int,
    spyrmsd_limit: int,
    time_limit_s: float,
) -> Values:
    """Count automorphisms twice and compute all pairs, each verified as far as is affordable.

    Parameters
    ----------
    elements, bonds
        The graph; bond orders are not compared.
    x : ndarray of float64, shape (k, n, 3)
        Å; k may be 0, then only the counting is done.
    brute_force_limit, spyrmsd_limit : int
        Largest number of automorphisms that are tried one by one, by us and by spyrmsd.
    time_limit_s : float
        For our own search of one matrix, and for spyrmsd.
    """
    molecule = Molecule(elements, bonds)
    group = automorphisms(elements, bonds)
    count = _own_count(molecule, time_limit_s)
    values = Values(molecule.n_atoms, len(bonds), group.n_orbits, group.order if count is None else count, group.order)
    if count is None:
        values.failures.append(_failure("limit", f"automorphisms not counted in {time_limit_s:g} s; nauty's are taken"))
    elif not group.agrees(count):
        values.failures.append(_failure("automorphisms", f"flashrmsd_cy counts {count}, nauty {group.order}"))
    if len(x) < 2:
        return values
    pairs = [(i, j) for i in range(len(x)) for j in range(i + 1, len(x))]
    listed = group.elements(brute_force_limit)
    if listed is not None and len(listed) != group.order:
        values.failures.append(_failure("automorphisms", f"{len(listed)} of nauty's {group.order} could be listed"))
        listed = None
    own = [_own(x, molecule, pairs, align, time_limit_s, values.failures) for align in (False, True)]
    slow = [None, None] if listed is None else [brute_force(x, listed, pairs, align) for align in (False, True)]
    for align, name in ((False, "fixed"), (True, "minimised")):
        _compare(f"brute force, {name}", slow[align], own[align], pairs, values.failures)
    best = [mine if brute is None else brute for mine, brute in zip(own, slow, strict=True)]
    values.sc, values.least = [_rounded(row) for row in best]
    values.method_sc = values.method_min = OWN if listed is None else BRUTE_FORCE
    values.spyrmsd = _third_opinion(elements, bonds, x, best, group.order <= spyrmsd_limit, time_limit_s, values)
    return values


def brute_force(x: Float, mappings: NDArray[np.intp], pairs: Sequence[tuple[int, int]], align: bool) -> Float:
    """(p,) least RMSD in Å over listed mappings, each tried; after a fit by singular values if `align`.

    Kabsch, Acta Cryst. A34, 827 (1978), doi:10.1107/S0567739478001680.
    """
    n = x.shape[1]
    if align:
        x = x - x.mean(axis=1, keepdims=True)
    squares = (x**2).sum(axis=(1, 2))
    found = np.empty(len(pairs))
    atoms = np.arange(n)
    for place, (i, j) in enumerate(pairs):
        best = np.inf
        distances = ((x[i][:, None] - x[j][None]) ** 2).sum(axis=-1)
        for start in range(0, len(mappings), _BLOCK):
            block = mappings[start : start + _BLOCK]
            if align:
                covariances = x[i].T @ x[j][block]
                singular = np.linalg.svd(covariances, compute_uv=False)
                gains = singular[:, 0] + singular[:, 1] + np.sign(np.linalg.det(covariances)) * singular[:, 2]
                best = min(best, squares[i] + squares[j] - 2 * gains.max())
            else:
                best = min(best, distances[atoms, block].sum(axis=1).min())
        found[place] = np.sqrt(max(0.0, best) / n)
    return found


def _own_count(molecule: Molecule, time_limit_s: float) -> int | None:
    still = np.zeros((molecule.n_atoms, 3))
    return rmsd(still, still, molecule, align=False, time_limit_s=time_limit_s).n_automorphisms


def _own(
    x: Float,
    molecule: Molecule,
    pairs: Sequence[tuple[int, int]],
    align: bool,
    time_limit_s: float,
    failures: list[Failure],
) -> Float:
    """(p,) by flashrmsd_cy, NaN where only bounds were proved within the time."""
    try:
        matrix = rmsd_matrix(x, molecule, align=align, time_limit_s=time_limit_s)
        return np.array([matrix[i, j] for i, j in pairs])
    except SearchLimitError:
        found = np.full(len(pairs), np.nan)
    for place, (i, j) in enumerate(pairs):
        result = rmsd(x[i], x[j], molecule, align=align, time_limit_s=time_limit_s / len(pairs))
        if result.status == "exact":
            found[place] = result.value
        else:
            reason = f"pair {i}, {j}, {'minimised' if align else 'fixed'}: {result.lower:.6f} to {result.upper:.6f} Å"
            failures.append(_failure("limit", reason))
    return found


def _third_opinion(
    elements: Sequence[str],
    bonds: Sequence[tuple[int, int]],
    x: Float,
    best: Sequence[Float],
    affordable: bool,
    time_limit_s: float,
    values: Values,
) -> str:
    """Compare record 0 with all others by spyrmsd (Meli & Biggin, doi:10.1186/s13321-020-00455-2)."""
    if not affordable:
        return "not tried: too many automorphisms"
    try:
        from spyrmsd.rmsd import symmrmsd
    except ImportError:
        return "not installed"
    numbers = {element: index for index, element in enumerate(sorted(set(elements)), start=1)}
    kinds = np.array([numbers[element] for element in elements])
    joined = np.zeros((len(elements), len(elements)), dtype=int)
    for i, j in bonds:
        joined[i, j] = joined[j, i] = 1
    first = [(0, j) for j in range(1, len(x))]
    try:
        with _at_most(time_limit_s), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for align, name in ((False, "fixed"), (True, "minimised")):
                theirs = symmrmsd(x[0], list(x[1:]), kinds, kinds, joined, joined, minimize=align)
                _compare(
                    f"spyrmsd, {name}", np.asarray(theirs), best[align][: len(first)], first, values.failures, 1e-4
                )
    except TimeoutError:
        return "not finished in time"
    except Exception as error:  # another program: whatever it raises is recorded and costs only its opinion
        return f"failed: {type(error).__name__}: {error}"[:200]
    return f"{len(first)} pairs compared"


def _compare(
    name: str,
    theirs: Float | None,
    ours: Float,
    pairs: Sequence[tuple[int, int]],
    failures: list[Failure],
    tolerance: float = TOLERANCE,
) -> None:
    """Record the worst disagreement, if there is one."""
    if theirs is None:
        return
    off = np.nan_to_num(np.abs(theirs - ours))
    worst = int(off.argmax())
    if off[worst] > tolerance:
        reason = f"{name}: pair {pairs[worst][0]}, {pairs[worst][1]}: {theirs[worst]:.6f}, expected {ours[worst]:.6f} Å"
        failures.append(_failure("value", reason))


def _failure(kind: str, reason: str) -> Failure:
    return {"class": kind, "reason": reason}


def _rounded(row: Float) -> list[float | None]:
    return [None if np.isnan(value) else round(float(value), 6) for value in row]


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in Python code that takes longer; without effect outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: FrameType | None) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
