"""ResGated as published: a gate on every message."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import ResGatedGraphConv

from sddfkit.models.sddf.base import SDDFModel
from sddfkit.models.sddf.edge_sums import edge_sum
from sddfkit.models.sddf.layout import Layout


class ResGated(SDDFModel):
    """Two ResGatedGraphConv of torch-geometric (X. Bresson, T. Laurent, 2017, doi:10.48550/arXiv.1711.07553).

    See :class:`~sddfkit.models.sddf.base.SDDFModel`.
    """

    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """ResGatedGraphConv node → width → width / 4."""
        return ResGatedGraphConv(node, width, edge_dim=edge), ResGatedGraphConv(width, width // 4, edge_dim=edge)

    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.first`. What an atom adds to gate and value depends on two types: rows of the tables."""
        conv = self.model_blocks[0]["gnn_layer"]
        n = self.atoms.shape[1]
        of_source = nn.functional.linear(self.atoms, *_source_map(conv, n))
        of_target = nn.functional.pad(self.atoms @ conv.lin_key.weight[:, :n].T, (0, conv.out_channels))
        rows = of_source[None] + of_target[:, None]
        tables = torch.cat([self.edge_tables(_edge_map(conv, n)), rows], dim=1)
        skip = conv.lin_skip(self.atoms) + conv.bias
        return edge_sum(GatedSum, layout, a, tables)[:, 0] + skip[layout.kind]

    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.second`. The skip is linear: it sees the sum over atoms."""
        conv = self.model_blocks[1]["gnn_layer"]
        n = x.shape[1]
        sources = nn.functional.linear(x, *_source_map(conv, n))
        targets = x @ conv.lin_key.weight[:, :n].T
        out = edge_sum(GatedSum, layout, a, self.edge_tables(_edge_map(conv, n)), sources, targets)[:, 0]
        count = torch.bincount(layout.molecule, minlength=layout.n_molecules)[:, None]
        return layout.pool(out) + conv.lin_skip(layout.pool(x)) + count * conv.bias


def _source_map(conv: ResGatedGraphConv, n: int) -> tuple[Tensor, Tensor]:
    """Weight and bias of what the source adds to gate and value; the key's bias goes along."""
    weight = torch.cat([conv.lin_query.weight[:, :n], conv.lin_value.weight[:, :n]])
    return weight, torch.cat([conv.lin_key.bias + conv.lin_query.bias, conv.lin_value.bias])


def _edge_map(conv: ResGatedGraphConv, n: int) -> Tensor:
    """Key and query are added, so they share one product with the edge; below it the value's."""
    return torch.cat([conv.lin_key.weight[:, n:] + conv.lin_query.weight[:, n:], conv.lin_value.weight[:, n:]])


class GatedSum:
    """Σ_j σ(g_j) v_j with the edge (g, v), per channel. σ' = σ (1 − σ)."""

    kept = 1
    results = 1
    maps = 2

    @staticmethod
    def reduce(edges: Tensor, parameter: Tensor | None) -> Tensor:
        g, v = edges.chunk(2, dim=-1)
        return (g.sigmoid() * v).sum(1, keepdim=True)

    @staticmethod
    def forward(edges: Tensor, parameter: Tensor | None, out: Tensor) -> None:
        g, v = edges.chunk(2, dim=-1)
        torch.sum(g.sigmoid_() * v, 1, out=out[:, 0])

    @staticmethod
    def backward(
        edges: Tensor, parameter: Tensor | None, out: Tensor, gradient: Tensor, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        g, v = edges.chunk(2, dim=-1)
        gate = g.sigmoid_()
        d = torch.empty_like(edges)
        dg, dv = d.chunk(2, dim=-1)
        torch.mul(gate, gradient, out=dv)
        torch.mul(dv, v, out=dg)
        dg.addcmul_(dg, gate, value=-1.0)
        return d, None
