"""Sums over neighbours of a nonlinear function of the edges, in chunks that stay in the cache."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from sddfkit.models.sddf.layout import Block, Layout


class Rule(Protocol):
    """How the edges into an atom become what the atom gets.

    `reduce` is the definition; `forward` and `backward` are the same by hand, for dense chunks, with less memory.
    """

    kept: int
    """Values per atom and channel that the backward pass needs; the first ones of them are the result."""
    results: int
    maps: int
    """Channels of an edge for each channel of the result."""

    @staticmethod
    def reduce(edges: Tensor, parameter: Tensor | None) -> Tensor:
        """(m, k, w_in) → (m, results, w), differentiable any number of times."""

    @staticmethod
    def forward(edges: Tensor, parameter: Tensor | None, out: Tensor) -> None:
        """Fill `out` (m, kept, w); `edges` (m, k, w_in) may be overwritten."""

    @staticmethod
    def backward(
        edges: Tensor, parameter: Tensor | None, out: Tensor, gradient: Tensor, weights: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Derivatives of the edges (m, k, w_in), which may be overwritten, and of the parameter where `weights` are
        wanted."""


class _EdgeSum(torch.autograd.Function):
    """:func:`edge_sum` with a derivative by hand, which itself is differentiated by autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        rule: Rule,
        layout: Layout,
        a: Tensor,
        tables: Tensor,
        sources: Tensor | None,
        targets: Tensor | None,
        parameter: Tensor | None,
    ) -> Tensor:
        width = tables.shape[2]
        out = a.new_zeros(layout.n, rule.kept, width // rule.maps)
        for block, edges in _chunks(layout, a, tables, sources, targets):
            rule.forward(edges, parameter, out[block.atoms])
        ctx.rule, ctx.layout, ctx.out = rule, layout, out
        ctx.save_for_backward(a, tables, sources, targets, parameter)
        return out[:, : rule.results]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        rule, layout = ctx.rule, ctx.layout
        inputs = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, None, *_differentiable(rule, layout, inputs, ctx.needs_input_grad[2:], gradient)
        a, tables, sources, targets, parameter = inputs
        weights, width = layout.weights and ctx.needs_input_grad[3], tables.shape[2]
        da = torch.empty_like(a)
        d_tables = torch.zeros_like(tables) if weights else None
        d_sources = None if sources is None else torch.zeros_like(sources)
        d_targets = None if targets is None else torch.zeros_like(targets)
        d_parameter = None if parameter is None or not weights else torch.zeros_like(parameter)
        for block, edges in _chunks(layout, a, tables, sources, targets):
            chunk, slope = rule.backward(edges, parameter, ctx.out[block.atoms], gradient[block.atoms], weights)
            if d_targets is not None:
                torch.sum(chunk[..., : d_targets.shape[1]], 1, out=d_targets[block.atoms])
            if d_parameter is not None and slope is not None:
                d_parameter += slope
            chunk = chunk.view(-1, width)
            torch.mm(chunk, tables[block.kind].T, out=da[block.edges])
            if d_tables is not None:
                d_tables[block.kind].addmm_(a[block.edges].T, chunk)
            if d_sources is not None:
                d_sources.index_add_(0, layout.source[block.edges], chunk)
        return None, None, da, d_tables, d_sources, d_targets, d_parameter


def _chunks(
    layout: Layout, a: Tensor, tables: Tensor, sources: Tensor | None, targets: Tensor | None
) -> Iterator[tuple[Block, Tensor]]:
    """Values of the edges, chunk by chunk, (m, k, w), in one piece of memory: each is lost with the next.

    The backward pass forms them again: that is faster than to fetch what does not fit into the cache.
    """
    width = tables.shape[2]
    blocks = list(layout.chunks(width))
    scratch = a.new_empty(max((block.edges.stop - block.edges.start for block in blocks), default=0), width)
    for block in blocks:
        chunk = scratch[: block.edges.stop - block.edges.start]
        torch.mm(a[block.edges], tables[block.kind], out=chunk)
        if sources is not None:
            chunk += sources.index_select(0, layout.source[block.edges])
        edges = chunk.view(-1, block.degree, width)
        if targets is not None:
            edges[..., : targets.shape[1]] += targets[block.atoms, None]
        yield block, edges


def edge_sum(
    rule: Rule,
    layout: Layout,
    a: Tensor,
    tables: Tensor,
    sources: Tensor | None = None,
    targets: Tensor | None = None,
    parameter: Tensor | None = None,
) -> Tensor:
    """Reduce, over the edges j → i into each atom, the values a_ij · tables[type i] + sources_j + targets_i.

    Parameters
    ----------
    a : (e, c)
    tables : (9, c, w)
    sources : (n, w), optional
    targets : (n, ≤ w), optional
        Added to the first channels.
    parameter : (1,), optional
        Of the rule.

    Returns
    -------
    (n, results, channels)
        Zero for atoms without neighbours.
    """
    return _EdgeSum.apply(rule, layout, a, tables, sources, targets, parameter)


def edge_sum_by_autograd(
    rule: Rule,
    layout: Layout,
    a: Tensor,
    tables: Tensor,
    sources: Tensor | None = None,
    targets: Tensor | None = None,
    parameter: Tensor | None = None,
) -> Tensor:
    """:func:`edge_sum` without a derivative by hand."""
    edges = layout.by_kind(a, tables)
    if sources is not None:
        edges = edges + sources.index_select(0, layout.source)
    if targets is not None:
        added = torch.nn.functional.pad(targets, (0, edges.shape[1] - targets.shape[1]))
        edges = edges + added.index_select(0, layout.target)
    reduced = [
        rule.reduce(edges[block.edges].view(-1, block.degree, edges.shape[1]), parameter) for block in layout.blocks
    ]
    if not reduced:
        return a.new_zeros(layout.n, rule.results, edges.shape[1] // rule.maps)
    rows = torch.cat(reduced)
    atoms = torch.nonzero(layout.degree)[:, 0]
    return rows.new_zeros(layout.n, *rows.shape[1:]).index_copy(0, atoms, rows)


def _differentiable(
    rule: Rule, layout: Layout, inputs: tuple[Tensor | None, ...], needed: tuple[bool, ...], gradient: Tensor
) -> list[Tensor | None]:
    """The gradients of the inputs as functions of the inputs: what forces need to be trained on."""
    wanted = [tensor for tensor, need in zip(inputs, needed, strict=True) if need and tensor is not None]
    out = edge_sum_by_autograd(rule, layout, *inputs)  # type: ignore[arg-type]
    found = iter(torch.autograd.grad(out, wanted, gradient, create_graph=True, allow_unused=True))
    return [next(found) if need and tensor is not None else None for tensor, need in zip(inputs, needed, strict=True)]
