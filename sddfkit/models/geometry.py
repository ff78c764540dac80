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
    """The pairs of neighbours of a batch, and the two directed edges of each, as the convolutions see them.

    Of p pairs {a, b}, the directed edges are the p edges b → a and then the p edges a → b. What both directions share
    is computed once: the learned features of an edge are ``even + odd`` in the first half, ``even − odd`` in the other.

    Attributes
    ----------
    source, target : (2p,) int64
        Atoms j and i of each directed edge j → i.
    envelope : (2p, 1)
        w(d_ij): every aggregation weighs its messages with it.
    even, odd : (p, f), (p, k)
        Features that keep their sign in the other direction, and those that change it.
    pair_distance : (p, 1), Å
    pair_unit : (p, 3)
        Direction (x_b − x_a) / d_ab.
    """

    source: Tensor
    target: Tensor
    envelope: Tensor
    even: Tensor
    odd: Tensor
    pair_distance: Tensor
    pair_unit: Tensor

    def project(self, linear: nn.Linear) -> Tensor:
        """W e + b of each directed edge, (2p, out), by products over pairs alone; `linear` takes f + k features."""
        n_even = self.even.shape[1]
        even = nn.functional.linear(self.even, linear.weight[:, :n_even], linear.bias)
        odd = nn.functional.linear(self.odd, linear.weight[:, n_even:])
        return torch.cat([even + odd, even - odd])

    @property
    def distance(self) -> Tensor:
        """Length of each directed edge, (2p, 1), Å."""
        return torch.cat([self.pair_distance, self.pair_distance])

    @property
    def unit(self) -> Tensor:
        """Direction (x_j − x_i) / d_ij of each directed edge, (2p, 3), for networks with angles of their own."""
        return torch.cat([self.pair_unit, -self.pair_unit])


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
    """bound · tanh(x/bound): the identity for small x, never beyond ±bound. Keeps exponentials finite on wild input."""
    return bound * torch.tanh(x / bound)


def pair_index(a: Tensor, b: Tensor) -> Tensor:
    """Number of the unordered pair {a, b} of element indices: symmetric, without gaps.

    >>> pair_index(torch.tensor([0, 0, 1, 2]), torch.tensor([0, 1, 0, 2]))
    tensor([0, 1, 1, 5])
    """
    low, high = torch.minimum(a, b), torch.maximum(a, b)
    return high * (high + 1) // 2 + low


