"""Energy networks: from a batch of graphs to energies and forces.

A record becomes a graph (:func:`graph`): atoms are nodes, all pairs of atoms closer than the cutoff are edges in both
directions, bond types are a feature of the edges. Graphs are :class:`torch_geometric.data.Data`, batches ``Batch``:

============== ============ ======================================================
``z``          (n,) int64   atomic numbers
``pos``        (n, 3)       positions, Å
``charge``     (n,) int64   formal charges
``edge_index`` (2, e) int64 source j and target i of each edge
``edge_bond``  (e,) int64   bond type, :data:`UNSPECIFIED_BOND` where not bonded
``y``          (b,)         target, eV: energy minus the reference energies
``forces``     (n, 3)       target, eV/Å
============== ============ ======================================================

An :class:`EnergyModel` maps a batch to :class:`Prediction`: energy (b,) in eV relative to the reference energies, and
forces (n, 3) in eV/Å as the exact derivative. Five networks share geometry and readout and differ in their convolution
alone: :class:`GEN`, :class:`PNA`, :class:`ResGated`, :class:`General`, :class:`Transformer`. They are smooth (an
envelope inside every aggregation), size-extensive, and invariant to rotation, translation and permutation. What they
need to know of the training set arrives as :class:`GraphStats`.

An :class:`Ensemble` of them predicts total energies in float64, with the spread of its members.
"""

from sddfkit.models.base import EnergyModel, Prediction
from sddfkit.models.ensemble import Ensemble, EnsembleError, EnsemblePrediction
from sddfkit.models.gen import GEN
from sddfkit.models.general import General
from sddfkit.models.graphs import UNSPECIFIED_BOND, GraphError, GraphStats, graph, graph_stats, neighbours
from sddfkit.models.pna import PNA
from sddfkit.models.resgated import ResGated
from sddfkit.models.transformer import Transformer

__all__ = [
    "GEN",
    "PNA",
    "UNSPECIFIED_BOND",
    "EnergyModel",
    "Ensemble",
    "EnsembleError",
    "EnsemblePrediction",
    "General",
    "GraphError",
    "GraphStats",
    "Prediction",
    "ResGated",
    "Transformer",
    "graph",
    "graph_stats",
    "neighbours",
]
