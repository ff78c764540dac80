"""Edge features of the published networks: point-pair features, their exponential bases, and both as they are folded.

An edge runs from its source to its target; every formula here is in this order, as it was published.
"""

from typing import Final

import torch
from torch import Tensor, nn
from torch_geometric.nn.conv.ppf_conv import point_pair_features

DISTANCES: Final = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0)
"""Centres of the basis of distances, Å."""

ANGLES: Final = (-3.14, -2.243, -1.346, -0.4487, 0.4487, 1.346, 2.243, 3.1415)
"""Centres of the basis of angles, rad. Angles lie in [0, π]: the first four are no centres but weights, see `fold`."""

_N_NEGATIVE: Final = 4
_N_FOLDED: Final = 3 * (1 + len(ANGLES) - _N_NEGATIVE) + len(DISTANCES)
"""23 of the 32 basis values are different."""


def normals(pos: Tensor, molecule: Tensor, n_molecules: int) -> Tensor:
    """Unit vectors to the centroid of the molecule: Σ_j (x_j − x_i) over all its atoms, normalised. (n, 3), Å → (n, 3).

    The published normals, with their fault: a distant second molecule turns all of them.
    """
    count = torch.bincount(molecule, minlength=n_molecules).to(pos.dtype)[:, None]
    centre = pos.new_zeros(n_molecules, 3).index_add(0, molecule, pos) / count
    towards = (centre.index_select(0, molecule) - pos) * (count / 10.0).index_select(0, molecule)
    return nn.functional.normalize(towards)


def plain_basis(pos: Tensor, normal: Tensor, edge_index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The published basis with torch-geometric's point-pair features.

    Returns
    -------
    distance : (e,), Å
    distances : (e, 8)
    angles : (e, 24)
        Eight values for each of ∠(n_source, d), ∠(n_target, d), ∠(n_source, n_target), with d from source to target.
    """
    source, target = edge_index
    features = point_pair_features(pos[source], pos[target], normal[source], normal[target])
    distance, angles = features[:, 0], features[:, 1:]
    near = torch.exp(-(distance[:, None] - distance.new_tensor(DISTANCES)).abs())
    like = torch.exp(-(angles[:, :, None] - angles.new_tensor(ANGLES)).abs())
    return distance, near, like.flatten(1)


def folded_basis(pos: Tensor, normal: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (e,) and the 23 different values of the basis (e, 23): angles first, five each, then distances.

    exp(−|a − b|) = exp(b) exp(−a) for a centre b < 0 ≤ a: four of the eight values of an angle are multiples of
    exp(−a). :func:`fold` has the matching weights.
    """
    d = pos.index_select(0, target) - pos.index_select(0, source)
    first, second = normal.index_select(0, source), normal.index_select(0, target)
    a, b = torch.stack([first, second, first]), torch.stack([d, d, second])
    angle = torch.atan2(torch.linalg.cross(a, b).norm(dim=-1), (a * b).sum(-1)).T
    distance = d.norm(dim=1)
    centres = angle.new_tensor((0.0, *ANGLES[_N_NEGATIVE:]))
    angles = torch.exp(-(angle[:, :, None] - centres).abs()).flatten(1)
    distances = torch.exp(-(distance[:, None] - distance.new_tensor(DISTANCES)).abs())
    return distance, torch.cat([angles, distances], dim=1)


def fold(angle: nn.Linear, distance: nn.Linear) -> Tensor:
    """Rows (24, angle width + distance width) that map the folded basis, and then a 1, as the two layers map the plain.

    For each angle the rows of the four negative centres b become one, Σ_b exp(b) w_b. The last row holds the biases.
    """
    weight = angle.weight.T.reshape(3, len(ANGLES), -1)
    factor = torch.exp(weight.new_tensor(ANGLES[:_N_NEGATIVE]))
    negative = torch.einsum("b,abw->aw", factor, weight[:, :_N_NEGATIVE])[:, None]
    angles = torch.cat([negative, weight[:, _N_NEGATIVE:]], dim=1).flatten(0, 1)
    rows = torch.block_diag(angles, distance.weight.T)
    assert len(rows) == _N_FOLDED
    return torch.cat([rows, torch.cat([angle.bias, distance.bias])[None]])
