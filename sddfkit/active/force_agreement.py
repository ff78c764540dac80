"""Do the members of an ensemble push each atom the same way? The ConfidenceScore, and what it is blind to.

Plain NumPy, so that the strategies and the dynamics share one definition.
"""

from itertools import combinations
from typing import Final

import numpy as np
from numpy.typing import NDArray

FORCE_FLOOR: Final = 0.05
"""eV/Å. Below it a force says nothing about a direction."""


def agreement(member_forces: NDArray[np.floating], floor: float = FORCE_FLOOR) -> NDArray[np.float64]:
    r"""Worst agreement in direction between any two members, for each atom.

    .. math:: a_i = \min_{q < k}
        \frac{\mathbf F_q^i \cdot \mathbf F_k^i}{\max(|\mathbf F_q^i|, f_0)\,\max(|\mathbf F_k^i|, f_0)},
        \quad\text{a pair with both forces below } f_0 \text{ counting } 1

    Parameters
    ----------
    member_forces : (m, n, 3), eV/Å
        Forces of m ≥ 2 members on n atoms, of one conformer or of many one after another.
    floor : eV/Å
        f₀. The plain cosine of two vanishing forces is noise.

    Returns
    -------
    (n,)
        From −1 (two members push in opposite directions) to 1 (all agree).

    Raises
    ------
    ValueError
        Fewer than two members, another shape, forces that are not finite, or a floor that is not positive.

    >>> forces = np.array([[[1.0, 0.0, 0.0], [0.0, 0.01, 0.0]], [[0.0, 3.0, 0.0], [0.0, -0.01, 0.0]]])
    >>> agreement(forces)
    array([0., 1.])
    """
    forces = _checked(member_forces)
    if not (floor > 0 and np.isfinite(floor)):
        raise ValueError(f"floor is {floor!r}, expected a positive number of eV/Å")
    sizes = np.linalg.norm(forces, axis=-1)
    directions = forces / np.maximum(sizes, floor)[..., None]
    small = sizes < floor
    worst = np.ones(forces.shape[1])
    for q, k in combinations(range(len(forces)), 2):
        cosine = np.einsum("ij,ij->i", directions[q], directions[k])
        np.minimum(worst, np.where(small[q] & small[k], 1.0, cosine), out=worst)
    return np.clip(worst, -1.0, 1.0)  # rounding alone can lead beyond


def confidence_score(member_forces: NDArray[np.floating], floor: float = FORCE_FLOOR) -> float:
    """ConfidenceScore of one conformer: :func:`agreement`, averaged over its atoms.

    The directions of forces alone: members may agree in them and still differ in size, which
    :func:`magnitude_spread` tells.

    Parameters
    ----------
    member_forces : (m, n, 3), eV/Å
    floor : eV/Å

    References
    ----------
    V. Altunyan, Smart Distributed Data Factory, PhD thesis, Yerevan 2025; the floor is our guard.
    """
    return float(agreement(member_forces, floor).mean())


def magnitude_spread(member_forces: NDArray[np.floating]) -> NDArray[np.float64]:
    """Standard deviation over the members of the size of the force on each atom: (m, n, 3) → (n,), eV/Å.

    >>> magnitude_spread(np.array([[[1.0, 0.0, 0.0]], [[0.0, 3.0, 0.0]]]))
    array([1.])
    """
    return np.linalg.norm(_checked(member_forces), axis=-1).std(axis=0)


def _checked(member_forces: NDArray[np.floating]) -> NDArray[np.float64]:
    forces = np.asarray(member_forces, dtype=np.float64)
    if forces.ndim != 3 or forces.shape[2] != 3 or forces.shape[1] == 0:
        raise ValueError(f"member_forces has shape {forces.shape}, expected (members, atoms, 3) in eV/Å, with an atom")
    if len(forces) < 2:
        raise ValueError(f"agreement needs the forces of at least two members, got {len(forces)}")
    if not np.isfinite(forces).all():
        member, atom, _ = np.argwhere(~np.isfinite(forces))[0]
        raise ValueError(f"the force of member {member} on atom {atom} is not finite")
    return forces
