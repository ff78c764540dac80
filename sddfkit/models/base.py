"""What all energy networks share: embeddings in, atomic energies out, forces by one derivative."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from qcelemental import periodictable
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from sddfkit.models.geometry import Edges, Neighbourhood, sum_over
from sddfkit.models.graphs import N_BOND_TYPES, GraphError, GraphStats

_MAX_Z = 118
_MAX_CHARGE = 4
"""Formal charges −4 … +4 have an embedding."""


class Prediction(NamedTuple):
    """Energies and forces of a batch.

    Attributes
    ----------
    energy : (b,), eV
        Per molecule, relative to the reference energies of its atoms.
    forces : (n, 3), eV/Å, or None
    """

    energy: Tensor
    forces: Tensor | None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside the block depend on `seed` alone; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class EnergyModel(nn.Module, ABC):
    """Sum of atomic energies E = Σ_i ε(h_i), with atom features h from a message-passing `encode`.

    A subclass is one convolution: it builds its layers inside ``with seeded(seed)`` and fills in :meth:`encode`.
    Smooth and size-extensive by construction: geometry is computed from ``data.pos`` inside :meth:`forward`, each atom
    sees its neighbours within the cutoff alone, and the readout is a sum.

    Parameters
    ----------
    width : int
        Features per atom.
    messages : int
        Features per pair of neighbours; the convolutions pass messages of this width. There are some twenty times as
        many messages as atoms: this is what costs.
    cutoff : Å
    n_radial, n_normals : int
        Radial basis functions; channels of the moments and local normals of an atom, see
        :class:`~sddfkit.models.geometry.Neighbourhood`.
    stats : GraphStats
        Of the training set; its elements are the only ones that the net accepts.
    seed : int
        Fixes the initial weights.
    """

    element_index: Tensor

    def __init__(
        self,
        *,
        width: int,
        messages: int,
        cutoff: float,
        n_radial: int,
        n_normals: int,
        stats: GraphStats,
        seed: int,
    ) -> None:
        super().__init__()
        self.width = width
        self.cutoff = float(cutoff)
        self.stats = stats
        index = torch.full((_MAX_Z + 1,), -1)
        index[list(stats.elements)] = torch.arange(len(stats.elements))
        self.register_buffer("element_index", index, persistent=False)
        with seeded(seed):
            self.element = nn.Embedding(len(stats.elements), width)
            self.charge = nn.Embedding(2 * _MAX_CHARGE + 1, width)
            self.neighbourhood = Neighbourhood(
                n_elements=len(stats.elements),
                n_bond_types=N_BOND_TYPES,
                width=messages,
                n_radial=n_radial,
                n_normals=n_normals,
                cutoff=self.cutoff,
            )
            size = self.neighbourhood.atom_size
            self.surroundings = nn.Sequential(nn.Linear(size, width), nn.SiLU(), nn.Linear(width, width))
            self.readout = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    @abstractmethod
    def encode(self, x: Tensor, edges: Edges) -> Tensor:
        """Atom features (n, width) from embeddings `x` (n, width) and edges."""

    def forward(self, data: Data | Batch, *, forces: bool = True) -> Prediction:
        """Energies and forces of a graph or a batch of graphs from :func:`sddfkit.models.graph`.

        In training mode (or where ``data.pos`` itself requires a gradient) the forces can be differentiated again.

        Raises
        ------
        GraphError
            An element or formal charge that the net does not know, or edges cut shorter than the net's cutoff.
        """
        self._check(data)
        if not forces:
            return Prediction(self._energy(data, data.pos), None)
        differentiable = data.pos.requires_grad
        with torch.enable_grad():
            pos = data.pos if differentiable else data.pos.detach().requires_grad_()
            energy = self._energy(data, pos)
            (gradient,) = torch.autograd.grad(energy.sum(), pos, create_graph=self.training or differentiable)
        return Prediction(energy if self.training or differentiable else energy.detach(), -gradient)

    def _energy(self, data: Data | Batch, pos: Tensor) -> Tensor:
        element = self.element_index[data.z]
        x = self.element(element) + self.charge(data.charge + _MAX_CHARGE)
        edges, surroundings = self.neighbourhood(pos, element, data.edge_index, data.edge_bond)
        x = x + self.surroundings(surroundings)
        atomic = self.readout(self.encode(x, edges)).squeeze(-1)
        if data.batch is None:
            return atomic.sum(0, keepdim=True)
        return sum_over(atomic, data.batch, data.num_graphs)

    def _check(self, data: Data | Batch) -> None:
        unknown = sorted(set(data.z[self.element_index[data.z] < 0].tolist()))
        if unknown:
            raise GraphError(
                f"{type(self).__name__} was trained on {_symbols(self.stats.elements)} and has never seen "
                f"{_symbols(unknown)}; label molecules with it and train again, or leave these molecules out"
            )
        if (data.charge.abs() > _MAX_CHARGE).any():
            raise GraphError(f"formal charges beyond ±{_MAX_CHARGE} are not supported: {data.charge.unique().tolist()}")
        self._check_cutoff(data)

    def _check_cutoff(self, data: Data | Batch) -> None:
        shortest = float(torch.as_tensor(data.cutoff).min())
        if shortest < self.cutoff - 1e-6:
            raise GraphError(
                f"the graph was cut at {shortest:g} Å but {type(self).__name__} needs neighbours up to {self.cutoff:g} "
                f"Å; build it with graph(record, {self.cutoff:g})"
            )


def _symbols(atomic_numbers: "tuple[int, ...] | list[int]") -> str:
    return ", ".join(periodictable.to_E(z) for z in atomic_numbers)
