"""The Python face: checks what is given, calls the compiled search, and reports original atom indices."""

import time
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flashrmsd_cy._molecule import Molecule
from flashrmsd_cy._plan import PlanLimitError
from flashrmsd_cy._search import Search
from flashrmsd_cy.errors import RMSDError, SearchLimitError

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Result:
    """Symmetry-corrected RMSD of one pair, with the mapping that attains it.

    Attributes
    ----------
    value : float
        RMSD in Å of `mapping` (and of the rotation and translation): the answer if `status` is "exact".
    mapping : ndarray of int64, shape (n,)
        ``mapping[i]`` is the atom of b matched to atom i of a, both in the order in which they were given.
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
        Coordinates in Å, float64 or float32.
    molecule : Molecule
        Graph of a, and of b unless `other` is given.
    other : Molecule, optional
        Graph of b, if its atoms come in another order.
    align : bool
        Whether b may be rotated and translated. There is no default: the two questions have different answers.
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
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    a = _positions(a_positions, molecule, "a_positions")
    b = _positions(b_positions, other or molecule, "b_positions")
    order = np.asarray(molecule._map_to(other or molecule, node_limit, deadline))
    b = np.ascontiguousarray(b[order])
    try:
        plan, blocks, count = molecule._prepared(node_limit, deadline)
    except PlanLimitError:
        return _unsearched(a, b, order, molecule, align)
    mapping = np.empty(len(a), dtype=np.int32)
    rotation, translation = np.eye(3), np.zeros(3)
    search = Search(plan, blocks)
    if align:
        total, least, exact = search.fit(a, b, mapping, rotation, translation, node_limit, deadline)
    else:
        total, exact = search.in_place(a, b, mapping), True
        least = total
    value = float(np.sqrt(total / len(a)))
    return Result(
        value=value,
        mapping=order[mapping].astype(np.int64),
        rotation=rotation,
        translation=translation,
        n_automorphisms=count,
        status="exact" if exact else "bound",
        lower=value if exact else float(np.sqrt(least / len(a))),
        upper=value,
    )


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
    positions: ArrayLike,
    molecule: Molecule,
    *,
    align: bool,
    node_limit: int | None = None,
    time_limit_s: float | None = None,
) -> Float:
    """Symmetry-corrected RMSD between all conformers of one molecule.

    Parameters
    ----------
    positions : array_like, shape (k, n_atoms, 3)
        Coordinates of k conformers in Å, all in the atom order of `molecule`.
    molecule : Molecule
    align : bool
        Whether conformers may be rotated and translated; no default, see `rmsd`.
    node_limit, time_limit_s : optional
        Most search nodes per pair, and most seconds for all.

    Returns
    -------
    ndarray of float64, shape (k, k)
        RMSD in Å; symmetric, zero on the diagonal. The GIL is released while a row is computed.

    Raises
    ------
    RMSDError
        If the shape is wrong or a coordinate is not finite.
    SearchLimitError
        If a limit stopped a pair: a matrix has no place for bounds.
    """
    x = _conformers(positions, molecule)
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    try:
        search = Search(*molecule._prepared(node_limit, deadline)[:2])
    except PlanLimitError:
        raise SearchLimitError(f"{molecule!r} could not be prepared within the limit: raise it") from None
    matrix = np.zeros((len(x), len(x)))
    for row in range(1, len(x)):
        if align:
            stopped = search.fit_row(x, row, matrix[row], node_limit, deadline)
            if stopped >= 0:
                raise SearchLimitError(
                    f"the limit was met at conformers {row} and {stopped}: raise node_limit or time_limit_s, "
                    "or ask `rmsd` for bounds of that pair"
                )
        else:
            search.in_place_row(x, row, matrix[row])
    return matrix + matrix.T


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
    `rmsd_matrix`, because a comparison ends when it is clear on which side of the threshold it falls.

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
    """
    x = _conformers(positions, molecule)
    if not threshold >= 0:
        raise RMSDError(f"threshold is {threshold}, expected a length in Å, zero or more")
    deadline = None if time_limit_s is None else time.monotonic() + time_limit_s
    try:
        search = Search(*molecule._prepared(None, deadline)[:2])
    except PlanLimitError:
        raise SearchLimitError(f"{molecule!r} could not be prepared within {time_limit_s} s") from None
    kept: list[int] = []
    for row in range(len(x)):
        near, finished = search.first_near(x, np.array(kept, dtype=np.intp), row, threshold, align, deadline)
        if not finished:
            raise SearchLimitError(f"the time limit of {time_limit_s} s was met at conformer {row} of {len(x)}")
        if near < 0:
            kept.append(row)
    return kept


def _positions(given: ArrayLike, molecule: Molecule, name: str) -> Float:
    x = np.asarray(given)
    if x.shape != (molecule.n_atoms, 3):
        raise RMSDError(f"{name} has shape {x.shape}, expected (n_atoms, 3) = ({molecule.n_atoms}, 3) in Å")
    return _finite(x, name)


def _conformers(given: ArrayLike, molecule: Molecule) -> Float:
    x = np.asarray(given)
    if x.ndim != 3 or x.shape[1:] != (molecule.n_atoms, 3):
        raise RMSDError(
            f"positions has shape {x.shape}, expected (n_conformers, n_atoms, 3) = "
            f"(n_conformers, {molecule.n_atoms}, 3) in Å"
        )
    return _finite(x, "positions")


def _finite(x: NDArray, name: str) -> Float:
    if not (np.issubdtype(x.dtype, np.floating) or np.issubdtype(x.dtype, np.integer)):
        raise RMSDError(f"{name} has type {x.dtype}, expected real numbers in Å")
    if not np.isfinite(x).all():
        where = np.argwhere(~np.isfinite(x))[0].tolist()
        raise RMSDError(f"{name} has {x[tuple(where)]} at index {where}: coordinates must be finite")
    return np.ascontiguousarray(x, dtype=np.float64)


def _unsearched(a: Float, b: Float, order: NDArray[np.int32], molecule: Molecule, align: bool) -> Result:
    """Bounds when the molecule could not be prepared: any one mapping from above, atom-wise least costs from below."""
    n = len(a)
    # Without other knowledge every atom may go to every atom of its label; a fit can always reach zero.
    alike = np.array([[x == y for y in molecule._graph.labels] for x in molecule._graph.labels])
    squares = np.where(alike, ((a[:, None] - b[None]) ** 2).sum(-1), np.inf)
    lower = 0.0 if align else float(np.sqrt(max(squares.min(0).sum(), squares.min(1).sum()) / n))
    rotation, translation = np.eye(3), np.zeros(3)
    if align:
        ca, cb = a.mean(0), b.mean(0)
        u, _, vt = np.linalg.svd((a - ca).T @ (b - cb))
        rotation = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
        translation = ca - rotation @ cb
    upper = float(np.sqrt(((a - b @ rotation.T - translation) ** 2).sum() / n))
    return Result(upper, order.astype(np.int64), rotation, translation, None, "bound", min(lower, upper), upper)
