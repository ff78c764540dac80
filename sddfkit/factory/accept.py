"""Is a result what it says it is? Asked before it is taken in, and again whenever a store is verified."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from sddfkit.qc.inputs import Content


def wrong_document(document: Mapping[str, Any], key: str, program_version: str) -> str | None:
    """Say what is wrong with a result, or nothing.

    Parameters
    ----------
    document
        AtomicResult as a mapping (bohr, hartree).
    key, program_version
        Of the calculation whose result it should be.
    """
    try:
        asked = Content.of_document(document["input_data"])
        energy = document["properties"]["return_energy"]
        values = np.asarray(document["return_result"], dtype=float).ravel()
        success = document["success"]
        hashed = asked.key(program_version)
    except Exception as error:  # whatever a damaged document does to the libraries that read it
        return f"its result cannot be read ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]})"
    if hashed != key:
        return "its result is of another calculation: the input hashes to another key"
    if success is not True:
        return "its result says that it failed"
    if not isinstance(energy, float) or not math.isfinite(energy):
        return f"its energy is {energy}"
    if abs(energy) > (bound := _largest_energy(asked.atomic_numbers)):
        return f"its energy {energy:g} cannot be in hartree: that of its atoms is at most about {bound:.0f}"
    if not np.isfinite(values).all():
        return "its gradient holds NaN or infinity"
    if asked.specification.driver.value == "gradient" and values.size != 3 * asked.atomic_numbers.size:
        return f"its gradient has {values.size} numbers for {asked.atomic_numbers.size} atoms"
    return None


def _largest_energy(atomic_numbers: np.ndarray) -> float:
    """Bound the binding energy of all electrons (hartree) by that of Thomas-Fermi atoms, 0.77 Z^(7/3), and a bit."""
    return 1.0 + 1.1 * 0.77 * float(np.sum(atomic_numbers.astype(float) ** (7 / 3)))
