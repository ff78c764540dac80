"""Smooth edge features from positions: distances, bond types, unordered element pairs, local point-pair features.

Every function here is at least twice differentiable in the positions, so that forces can be trained on; nothing depends
on an atom beyond the cutoff.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

_RADIAL_SCALE = 8.0
"""Bond lengths differ by hundredths of an Å. Scaled up, the radial basis feels them as strongly as the element pair,
and forces are learned in fewer steps."""


class Edges(NamedTuple):
    """The directed edges j → i of a batch, as the convolutions see them.

    Attributes
    ----------
    source, target : (e,) int64
        Atoms j and i.
    envelope : (e, 1)
        w(d_ij): every aggregation weighs its messages with it.
    features : (e, width)
        Learned features of distance, angles, bond type and element pair.
    distance : (e, 1), Å
    unit : (e, 3)
        Direction (x_j − x_i) / d_ij, for networks with filters or angles of their own.
    """

    source: Tensor
    target: Tensor
    envelope: Tensor
    features: Tensor
    distance: Tensor
    unit: Tensor


def envelope(distance: Tensor, cutoff: float) -> Tensor:
    """w(d) = 1 − 10u³ + 15u⁴ − 6u⁵ with u = min(d / cutoff, 1).

    Zero with its first and second derivative at the cutoff and beyond: energies and forces stay continuous, and forces
    differentiable, when a pair crosses it.

    >>> envelope(torch.tensor([0.0, 2.5, 5.0, 7.0]), 5.0)
    tensor([1.0000, 0.5000, 0.0000, 0.0000])
    """
    u = (distance / cutoff).clamp(max=1.0)
    return 1.0 - u * u * u * (10.0 - u * (15.0 - 6.0 * u))


def bessel(distance: Tensor, cutoff: float, n_radial: int) -> Tensor:
    """Radial basis √(2/c) sin(nπd/c)/d for n = 1 … n_radial: (e,) in Å → (e, n_radial).

    J. Gasteiger, J. Groß, S. Günnemann, ICLR 2020, doi:10.48550/arXiv.2003.03123.
    """
    frequency = torch.arange(1, n_radial + 1, dtype=distance.dtype, device=distance.device) * (math.pi / cutoff)
    distance = distance[:, None]
    return math.sqrt(2.0 / cutoff) * torch.sin(frequency * distance) / distance


def sum_over(values: Tensor, index: Tensor, n: int) -> Tensor:
    """Σ of the rows of `values` (e, …) that share an index: (n, …), zero where there is none."""
    return values.new_zeros(n, *values.shape[1:]).index_add(0, index, values)


def soft_norm(vectors: Tensor, *, softening: float = 1.0) -> Tensor:
    """√(|v|² + softening²) over the last axis, kept: smooth at v = 0, where the plain norm has a kink."""
    return (vectors.square().sum(-1, keepdim=True) + softening**2).sqrt()


def soft_bound(x: Tensor, *, bound: float = 12.0) -> Tensor:
    """x / √(1 + (x/bound)²): the identity for small x, never beyond ±bound. Keeps exponentials finite on wild input."""
    return x / (1.0 + (x / bound).square()).sqrt()


def pair_index(a: Tensor, b: Tensor) -> Tensor:
    """Number of the unordered pair {a, b} of element indices: symmetric, without gaps.

    >>> pair_index(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 2]))
    tensor([0, 1, 1, 5])
    """
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return high * (high + 1) // 2 + low


class EdgeFeatures(nn.Module):
    """Learned features of each directed edge.

    With d = x_j − x_i, unit vector d̂ and the element pair and bond type of the edge::

        g_ij  = SiLU(T_pair{z_i, z_j} + T_bond[b_ij] + 8 W_r bessel(|d|))
        n_i^k = softnormalised Σ_j w(|d|) (W_n g_ij)_k d̂            local normals, k = 1 … n_normals
        e_ij  = W_g g_ij + W_a [n_i·d̂, −n_j·d̂, n_i·n_j]             cosines of the point-pair angles

    The cosines are the angles ∠(n_i, d), ∠(n_j, −d), ∠(n_i, n_j) of the point-pair features of B. Drost et al.
    (CVPR 2010, doi:10.1109/CVPR.2010.5540108), but twice differentiable everywhere, also for collinear atoms. A normal
    sees neighbours within the cutoff alone, and n / √(|n|² + 1) is harmless where their sum vanishes. Several normals
    per atom, each with its own weights of the neighbours, tell more of an environment than one.

    Parameters
    ----------
    n_elements, n_bond_types : int
        Sizes of the two tables.
    width : int
        Features per edge.
    n_radial, n_normals : int
        Radial basis functions; local normals per atom.
    cutoff : Å
    """

    def __init__(
        self, *, n_elements: int, n_bond_types: int, width: int, n_radial: int, n_normals: int, cutoff: float
    ) -> None:
        super().__init__()
        self.cutoff = cutoff
        self.n_radial = n_radial
        self.pair = nn.Embedding(n_elements * (n_elements + 1) // 2, width)
        self.bond = nn.Embedding(n_bond_types, width)
        self.radial = nn.Linear(n_radial, width)
        self.normal = nn.Linear(width, n_normals, bias=False)
        self.mix = nn.Linear(width, width)
        self.angle = nn.Linear(3 * n_normals, width, bias=False)

    def forward(self, pos: Tensor, element: Tensor, edge_index: Tensor, edge_bond: Tensor) -> Edges:
        """Edges of a batch.

        Parameters
        ----------
        pos : (n, 3), Å
        element : (n,) int64
            Index of the element in the net's own list.
        edge_index : (2, e) int64
            Rows j and i; both directions of every pair.
        edge_bond : (e,) int64
        """
        source, target = edge_index
        vector = pos.index_select(0, source) - pos.index_select(0, target)
        distance = vector.square().sum(1).sqrt()
        unit = vector / distance[:, None]
        weight = envelope(distance, self.cutoff)[:, None]
        pair = self.pair(pair_index(element[source], element[target]))
        g = nn.functional.silu(
            pair + self.bond(edge_bond) + self.radial(_RADIAL_SCALE * bessel(distance, self.cutoff, self.n_radial))
        )
        normals = _normals(weight * self.normal(g), unit, target, len(pos))
        n_i, n_j = normals.index_select(0, target), normals.index_select(0, source)
        along = unit[:, :, None]
        cosines = torch.cat([(n_i * along).sum(1), -(n_j * along).sum(1), (n_i * n_j).sum(1)], dim=1)
        return Edges(source, target, weight, self.mix(g) + self.angle(cosines), distance[:, None], unit)


def _normals(weight: Tensor, unit: Tensor, target: Tensor, n: int) -> Tensor:
    """(n, 3, k) softly normalised sums of the unit vectors to the neighbours, weighted by `weight` (e, k).

    Sums over the three directions run along k, which is several times faster than over a last axis of three.
    """
    raw = sum_over(weight[:, None, :] * unit[:, :, None], target, n)
    return raw / (raw.square().sum(1, keepdim=True) + 1.0).sqrt()
