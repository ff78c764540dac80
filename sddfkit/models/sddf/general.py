"""General as published: additive attention and l2 normalisation."""

import torch
from torch import Tensor, nn
from torch_geometric.nn import GeneralConv

from sddfkit.models.sddf.attention import Neighbours, of_heads
from sddfkit.models.sddf.base import SDDFModel
from sddfkit.models.sddf.layout import N_TYPES, Layout

_HEADS = 4
_SLOPE = 0.2


class General(SDDFModel):
    """Two GeneralConv of torch-geometric (J. You, R. Ying, J. Leskovec, NeurIPS 2020, doi:10.48550/arXiv.2011.08843).

    See :class:`~sddfkit.models.sddf.base.SDDFModel`.
    """

    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """GeneralConv node → width → width / 4, four heads of that width, whose mean is taken."""
        options = {"in_edge_channels": edge, "heads": _HEADS, "attention": True}
        options |= {"l2_normalize": True, "skip_linear": True}
        return GeneralConv(node, width, **options), GeneralConv(width, width // 4, **options)

    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.first`.

        The message W_m x_j + W_e e + b is linear in the coordinates of the edge, T·a: scores are (Tᵀ u)·a, and the
        mean over heads of T Σ_j α a is one product with the tables of all heads.
        """
        conv = self.model_blocks[0]["gnn_layer"]
        rows = conv.lin_msg(self.atoms) + conv.lin_edge.bias
        tables = torch.cat([self.edge_tables(conv.lin_edge.weight), rows.expand(N_TYPES, -1, -1)], dim=1)
        tables = of_heads(tables, _HEADS)
        near = Neighbours(layout)
        alpha = near.softmax(near.spread(nn.functional.leaky_relu(_scores(conv, layout, a, tables), _SLOPE)))
        mixed = alpha.transpose(1, 2) @ near.spread(a)
        return nn.functional.normalize(_mean(layout, mixed, tables) + conv.lin_self(self.atoms)[layout.kind])

    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.second`. Σ_j α_ij W_m x_j is a dense product per molecule."""
        conv = self.model_blocks[1]["gnn_layer"]
        tables = of_heads(self.edge_tables(conv.lin_edge.weight), _HEADS)
        message = (x @ conv.lin_msg.weight.T).view(layout.n, _HEADS, -1)
        bias = (conv.lin_msg.bias + conv.lin_edge.bias).view(_HEADS, -1)
        score = ((message + bias) * conv.att_msg).sum(-1).index_select(0, layout.source)
        score = nn.functional.leaky_relu(_scores(conv, layout, a, tables) + score, _SLOPE)
        near = Neighbours(layout)
        alpha = near.softmax(near.spread(score))
        place, largest = near.pairs()
        dense = alpha.new_zeros(layout.n_molecules * largest**2, _HEADS).index_copy(0, place, near.gather(alpha))
        dense = dense.view(-1, largest, largest, _HEADS).transpose(2, 3).flatten(2)
        sums = dense @ layout.dense(message).transpose(1, 2).flatten(1, 2)
        out = sums.flatten(0, 1).index_select(0, layout.padded_atoms[0]) / _HEADS
        out = out + _mean(layout, alpha.transpose(1, 2) @ near.spread(a), tables) + bias.mean(0) * layout.has_neighbours
        return layout.pool(nn.functional.normalize(out + conv.lin_self(x)))


def _scores(conv: GeneralConv, layout: Layout, a: Tensor, tables: Tensor) -> Tensor:
    """u·(T a) = (Tᵀ u)·a: (e, h)."""
    return layout.by_kind(a, torch.einsum("thcw,hw->tch", tables, conv.att_msg[0]))


def _mean(layout: Layout, mixed: Tensor, tables: Tensor) -> Tensor:
    """Mean over heads of T·mixed: (n, h, c) → (n, w)."""
    return layout.atoms_by_kind(mixed.flatten(1), tables.flatten(1, 2)) / _HEADS
