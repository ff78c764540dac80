"""GEN: generalised aggregation by a learned softmax."""

import torch
from torch import Tensor, nn

from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.geometry import Edges, soft_bound, soft_norm, sum_over
from sddfkit.models.graphs import GraphStats


class GENLayer(nn.Module):
    """One GEN convolution with a residual connection.

    ::

        m_ij = softplus(W_j x_j + W_e e_ij)
        m_i  = Σ_j α_ij m_ij,   α_ij = w_ij exp(t m_ij) / (1 + Σ_k w_ik exp(t m_ik))     per channel
        x_i ← x_i + W_o SiLU(W_1 x_i + W_2 [s |x_i| m_i / |m_i|, log(1 + Σ_k w_ik exp(t m_ik))])

    with the message norm's lengths softened. The logarithm tells how much there was to take the mean of.
    """

    def __init__(self, width: int, messages: int, edge_size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, messages)
        self.edge = nn.Linear(edge_size, messages, bias=False)
        self.t = nn.Parameter(torch.ones(messages))
        self.s = nn.Parameter(torch.ones(1))
        self.own = nn.Linear(width, width)
        self.update = nn.Linear(2 * messages, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        h = self.norm(x)
        m_ij = nn.functional.softplus(self.source(h).index_select(0, edges.source) + edges.project(self.edge))
        weight = edges.envelope * torch.exp(soft_bound(self.t * m_ij))
        sums = sum_over(torch.cat([weight * m_ij, weight], dim=1), edges.target, len(x))
        numerator, denominator = sums.chunk(2, dim=1)
        m_i = numerator / (1.0 + denominator)
        m_i = torch.cat([self.s * soft_norm(h) * m_i / soft_norm(m_i), torch.log1p(denominator)], dim=1)
        return x + self.out(nn.functional.silu(self.own(h) + self.update(m_i)))


class GEN(EnergyModel):
    """GENConv of G. Li et al., "DeeperGCN", 2020, doi:10.48550/arXiv.2006.07739, made smooth.

    The envelope w_ij stands inside the softmax, whose denominator has a constant null term: an edge fades out before
    it crosses the cutoff, and an atom without neighbours gets no message. For the arguments see
    :class:`~sddfkit.models.base.EnergyModel`; `layers` is the number of convolutions.
    """

    def __init__(
        self,
        *,
        stats: GraphStats,
        width: int = 64,
        messages: int = 24,
        layers: int = 2,
        cutoff: float = 5.0,
        n_radial: int = 12,
        n_normals: int = 6,
        seed: int = 0,
    ) -> None:
        super().__init__(
            width=width,
            messages=messages,
            cutoff=cutoff,
            n_radial=n_radial,
            n_normals=n_normals,
            stats=stats,
            seed=seed,
        )
        with seeded(seed):
            self.convolutions = nn.ModuleList(
                GENLayer(width, messages, self.neighbourhood.edge_size) for _ in range(layers)
            )

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
