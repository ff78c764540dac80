"""The pool of candidates, and what a strategy looks like."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class PoolError(ValueError):
    """A pool that a strategy cannot work with; the message names the array or the record."""


@dataclass(frozen=True)
class Pool:
    """Conformers with named feature arrays.

    Parameters
    ----------
    record_ids : sequence of str, length n
        Unique.
    molecule_ids : sequence of str, length n
    features : mapping of name to array
        Arrays of shape (n,) or (n, d); (m, n) for ``member_energies``, ``shifted_energies`` and ``errors``; (m, a, 3)
        for ``member_forces``, where a is the sum of ``n_atoms`` and the atoms of a conformer follow each other.

    Raises
    ------
    PoolError
        If record ids repeat, a length disagrees, or an array holds a value that is not finite.
    """

    record_ids: Sequence[str]
    molecule_ids: Sequence[str]
    features: Mapping[str, NDArray[np.generic]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.record_ids)
        if len(set(self.record_ids)) != n:
            raise PoolError(f"the {n} record ids of the pool are not unique")
        if len(self.molecule_ids) != n:
            raise PoolError(f"the pool has {n} record ids but {len(self.molecule_ids)} molecule ids")
        for name, values in self.features.items():
            axis = _axis(name)
            rows = n if name not in PER_ATOM else int(np.sum(self.feature("n_atoms")))
            if values.ndim <= axis or values.shape[axis] != rows:
                raise PoolError(f"{name} has shape {values.shape}, expected {rows} along axis {axis}")
            if values.dtype.kind in "biu":  # always finite, and a look would double the memory of a million rows
                continue
            bad = ~np.isfinite(values)
            if bad.any():
                where = int(np.argwhere(bad)[0][axis])
                if name in PER_ATOM:
                    where = int(np.searchsorted(np.cumsum(self.feature("n_atoms")), where, side="right"))
                raise PoolError(f"{name} is not finite for the record {self.record_ids[where]}")

    def __len__(self) -> int:
        return len(self.record_ids)

    def feature(self, name: str) -> NDArray[np.generic]:
        """Return a feature array, or say which ones there are."""
        if name not in self.features:
            raise PoolError(f"the pool has no array {name!r}; it has {sorted(self.features) or 'none'}")
        return self.features[name]

    def molecules(self) -> NDArray[np.intp]:
        """Return the number of each conformer's molecule, shape (n,), counted in the order in which they appear."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(name, len(numbers)) for name in self.molecule_ids], dtype=np.intp)

    def sorted(self) -> "Pool":
        """Return the same pool in the order of its record ids, so that nothing depends on how it was assembled."""
        order = np.array(sorted(range(len(self)), key=self.record_ids.__getitem__), dtype=np.intp)
        if (order[1:] > order[:-1]).all():
            return self
        rows = order.tolist()
        found = object.__new__(Pool)  # its parts were checked when this one was made
        object.__setattr__(found, "record_ids", [self.record_ids[i] for i in rows])
        object.__setattr__(found, "molecule_ids", [self.molecule_ids[i] for i in rows])
        object.__setattr__(found, "features", _Reordered(self.features, order))
        return found


class _Reordered(Mapping[str, NDArray[np.generic]]):
    """Feature arrays with their rows in another order, each made when it is asked for, and kept."""

    def __init__(self, features: Mapping[str, NDArray[np.generic]], order: NDArray[np.intp]) -> None:
        self._features = features
        self._order = order
        self._made: dict[str, NDArray[np.generic]] = {}

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self._made:
            values = self._features[name]
            rows = self._order if name not in PER_ATOM else _atoms_of(self._order, self._features["n_atoms"])
            self._made[name] = np.take(values, rows, axis=_axis(name))
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._features)

    def __len__(self) -> int:
        return len(self._features)


PER_MEMBER: Final = frozenset({"member_energies", "shifted_energies", "errors", "member_forces"})
"""Arrays whose first axis runs over the members of the ensemble, the second over the pool."""
PER_ATOM: Final = frozenset({"member_forces"})
"""Of those, the ones with a row for each atom of each conformer."""


class Strategy(Protocol):
    """What the loop calls. ``needs`` and ``learns`` name arrays: see the package's docstring."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def learns(self) -> frozenset[str]: ...
    @property
    def ranks(self) -> Literal["molecules", "conformers"]: ...
    @property
    def reason(self) -> str: ...
    def fit(self, labelled: Pool) -> Self: ...
    def scores(self, pool: Pool) -> NDArray[np.float64] | None: ...
    def __call__(self, pool: Pool, k: int, rng: np.random.Generator) -> list[str]: ...


def best(scores: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.intp]:
    """Return the indices by falling score; equal scores stand in random order."""
    return np.lexsort((rng.permutation(len(scores)), -scores))


def highest(pool: Pool, scores: Callable[[Pool], NDArray[np.float64]], k: int, rng: np.random.Generator) -> list[str]:
    """Return the record ids of the `k` conformers with the largest scores, the largest first, ties in random order.

    `scores` is asked once, with the pool in the order of its record ids, and not at all if the pool is empty.
    """
    check_k(k)
    if not len(pool):
        return []
    pool = pool.sorted()
    return [pool.record_ids[i] for i in best(scores(pool), rng)[:k]]


def check_k(k: int) -> None:
    """Refuse a negative number of records; more than the pool holds means all of it."""
    if k < 0:
        raise PoolError(f"{k=} records were asked for; ask for none or more")


def in_turns(
    order: NDArray[np.intp], molecules: NDArray[np.intp], k: int, *, per_molecule: int = 1
) -> NDArray[np.intp]:
    """Return `k` of the rows in `order`: a few of each molecule before the next molecule has its turn, then again.

    Parameters
    ----------
    order : (n,)
        Rows of the pool, best first.
    molecules : (n,)
        The molecule of each row of the pool (:meth:`Pool.molecules`).
    k
    per_molecule
        Rows of a molecule in one turn.

    >>> in_turns(np.array([0, 1, 2, 3]), np.array([7, 7, 7, 8]), 3, per_molecule=2)
    array([0, 1, 3])
    """
    of_molecule = molecules[order]
    grouped = np.argsort(of_molecule, kind="stable")
    starts = np.flatnonzero(np.diff(of_molecule[grouped], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    first, turn = np.empty(len(order), np.intp), np.empty(len(order), np.intp)
    first[grouped] = np.repeat(grouped[starts], sizes)
    turn[grouped] = (np.arange(len(order)) - np.repeat(starts, sizes)) // per_molecule
    return order[np.lexsort((np.arange(len(order)), first, turn))[:k]]


def _axis(name: str) -> int:
    return 1 if name in PER_MEMBER else 0


def _atoms_of(rows: NDArray[np.intp], n_atoms: NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the places of the atoms of the given rows, one row after another."""
    sizes = n_atoms.astype(np.intp)
    ends = np.cumsum(sizes)
    chosen = sizes[rows]
    return np.arange(chosen.sum()) + np.repeat((ends - sizes)[rows] - (np.cumsum(chosen) - chosen), chosen)
