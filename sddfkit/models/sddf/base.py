"""What the five published networks share: embeddings, point-pair features, body, readout, checkpoints, refusals."""

import pickle
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data

from sddfkit.data.readers.sddf import ELEMENTS
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models.base import EnergyModel, seeded
from sddfkit.models.graphs import N_BOND_TYPES, UNSPECIFIED_BOND, GraphError, GraphStats
from sddfkit.models.sddf.geometry import ANGLES, DISTANCES, fold, folded_basis, normals, plain_basis
from sddfkit.models.sddf.layout import N_TYPES, Layout
from sddfkit.units import EV_TO_KCAL_MOL, HARTREE_TO_EV

PUBLISHED_WIDTH: Final = 1024
CUTOFF: Final = 4.0
"""Å."""
MOST_ATOMS: Final = 200
SHORTEST: Final = 0.8
"""Å. Closer atoms are an overlap."""
FLAT: Final = 0.1
"""Å. A molecule with no |z| beyond this is taken for a drawing."""
LARGEST_TARGET: Final = 5000.0
"""kcal/mol."""
DROPOUT: Final = 0.15

_HARTREE: Final = (
    -0.602097332,
    -38.1008055,
    -54.7375864,
    -75.2024502,
    -398.139817,
    -460.185141,
    -2573.77264,
    -99.8234301,
)
PUBLISHED_REFERENCES: Final = ReferenceEnergies(
    {z: energy * HARTREE_TO_EV for z, energy in zip(ELEMENTS, _HARTREE, strict=True)},
    "least squares over the published data set, ωB97X/6-31G(d)",
)
"""What the published networks leave out of their energies."""

Path_ = Literal["exact", "plain"]


class CheckpointError(ValueError):
    """A file is no checkpoint of this network."""


