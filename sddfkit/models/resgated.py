"""ResGated: residual gated graph convolution."""

import torch
from torch import Tensor, nn

from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.geometry import Edges, sum_over
from sddfkit.models.graphs import GraphStats


class ResGatedLayer(nn.Module):
    """One gated convolution with a residual connection.

    ::

        η_ij = σ(W_k x_i + W_q x_j + W_ηe e_ij)
        x_i ← x_i + W_o SiLU(W_1 x_i + W_2 Σ_j w_ij η_ij ⊙ (W_v x_j + W_ve e_ij) / √D)

    with D the mean envelope-weighted degree of the training set, which keeps the sum of order one.
    """

    def __init__(self, width: int, messages: int, edge_size: int, stats: GraphStats) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, 2 * messages, bias=False)
        self.target = nn.Linear(width, messages)
        self.edge = nn.Linear(edge_size, 2 * messages, bias=False)
        self.own = nn.Linear(width, width)
        self.update = nn.Linear(messages, width, bias=False)
        self.out = nn.Linear(width, width)
        self.scale = max(stats.mean_degree, 1.0) ** -0.5

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        h = self.norm(x)
        value, gate = (self.source(h).index_select(0, edges.source) + edges.project(self.edge)).chunk(2, dim=1)
        gate = torch.sigmoid(gate + self.target(h).index_select(0, edges.target))
        message = self.scale * sum_over(edges.envelope * gate * value, edges.target, len(x))
        return x + self.out(nn.functional.silu(self.own(h) + self.update(message)))


class ResGated(EnergyModel):
    """Residual gated graph convolution of X. Bresson and T. Laurent, 2017, doi:10.48550/arXiv.1711.07553, made smooth.

    The envelope w_ij multiplies every message. For the arguments see :class:`~sddfkit.models.base.EnergyModel`;
    `layers` is the number of convolutions.
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
                ResGatedLayer(width, messages, self.neighbourhood.edge_size, stats) for _ in range(layers)
            )

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