class Neighbourhood(nn.Module):
    """Learned features of each pair of neighbours, and of the surroundings of each atom.

    With d = x_b − x_a, unit vector d̂ and the element pair and bond type of a pair {a, b}::

        g_ab  = SiLU(T_pair{z_a, z_b} + T_bond[b_ab] + 8 W_r bessel(|d|))
        c_ab  = w(|d|) W_n g_ab                                        k channels
        M_a^l = Σ_b c_ab ⊗ Y^l(d̂),  l = 0, 1, 2                         moments of the neighbourhood
        s_a   = [M_a^0,  M_a^1·M_a^1,  M_a^2·M_a^2]                    of all pairs of channels: rotational invariants
        n_a   = M_a^1 / √(|M_a^1|² + 1)                                local normals
        e_ab  = [g_ab, n_a·n_b, n_a·d̂ − n_b·d̂]  ±  [n_a·d̂ + n_b·d̂]     − in the other direction

    The cosines are those of the point-pair angles ∠(n_a, d), ∠(n_b, −d), ∠(n_a, n_b) of B. Drost et al. (CVPR 2010,
    doi:10.1109/CVPR.2010.5540108), but twice differentiable everywhere, also for collinear atoms. The moments and their
    products are the many-body descriptors of A. V. Shapeev (Multiscale Model. Simul. 14, 1153 (2016),
    doi:10.1137/15M1054183) up to three bodies. An atom sees neighbours within the cutoff alone.

    Parameters
    ----------
    n_elements, n_bond_types : int
        Sizes of the two tables.
    width : int
        Features g of a pair.
    n_radial, n_normals : int
        Radial basis functions; channels k.
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
        self.edge_size = width + 3 * n_normals
        """Features of a directed edge, as :meth:`Edges.project` takes them."""
        self.atom_size = n_normals + n_normals * (n_normals + 1)
        """Features of an atom."""
        self.register_buffer("channels", torch.triu_indices(n_normals, n_normals), persistent=False)

    channels: Tensor

    def forward(self, pos: Tensor, element: Tensor, edge_index: Tensor, edge_bond: Tensor) -> tuple[Edges, Tensor]:
        """Edges of a batch, and the features of each atom's surroundings, (n, atom_size).

        Parameters
        ----------
        pos : (n, 3), Å
        element : (n,) int64
            Index of the element in the net's own list.
        edge_index : (2, e) int64
            Rows j and i; both directions of every pair.
        edge_bond : (e,) int64
        """
        once = (edge_index[1] < edge_index[0]).nonzero().squeeze(1)
        first, second = edge_index[1].index_select(0, once), edge_index[0].index_select(0, once)
        vector = pos.index_select(0, second) - pos.index_select(0, first)
        distance = vector.square().sum(1).sqrt()
        unit = vector / distance[:, None]
        weight = envelope(distance, self.cutoff)[:, None]
        pair = self.pair(pair_index(element.index_select(0, first), element.index_select(0, second)))
        radial = self.radial(_RADIAL_SCALE * bessel(distance, self.cutoff, self.n_radial))
        g = nn.functional.silu(pair + self.bond(edge_bond.index_select(0, once)) + radial)
        channels = weight * self.normal(g)
        even, odd, normals = self._moments(channels, unit, first, second, len(pos))
        n_first, n_second = normals.index_select(0, first), normals.index_select(0, second)
        along = unit[:, :, None]
        cos_first, cos_second = (n_first * along).sum(1), (n_second * along).sum(1)
        edges = Edges(
            source=torch.cat([second, first]),
            target=torch.cat([first, second]),
            envelope=torch.cat([weight, weight]),
            even=torch.cat([g, (n_first * n_second).sum(1), cos_first - cos_second], dim=1),
            odd=cos_first + cos_second,
            pair_distance=distance[:, None],
            pair_unit=unit,
        )
        return edges, soft_bound(torch.cat([even, odd], dim=1))

    def _moments(
        self, channels: Tensor, unit: Tensor, first: Tensor, second: Tensor, n: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Invariants of the even moments (l = 0, 2) and of the odd ones (l = 1), and the local normals (n, 3, k).

        A pair counts for both its atoms: Y^l(−d̂) = (−1)^l Y^l(d̂). Sums over components run along the channels, which
        is several times faster than over a last axis of three or five.
        """
        even = _even_harmonics(unit)[:, :, None] * channels[:, None, :]
        odd = unit[:, :, None] * channels[:, None, :]
        even = sum_over(even, first, n) + sum_over(even, second, n)
        odd = sum_over(odd, first, n) - sum_over(odd, second, n)
        normals = odd / (odd.square().sum(1, keepdim=True) + 1.0).sqrt()
        return torch.cat([even[:, 0], self._products(even[:, 1:])], dim=1), self._products(odd), normals

    def _products(self, moments: Tensor) -> Tensor:
        """Scalar products of the moments (n, components, k) of all pairs of channels: (n, k (k + 1) / 2)."""
        a, b = self.channels
        return (moments.index_select(2, a) * moments.index_select(2, b)).sum(1)


def _even_harmonics(unit: Tensor) -> Tensor:
    """Real spherical harmonics of degrees 0 and 2 of unit vectors (e, 3), with Σ_m Y_lm² = 1: (e, 6)."""
    x, y, z = (math.sqrt(3.0) * unit).unbind(1)
    root = 1.0 / math.sqrt(3.0)
    of_two = [root * x * y, root * y * z, root * x * z, root / 2.0 * (x * x - y * y), (z * z - 1.0) / 2.0]
    return torch.stack([torch.ones_like(x), *of_two], dim=1)
