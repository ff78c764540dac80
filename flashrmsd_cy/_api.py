"""The Python face: checks what is given, calls the compiled search, and reports original atom indices."""

from __future__ import annotations

import threading
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice, takewhile
from math import sqrt
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashrmsd_cy._bounds import Profiles, orbits
from flashrmsd_cy._molecule import Molecule
from flashrmsd_cy._plan import PlanLimitError
from flashrmsd_cy._search import Search
from flashrmsd_cy._threads import share
from flashrmsd_cy.errors import RMSDError, SearchLimitError

Float = NDArray[np.float64]
SHORT = 5000  # numbers
MOST = 1e60  # Å; the search multiplies up to four coordinates
MOST_SQUARES = MOST**2
_COUNTING = threading.Lock()


@dataclass(frozen=True, eq=False)  # arrays have no one answer to ==
class Result:
    """Symmetry-corrected RMSD of one pair, with the mapping that attains it.

    Attributes
    ----------
    value : float
        RMSD in Å of `mapping` (and of the rotation and translation): the answer if `status` is "exact".
    mapping : ndarray of int64, shape (n_atoms,)
        ``mapping[i]`` is the atom of b matched to atom i of a, both in the order in which they were given; -1 for an
        atom that is not compared.
    rotation : ndarray of float64, shape (3, 3)
        U, a proper rotation: ``a[i] ≈ U @ b[mapping[i]] + t``. The unit matrix in the fixed frame.
    translation : ndarray of float64, shape (3,)
        t in Å. Zero in the fixed frame.
    n_automorphisms : int or None
        Number of mappings of the molecule onto itself; None if a limit came first.
    status : {"exact", "bound"}
        "bound" if a limit stopped the work: the answer then lies between `lower` and `upper`.
    lower, upper : float
        Bounds in Å; both equal `value` if exact.
    """

    value: float
    mapping: NDArray[np.int64]
    rotation: Float
    translation: Float
    n_automorphisms: int | None
    status: Literal["exact", "bound"]
    lower: float
    upper: float


def rmsd(
    a_positions: ArrayLike,
    b_positions: ArrayLike,
    molecule: Molecule,
    other: Molecule | None = None,
    *,
    align: bool,
    level: Literal[1, 2, 3] | None = None,
    node_limit: int | None = None,
    time_limit_s: float | None = None,
) -> Result:
    r"""Least RMSD of two conformations over all mappings that keep the molecular graph.

    With ``align=False`` nothing is moved (docking poses),

    .. math:: \min_\pi \sqrt{\tfrac1n \sum_i |a_i - b_{\pi(i)}|^2},

    with ``align=True`` also over rotations (no reflection) and translations of b (conformers).

    Parameters
    ----------
    a_positions, b_positions : array_like, shape (n_atoms, 3)
        Coordinates in Å of all atoms, compared or not; float64 or float32, read-only or strided arrays too.
    molecule : Molecule
        Graph of a, and of b unless `other` is given.
    other : Molecule, optional
        Graph of b, if its atoms come in another order.
    align : bool
        Whether b may be rotated and translated. There is no default: the two questions have different answers.
    level : {1, 2, 3}, optional
        One of the simpler searches of `flashrmsd_cy._levels` instead of the usual one, for study: as exact, and slow.
    node_limit : int, optional
        Most search nodes, for each of the stages: preparing the molecule, and the pair.
    time_limit_s : float, optional
        Most seconds for the whole call, up to one step of the search.

    Returns
    -------
    Result
        Exact, or with bounds if a limit was met. Among many alignments of a very symmetric molecule, "exact" means to
        within 1e-7 Å.

    Raises
    ------
    RMSDError
        If a shape is wrong or a coordinate is not finite.
    NotIsomorphicError
        If `molecule` and `other` are different molecules.
    SearchLimitError
        If a limit was met before any mapping between `molecule` and `other` was found.

    References
    ----------
    Bell & Zhang, J. Cheminform. 11, 40 (2019), doi:10.1186/s13321-019-0362-7 (mapping as graph isomorphism);
    Meli & Biggin, J. Cheminform. 12, 49 (2020), doi:10.1186/s13321-020-00455-2 (symmetry-corrected RMSD);
    Theobald, Acta Cryst. A61, 478 (2005), doi:10.1107/S0108767305015266 (the fit).

    Examples
    --------
    >>> water = Molecule(["O", "H", "H"], [(0, 1), (0, 2)])
    >>> a = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]
    >>> b = [[0.0, 0.0, 0.0], [-0.24, 0.93, 0.0], [0.96, 0.0, 0.0]]
    >>> result = rmsd(a, b, water, align=False)
    >>> result.value, result.mapping.tolist()
    (0.0, [0, 2, 1])
    """
    _require_align(align)
    deadline = _deadline(time_limit_s)
    second = molecule if other is None else other
    a = _positions(a_positions, molecule, "a_positions")
    b = _positions(b_positions, second, "b_positions")
    order = None
    if second is not molecule:
        order = np.asarray(molecule._map_to(second, node_limit, deadline))
        b = b[order]
    n = len(a)
    mapping, rotation, translation = np.empty(n, dtype=np.int32), np.zeros((3, 3)), np.zeros(3)
    count: int | None = None
    if level is not None:
        total, least, exact = _by_level(
            level, molecule, align, a, b, mapping, rotation, translation, node_limit, deadline
        )
        with suppress(PlanLimitError):
            count = molecule._prepared(node_limit, deadline)[2]
    else:
        try:
            search = molecule._search(node_limit, deadline)
        except PlanLimitError:
            return _unsearched(a, b, order, molecule, second, align)
        try:
            if align:
                total, least, exact = search.fit(a, b, mapping, rotation, translation, node_limit, deadline)
            else:
                total = least = search.in_place(a, b, mapping)
                exact = True
                rotation.flat[::4] = 1.0
        finally:
            molecule._searches.append(search)
        count = molecule.n_automorphisms
    value = sqrt(total / n)
    # As Result(…) would, in a fifth of the time: a frozen dataclass sets its fields one by one.
    result = Result.__new__(Result)
    result.__dict__.update(
        value=value,
        mapping=_given_indices(mapping, order, molecule, second),
        rotation=rotation,
        translation=translation,
        n_automorphisms=count,
        status="exact" if exact else "bound",
        lower=value if exact else sqrt(least / n),
        upper=value,
    )
    return result


