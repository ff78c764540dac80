"""PNA as published: mean, minimum, maximum and deviation of the neighbours, scaled by their number."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import PNAConv

from sddfkit.models.sddf.base import SDDFModel
from sddfkit.models.sddf.edge_sums import edge_sum
from sddfkit.models.sddf.layout import N_TYPES, Layout

# fmt: off
DEGREES = (
    0, 0, 63, 6688, 11152, 61404, 275441, 622085, 1046910, 1054434, 1412451, 1703549, 1990127, 2247299, 2489395,
    2572500, 2547126, 2430896, 2237259, 1977361, 1675620, 1347801, 1050218, 774114, 550315, 369208, 231582, 138858,
    79354, 43829, 22679, 11254, 5150, 2243, 957, 428, 137, 46, 14, 1,
)
# fmt: on
"""Atoms of the published training set with 0, 1, 2, … neighbours."""

_SMALLEST = 1e-5
"""A variance below counts as zero."""


class PNA(SDDFModel):
    """Two PNAConv of torch-geometric (G. Corso et al., NeurIPS 2020, doi:10.48550/arXiv.2004.05718).

    A fault of its own: the variance is the difference of two large numbers, E[m²] − E[m]², so in single precision its
    derivative can be wrong where the neighbours hardly differ. The scale of the degrees is that of the published
    training set. For everything else see :class:`~sddfkit.models.sddf.base.SDDFModel`.
    """

    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """PNAConv node → width → width / 4."""
        options = {
            "aggregators": ["mean", "min", "max", "std"],
            "scalers": ["identity", "amplification", "attenuation"],
            "deg": torch.tensor(DEGREES),
            "edge_dim": edge,
        }
        return PNAConv(node, width, **options), PNAConv(width, width // 4, **options)

    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.first`.

        With W = [W_i, W_j, W_e], the term W_i x_i is the same for all edges into i: it shifts mean, minimum and
        maximum and leaves the deviation alone.
        """
        conv = self.model_blocks[0]["gnn_layer"]
        w_i, w_j, w_e, bias = _message_map(conv)
        rows = self.atoms @ w_j.T + bias
        tables = torch.cat([self._edges(conv, w_e), rows.expand(N_TYPES, -1, -1)], dim=1)
        statistics = edge_sum(Statistics, layout, a, tables)
        shift = (self.atoms @ w_i.T)[layout.kind] * layout.has_neighbours
        statistics = statistics + nn.functional.pad(shift[:, None].expand(-1, 3, -1), (0, 0, 0, 1))
        post = conv.post_nns[0][0]
        w_x, w_scaled = _post_map(post, self.atoms.shape[1])
        out = _scaled_linear(conv, layout, statistics.flatten(1), w_scaled)
        return conv.lin(out + nn.functional.linear(self.atoms, w_x, post.bias)[layout.kind])

    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.second`.

        Behind the statistics all is linear: they are summed over the atoms with each of the three scalers, and so are
        the shifts, Σ_i s_i W_i x_i = W_i Σ_i s_i x_i.
        """
        conv = self.model_blocks[1]["gnn_layer"]
        w_i, w_j, w_e, bias = _message_map(conv)
        sources = nn.functional.linear(x, w_j, bias)
        statistics = edge_sum(Statistics, layout, a, self._edges(conv, w_e), sources)
        scale = torch.stack([_scalers(conv, k, x) for k in range(int(layout.degree.max()) + 1)])[layout.degree]
        pooled = layout.weighted_pools(statistics.flatten(1), scale).unflatten(2, (4, -1))
        ones = torch.ones_like(scale[:, :1])
        sums = layout.weighted_pools(x, torch.cat([ones, scale * layout.has_neighbours], dim=1))
        shift = (sums[:, 1:] @ w_i.T)[:, :, None].expand(-1, -1, 3, -1)
        pooled = pooled + nn.functional.pad(shift, (0, 0, 0, 1))
        count = torch.bincount(layout.molecule, minlength=layout.n_molecules)[:, None]
        post = conv.post_nns[0][0]
        out = torch.cat([sums[:, 0], pooled.flatten(1)], dim=1) @ post.weight.T + count * post.bias
        return out @ conv.lin.weight.T + count * conv.lin.bias

    def _edges(self, conv: PNAConv, w_e: Tensor) -> Tensor:
        """Tables of W_e · encoder: two maps of the edge in a row."""
        return self.edge_tables(conv.edge_encoder.weight, w_e)


def _message_map(conv: PNAConv) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_i, W_j, W_e and all that is constant in a message."""
    pre = conv.pre_nns[0][0]
    w_i, w_j, w_e = pre.weight.chunk(3, dim=1)
    return w_i, w_j, w_e, pre.bias + w_e @ conv.edge_encoder.bias


def _post_map(post: nn.Linear, n: int) -> tuple[Tensor, tuple[Tensor, ...]]:
    """The weight of the atom itself, and of its statistics with each scaler."""
    w_x, w_scaled = post.weight.split([n, post.weight.shape[1] - n], dim=1)
    return w_x, w_scaled.chunk(3, dim=1)


def _scalers(conv: PNAConv, degree: int, like: Tensor) -> Tensor:
    """Identity, amplification and attenuation of an atom with `degree` neighbours: (3,)."""
    mean_log = conv.aggr_module.avg_deg_log.to(like)
    amplification, attenuation = math.log(degree + 1) / mean_log, mean_log / math.log(max(degree, 1) + 1)
    return torch.cat([torch.ones_like(mean_log), amplification, attenuation])


class _Scales(NamedTuple):
    """The scalers of rows sorted by degree.

    Attributes
    ----------
    sizes : list of int
        Rows of each degree.
    values : list of (3 floats)
        Scalers of each degree.
    weights : bool
        See :class:`~sddfkit.models.sddf.layout.Layout`.
    """

    sizes: list[int]
    values: list[list[float]]
    weights: bool

    def of_rows(self, like: Tensor) -> Tensor:
        """(n, 3)."""
        each = torch.tensor(self.values, dtype=like.dtype, device=like.device)
        return each.repeat_interleave(torch.tensor(self.sizes, device=like.device), dim=0)


class _ScaledLinear(torch.autograd.Function):
    """Σ_s W_s (s_i h_i) = (Σ_s s_i W_s) h_i for rows sorted by degree: one product per degree, with one weight.

    Its derivative is by hand, so that the weight of a degree need not be kept.
    """

    @staticmethod
    def forward(ctx: Any, scales: _Scales, h: Tensor, *weights: Tensor) -> Tensor:
        ctx.scales = scales
        ctx.save_for_backward(h, *weights)
        out = h.new_empty(len(h), len(weights[0]))
        for rows, weight in _by_degree(scales, weights):
            torch.mm(h[rows], weight.T, out=out[rows])
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        h, *weights = ctx.saved_tensors
        scales: _Scales = ctx.scales
        each = scales.of_rows(h)
        if torch.is_grad_enabled():
            dh = sum((gradient * each[:, s, None]) @ weight for s, weight in enumerate(weights))
        else:
            dh = torch.empty_like(h)
            for rows, weight in _by_degree(scales, weights):
                torch.mm(gradient[rows], weight, out=dh[rows])
        if not (scales.weights and ctx.needs_input_grad[2]):
            return None, dh, *[None] * len(weights)
        return None, dh, *[(gradient * each[:, s, None]).T @ h for s in range(len(weights))]


def _by_degree(scales: _Scales, weights: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
    """Rows of one degree and Σ_s s W_s, which is lost with the next."""
    total, start = torch.empty_like(weights[0], memory_format=torch.contiguous_format), 0
    for size, (one, a, b) in zip(scales.sizes, scales.values, strict=True):
        assert one == 1.0
        torch.add(weights[0], weights[1], alpha=a, out=total)
        yield slice(start, start + size), total.add_(weights[2], alpha=b)
        start += size


def _scaled_linear(conv: PNAConv, layout: Layout, statistics: Tensor, weights: tuple[Tensor, ...]) -> Tensor:
    """The statistics (n, 4·w) with each scaler through its weight, added up: (n, out)."""
    order = torch.argsort(layout.degree, stable=True)
    degrees, sizes = torch.unique_consecutive(layout.degree[order], return_counts=True)
    values = [_scalers(conv, degree, statistics).tolist() for degree in degrees.tolist()]
    scales = _Scales(sizes.tolist(), values, layout.weights)
    out = _ScaledLinear.apply(scales, statistics.index_select(0, order), *weights)
    return out.index_select(0, torch.argsort(order))


class Statistics:
    """Mean, minimum, maximum and standard deviation over the neighbours, per channel."""

    kept = 4
    results = 4
    maps = 1

    @staticmethod
    def reduce(edges: Tensor, parameter: Tensor | None) -> Tensor:
        mean = edges.mean(1)
        std = ((edges * edges).mean(1) - mean * mean).clamp(min=_SMALLEST).sqrt()
        std = std.masked_fill(std <= math.sqrt(_SMALLEST), 0.0)
        return torch.stack([mean, edges.amin(1), edges.amax(1), std], dim=1)

    @staticmethod
    def forward(edges: Tensor, parameter: Tensor | None, out: Tensor) -> None:
        mean, low, high, std = out.unbind(1)
        torch.mean(edges, 1, out=mean)
        torch.amin(edges, 1, out=low)
        torch.amax(edges, 1, out=high)
        square = (edges * edges).mean(1)
        torch.addcmul(square, mean, mean, value=-1.0, out=std)
        std.clamp_(min=_SMALLEST).sqrt_()
        std.masked_fill_(std <= math.sqrt(_SMALLEST), 0.0)

    @staticmethod
    def backward(
        edges: Tensor, parameter: Tensor | None, out: Tensor, gradient: Tensor, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        mean, low, high, std = out.unbind(1)
        d_mean, d_low, d_high, d_std = gradient.unbind(1)
        k = edges.shape[1]
        slope = torch.where(std > 0, d_std / (k * std), 0.0)
        constant = torch.addcmul(d_mean / k, slope, mean, value=-1.0)
        d = torch.addcmul(constant[:, None], edges, slope[:, None])
        for extreme, of_extreme in ((low, d_low), (high, d_high)):
            at = edges == extreme[:, None]
            if int(torch.count_nonzero(at)) > extreme.numel():  # equal neighbours share
                of_extreme = of_extreme / at.sum(1)
            d += torch.where(at, of_extreme[:, None], 0.0)
        return d, None
