"""The published networks against torch-geometric's own convolutions."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GENConv, GeneralConv, PNAConv, ResGatedGraphConv, TransformerConv

from sddfkit.config import load, plain
from sddfkit.data import Record
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models import EnergyModel, Ensemble, GraphError, GraphStats, graph, neighbours
from sddfkit.models.build import build_net
from sddfkit.models.sddf import (
    GEN,
    PNA,
    PUBLISHED_REFERENCES,
    CheckpointError,
    General,
    ResGated,
    SDDFModel,
    Transformer,
)
from sddfkit.units import EV_TO_KCAL_MOL, HARTREE_TO_EV

NETWORKS = (GEN, General, PNA, ResGated, Transformer)
STATS = GraphStats((1, 6, 7, 8), 10.0, 2.0)
ELEMENTS = torch.tensor([1, 6, 7, 8, 16, 17, 35, 9, 53])
network = pytest.mark.parametrize("kind", NETWORKS, ids=lambda kind: kind.__name__)


def molecule(n: int, seed: int, *, room: float = 1.9, cutoff: float = 5.0) -> Data:
    """`n` atoms in a box whose edge is `room` Å per cube root of n, none closer than 0.9 Å; bonds at random."""
    draw = torch.Generator().manual_seed(seed)
    box, pos = room * n ** (1 / 3), torch.zeros(0, 3, dtype=torch.float64)
    while len(pos) < n:
        place = box * torch.rand(1, 3, generator=draw, dtype=torch.float64)
        if not len(pos) or (pos - place).norm(dim=1).min() > 0.9:
            pos = torch.cat([pos, place])
        box *= 1.002
    pos[:, 2] += 1.0
    edge_index = neighbours(pos, cutoff)
    bonds = torch.randint(0, 7, (n, n), generator=draw)
    bonds = torch.minimum(bonds, bonds.T)[edge_index[0], edge_index[1]]
    far = (pos[edge_index[0]] - pos[edge_index[1]]).norm(dim=1) > 2.0
    return Data(
        z=ELEMENTS[torch.randint(0, len(ELEMENTS), (n,), generator=draw)],
        pos=pos,
        charge=torch.zeros(n, dtype=torch.long),
        edge_index=edge_index,
        edge_bond=torch.where(far, 6, bonds),
        cutoff=cutoff,
        record_id=f"random {seed}",
    )


@cache
def small(kind: type[SDDFModel]) -> SDDFModel:
    """Narrow, with all parameters and statistics away from their special initial values."""
    net = kind(stats=STATS, width=64, seed=1).double()
    draw = torch.Generator().manual_seed(2)
    for value in (*net.parameters(), *(b for name, b in net.named_buffers() if "running" in name)):
        value.data += 0.05 * torch.rand(value.shape, generator=draw, dtype=value.dtype)
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0  # its draws go by the order of the atoms, which the two paths do not share
    return net


def energies_and_gradients(net: SDDFModel, path: str, batch: Batch, training: bool) -> dict[str, torch.Tensor | None]:
    net.train(training).path = path
    batch = batch.clone().update({"pos": batch.pos.clone().requires_grad_()})
    state = {key: value.clone() for key, value in net.state_dict().items()}
    energy = net(batch, forces=False).energy
    weight = torch.linspace(-1.0, 2.0, len(energy), dtype=torch.float64)
    names = ["positions", *(name for name, _ in net.named_parameters())]
    wanted = [batch.pos, *net.parameters()]
    gradients = torch.autograd.grad((energy * weight).sum(), wanted, allow_unused=True)
    net.load_state_dict(state)  # a batch norm counts what it sees
    return {"energy": energy.detach(), **dict(zip(names, gradients, strict=True))}


def assert_same(net: SDDFModel, batch: Batch, training: bool) -> None:
    plain_, exact = (energies_and_gradients(net, path, batch, training) for path in ("plain", "exact"))
    top = max(float(value.abs().max()) for value in plain_.values() if value is not None)
    for name, value in plain_.items():
        mine = exact[name]
        if value is None or mine is None:  # no edge reaches it
            assert all(v is None or not v.any() for v in (value, mine)), name
            continue
        if isinstance(net, Transformer) and name.endswith("lin_key.bias"):
            # It adds the same to all scores of an atom, which a softmax ignores: rounding is all there is.
            assert max(float(value.abs().max()), float(mine.abs().max())) < 1e-14 * top, name
            continue
        assert float((mine - value).abs().max()) <= 1e-10 * float(value.abs().max()), name


TRAINING = [False, pytest.param(True, marks=pytest.mark.long)]  # a quarter of a minute


@pytest.mark.parametrize("training", TRAINING, ids=["eval", "train"])
@network
def test_energies_and_all_gradients_are_those_of_torch_geometric(kind: type[SDDFModel], training: bool) -> None:
    sizes = Batch.from_data_list(
        [molecule(12, 0), molecule(1, 1), molecule(20, 2), molecule(4, 3, room=30.0), molecule(2, 4)]
    )
    degree = torch.bincount(sizes.edge_index[1], minlength=sizes.num_nodes)
    assert (degree == 0).sum() >= 3 and degree.max() > 8
    assert_same(small(kind), sizes, training)


@pytest.mark.long
@network
@given(data=st.data())
@settings(max_examples=4, deadline=None, derandomize=True, phases=[Phase.generate])
def test_on_any_batch(kind: type[SDDFModel], data: st.DataObject) -> None:
    # Not two atoms: their normals lie on the line between them, where the angles have a kink and rounding decides.
    sizes = data.draw(st.lists(st.sampled_from([1, *range(3, 15)]), min_size=1, max_size=3))
    room = data.draw(st.floats(1.2, 6.0))
    seed = data.draw(st.integers(0, 2**16))
    batch = Batch.from_data_list([molecule(n, seed + k, room=room) for k, n in enumerate(sizes)])
    assert_same(small(kind), batch, training=False)


@network
def test_without_any_edge(kind: type[SDDFModel]) -> None:
    assert_same(small(kind), Batch.from_data_list([molecule(1, 5), molecule(1, 6)]), training=False)


@network
def test_a_single_graph_is_a_batch_of_one(kind: type[SDDFModel]) -> None:
    net, data = small(kind).eval(), molecule(9, 8)
    alone, batched = net(data), net(Batch.from_data_list([data]))
    torch.testing.assert_close(alone.energy, batched.energy, rtol=0, atol=1e-12)
    torch.testing.assert_close(alone.forces, batched.forces, rtol=0, atol=1e-12)


@network
def test_forces_are_the_derivative_and_can_be_differentiated_again(kind: type[SDDFModel]) -> None:
    net, data = small(kind), molecule(5, 9)
    net.eval().path = "exact"
    forces, step = net(data).forces.detach(), 1e-6
    draw = torch.Generator().manual_seed(0)
    move = torch.randn(data.pos.shape, generator=draw, dtype=torch.float64)
    up, down = (net(data.clone().update({"pos": data.pos + s * step * move}), forces=False).energy for s in (1, -1))
    assert float((up - down) / (2 * step)) == pytest.approx(-float((forces * move).sum()), rel=1e-5)

    batch = Batch.from_data_list([data, molecule(6, 10)])
    parameters = list(net.parameters())
    shifts = [torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]

    def loss() -> torch.Tensor:
        prediction = net.train()(batch)
        return prediction.forces.square().sum() + prediction.energy.square().sum()

    found = torch.autograd.grad(loss(), parameters, allow_unused=True)
    slope = sum(float((g * s).sum()) for g, s in zip(found, shifts, strict=True) if g is not None)
    values = []
    for sign in (1, -1):
        for parameter, shift in zip(parameters, shifts, strict=True):
            parameter.data += sign * 1e-7 * shift
        values.append(float(loss().detach()))
        for parameter, shift in zip(parameters, shifts, strict=True):
            parameter.data -= sign * 1e-7 * shift
    assert (values[0] - values[1]) / 2e-7 == pytest.approx(slope, rel=1e-4)


# Parameters of each network, in millions, as published.
COUNTS = {GEN: 6.00, General: 4.36, PNA: 11.77, ResGated: 3.41, Transformer: 22.93}
CONVOLUTIONS = {
    GEN: GENConv,
    General: GeneralConv,
    PNA: PNAConv,
    ResGated: ResGatedGraphConv,
    Transformer: TransformerConv,
}


@network
def test_published_sizes_keys_and_single_precision(kind: type[SDDFModel]) -> None:
    net = kind(stats=STATS).eval()
    assert round(sum(p.numel() for p in net.parameters()) / 1e6, 2) == COUNTS[kind]
    blocks = net.model_blocks
    assert all(type(block["gnn_layer"]) is CONVOLUTIONS[kind] for block in blocks)
    others = {
        "node_embedding_list.0.embedding.weight",
        *(f"edge_embedding_list.{k}.embedding.weight" for k in (0, 1)),
        *(
            f"edge_embedding_list.2.post_processing.{part}_embed_model.0.{value}"
            for part in ("dist", "angle")
            for value in ("weight", "bias")
        ),
        *(f"model_blocks.0.post_gnn.0.{value}" for value in ("weight", "bias")),
        *(f"energy_predictor.{k}.{value}" for k in (0, 1, 4) for value in ("weight", "bias")),
    }
    keys = set(net.state_dict())
    assert others < keys
    assert all(key.startswith(("model_blocks.0.gnn_layer.", "model_blocks.1.gnn_layer.")) for key in keys - others)
    batch = Batch.from_data_list([molecule(14, 20), molecule(9, 21)])
    batch.pos = batch.pos.float()
    with torch.no_grad():
        exact = net(batch, forces=False).energy
        net.path = "plain"
        oracle = net(batch, forces=False).energy
    assert exact.dtype == torch.float32
    assert float((exact - oracle).abs().max() / oracle.abs().max()) < 1e-5


def test_energies_are_published_kcal_mol_in_ev() -> None:
    net, data = small(GEN).eval(), molecule(8, 11)
    seen = []
    hook = net.energy_predictor.register_forward_hook(lambda module, given, out: seen.append(out))
    energy = net(data, forces=False).energy
    hook.remove()
    torch.testing.assert_close(energy * EV_TO_KCAL_MOL, seen[0][:, 0])
    assert PUBLISHED_REFERENCES.energies[6] == pytest.approx(-38.1008055 * HARTREE_TO_EV)
    assert len(PUBLISHED_REFERENCES.energies) == 8


def test_edges_are_pairs_below_the_cutoff_and_bonds() -> None:
    net = small(ResGated).eval()
    pos = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 3.9], [0.0, 0.0, 8.1]])
    numbers, charges = np.array([6, 6, 8], dtype=np.int32), np.zeros(3, dtype=np.int32)

    def energy(bonds: list[list[int]], cutoff: float, where: np.ndarray = pos) -> float:
        listed = np.array(bonds, dtype=np.int32).reshape(-1, 3)
        record = Record("made", "made", "", "", 0, 0, 1, numbers, where, listed, charges)
        return float(net(graph(record, cutoff, dtype=torch.float64), forces=False).energy)

    assert energy([], 4.0) == pytest.approx(energy([], 12.0), rel=1e-12)
    assert energy([[1, 2, 0]], 4.0) == pytest.approx(energy([[1, 2, 0]], 12.0), rel=1e-12)
    assert abs(energy([[1, 2, 0]], 4.0) - energy([], 4.0)) > 1e-6
    nearer = pos - [[0, 0, 0], [0, 0, 0], [0, 0, 0.3]]
    assert abs(energy([], 4.0, nearer) - energy([], 4.0)) > 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos": molecule(6, 12).pos * torch.tensor([1.0, 1.0, 0.0])}, "drawings: random 12"),
        ({"pos": molecule(6, 12).pos * 0.3}, r"atoms closer than 0.8 Å: random 12"),
        ({"cutoff": 3.0}, "cut at 3 Å"),
    ],
)
def test_what_was_refused_in_the_publication_is_refused(change: dict, message: str) -> None:
    data = molecule(6, 12).update(change)
    if "drawings" in message:
        data.pos = data.pos * 3.0  # flat, and without overlap
    with pytest.raises(GraphError, match=message):
        small(GEN).eval()(data)


def test_large_molecules_and_targets_are_refused_by_name() -> None:
    with pytest.raises(GraphError, match="more than 200 atoms: random 14"):
        small(GEN).eval()(Batch.from_data_list([molecule(3, 13), molecule(201, 14, room=3.0)]))
    wild = molecule(3, 13)
    wild.y = torch.tensor([5001.0 / EV_TO_KCAL_MOL], dtype=torch.float64)
    small(GEN).eval()(wild)
    with pytest.raises(GraphError, match="targets beyond 5000 kcal/mol: random 13"):
        small(GEN).train()(wild)


def test_a_published_checkpoint_loads(tmp_path: Path) -> None:
    trained = PNA(stats=STATS, width=64, seed=5)
    state = {f"model.{key}": value for key, value in trained.state_dict().items()}
    content = {"state_dict": state, "epoch": 47, "hyper_parameters": {"config": {"batch_size": 80}}}
    torch.save(content, tmp_path / "published.ckpt")
    net, batch = PNA(stats=STATS, width=64), molecule(7, 15).update({"pos": molecule(7, 15).pos.float()})
    before = net.eval()(batch).energy
    net.load_published(tmp_path / "published.ckpt")
    assert torch.equal(net(batch).energy, trained.eval()(batch).energy)
    assert not torch.equal(net(batch).energy, before)


def test_a_wrong_checkpoint_is_explained(tmp_path: Path) -> None:
    net = PNA(stats=STATS, width=64)
    with pytest.raises(CheckpointError, match=r"no checkpoint of PNA with width 64: .*is missing.* more"):
        net.load_published(GEN(stats=STATS, width=64).state_dict())
    with pytest.raises(CheckpointError, match=r"node_embedding_list.0.embedding.weight has shape \(9, 32\), expected"):
        net.load_published(PNA(stats=STATS, width=128).state_dict())
    (tmp_path / "cut.ckpt").write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(CheckpointError, match=r"cut.ckpt cannot be read as weights"):
        net.load_published(tmp_path / "cut.ckpt")
    torch.save({"state_dict": {}, "config": Path("x")}, tmp_path / "objects.ckpt")
    with pytest.raises(CheckpointError, match=r"write its weights alone"):
        net.load_published(tmp_path / "objects.ckpt")
    torch.save([1], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="holds a list"):
        net.load_published(tmp_path / "list.ckpt")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"width": 100}, "multiple of 64"),
        ({"layers": 3}, r"\(3, 8, 1\).*preset=sddf"),
        ({"path": "fast"}, "expected one of exact, plain"),
    ],
)
def test_wrong_settings_are_refused(wrong: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GEN(stats=STATS, **wrong)


def test_the_preset_makes_all_five_and_the_experiment_the_best_three() -> None:
    cfg = plain(load("train", ["data=x", "preset=sddf", "preset.width=64"]))
    nets = {name: build_net(settings_, STATS, seed=0) for name, settings_ in cfg["model"].items()}
    assert {type(net) for net in nets.values()} == set(NETWORKS)
    assert all(isinstance(net, EnergyModel) and net.cutoff == 4.0 for net in nets.values())
    recipe = plain(load("train", ["data=x", "experiment=sddf"]))
    assert list(recipe["model"]) == ["pna", "resgated", "gen"]
    assert recipe["model"]["pna"]["width"] == 1024
    assert recipe["trainer"]["module"]["optimizer"] == {"_target_": "torch.optim.Adam", "lr": 1e-3}


def test_they_stand_in_an_ensemble(tmp_path: Path) -> None:
    cfg = plain(load("train", ["data=x", "preset=sddf", "preset.width=64", "model=[pna,gen]"]))["model"]
    members = {name: build_net(settings_, STATS, seed=0) for name, settings_ in cfg.items()}
    entries = {name: {"net": cfg[name], "stats": STATS.to_dict(), "seed": 0} for name in cfg}
    references = ReferenceEnergies({1: -13.6, 6: -1030.0}, "made up")
    ensemble = Ensemble(members, references, {"members": entries})
    place = np.array([[0.0, 0.0, 0.0], [0.0, 0.6, 0.9], [1.0, 0.0, -0.3]])
    numbers, charges = np.array([6, 1, 1], dtype=np.int32), np.zeros(3, dtype=np.int32)
    bonds = np.array([[0, 1, 0], [0, 2, 0]], dtype=np.int32)
    records = [Record("made", "made", "", "", 0, 0, 1, numbers, place, bonds, charges)]
    before = ensemble.predict(records)
    after = Ensemble.load(ensemble.save(tmp_path / "e")).predict(records)
    assert np.array_equal(before.member_energies, after.member_energies)
    assert before.forces is not None and np.isfinite(before.forces[0]).all()
