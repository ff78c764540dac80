"""Random numbers that belong to a molecule, not to the batch it happens to be in."""

from collections.abc import Sequence
from enum import IntEnum
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sddfkit.data import Record


class Use(IntEnum):
    """What a draw is for; draws for different uses are independent."""

    VELOCITIES = 0
    NOISE = 1
    TEMPERATURE = 2


class Noise:
    """Draws as a pure function of (seed, stream, use, step): a counter-based generator that keeps no state.

    Philox 4×64 with the key (seed, stream) and the counter (0, 0, step, use). A molecule with its own stream gets the
    same numbers alone, in any batch, whichever others have left, and after a restart. (Normal numbers are NumPy's:
    another version of NumPy may draw others.)

    Parameters
    ----------
    seed : int
        0 … 2⁶⁴ − 1.

    >>> once, again = Noise(7), Noise(7)
    >>> bool((once.normal([5, 9], [3, 2], step=4)[3:] == again.normal([9], [2], step=4)).all())
    True
    """

    def __init__(self, seed: int) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is {seed}, expected 0 … 2**64 - 1")
        self.seed = seed
        self._bits = np.random.Philox(key=[seed, 0])
        self._generator = np.random.Generator(self._bits)
        # Built once: setting it is five times faster than a new generator.
        self._state: dict[str, Any] = dict(self._bits.state)

    def normal(
        self, streams: Sequence[int], sizes: Sequence[int], *, step: int, use: Use = Use.NOISE
    ) -> NDArray[np.float64]:
        """Standard normal numbers, `sizes[k]` rows of three from stream `streams[k]`: (Σ sizes, 3)."""
        draws = np.empty((sum(sizes), 3))
        first = 0
        for stream, size in zip(streams, sizes, strict=True):
            self._to(stream, step, use).standard_normal(out=draws[first : first + size])
            first += size
        return draws

    def uniform(self, streams: Sequence[int], *, step: int, use: Use) -> NDArray[np.float64]:
        """One number in [0, 1) from each stream: (len(streams),)."""
        return np.array([self._to(stream, step, use).random() for stream in streams])

    def _to(self, stream: int, step: int, use: Use) -> np.random.Generator:
        counter = self._state["state"]
        counter["key"][:] = self.seed, stream
        counter["counter"][:] = 0, 0, step, use
        self._state.update(buffer_pos=4, has_uint32=0)  # nothing left over from the draw before
        self._bits.state = self._state  # type: ignore[assignment]
        return self._generator


def streams_of(records: Sequence[Record]) -> list[int]:
    """A stream for each record, from its record id.

    Raises
    ------
    ValueError
        A record that is there twice: both would get the same noise.
    """
    ids = [record.record_id for record in records]
    twice = sorted({name for name in ids if ids.count(name) > 1}) if len(set(ids)) < len(ids) else []
    if twice:
        raise ValueError(
            f"the records {', '.join(twice[:3])} are there more than once and would get the same noise; "
            "give streams, a different number for each"
        )
    return [int.from_bytes(sha256(name.encode()).digest()[:8], "little") for name in ids]
