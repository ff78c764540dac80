"""Transformer: graph attention with edge features and a gated residual."""

import torch
from torch import Tensor, nn

from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.geometry import Edges, soft_bound, sum_over
from sddfkit.models.graphs import GraphStats


class TransformerLayer(nn.Module):
    """One graph transformer convolution.

    ::

        a_ij = q_i · (k_j + W_e e_ij) / √c                              per head, c channels each
        α_ij = w_ij exp(a_ij) / (1 + Σ_k w_ik exp(a_ik))
        o_i  = concatenated Σ_j α_ij (v_j + W_e e_ij),   r_i = W_r x_i
        β_i  = σ(W_β [o_i, r_i, o_i − r_i])
        x_i ← x_i + W_o SiLU(W_1 x_i + W_2 (β_i r_i + (1 − β_i) o_i))
    """

    def __init__(self, width: int, messages: int, edge_size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, 2 * messages)
        self.target = nn.Linear(width, 2 * messages)
        self.edge = nn.Linear(edge_size, messages, bias=False)
        self.beta = nn.Linear(3 * messages, 1)
        self.own = nn.Linear(width, width)
        self.update = nn.Linear(messages, width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        n = len(x)
        h = self.norm(x)
        query, r = self.target(h).chunk(2, dim=1)
        edge = edges.project(self.edge)
        source = self.source(h).index_select(0, edges.source).view(len(edge), 2, edge.shape[1])
        key, value = (source + edge[:, None]).unbind(1)
        heads = (len(edge), self.heads, edge.shape[1] // self.heads)
        product = (query.index_select(0, edges.target) * key).view(heads).sum(-1)
        weight = edges.envelope * torch.exp(soft_bound(product * heads[-1] ** -0.5))
        alpha = weight / (1.0 + sum_over(weight, edges.target, n)).index_select(0, edges.target)
        message = (alpha[:, :, None] * value.view(heads)).view_as(edge)
        o = sum_over(message, edges.target, n)
        beta = torch.sigmoid(self.beta(torch.cat([o, r, o - r], dim=1)))
        return x + self.out(nn.functional.silu(self.own(h) + self.update(beta * r + (1.0 - beta) * o)))


class Transformer(EnergyModel):
    """TransformerConv of Y. Shi et al. (UniMP), IJCAI 2021, doi:10.24963/ijcai.2021/214, made smooth.

    The envelope w_ij stands inside the attention, whose denominator has a constant null term. For the arguments see
    :class:`~sddfkit.models.base.EnergyModel`; `layers` is the number of convolutions, `heads` must divide
    `messages`.
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
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        if messages % heads:
            raise ValueError(f"messages {messages} is not a multiple of heads {heads}")
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
                TransformerLayer(width, messages, self.neighbourhood.edge_size, heads) for _ in range(layers)
            )

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
