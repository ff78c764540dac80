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
        x_i ← x_i + W_o SiLU(β_i r_i + (1 − β_i) o_i)
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, 2 * width)
        self.target = nn.Linear(width, 2 * width)
        self.edge = nn.Linear(width, width, bias=False)
        self.beta = nn.Linear(3 * width, 1)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        n, width = x.shape
        channels = width // self.heads
        h = self.norm(x)
        query, r = self.target(h).chunk(2, dim=1)
        edge = self.edge(edges.features)
        key, value = (self.source(h).index_select(0, edges.source) + edge.repeat(1, 2)).chunk(2, dim=1)
        product = (query.index_select(0, edges.target) * key).view(-1, self.heads, channels)
        weight = edges.envelope * torch.exp(soft_bound(product.sum(-1) * channels**-0.5))
        alpha = weight / (1.0 + sum_over(weight, edges.target, n)).index_select(0, edges.target)
        message = (alpha[:, :, None] * value.view(-1, self.heads, channels)).view(-1, width)
        o = sum_over(message, edges.target, n)
        beta = torch.sigmoid(self.beta(torch.cat([o, r, o - r], dim=1)))
        return x + self.out(nn.functional.silu(beta * r + (1.0 - beta) * o))


class Transformer(EnergyModel):
    """TransformerConv of Y. Shi et al. (UniMP), IJCAI 2021, doi:10.24963/ijcai.2021/214, made smooth.

    The envelope w_ij stands inside the attention, whose denominator has a constant null term. For the arguments see
    :class:`~sddfkit.models.base.EnergyModel`; `layers` is the number of convolutions, `heads` must divide `width`.
    """

    def __init__(
        self,
        *,
        stats: GraphStats,
        width: int = 48,
        layers: int = 2,
        cutoff: float = 5.0,
        n_radial: int = 12,
        n_normals: int = 8,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        super().__init__(width=width, cutoff=cutoff, n_radial=n_radial, n_normals=n_normals, stats=stats, seed=seed)
        with seeded(seed):
            self.convolutions = nn.ModuleList(TransformerLayer(width, heads) for _ in range(layers))

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
