"""The best of a stream that is too long to be held: bounded memory, whatever the order."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple


class Candidate(NamedTuple):
    """One of a stream.

    Parameters
    ----------
    key : the smaller, the better; it decides alone, so it must differ between candidates
    identity : candidates with one identity are one; the best key counts
    row : what is kept of it
    """

    key: tuple[float, ...]
    identity: str
    row: tuple[Any, ...]


class Best:
    """The `k` best distinct candidates of all that were offered, in memory for 2 `k`.

    What is kept depends neither on the order in which candidates come nor on how they are cut into portions.

    >>> best = Best(2)
    >>> best.offer([Candidate((3.0,), "c", ()), Candidate((1.0,), "a", ()), Candidate((2.0,), "a", ())])
    >>> [(candidate.identity, candidate.key) for candidate in best.sorted()]
    [('a', (1.0,)), ('c', (3.0,))]
    """

    def __init__(self, k: int) -> None:
        if k < 0:
            raise ValueError(f"{k=} candidates were asked for; ask for none or more")
        self.k: Final = k
        self.threshold: tuple[float, ...] | None = None if k else ()
        """Only candidates with a smaller key can still get in; None while any can."""
        self._held: dict[str, Candidate] = {}

    def offer(self, candidates: Iterable[Candidate]) -> None:
        """Take what belongs to the best."""
        for candidate in candidates:
            if self.threshold is not None and candidate.key >= self.threshold:
                continue
            before = self._held.get(candidate.identity)
            if before is None or candidate.key < before.key:
                self._held[candidate.identity] = candidate
            if len(self._held) >= 2 * self.k:
                self._prune()

    def sorted(self) -> list[Candidate]:
        """Return the `k` best, or all where there were fewer, best first."""
        self._prune()
        return list(self._held.values())

    def _prune(self) -> None:
        kept = sorted(self._held.values(), key=lambda candidate: candidate.key)[: self.k]
        self._held = {candidate.identity: candidate for candidate in kept}
        if self.k and len(kept) == self.k:
            self.threshold = kept[-1].key
