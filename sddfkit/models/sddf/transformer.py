"""Transformer as published: attention with edge features and a gated residual."""

import math

import torch
from torch import Tensor, nn
from torch_geometric.nn import TransformerConv

from sddfkit.models.sddf.attention import Neighbours, of_heads
from sddfkit.models.sddf.base import SDDFModel
from sddfkit.models.sddf.layout import N_TYPES, Layout

_HEADS = 8


class Transformer(SDDFModel):
    """Two TransformerConv of torch-geometric (Y. Shi et al., IJCAI 2021, doi:10.24963/ijcai.2021/214).

    See :class:`~sddfkit.models.sddf.base.SDDFModel`; the first convolution has 8 × width / 2 channels, the second
    8 × width / 8.
    """

    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """TransformerConv node → 4 width → width."""
        options = {"heads": _HEADS, "concat": True, "beta": True, "edge_dim": edge}
        return TransformerConv(node, width // 2, **options), TransformerConv(4 * width, width // 8, **options)

    def widths(self, width: int) -> tuple[int, int]:
        """Channels behind the first and the second convolution."""
        return 4 * width, width

    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.first`.

        Query, key and value of an atom depend on its type. Key and value of an edge are linear in its coordinates, K·a
        and V·a with nine rows for the source: scores are (Kᵀ q)·a, one small table per type of the target.
        """
        conv = self.model_blocks[0]["gnn_layer"]
        edge = of_heads(self.edge_tables(conv.lin_edge.weight), _HEADS)
        query = conv.lin_query(self.atoms).view(N_TYPES, _HEADS, -1)
        keys, values = (_with_rows(edge, linear(self.atoms)) for linear in (conv.lin_key, conv.lin_value))
        score = torch.einsum("thcw,thw->tch", keys, query) / math.sqrt(conv.out_channels)
        near = Neighbours(layout)
        alpha = near.softmax(near.spread(layout.by_kind(a, score)))
        mixed = alpha.transpose(1, 2) @ near.spread(a)
        w_out, w_skip = _gate_map(conv)
        skip = conv.lin_skip(self.atoms)
        of_mixed = torch.einsum("thcw,hw->thc", values, w_out.view(_HEADS, -1)).flatten(1)[:, :, None]
        logit = layout.atoms_by_kind(mixed.flatten(1), of_mixed) + (skip @ w_skip)[layout.kind, None]
        beta = torch.sigmoid(logit)[:, None]
        # (1 − β) V·m + β r is one map of ((1 − β) m, β), with the skip r as one more row of the table.
        values = torch.cat([values, skip.view(N_TYPES, _HEADS, 1, -1)], dim=2)
        mixed = torch.cat([mixed * (1.0 - beta), beta.expand(-1, _HEADS, -1)], dim=2)
        return _mapped(layout, mixed, values).flatten(1)

    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """See :meth:`SDDFModel.second`.

        Only query and key are formed for every atom. Values and skip are linear, so they map sums over atoms: with
        c_j = Σ_i (1 − β_i) α_ij, the sum Σ_i (1 − β_i) Σ_j α_ij W x_j is W Σ_j c_j x_j; the gate β_i needs of them one
        number each, w·(W x_j) = (Wᵀ w)·x_j.
        """
        conv = self.model_blocks[1]["gnn_layer"]
        edge = of_heads(self.edge_tables(conv.lin_edge.weight), _HEADS)
        near = Neighbours(layout)
        alpha = near.softmax(self._scores(conv, x, a, edge, near))
        mixed = alpha.transpose(1, 2) @ near.spread(a)
        beta = torch.sigmoid(self._gate(conv, x, alpha, mixed, edge, near))[:, None]
        taken = near.gather(alpha * (1.0 - beta)[:, :, None])
        c = taken.new_zeros(layout.n, _HEADS).index_add(0, layout.source, taken)
        weights = torch.cat([beta, c], dim=1)
        # The sums of the weights stand at the end: the biases belong to them.
        sums = torch.cat([layout.weighted_pools(x, weights), layout.pool(weights)[:, :, None]], dim=2)
        skip = sums[:, 0] @ _with_bias(conv.lin_skip).T
        value = _with_bias(conv.lin_value).unflatten(0, (_HEADS, -1))
        by_head = sums[:, 1:].transpose(0, 1) @ value.transpose(1, 2)
        cell = layout.molecule * N_TYPES + layout.kind
        edges = mixed.new_zeros(layout.n_molecules * N_TYPES, *mixed.shape[1:])
        edges = edges.index_add(0, cell, mixed * (1.0 - beta)[:, :, None]).unflatten(0, (-1, N_TYPES))
        by_head = by_head + edges.permute(2, 0, 1, 3).flatten(2) @ edge.transpose(0, 1).flatten(1, 2)
        return skip + by_head.transpose(0, 1).flatten(1)

    def _scores(self, conv: TransformerConv, x: Tensor, a: Tensor, edge: Tensor, near: Neighbours) -> Tensor:
        """q_i·(k_j + W e) / √c: (n, k, h), with q·k by a dense product per molecule."""
        layout = near.layout
        query, key = (linear(x).view(layout.n, _HEADS, -1) for linear in (conv.lin_query, conv.lin_key))
        dense = layout.dense(query).transpose(1, 2) @ layout.dense(key).permute(0, 2, 3, 1)
        place, _ = near.pairs()
        of_atoms = dense.permute(0, 2, 3, 1).reshape(-1, _HEADS).index_select(0, place)
        of_edges = _mapped(layout, query, edge.transpose(2, 3))
        scores = near.spread(of_atoms) + near.spread(a) @ of_edges.transpose(1, 2)
        return scores / math.sqrt(conv.out_channels)

    def _gate(
        self, conv: TransformerConv, x: Tensor, alpha: Tensor, mixed: Tensor, edge: Tensor, near: Neighbours
    ) -> Tensor:
        """w·[o, r, o − r] with attention o and skip r, without forming them: (n,)."""
        layout = near.layout
        w_out, w_skip = _gate_map(conv)
        by_head = w_out.view(_HEADS, -1)
        value = _with_bias(conv.lin_value).unflatten(0, (_HEADS, -1))
        projected = torch.einsum("hwc,hw->ch", value, by_head)
        of_sources = (x @ projected[:-1] + projected[-1]).index_select(0, layout.source)
        of_edges = torch.einsum("thcw,hw->thc", edge, by_head).flatten(1)[:, :, None]
        out = (alpha * near.spread(of_sources)).sum((1, 2)) + layout.atoms_by_kind(mixed.flatten(1), of_edges)[:, 0]
        return out + x @ (conv.lin_skip.weight.T @ w_skip) + conv.lin_skip.bias @ w_skip


def _with_rows(edge: Tensor, rows: Tensor) -> Tensor:
    """Tables (9, h, c, w) with nine more rows for the types of the source, from (9, h·w)."""
    rows = rows.unflatten(1, (_HEADS, -1)).transpose(0, 1)
    return torch.cat([edge, rows.expand(N_TYPES, -1, -1, -1)], dim=2)


def _mapped(layout: Layout, values: Tensor, tables: Tensor) -> Tensor:
    """Each head through its own table of the type of the atom: (n, h, c) and (9, h, c, w) → (n, h, w)."""
    parts = [(values[atoms].transpose(0, 1) @ tables[kind]).transpose(0, 1) for kind, atoms, _ in layout.kinds]
    return torch.cat(parts)


def _with_bias(linear: nn.Linear) -> Tensor:
    """[W, b]: the map of x with a 1 at its end."""
    return torch.cat([linear.weight, linear.bias[:, None]], dim=1)


def _gate_map(conv: TransformerConv) -> tuple[Tensor, Tensor]:
    """w·[o, r, o − r] = (w₁ + w₃)·o + (w₂ − w₃)·r."""
    first, second, third = conv.lin_beta.weight[0].chunk(3)
    return first + third, second - third
