"""From a record to a graph, and the few statistics of a training set that the nets are told."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch_geometric.data import Data

from sddfkit.data import Record
from sddfkit.models.geometry import envelope

N_BOND_TYPES: Final = 7
"""Single, double, triple, aromatic, ionic, hydrogen, unspecified (not bonded, or bonds unknown)."""

UNSPECIFIED_BOND: Final = 6

_MIN_DISTANCE = 0.1
"""Å. Closer atoms are a broken input; the direction between coinciding atoms is undefined."""


_MOST_DENSE = 500
"""Atoms. Up to here the dense search for neighbours is the faster one."""


class GraphError(ValueError):
    """A record cannot become a graph, or a graph does not fit the model."""


def neighbours(pos: Tensor, cutoff: float, batch: Tensor | None = None) -> Tensor:
    """All ordered pairs of different atoms of one molecule that are closer than `cutoff`.

    Parameters
    ----------
    pos : (n, 3), Å
    cutoff : Å
    batch : (n,) int64, optional
        Molecule of each atom; one molecule when left out.

    Returns
    -------
    (2, e) int64
        Rows j (source) and i (target), sorted by target; both directions of every pair are present.

    Notes
    -----
    Up to 500 atoms all n² distances are formed at once, which is the fastest; beyond, a k-d tree finds the pairs at a
    cost that grows as n.
    """
    position = pos.detach()
    if len(position) > _MOST_DENSE:
        return _neighbours_by_tree(position, cutoff, batch)
    near = torch.cdist(position, position, compute_mode="donot_use_mm_for_euclid_dist") < cutoff
    if batch is not None:
        near &= batch[:, None] == batch[None, :]
    near.fill_diagonal_(False)
    target, source = near.nonzero(as_tuple=True)
    return torch.stack([source, target])


def _neighbours_by_tree(pos: Tensor, cutoff: float, batch: Tensor | None) -> Tensor:
    from scipy.spatial import cKDTree  # only large molecules need it

    place = pos.cpu()
    if batch is not None:
        # A fourth coordinate keeps molecules apart: nothing of another one is near.
        place = torch.cat([place, 2.0 * cutoff * batch.cpu()[:, None].to(place)], dim=1)
    tree = cKDTree(place.numpy())
    # Slightly further, and then the same comparison as in the dense search: equal to the last bit.
    first, second = torch.from_numpy(tree.query_pairs(cutoff * (1.0 + 1e-5), output_type="ndarray")).to(pos.device).T
    near = (pos[first] - pos[second]).norm(dim=1) < cutoff
    first, second = first[near], second[near]
    source, target = torch.cat([first, second]), torch.cat([second, first])
    order = torch.argsort(target * len(pos) + source)
    return torch.stack([source[order], target[order]])


def graph(
    record_like: Record, cutoff: float, *, energy: float | None = None, dtype: torch.dtype = torch.float32
) -> Data:
    """The graph of one conformer.

    Parameters
    ----------
    record_like : Record
        Its labels are not read, except the forces.
    cutoff : Å
        Edges join atoms closer than this, and bonded atoms at any distance (networks with an envelope see nothing of
        such an edge). A model accepts graphs whose cutoff is at least its own.
    energy : eV, optional
        Target with the reference energies already removed (in float64).
    dtype : torch.dtype
        Of positions, energy and forces.

    Returns
    -------
    Data
        ``z`` (n,), ``pos`` (n, 3) Å, ``charge`` (n,) formal charges, ``edge_index`` (2, e), ``edge_bond`` (e,),
        ``cutoff``, ``record_id``, ``molecule_id``; where known ``y`` (1,) eV and ``forces`` (n, 3) eV/Å.

    Raises
    ------
    GraphError
        Shapes that do not fit, positions that are not finite, atoms that coincide, unknown bond types.
    """
    name = record_like.record_id
    z = torch.as_tensor(record_like.atomic_numbers, dtype=torch.long)
    n = len(z)
    pos = torch.as_tensor(record_like.positions, dtype=torch.float64)
    charge = torch.as_tensor(record_like.formal_charges, dtype=torch.long)
    if pos.shape != (n, 3) or charge.shape != (n,):
        raise GraphError(
            f"record {name}: positions {tuple(pos.shape)} and formal charges {tuple(charge.shape)} do not fit "
            f"{n} atomic numbers; expected ({n}, 3) in Å and ({n},)"
        )
    if not torch.isfinite(pos).all():
        raise GraphError(f"record {name}: positions contain NaN or infinity")
    edge_index, edge_bond = _with_bonds(neighbours(pos, cutoff), record_like.bonds, n, name)
    source, target = edge_index
    if ((pos[source] - pos[target]).square().sum(1) < _MIN_DISTANCE**2).any():
        raise GraphError(f"record {name}: two atoms are closer than {_MIN_DISTANCE} Å; the geometry is broken")
    data = Data(
        z=z,
        pos=pos.to(dtype),
        charge=charge,
        edge_index=edge_index,
        edge_bond=edge_bond,
        cutoff=float(cutoff),
        record_id=name,
        molecule_id=record_like.molecule_id,
    )
    if energy is not None:
        data.y = torch.tensor([energy], dtype=dtype)
    if record_like.forces is not None:
        data.forces = torch.as_tensor(record_like.forces, dtype=dtype).reshape(n, 3)
    return data


def _with_bonds(edge_index: Tensor, bonds: ArrayLike, n: int, name: str) -> tuple[Tensor, Tensor]:
    """The edges with those of all bonds, sorted by target, and their bond types, unspecified where none is listed."""
    listed = torch.as_tensor(bonds, dtype=torch.long).reshape(-1, 3)
    if len(listed) and (listed.min() < 0 or listed[:, :2].max() >= n or listed[:, 2].max() >= N_BOND_TYPES):
        raise GraphError(
            f"record {name}: a bond names an atom outside 0…{n - 1} or a type outside 0…{N_BOND_TYPES - 1}"
        )
    first, second, kind = listed[listed[:, 0] != listed[:, 1]].T
    bonded = torch.cat([second * n + first, first * n + second])
    edges = torch.unique(torch.cat([edge_index[1] * n + edge_index[0], bonded]))
    edge_bond = torch.full_like(edges, UNSPECIFIED_BOND)
    edge_bond[torch.searchsorted(edges, bonded)] = kind.repeat(2)
    return torch.stack([edges % n, edges // n]), edge_bond


@dataclass(frozen=True)
class GraphStats:
    """What a net is told about its training set.

    Attributes
    ----------
    elements : tuple of int
        Atomic numbers seen, ascending. A net refuses others by name.
    mean_degree : float
        Mean of the envelope-weighted degree D_i = Σ_j w(d_ij).
    mean_log_degree : float
        Mean of log(1 + D_i), the δ of PNA's scalers.
    bonds : bool
        Whether the training graphs carried bond types.
    """

    elements: tuple[int, ...]
    mean_degree: float
    mean_log_degree: float
    bonds: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "elements": list(self.elements)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GraphStats":
        """The inverse of :meth:`to_dict`."""
        return cls(**{**values, "elements": tuple(values["elements"])})


def graph_stats(graphs: Iterable[Data]) -> GraphStats:
    """Statistics over all atoms of `graphs` (the training set).

    Raises
    ------
    GraphError
        When there is no graph.
    """
    degrees: list[Tensor] = []
    elements: set[int] = set()
    bonds = False
    for data in graphs:
        source, target = data.edge_index
        distance = (data.pos[source] - data.pos[target]).double().norm(dim=1)
        weight = envelope(distance, data.cutoff)
        degrees.append(weight.new_zeros(len(data.z)).index_add(0, target, weight))
        elements.update(data.z.tolist())
        bonds = bonds or bool((data.edge_bond != UNSPECIFIED_BOND).any())
    if not degrees:
        raise GraphError("no graphs: statistics need at least one training record")
    degree = torch.cat(degrees)
    mean_log = float(degree.log1p().mean())
    # A set of isolated atoms has degree zero everywhere; PNA divides by δ, so it gets the value of one neighbour.
    return GraphStats(tuple(sorted(elements)), float(degree.mean()), mean_log or math.log(2.0), bonds)
