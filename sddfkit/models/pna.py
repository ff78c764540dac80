"""PNA: principal neighbourhood aggregation."""

import torch
from torch import Tensor, nn

from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.geometry import Edges, soft_bound, sum_over
from sddfkit.models.graphs import GraphStats

_VARIANCE_SOFTENING = 0.01


class PNALayer(nn.Module):
    """One PNA convolution with a residual connection.

    With m_ij = W_i x_i + W_j x_j + W_e e_ij, the envelope w_ij and the weighted degree D_i = Σ_j w_ij, per channel::

        mean = Σ_j w m / (1 + D)                 std = √(Σ_j w m² / (1 + D) − mean² + 0.01)
        max  = log(1 + Σ_j w exp(m))             min = −log(1 + Σ_j w exp(−m))
        scalers: 1,   log(1 + D)/δ (amplification),   2δ/(δ + log(1 + D)) (attenuation)
        x_i ← x_i + W_o SiLU(W_p [x_i, scalers ⊗ (mean, std, max, min)])

    δ is the mean of log(1 + D) over the training set. The constant 1 beside D is a silent neighbour with message 0: all
    is finite, and continuous, down to D = 0; the attenuation δ/log(1 + D) of the paper would diverge there.
    """

    def __init__(self, width: int, messages: int, edge_size: int, stats: GraphStats) -> None:
        super().__init__()
        self.delta = stats.mean_log_degree
        self.norm = nn.LayerNorm(width)
        self.source = nn.Linear(width, messages, bias=False)
        self.target = nn.Linear(width, messages)
        self.edge = nn.Linear(edge_size, messages, bias=False)
        self.update = nn.Sequential(nn.Linear(width + 12 * messages, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, x: Tensor, edges: Edges) -> Tensor:
        h = self.norm(x)
        m = edges.project(self.edge) + self.source(h).index_select(0, edges.source)
        m = m + self.target(h).index_select(0, edges.target)
        exp = torch.exp(soft_bound(m))
        terms = edges.envelope * torch.cat([m, m * m, exp, exp.reciprocal(), torch.ones_like(m[:, :1])], dim=1)
        sums = sum_over(terms, edges.target, len(x))
        degree = sums[:, -1:]
        first, second, top, bottom = sums[:, :-1].chunk(4, dim=1)
        mean = first / (1.0 + degree)
        std = (second / (1.0 + degree) - mean * mean + _VARIANCE_SOFTENING).sqrt()
        pooled = torch.cat([mean, std, torch.log1p(top), -torch.log1p(bottom)], dim=1)
        log_degree = torch.log1p(degree)
        amplification, attenuation = log_degree / self.delta, 2.0 * self.delta / (self.delta + log_degree)
        return x + self.update(torch.cat([h, pooled, amplification * pooled, attenuation * pooled], dim=1))


class PNA(EnergyModel):
    """PNAConv of G. Corso et al., NeurIPS 2020, doi:10.48550/arXiv.2004.05718, made smooth.

    Means, deviations and degrees are weighted with the envelope, maximum and minimum are log-sum-exps. For the
    arguments see :class:`~sddfkit.models.base.EnergyModel`; `layers` is the number of convolutions. Messages are
    half of `messages` wide, and the aggregate is twelve times as wide as they.
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
                PNALayer(width, messages // 2, self.neighbourhood.edge_size, stats) for _ in range(layers)
            )

    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width)."""
        for convolution in self.convolutions:
            x = convolution(x, edges)
        return x