def _by_level(level: int, molecule: Molecule, align: bool, a: Float, b: Float, *rest: Any) -> tuple[float, float, bool]:
    from flashrmsd_cy import _levels

    if level not in (1, 2, 3):
        raise RMSDError(f"level is {level}, expected 1, 2, 3 or None")
    return _levels.search(molecule._graph, len(a), level, align, a, b, *rest)


def best_mapping(
    a_positions: ArrayLike,
    b_positions: ArrayLike,
    molecule: Molecule,
    other: Molecule | None = None,
    *,
    align: bool,
) -> NDArray[np.int64]:
    """(n,) the atom of b for each atom of a at the least RMSD; parameters and errors as for `rmsd`."""
    return rmsd(a_positions, b_positions, molecule, other, align=align).mapping


def rmsd_matrix(
    positions: ArrayLike | Sequence[ArrayLike],
    molecule: Molecule | Sequence[Molecule],
    *,
    align: bool,
    threads: int = 1,
    node_limit: int | None = None,
    time_limit_s: float | None = None,
) -> Float:
    r"""Symmetry-corrected RMSD between all conformers of one molecule.

    .. math:: D_{ij} = \min_\pi \min_{U, t} \sqrt{\tfrac1n \sum_k |x_{ik} - U x_{j\pi(k)} - t|^2}

    Parameters
    ----------
    positions : array_like, shape (k, n_atoms, 3)
        Coordinates of k conformers in Å, all in the atom order of `molecule`.
    molecule : Molecule or sequence of k Molecules
        One for each conformer if their atoms come in different orders; they must be the same molecule.
    align : bool
        Whether conformers may be rotated and translated; no default, see `rmsd`.
    threads : int
        Threads that share the pairs; the GIL is released.
    node_limit, time_limit_s : optional
        Most search nodes per pair, and most seconds for all.

    Returns
    -------
    ndarray of float64, shape (k, k)
        RMSD in Å; symmetric, zero on the diagonal.

    Raises
    ------
    RMSDError
        If a shape is wrong or a coordinate is not finite.
    NotIsomorphicError
        If the molecules differ.
    SearchLimitError
        If a limit stopped a pair: a matrix has no place for bounds. Its `partial` holds the pairs that were computed.

    Examples
    --------
    >>> water, swapped = Molecule("OHH", [(0, 1), (0, 2)]), Molecule("HOH", [(0, 1), (1, 2)])
    >>> a = [[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]
    >>> b = [[-0.24, 0.93, 0.0], [0.0, 0.0, 0.0], [0.96, 0.0, 0.0]]
    >>> rmsd_matrix([a, b], [water, swapped], align=False).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    _require_align(align)
    deadline = _deadline(time_limit_s)
    first, x = _in_one_order(positions, molecule, node_limit, deadline)
    matrix = np.full((len(x), len(x)), np.nan)
    np.fill_diagonal(matrix, 0.0)

    def work(search: Search, counter: array[int]) -> tuple[int, int] | None:
        return search.matrix_rows(x, matrix, counter, align, node_limit, deadline)

    _share(first, threads, work, matrix, node_limit, deadline)
    return matrix


def rmsd_table(
    a_positions: ArrayLike,
    b_positions: ArrayLike,
    molecule: Molecule,
    other: Molecule | None = None,
    *,
    align: bool,
    threads: int = 1,
    node_limit: int | None = None,
    time_limit_s: float | None = None,
) -> Float:
    """Symmetry-corrected RMSD of each conformer of one list to each of another (queries and templates).

    Parameters
    ----------
    a_positions : array_like, shape (k, n_atoms, 3)
        Coordinates in Å, in the atom order of `molecule`.
    b_positions : array_like, shape (m, n_atoms, 3)
        Coordinates in Å, in the atom order of `other` if given.
    molecule, other : Molecule
    align, threads, node_limit, time_limit_s
        As for `rmsd_matrix`.

    Returns
    -------
    ndarray of float64, shape (k, m)
        RMSD in Å.

    Raises
    ------
    RMSDError, NotIsomorphicError, SearchLimitError
        As for `rmsd_matrix`.

    Examples
    --------
    >>> hydrogen = Molecule([1, 1], [(0, 1)])
    >>> x = [[[0.0, 0.0, 0.0], [0.0, 0.0, length]] for length in (0.7, 0.8, 1.0)]
    >>> rmsd_table(x[:1], x, hydrogen, align=True).round(3).tolist()
    [[0.0, 0.05, 0.15]]
    """
    _require_align(align)
    deadline = _deadline(time_limit_s)
    x = _conformers(a_positions, molecule, "a_positions")
    y = _templates(b_positions, molecule, other, node_limit, deadline)
    return _table(x, y, molecule, align, threads, node_limit, deadline)


def rmsd_stream(
    queries: Iterable[ArrayLike],
    templates: ArrayLike,
    molecule: Molecule,
    other: Molecule | None = None,
    *,
    align: bool,
    threads: int = 1,
    chunk: int = 256,
    node_limit: int | None = None,
    time_limit_s: float | None = None,
) -> Iterator[Float]:
    """Symmetry-corrected RMSD of conformers that come one by one, to the same templates, in little memory.

    Parameters
    ----------
    queries : iterable of array_like, shape (n_atoms, 3)
        Coordinates in Å, in the atom order of `molecule`; read as they are needed, at most `chunk` at a time.
    templates : array_like, shape (m, n_atoms, 3)
        Coordinates in Å, in the atom order of `other` if given.
    molecule, other : Molecule
    align, threads, node_limit, time_limit_s
        As for `rmsd_matrix`; the time is that of the whole stream, counted from the first item that is asked for.
    chunk : int
        Queries that are computed together.

    Yields
    ------
    ndarray of float64, shape (m,)
        RMSD in Å of the next query to each template.

    Raises
    ------
    RMSDError, NotIsomorphicError, SearchLimitError
        As for `rmsd_matrix`.

    Examples
    --------
    >>> hydrogen = Molecule([1, 1], [(0, 1)])
    >>> lengths = ([[0.0, 0.0, 0.0], [0.0, 0.0, length]] for length in (0.7, 0.8))
    >>> [row.round(3).tolist() for row in rmsd_stream(lengths, [[[0, 0, 0], [1, 0, 0]]], hydrogen, align=True)]
    [[0.15], [0.1]]
    """
    if chunk < 1:
        raise RMSDError(f"chunk is {chunk}, expected one query or more")
    _require_align(align)
    deadline = _deadline(time_limit_s)
    y = _templates(templates, molecule, other, node_limit, deadline)
    waiting = iter(queries)
    number = 0
    while taken := list(islice(waiting, chunk)):
        x = np.stack([_positions(q, molecule, f"query {number + i}") for i, q in enumerate(taken)])
        try:
            yield from _table(x, y, molecule, align, threads, node_limit, deadline)
        except SearchLimitError as error:
            partial = np.empty((0, len(y))) if error.partial is None else np.asarray(error.partial)
            done = list(takewhile(lambda row: not np.isnan(row).any(), partial))
            yield from done
            raise SearchLimitError(
                f"the limit was met at query {number + len(done)}: raise node_limit or time_limit_s; "
                "all queries before it have their answer"
            ) from None
        number += len(taken)


def distinct(
    positions: ArrayLike,
    molecule: Molecule,
    threshold: float,
    *,
    align: bool,
    time_limit_s: float | None = None,
) -> list[int]:
    """Indices of conformers that are no near copies of an earlier one: first come, first kept.

    A conformer is left out if its symmetry-corrected RMSD to one already kept is below `threshold`. Far cheaper than
    `rmsd_matrix`: most pairs are decided by a bound (`flashrmsd_cy._bounds`), the others end when it is clear on which
    side of the threshold they fall.

    Parameters
    ----------
    positions : array_like, shape (k, n_atoms, 3)
        Coordinates of k conformers in Å, in the atom order of `molecule`.
    molecule : Molecule
    threshold : float
        In Å, not negative; 0 keeps every conformer.
    align : bool
        Whether conformers may be rotated and translated; no default, see `rmsd`.
    time_limit_s : float, optional
        Most seconds for the whole call.

    Returns
    -------
    list of int, ascending

    Raises
    ------
    RMSDError
        If the shape is wrong, a coordinate is not finite, or the threshold is negative.
    SearchLimitError
        If the time limit was met.

    Examples
    --------
    >>> hydrogen = Molecule([1, 1], [(0, 1)])
    >>> x = [[[0.0, 0.0, 0.0], [0.0, 0.0, length]] for length in (0.70, 0.72, 0.80, 0.71)]
    >>> distinct(x, hydrogen, 0.02, align=True)
    [0, 2]
    """
    _require_align(align)
    deadline = _deadline(time_limit_s)
    x = _conformers(positions, molecule, "positions")
    _require_threshold(threshold)
    search = _prepared_search(molecule, None, deadline)
    try:
        profiles = Profiles(x, _classes(molecule), align)
        kept, left = np.empty(len(x), dtype=np.intp), np.empty(len(x), dtype=np.intp)
        count = 0
        for row in range(len(x)):
            open_pairs = profiles.undecided(row, kept[:count], threshold, left)
            near, finished = search.first_near(x, left[:open_pairs], row, threshold, align, deadline)
            if not finished or _passed(deadline):
                raise SearchLimitError(f"the time limit of {time_limit_s} s was met at conformer {row} of {len(x)}")
            if near < 0:
                kept[count] = row
                count += 1
    finally:
        molecule._searches.append(search)
    return kept[:count].tolist()


def neighbours(
    positions: ArrayLike,
    molecule: Molecule,
    threshold: float,
    *,
    align: bool,
    threads: int = 1,
    time_limit_s: float | None = None,
) -> NDArray[np.bool_]:
    """Which pairs of conformers are nearer than a threshold, for clustering (Butina) and the like.

    Far cheaper than `rmsd_matrix`: see `distinct`; moreover two conformers that are both near a third may be known to
    be near by the triangle inequality.

    Parameters
    ----------
    positions : array_like, shape (k, n_atoms, 3)
        Coordinates of k conformers in Å, in the atom order of `molecule`.
    molecule : Molecule
    threshold : float
        In Å, not negative.
    align : bool
        Whether conformers may be rotated and translated; no default, see `rmsd`.
    threads : int
        Threads that share the rows.
    time_limit_s : float, optional
        Most seconds for the whole call.

    Returns
    -------
    ndarray of bool, shape (k, k)
        Whether the symmetry-corrected RMSD is below `threshold`; symmetric, True on the diagonal (unless 0).

    Raises
    ------
    RMSDError
        If the shape is wrong, a coordinate is not finite, or the threshold is negative.
    SearchLimitError
        If the time limit was met.

    References
    ----------
    Butina, J. Chem. Inf. Comput. Sci. 39, 747 (1999), doi:10.1021/ci9803381.

    Examples
    --------
    >>> hydrogen = Molecule([1, 1], [(0, 1)])
    >>> x = [[[0.0, 0.0, 0.0], [0.0, 0.0, length]] for length in (0.70, 0.72, 0.80)]
    >>> neighbours(x, hydrogen, 0.02, align=True).astype(int).tolist()
    [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    _require_align(align)
    deadline = _deadline(time_limit_s)
    x = _conformers(positions, molecule, "positions")
    _require_threshold(threshold)
    _prepared(molecule, None, deadline)
    k = len(x)
    profiles = Profiles(x, _classes(molecule), align)
    everyone = np.arange(k, dtype=np.intp)
    known = np.full((k, k), np.inf)  # upper bounds, Å
    np.fill_diagonal(known, 0.0)

    def work(search: Search, counter: array[int]) -> tuple[int, int] | None:
        left = np.empty(k, dtype=np.intp)
        while (row := _take(counter)) < k:
            if _passed(deadline):
                return row, 0
            others = left[: profiles.undecided(row, everyone[:row], threshold, left)]
            first = True
            while len(others):
                near, finished = search.first_near(x, others, row, threshold, align, deadline, counter)
                if not finished:
                    return row, int(others[0])
                if near < 0:
                    break
                known[row, near] = known[near, row] = search.nearest
                others = others[int(np.flatnonzero(others == near)[0]) + 1 :]  # they come in the order of their bounds
                # By way of the first, which is likely to be the nearest. In the fixed frame a search is as cheap.
                if first and align:
                    through = search.nearest + known[near, others]
                    sure = through < threshold
                    known[row, others[sure]] = known[others[sure], row] = through[sure]
                    others = others[~sure]
                first = False
        return None

    _share(molecule, threads, work, None, None, deadline)
    return known < threshold


def _deadline(time_limit_s: float | None) -> float | None:
    if time_limit_s is None:
        return None
    if not time_limit_s >= 0:
        raise RMSDError(f"time_limit_s is {time_limit_s}, expected seconds, zero or more")
    return time.monotonic() + time_limit_s


def _require_align(align: bool) -> None:
    if not isinstance(align, bool | np.bool_):
        raise RMSDError(f"align is {align!r}, expected True (after the best fit) or False (nothing is moved)")


def _passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() > deadline


def _positions(given: ArrayLike, molecule: Molecule, name: str) -> Float:
    """(n_compared, 3) float64, contiguous."""
    x = np.asarray(given)
    if x.shape != (molecule._n_given, 3):
        raise RMSDError(f"{name} has shape {x.shape}, expected (n_atoms, 3) = ({molecule.n_atoms}, 3) in Å")
    x = _finite(x, name)
    return x if molecule._places is None else x[np.asarray(molecule._places)]


def _conformers(given: ArrayLike, molecule: Molecule, name: str) -> Float:
    """(k, n_compared, 3) float64, contiguous."""
    x = np.asarray(given)
    if x.shape == (0,):
        x = np.empty((0, molecule.n_atoms, 3))
    if x.ndim != 3 or x.shape[1:] != (molecule.n_atoms, 3):
        raise RMSDError(
            f"{name} has shape {x.shape}, expected (n_conformers, n_atoms, 3) = "
            f"(n_conformers, {molecule.n_atoms}, 3) in Å"
        )
    x = _finite(x, name)
    return x if molecule._places is None else np.ascontiguousarray(x[:, np.asarray(molecule._places)])


def _finite(x: NDArray, name: str) -> Float:
    if x.dtype.kind not in "fiu":
        raise RMSDError(f"{name} has type {x.dtype}, expected real numbers in Å")
    x = np.ascontiguousarray(x, dtype=np.float64)
    # One product is much faster than a test of each number. A long one would go to the threads of BLAS, which then
    # keep a core busy for a while.
    fine = np.vdot(x, x) <= MOST_SQUARES if x.size < SHORT else x.min() >= -MOST and x.max() <= MOST
    if not fine:
        where = np.argwhere(~(np.abs(x) <= MOST))
        if len(where):
            where = where[0].tolist()
            raise RMSDError(
                f"{name} has {x[tuple(where)]} at index {where}: coordinates must be finite, and at most {MOST:g} Å"
            )
    return x


def _in_one_order(
    positions: ArrayLike | Sequence[ArrayLike],
    molecule: Molecule | Sequence[Molecule],
    node_limit: int | None,
    deadline: float | None,
) -> tuple[Molecule, Float]:
    """The first molecule, and (k, n, 3) positions of compared atoms in its order."""
    if isinstance(molecule, Molecule):
        return molecule, _conformers(positions, molecule, "positions")  # type: ignore[arg-type]
    given = list(positions)  # type: ignore[arg-type]
    if len(given) != len(molecule) or not given:
        raise RMSDError(f"there are {len(given)} conformers and {len(molecule)} molecules, expected one for each")
    first = molecule[0]
    rows = [
        _positions(x, owner, f"positions[{i}]")[np.asarray(first._map_to(owner, node_limit, deadline))]
        for i, (x, owner) in enumerate(zip(given, molecule, strict=True))
    ]
    return first, np.stack(rows)


def _templates(
    given: ArrayLike, molecule: Molecule, other: Molecule | None, node_limit: int | None, deadline: float | None
) -> Float:
    """(m, n, 3) positions of the compared atoms of `other` in the order of `molecule`."""
    y = _conformers(given, other or molecule, "templates")
    if other is None or other is molecule:
        return y
    return np.ascontiguousarray(y[:, np.asarray(molecule._map_to(other, node_limit, deadline))])


def _table(
    x: Float,
    y: Float,
    molecule: Molecule,
    align: bool,
    threads: int,
    node_limit: int | None,
    deadline: float | None,
) -> Float:
    table = np.full((len(x), len(y)), np.nan)

    def work(search: Search, counter: array[int]) -> tuple[int, int] | None:
        return search.table_rows(x, y, table, counter, align, node_limit, deadline)

    _share(molecule, threads, work, table, node_limit, deadline)
    return table


def _prepared(molecule: Molecule, node_limit: int | None, deadline: float | None) -> None:
    try:
        molecule._prepared(node_limit, deadline)
    except PlanLimitError:
        raise SearchLimitError(f"{molecule!r} could not be prepared within the limit: raise it") from None


def _prepared_search(molecule: Molecule, node_limit: int | None, deadline: float | None) -> Search:
    _prepared(molecule, node_limit, deadline)
    return molecule._search()


def _share(
    molecule: Molecule,
    threads: int,
    work: Callable[[Search, array[int]], tuple[int, int] | None],
    partial: Float | None,
    node_limit: int | None,
    deadline: float | None,
) -> None:
    """Do the work in several threads; a limit that was met is an error."""
    if not isinstance(threads, int) or threads < 1:
        raise RMSDError(f"threads is {threads!r}, expected a whole number, one or more")
    _prepared(molecule, node_limit, deadline)
    stopped = share(molecule, threads, work)
    if stopped is not None:
        raise SearchLimitError(
            f"the limit was met at conformers {stopped[0]} and {stopped[1]}: raise node_limit or time_limit_s, "
            "or ask `rmsd` for bounds of that pair",
            partial,
        )


def _take(counter: array[int]) -> int:
    with _COUNTING:
        counter[0] += 1
        return counter[0] - 1


def _classes(molecule: Molecule) -> array[int]:
    plan = molecule._prepared()[0]
    return orbits(plan.n_atoms, plan.pair_i, plan.pair_j)


def _require_threshold(threshold: float) -> None:
    if not threshold >= 0:
        raise RMSDError(f"threshold is {threshold}, expected a length in Å, zero or more")


def _given_indices(
    mapping: NDArray[np.int32], order: NDArray[np.int32] | None, molecule: Molecule, other: Molecule
) -> NDArray[np.int64]:
    """(n_atoms,) mapping in the indices of the caller, -1 at atoms that are not compared."""
    partners = (mapping if order is None else order[mapping]).astype(np.int64)
    if other._places is not None:
        partners = np.asarray(other._places)[partners]
    if molecule._places is None:
        return partners
    full = np.full(molecule.n_atoms, -1, dtype=np.int64)
    full[np.asarray(molecule._places)] = partners
    return full


def _unsearched(
    a: Float, b: Float, order: NDArray[np.int32] | None, molecule: Molecule, other: Molecule, align: bool
) -> Result:
    """Bounds when the molecule could not be prepared: any one mapping from above, sorted positions from below."""
    n = len(a)
    # Without other knowledge every atom may go to every atom of its label.
    codes = {label: code for code, label in enumerate(dict.fromkeys(molecule._plain.labels))}
    classes = array("i", [codes[label] for label in molecule._plain.labels])
    lower = Profiles(np.stack([a, b]), classes, align).lower(0, 1)
    rotation, translation = np.eye(3), np.zeros(3)
    if align:
        ca, cb = a.mean(0), b.mean(0)
        u, _, vt = np.linalg.svd((a - ca).T @ (b - cb))
        rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        translation = ca - rotation @ cb
    upper = sqrt(((a - b @ rotation.T - translation) ** 2).sum() / n)
    mapping = _given_indices(np.arange(n, dtype=np.int32), order, molecule, other)
    return Result(upper, mapping, rotation, translation, None, "bound", min(lower, upper), upper)