class SDDFModel(EnergyModel):
    """Two convolutions, a sum over the atoms and a small readout, as published with the smart distributed data factory.

    T. Ghukasyan et al., Sci. Rep. 15, 7122 (2025), doi:10.1038/s41598-025-90981-6. Same tensors for the same weights,
    energies in eV instead of kcal/mol.

    The published faults are kept; the networks of :mod:`sddfkit.models` are free of them:

    - The energy jumps where a pair crosses the cutoff, and forces have kinks at the centres of the bases, at ReLU and
      at maxima.
    - The readout sees the sum over all atoms: energies are not extensive. The normals of the point-pair features point
      to the centroid: a distant second molecule changes everything.
    - Ordered pairs of elements: the energy may depend on the direction in which an edge is written.
    - Charge is ignored, and any element beyond H, C, N, O, S, Cl, Br, F is the same one.
    - Bonds are edges at any distance.
    - Refused as in the publication (:class:`~sddfkit.models.graphs.GraphError`): atoms closer than 0.8 Å, more than
      200 atoms, molecules in the plane z = 0 (whatever drew them there), targets beyond 5000 kcal/mol.

    Parameters
    ----------
    stats : GraphStats
        Of the training set. Kept, not used: the published networks know nothing of it.
    width : int
        Channels between the convolutions; all other widths follow in the published proportion. A multiple of 64;
        1024 was published.
    messages : None
        Follows from `width`; a number is refused.
    layers, n_radial, n_normals : int
        2, 8 and 1 were published; the names are those of the other presets, and other values are refused.
    cutoff : Å
    path : {"exact", "plain"}
        ``"plain"`` calls torch-geometric's own convolutions. ``"exact"`` computes the same by the algebra that is
        described in :mod:`sddfkit.models.sddf`, many times faster.
    seed : int
        Fixes the initial weights.
    """

    type_index: Tensor
    # Modules whose nesting gives the published names.
    node_embedding_list: Any
    edge_embedding_list: Any
    model_blocks: Any

    def __init__(
        self,
        *,
        stats: GraphStats,
        width: int = PUBLISHED_WIDTH,
        messages: None = None,
        layers: int = 2,
        cutoff: float = CUTOFF,
        n_radial: int = len(DISTANCES),
        n_normals: int = 1,
        path: Path_ = "exact",
        seed: int = 0,
    ) -> None:
        # The layers of the smooth networks, which EnergyModel makes, have no place here.
        nn.Module.__init__(self)
        if messages is not None:
            raise ValueError(f"messages is {messages!r}, but here it follows from width: leave it out")
        given, published = (layers, n_radial, n_normals), (2, len(DISTANCES), 1)
        if given != published:
            raise ValueError(
                f"layers, n_radial, n_normals are {given}, but the published networks have {published}: choose "
                "preset=sddf, or one of the presets smooth for other values"
            )
        if width <= 0 or width % 64:
            raise ValueError(f"width {width} is not a multiple of 64 (published: {PUBLISHED_WIDTH})")
        if path not in get_args(Path_):
            raise ValueError(f"path is {path!r}, expected one of {', '.join(get_args(Path_))}")
        self.width, self.cutoff, self.stats, self.path = width, float(cutoff), stats, path
        index = torch.full((119,), N_TYPES - 1)
        index[list(ELEMENTS)] = torch.arange(len(ELEMENTS))
        self.register_buffer("type_index", index, persistent=False)
        node, half, ppf = width // 4, width // 8, width // 64
        with seeded(seed):
            self.node_embedding_list = nn.ModuleList([_embedding(N_TYPES, node)])
            self.edge_embedding_list = nn.ModuleList(
                [_embedding(N_TYPES**2, half), _embedding(N_BOND_TYPES, half), _point_pairs(3 * ppf, ppf)]
            )
            first, second = self.convolutions(node, width, 2 * half + 4 * ppf)
            hidden, pooled = self.widths(width)
            post = nn.Sequential(nn.LayerNorm(hidden), nn.Dropout(DROPOUT), nn.ReLU(inplace=True))
            self.model_blocks = nn.ModuleList(
                [nn.ModuleDict({"gnn_layer": first, "post_gnn": post}), nn.ModuleDict({"gnn_layer": second})]
            )
            self.energy_predictor = nn.Sequential(
                nn.Linear(pooled, node), nn.LayerNorm(node), nn.Dropout(DROPOUT), nn.ReLU(), nn.Linear(node, 1)
            )

    @abstractmethod
    def convolutions(self, node: int, width: int, edge: int) -> tuple[nn.Module, nn.Module]:
        """The two convolutions of torch-geometric, for `node` and `edge` channels at their entrance."""

    def widths(self, width: int) -> tuple[int, int]:
        """Channels behind the first and the second convolution."""
        return width, width // 4

    @abstractmethod
    def first(self, a: Tensor, layout: Layout) -> Tensor:
        """The first convolution by exact algebra: (n, hidden).

        `a` (e, 49) holds the coordinates of the edges: 23 values of the basis, 1, source type (9), bond type (7), all
        over the distance, and the source type (9) once more, as it is.
        """

    @abstractmethod
    def second(self, x: Tensor, a: Tensor, layout: Layout) -> Tensor:
        """The second convolution, summed over the atoms of each molecule, by exact algebra: (b, pooled).

        `x` (n, hidden) are the atoms; `a` (e, 40) the coordinates of the edges, all over the distance.
        """

    def encode(self, x: Tensor, edges: Any) -> Tensor:
        raise NotImplementedError("the published networks have no features of single atoms to read out")

    def _energy(self, data: Data | Batch, pos: Tensor) -> Tensor:
        kind = self.type_index[data.z]
        single = data.batch is None
        molecule = torch.zeros_like(kind) if single else data.batch
        n_molecules = 1 if single else data.num_graphs
        source, target = data.edge_index
        with torch.no_grad():
            distance = (pos[source] - pos[target]).square().sum(1).sqrt()
            keep = (distance < self.cutoff) | (data.edge_bond != UNSPECIFIED_BOND)
        edge_index, bond = data.edge_index[:, keep], data.edge_bond[keep]
        if self.path == "plain":
            pooled = self._plain(kind, pos, molecule, n_molecules, edge_index, bond)
        else:
            # EnergyModel differentiates a copy of the positions; outside training, nothing else.
            forces_alone = pos is not data.pos and not self.training
            layout = Layout(kind, molecule, n_molecules, edge_index, bond, weights=not forces_alone)
            a = self._edge_coordinates(pos, layout)
            x = self.model_blocks[0]["post_gnn"](self.first(a, layout))
            pooled = self.second(x, a[:, :-N_TYPES], layout)
        return self.energy_predictor(pooled)[:, 0] / EV_TO_KCAL_MOL

    def _plain(
        self, kind: Tensor, pos: Tensor, molecule: Tensor, n_molecules: int, edge_index: Tensor, bond: Tensor
    ) -> Tensor:
        """Both convolutions by torch-geometric, and the sum over atoms: (b, pooled)."""
        x = self.node_embedding_list[0]["embedding"](kind)
        normal = normals(pos, molecule, n_molecules)
        distance, near, like = plain_basis(pos, normal, edge_index)
        pair, bonds, points = self.edge_embedding_list
        layers = points["post_processing"]
        source, target = kind[edge_index]
        edge = (
            torch.cat(
                [
                    pair["embedding"](N_TYPES * source + target),
                    bonds["embedding"](bond),
                    layers["angle_embed_model"](like),
                    layers["dist_embed_model"](near),
                ],
                dim=1,
            )
            / distance[:, None]
        )
        for block in self.model_blocks:
            x = block["gnn_layer"](x, edge_index, edge)
            if "post_gnn" in block:
                x = block["post_gnn"](x)
        return x.new_zeros(n_molecules, x.shape[1]).index_add(0, molecule, x)

    def _edge_coordinates(self, pos: Tensor, layout: Layout) -> Tensor:
        """(e, 49), see :meth:`first`."""
        pos = pos.index_select(0, layout.order)
        normal = normals(pos, layout.molecule, layout.n_molecules)
        distance, basis = folded_basis(pos, normal, layout.source, layout.target)
        source = nn.functional.one_hot(layout.kind[layout.source], N_TYPES).to(pos.dtype)
        bond = nn.functional.one_hot(layout.bond, N_BOND_TYPES).to(pos.dtype)
        over = torch.cat([basis, torch.ones_like(basis[:, :1]), source, bond], dim=1) / distance[:, None]
        return torch.cat([over, source], dim=1)

    @property
    def atoms(self) -> Tensor:
        """(9, node) features of the atom types: all that the first convolution sees of an atom."""
        return self.node_embedding_list[0]["embedding"].weight

    def edge_tables(self, weight: Tensor, then: Tensor | None = None) -> Tensor:
        """Tables (9, 40, w), one per type of the target, that map the coordinates of edges as `weight` their features.

        W·edge = (T_pair + T_bond + W'·basis + c)/d: rows of the basis, of its biases, of the pair with each type of
        the source, and of the bond types. `weight` is (w, edge); where a second map `then` follows, it maps the rows.
        """
        pair, bonds, points = self.edge_embedding_list
        layers = points["post_processing"]
        half = bonds["embedding"].weight.shape[1]
        w_pair, w_bond, w_basis = weight.T.split([half, half, len(weight.T) - 2 * half])
        basis = fold(layers["angle_embed_model"][0], layers["dist_embed_model"][0]) @ w_basis
        rows = torch.cat([basis, bonds["embedding"].weight @ w_bond, pair["embedding"].weight @ w_pair])
        if then is not None:
            rows = rows @ then.T
        basis, bond, pairs = rows.split([len(basis), N_BOND_TYPES, N_TYPES**2])
        pairs = pairs.view(N_TYPES, N_TYPES, -1).transpose(0, 1)
        return torch.cat([basis.expand(N_TYPES, -1, -1), pairs, bond.expand(N_TYPES, -1, -1)], dim=1)

    def _check(self, data: Data | Batch) -> None:
        self._check_cutoff(data)
        pos = data.pos.detach()
        single = data.batch is None
        molecule = torch.zeros_like(data.z) if single else data.batch
        n_molecules = 1 if single else data.num_graphs
        sizes = torch.bincount(molecule, minlength=n_molecules)
        _refuse(data, sizes > MOST_ATOMS, f"more than {MOST_ATOMS} atoms")
        source, target = data.edge_index
        near = (pos[source] - pos[target]).square().sum(1) < SHORTEST**2
        _refuse(
            data, torch.bincount(molecule[source[near]], minlength=n_molecules) > 0, f"atoms closer than {SHORTEST} Å"
        )
        up = torch.bincount(molecule[pos[:, 2].abs() > FLAT], minlength=n_molecules)
        _refuse(data, up == 0, f"no atom further than {FLAT} Å from the plane z = 0, so they count as drawings")
        if self.training and "y" in data:
            _refuse(data, data.y * EV_TO_KCAL_MOL > LARGEST_TARGET, f"targets beyond {LARGEST_TARGET:g} kcal/mol")

    def load_published(self, checkpoint: str | Path | Mapping[str, Any]) -> None:
        """Take the weights of a published checkpoint: a Lightning ``.ckpt``, or a state dict in a file or as it is.

        Raises
        ------
        CheckpointError
            The file holds more than weights, or weights of another network; names what does not fit.
        """
        state, name = _read(checkpoint)
        state = state.get("state_dict", state)
        inside = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
        state = inside or dict(state)
        mine = self.state_dict()
        problems = [f"{key} is missing" for key in mine if key not in state]
        problems += [f"{key} is unknown" for key in state if key not in mine]
        problems += [
            f"{key} has shape {tuple(state[key].shape)}, expected {tuple(mine[key].shape)}"
            for key in mine
            if key in state and state[key].shape != mine[key].shape
        ]
        if problems:
            more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
            raise CheckpointError(
                f"{name} is no checkpoint of {type(self).__name__} with width {self.width}: "
                f"{'; '.join(problems[:4])}{more}"
            )
        self.load_state_dict(state)


