"""GEN as published: generalised aggregation by a learned softmax."""

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn import GENConv

from sddfkit.models.sddf.base import SDDFModel
from sddfkit.models.sddf.edge_sums import edge_sum
from sddfkit.models.sddf.layout import N_TYPES, Layout

_LOG2_E = math.log2(math.e)


class GEN(SDDFModel):
    """Two GENConv of torch-geometric (G. Li et al., 2020, doi:10.48550/arXiv.2006.07739).

    A fault of its own: a batch norm in the perceptron of each convolution, so in training the other molecules of a
    batch change an energy. For everything else see :class:`~sddfkit.models.sddf.base.SDDFModel`.
    """

    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """GENConv node → width → width / 4."""
        options = {
            "aggr": "softmax",
            "learn_t": True,
            "learn_p": True,
            "msg_norm": True,
            "learn_msg_scale": True,
            "num_layers": 2,
            "edge_dim": edge,
        }
        return GENConv(node, width, **options), GENConv(width, width // 4, **options)

    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.first`. The maps of the nine atom types are rows of the tables."""
        conv = self.model_blocks[0]["gnn_layer"]
        source = conv.lin_src(self.atoms)
        tables = torch.cat([self.edge_tables(conv.lin_edge.weight), source.expand(N_TYPES, -1, -1)], dim=1)
        message = _softmax_sum(conv, layout, a, tables, None)
        norm, target = self.atoms.norm(dim=1, keepdim=True), conv.lin_dst(self.atoms)
        out = _message_norm(conv, message, norm[layout.kind]) + target[layout.kind]
        return conv.mlp[-1](_hidden(conv, out))

    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.second`. The last linear map comes after the sum over atoms: Σ W h = W Σ h."""
        conv = self.model_blocks[1]["gnn_layer"]
        message = _softmax_sum(conv, layout, a, self.edge_tables(conv.lin_edge.weight), conv.lin_src(x))
        out = _message_norm(conv, message, x.norm(dim=1, keepdim=True)) + conv.lin_dst(x)
        return conv.mlp[-1](layout.pool(_hidden(conv, out)))


def _softmax_sum(conv: GENConv, layout: Layout, a: Tensor, tables: Tensor, sources: Tensor | None) -> Tensor:
    """Σ_j softmax_j(t m_ij) m_ij per channel, m = ReLU + ε. A softmax ignores the ε, and its weights sum to one."""
    out = edge_sum(SoftmaxSum, layout, a, tables, sources, parameter=conv.aggr_module.t)[:, 0]
    return out + conv.eps * layout.has_neighbours


def _message_norm(conv: GENConv, message: Tensor, norm: Tensor) -> Tensor:
    return nn.functional.normalize(message, dim=1) * (norm * conv.msg_norm.scale)


def _hidden(conv: GENConv, x: Tensor) -> Tensor:
    """ReLU(BN(W x)), and no dropout: its rate is zero. With fixed statistics BN is a factor and a shift, so one map."""
    linear, norm = conv.mlp[0], conv.mlp[1]
    if norm.training:
        return nn.functional.relu(norm(linear(x)))
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    shift = norm.bias - norm.running_mean * scale
    return nn.functional.relu(nn.functional.linear(x, scale[:, None] * linear.weight, shift))


class SoftmaxSum:
    """o = Σ_j p_j u_j with u = ReLU(edge), p = softmax(t u) over the neighbours, per channel.

    ∂o/∂u_j = p_j (1 + t (u_j − o)),   ∂o/∂t = Σ_j p_j u_j² − o².   Kept: o and log₂ of the denominator of p.
    """

    kept = 2
    results = 1
    maps = 1

    @staticmethod
    def reduce(edges: Tensor, t: Tensor | None) -> Tensor:
        assert t is not None
        u = edges.relu()
        return (torch.softmax(t * u, dim=1) * u).sum(1, keepdim=True)

    @staticmethod
    def forward(edges: Tensor, t: Tensor | None, out: Tensor) -> None:
        assert t is not None
        s = float(t) * _LOG2_E  # exp(t u) = 2^(s u), which is faster
        u = edges.relu_()
        top = s * (u.amax(1) if s > 0 else u.amin(1))
        p = torch.add(-top[:, None], u, alpha=s).exp2_()
        total = p.sum(1)
        torch.sum(p.mul_(u), 1, out=out[:, 0])
        out[:, 0] /= total
        torch.add(total.log2_(), top, out=out[:, 1])

    @staticmethod
    def backward(
        edges: Tensor, t: Tensor | None, out: Tensor, gradient: Tensor, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        assert t is not None
        u, o, log_total, slope = edges.relu_(), out[:, 0], out[:, 1], float(t)
        p = torch.add(-log_total[:, None], u, alpha=slope * _LOG2_E).exp2_()
        dt = None
        if weights:
            second = (p * u).mul_(u).sum(1)
            dt = (gradient[:, 0] * (second - o * o)).sum()
        p *= torch.add((1.0 - slope * o)[:, None], u, alpha=slope)
        p *= gradient
        return torch.ops.aten.threshold_backward(p, u, 0), dt
