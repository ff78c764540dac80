"""Attention over the neighbours of each atom, without a wide array of edges."""

import torch
from torch import Tensor

from sddfkit.models.sddf.layout import Layout


class Neighbours:
    """The edges into each atom as a dense (n, k) array, k the most neighbours of an atom; the rest counts as nothing.

    q_i·(W e) = (Wᵀ q_i)·e and Σ_j α_ij W e_ij = W Σ_j α_ij e_ij: scores and sums are taken of the few coordinates of
    an edge, and mapped afterwards.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        degree = layout.degree
        self.most = int(degree.max())
        place = torch.arange(self.most, device=degree.device)
        self.exists = place < degree[:, None]
        first = torch.cumsum(degree, 0) - degree
        self.edge = torch.where(self.exists, first[:, None] + place, 0).flatten()
        self.slot = torch.nonzero(self.exists.flatten())[:, 0]

    def spread(self, values: Tensor) -> Tensor:
        """Values of edges (e, c) as (n, k, c)."""
        return values.index_select(0, self.edge).view(self.layout.n, self.most, values.shape[1])

    def softmax(self, scores: Tensor) -> Tensor:
        """α (n, k, h) from scores (n, k, h): over the neighbours of each atom, zero beyond them."""
        exists = self.exists[:, :, None]
        alpha = torch.softmax(scores.masked_fill(~exists, torch.finfo(scores.dtype).min), dim=1)
        return alpha * exists

    def gather(self, alpha: Tensor) -> Tensor:
        """α (n, k, h) as (e, h)."""
        return alpha.flatten(0, 1).index_select(0, self.slot)

    def pairs(self) -> tuple[Tensor, int]:
        """Place (e,) of each edge in a dense (molecules, target, source) array, and the size of one side of it."""
        row, largest = self.layout.padded_atoms
        return row[self.layout.target] * largest + row[self.layout.source] % largest, largest


def of_heads(tables: Tensor, heads: int) -> Tensor:
    """(9, c, h·w) → (9, h, c, w)."""
    return tables.unflatten(2, (heads, -1)).transpose(1, 2)
