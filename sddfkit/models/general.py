"""General: the convolution of the design space of graph networks, with attention."""

import torch
from torch import Tensor, nn

from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.geometry import Edges, soft_bound, soft_norm, sum_over
from sddfkit.models.graphs import GraphStats


class GeneralLayer(nn.Module):
    """One General convolution with additive attention and a residual connection.

    ::

        m_ij^h = W_m x_j + W_e e_ij                          per head h
        α_ij^h = w_ij exp(a_ij^h) / (1 + Σ_k w_ik exp(a_ik^h)),   a_ij^h = SiLU(m_ij^h · u^h)
        h_i    = W_s x_i + W_h mean_h Σ_j α_ij^h m_ij^h
        x_i ← x_i + W_o SiLU(√width h_i / √(|h_i|² + width))      softened l2 normalisation
    """

    def __init__(self, width: int, messages: int, edge_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.message = nn.Linear(width, heads * messages)
        self.edge = nn.Linear(edge_size, heads * messages, bias=False)
        self.u = nn.Parameter(torch.randn(heads, messages) * messages**-0.5)
        self.skip = nn.Linear(width, width)
        self.update = nn.Linear(messages, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        n, width = x.shape
        h = self.norm(x)
        message = self.message(h).index_select(0, edges.source) + edges.project(self.edge)
        message = message.view(len(message), self.heads, self.u.shape[1])
        weight = edges.envelope * torch.exp(soft_bound(nn.functional.silu((message * self.u).sum(-1))))
        alpha = weight / (1.0 + sum_over(weight, edges.target, n)).index_select(0, edges.target)
        pooled = sum_over((alpha[:, :, None] * message).mean(1), edges.target, n)
        h = self.skip(h) + self.update(pooled)
        return x + self.out(nn.functional.silu(width**0.5 * h / soft_norm(h, softening=width**0.5)))


class General(EnergyModel):
    """GeneralConv of J. You, R. Ying and J. Leskovec, NeurIPS 2020, doi:10.48550/arXiv.2011.08843, made smooth.

    The envelope w_ij stands inside the softmax, whose denominator has a constant null term; the l2 normalisation is
    softened. For the arguments see :class:`~sddfkit.models.base.EnergyModel`; `layers` is the number of convolutions,
    `heads` the number of attention heads, each `messages` wide, whose mean is taken.
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
        heads: int = 2,
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
                GeneralLayer(width, messages, self.neighbourhood.edge_size, heads) for _ in range(layers)
            )

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
