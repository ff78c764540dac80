"""The pool of candidates, and what a strategy looks like."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class PoolError(ValueError):
    """A pool that a strategy cannot work with; the message names the array or the record."""


@dataclass(frozen=True)
class Pool:
    """Conformers with named feature arrays; the last or only axis of length n runs over them.

    Parameters
    ----------
    record_ids : sequence of str, length n
        Unique.
    molecule_ids : sequence of str, length n
    features : mapping of name to array
        Arrays of shape (n,), (n, d), or (m, n) for ``member_energies`` and ``errors``.

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
            if values.shape[axis] != n:
                raise PoolError(f"{name} has shape {values.shape}, expected {n} along axis {axis}")
            bad = ~np.isfinite(values)
            if bad.any():
                where = int(np.argwhere(bad)[0][axis])
                raise PoolError(f"{name} is not finite for the record {self.record_ids[where]}")

    def __len__(self) -> int:
        return len(self.record_ids)

    def feature(self, name: str) -> NDArray[np.generic]:
        """Return a feature array, or say which ones there are."""
        if name not in self.features:
            raise PoolError(f"the pool has no array {name!r}; it has {sorted(self.features) or 'none'}")
        return self.features[name]

    def sorted(self) -> "Pool":
        """Return the same pool in the order of its record ids, so that nothing depends on how it was assembled."""
        order = np.argsort(np.asarray(self.record_ids, dtype=np.str_), kind="stable")
        return Pool(
            [self.record_ids[i] for i in order],
            [self.molecule_ids[i] for i in order],
            {name: np.take(values, order, axis=_axis(name)) for name, values in self.features.items()},
        )


class Strategy(Protocol):
    """What the loop calls. See the package's docstring for the arrays."""

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def learns(self) -> bool: ...
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


def check_k(k: int) -> None:
    """Refuse a negative number of records; more than the pool holds means all of it."""
    if k < 0:
        raise PoolError(f"{k=} records were asked for; ask for none or more")


def _axis(name: str) -> int:
    return 1 if name in {"member_energies", "errors"} else 0