def _read(checkpoint: str | Path | Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    if isinstance(checkpoint, Mapping):
        return checkpoint, "the state dict"
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends too early"
        raise CheckpointError(
            f"{checkpoint} cannot be read as weights ({reason}); where a checkpoint holds other objects, write its "
            "weights alone: torch.save(checkpoint['state_dict'], file)"
        ) from error
    if not isinstance(content, Mapping):
        raise CheckpointError(f"{checkpoint} holds a {type(content).__name__}, expected a checkpoint or a state dict")
    return content, str(checkpoint)


def _refuse(data: Data | Batch, wrong: Tensor, what: str) -> None:
    if wrong.any():
        at = torch.nonzero(wrong.flatten())[:, 0].tolist()
        ids = data.get("record_id")
        known = [ids] if isinstance(ids, str) else ids
        names = ", ".join(str(known[i]) if known else f"number {i}" for i in at[:3])
        raise GraphError(f"the published networks refuse {what}: {names}{' and others' if len(at) > 3 else ''}")


def _embedding(n: int, width: int) -> nn.ModuleDict:
    return nn.ModuleDict({"embedding": nn.Embedding(n, width)})


def _point_pairs(angle: int, distance: int) -> nn.ModuleDict:
    layers = {
        "dist_embed_model": nn.Sequential(nn.Linear(len(DISTANCES), distance)),
        "angle_embed_model": nn.Sequential(nn.Linear(3 * len(ANGLES), angle)),
    }
    return nn.ModuleDict({"post_processing": nn.ModuleDict(layers)})
