"""Atoms and edges in an order in which sums over neighbours are dense, and all edges of a block share one table."""

from collections.abc import Iterator
from functools import cached_property
from typing import Final, NamedTuple

import torch
from torch import Tensor

from sddfkit.models.geometry import sum_over

N_TYPES: Final = 9
"""H C N O S Cl Br F and any other."""

_CACHED: Final = 2**18
"""Numbers in a chunk (1 MB in single precision): it stays in the cache of a core while it is worked on."""


class Block(NamedTuple):
    """Atoms of one type and one number of neighbours: a dense (m, degree) view of their edges.

    Attributes
    ----------
    kind : int
        Type of the atoms.
    degree : int
    atoms, edges : slice
        Of the sorted atoms and edges.
    """

    kind: int
    degree: int
    atoms: slice
    edges: slice


class Layout:
    """Atoms sorted by type and degree, edges by target.

    Parameters
    ----------
    kind : (n,) int64
        Type of each atom, 0 … 8.
    molecule : (n,) int64
    n_molecules : int
    edge_index : (2, e) int64
        Source and target.
    edge_bond : (e,) int64
    weights : bool
        Whether gradients of weights will be asked for; hand-written derivatives leave them out otherwise.

    Attributes
    ----------
    order : (n,) int64
        Old number of each sorted atom; all below is in the new numbers.
    kind, molecule, degree : (n,)
    source, target, bond : (e,)
        Edges j → i, sorted by i.
    blocks : list of Block
        Of atoms with neighbours, in order.
    kinds : list of (kind, atoms, edges)
        All atoms of one type, and the edges into them.
    """

    def __init__(
        self,
        kind: Tensor,
        molecule: Tensor,
        n_molecules: int,
        edge_index: Tensor,
        edge_bond: Tensor,
        *,
        weights: bool = True,
    ) -> None:
        n, (source, target) = len(kind), edge_index
        degree = torch.bincount(target, minlength=n)
        widest = int(degree.max()) + 1
        self.order = torch.argsort(kind * widest + degree, stable=True)
        new = torch.argsort(self.order)
        by_target = torch.argsort(new[target], stable=True)
        self.n, self.n_molecules, self.weights = n, n_molecules, weights
        self.kind, self.molecule, self.degree = kind[self.order], molecule[self.order], degree[self.order]
        self.source, self.target, self.bond = new[source[by_target]], new[target[by_target]], edge_bond[by_target]
        self.blocks: list[Block] = []
        self.kinds: list[tuple[int, slice, slice]] = []
        codes, sizes = torch.unique_consecutive(self.kind * widest + self.degree, return_counts=True)
        atom = edge = 0
        for code, size in zip(codes.tolist(), sizes.tolist(), strict=True):
            t, k = divmod(code, widest)
            atoms, edges = slice(atom, atom + size), slice(edge, edge + size * k)
            if k:
                self.blocks.append(Block(t, k, atoms, edges))
            if self.kinds and self.kinds[-1][0] == t:
                _, before, into = self.kinds.pop()
                self.kinds.append((t, slice(before.start, atoms.stop), slice(into.start, edges.stop)))
            else:
                self.kinds.append((t, atoms, edges))
            atom, edge = atoms.stop, edges.stop

    def chunks(self, width: int) -> Iterator[Block]:
        """The blocks, cut so that (edges, width) of each fits into the cache."""
        for block in self.blocks:
            step = max(1, _CACHED // (width * block.degree))
            for start in range(block.atoms.start, block.atoms.stop, step):
                stop = min(start + step, block.atoms.stop)
                first = block.edges.start + (start - block.atoms.start) * block.degree
                edges = slice(first, first + (stop - start) * block.degree)
                yield Block(block.kind, block.degree, slice(start, stop), edges)

    def by_kind(self, values: Tensor, tables: Tensor) -> Tensor:
        """values_e · tables[type of the target of e]: (e, c) and (9, c, w) → (e, w)."""
        parts = [values[edges] @ tables[kind] for kind, _, edges in self.kinds]
        return torch.cat(parts)

    def atoms_by_kind(self, values: Tensor, tables: Tensor) -> Tensor:
        """values_i · tables[type i]: (n, c) and (9, c, w) → (n, w)."""
        return torch.cat([values[atoms] @ tables[kind] for kind, atoms, _ in self.kinds])

    def pool(self, values: Tensor) -> Tensor:
        """Sum over the atoms of each molecule: (n, …) → (b, …)."""
        return sum_over(values, self.molecule, self.n_molecules)

    @property
    def has_neighbours(self) -> Tensor:
        """(n, 1) bool."""
        return (self.degree > 0)[:, None]

    @cached_property
    def padded_atoms(self) -> tuple[Tensor, int]:
        """Row of each atom in a dense (molecules × largest) array, and the number of atoms in the largest molecule."""
        order = torch.argsort(self.molecule, stable=True)
        count = torch.bincount(self.molecule, minlength=self.n_molecules)
        start = torch.cumsum(count, 0) - count
        inside = torch.empty_like(order)
        inside[order] = torch.arange(self.n, device=order.device) - start[self.molecule[order]]
        largest = int(count.max())
        return self.molecule * largest + inside, largest

    def dense(self, values: Tensor) -> Tensor:
        """(n, …) → (b, largest, …), filled up with zeros."""
        row, largest = self.padded_atoms
        if self.n == self.n_molecules * largest:
            return values.index_select(0, torch.argsort(row)).view(self.n_molecules, largest, *values.shape[1:])
        full = values.new_zeros(self.n_molecules * largest, *values.shape[1:]).index_copy(0, row, values)
        return full.view(self.n_molecules, largest, *values.shape[1:])

    def weighted_pools(self, values: Tensor, weights: Tensor) -> Tensor:
        """Σ_i s_i v_i over the atoms of each molecule, for several weights: (n, c) and (n, s) → (b, s, c)."""
        return self.dense(weights).transpose(1, 2) @ self.dense(values)
