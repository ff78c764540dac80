"""What every energy network must fulfil; members are found by their file in conf/model/."""

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from members import configs, names, settings
from rdkit import Chem
from rdkit.Chem import AllChem
from scipy.spatial.transform import Rotation
from torch_geometric.data import Batch, Data

from sddfkit.config import load
from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.models import EnergyModel, Ensemble, GraphError, GraphStats, graph, graph_stats
from sddfkit.models.build import build_net

MEMBERS = configs("model")
SMILES = ("CCO", "NCC(=O)[O-]", "c1ccncc1", "FC#N", "CSCl")
REACH = 12.0
"""Å. Graphs here reach further than any member's cutoff: small displacements need no new list of neighbours."""


@cache
def record(smiles: str, seed: int = 7) -> Record:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=seed) == 0
    return to_records(conformer_records(mol))[0]


def molecule(smiles: str) -> Data:
    return graph(record(smiles), REACH, dtype=torch.float64)


def atoms(z: list[int], positions: list[list[float]]) -> Data:
    n = len(z)
    numbers, charges = np.array(z, dtype=np.int32), np.zeros(n, dtype=np.int32)
    place = np.array(positions, dtype=np.float64)
    bare = Record("made", "made", "", "", 0, 0, 1, numbers, place, np.zeros((0, 3), dtype=np.int32), charges)
    return graph(bare, REACH, dtype=torch.float64)


@cache
def stats() -> GraphStats:
    return graph_stats([graph(record(smiles), 5.0) for smiles in SMILES])


@pytest.fixture(params=MEMBERS, ids=names(MEMBERS))
def member(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture
def net(member: Path) -> EnergyModel:
    return build_net(settings(member), stats(), seed=3).double().eval()


def moved(data: Data, pos: torch.Tensor) -> Data:
    return data.clone().update({"pos": pos})


def test_all_five_members_are_here() -> None:
    assert {"gen", "pna", "resgated", "general", "transformer"} <= set(names(MEMBERS))


def test_it_stands_beside_other_members_in_a_configuration(member: Path) -> None:
    cfg = load("train", ["data=x", f"model=[gen,{member.stem}]"], config_dir=member.parents[1])
    assert set(cfg.model) == {"gen", member.stem}, f"the first line of {member}: # @package model.{member.stem}"


def test_rotation_and_translation_leave_the_energy_and_rotate_the_forces(net: EnergyModel) -> None:
    data = molecule("NCC(=O)[O-]")
    turn = torch.from_numpy(Rotation.random(rng=np.random.default_rng(5)).as_matrix())
    before, after = net(data), net(moved(data, data.pos @ turn.T + torch.tensor([3.0, -8.0, 1.5])))
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces @ turn.T, rtol=0, atol=1e-9)


def test_order_of_atoms_is_irrelevant(net: EnergyModel) -> None:
    data = molecule("CSCl")
    order = torch.randperm(len(data.z), generator=torch.Generator().manual_seed(2))
    shuffled = data.clone().update({key: data[key][order] for key in ("z", "pos", "charge")})
    shuffled.edge_index = torch.argsort(order)[data.edge_index]
    before, after = net(data), net(shuffled)
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces[order], rtol=0, atol=1e-10)


def test_order_and_direction_of_edges_are_irrelevant(net: EnergyModel) -> None:
    data = molecule("CCO")
    order = torch.randperm(data.edge_index.shape[1], generator=torch.Generator().manual_seed(4))
    flipped = data.clone().update({"edge_index": data.edge_index.flip(0)[:, order], "edge_bond": data.edge_bond[order]})
    before, after = net(data), net(flipped)
    torch.testing.assert_close(after.energy, before.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(after.forces, before.forces, rtol=0, atol=1e-10)


def test_a_batch_gives_what_its_molecules_give(net: EnergyModel) -> None:
    graphs = [molecule(smiles) for smiles in SMILES]
    together, single = net(Batch.from_data_list(graphs)), [net(data) for data in graphs]
    torch.testing.assert_close(together.energy, torch.cat([p.energy for p in single]), rtol=0, atol=1e-10)
    torch.testing.assert_close(together.forces, torch.cat([p.forces for p in single]), rtol=0, atol=1e-10)


def test_forces_are_the_derivative_of_the_energy(net: EnergyModel) -> None:
    data, step = molecule("FC#N"), 2e-5
    data.pos = data.pos + 0.05 * torch.randn(data.pos.shape, generator=torch.Generator().manual_seed(1)).double()
    steps = step * torch.eye(data.pos.numel()).double().view(-1, *data.pos.shape)
    copies = Batch.from_data_list([moved(data, data.pos + s) for s in torch.cat([steps, -steps])])
    up, down = net(copies, forces=False).energy.chunk(2)
    forces = net(data).forces
    difference = (forces.flatten() + (up - down) / (2 * step)).abs().max()
    assert forces.abs().max() > 1e-3
    assert difference < 1e-7 * forces.abs().max()


def test_energy_and_forces_are_continuous_where_a_pair_crosses_the_cutoff(net: EnergyModel) -> None:
    # The hydrogens point away: N alone meets the oxygen, and enters at the cutoff.
    def pair(distance: float) -> Data:
        return atoms([8, 1, 1, 7], [[0, 0, 0], [-0.6, 0.7, 0], [-0.6, -0.7, 0], [distance, 0, 0]])

    cutoff = net.cutoff
    inside, outside, near = net(pair(cutoff - 1e-4)), net(pair(cutoff + 1e-4)), net(pair(cutoff - 2.0))
    torch.testing.assert_close(inside.energy, outside.energy, rtol=0, atol=1e-10)
    torch.testing.assert_close(inside.forces, outside.forces, rtol=0, atol=1e-7)
    assert (near.energy - outside.energy).abs() > 1e-6


def test_edges_beyond_the_cutoff_change_nothing(net: EnergyModel) -> None:
    data = record("CCCCCO")
    short, long = graph(data, net.cutoff, dtype=torch.float64), graph(data, 20.0, dtype=torch.float64)
    assert long.num_edges > short.num_edges
    torch.testing.assert_close(net(long).energy, net(short).energy, rtol=0, atol=1e-10)


def test_energy_is_size_extensive(net: EnergyModel) -> None:
    a, b = molecule("CCO"), molecule("CSCl")
    b.pos = b.pos + torch.tensor([50.0, 0.0, 0.0])
    both = Data(cutoff=a.cutoff)
    for key in ("z", "pos", "charge", "edge_bond"):
        both[key] = torch.cat([a[key], b[key]])
    both.edge_index = torch.cat([a.edge_index, b.edge_index + len(a.z)], dim=1)
    torch.testing.assert_close(net(both).energy, net(a).energy + net(b).energy, rtol=0, atol=1e-9)


def test_formal_charges_and_bonds_matter(net: EnergyModel) -> None:
    data = molecule("CCO")
    prediction = net(data)
    charged = data.clone().update({"charge": data.charge.index_fill(0, torch.tensor(0), 1)})
    unbonded = data.clone().update({"edge_bond": torch.full_like(data.edge_bond, 6)})
    assert (net(charged).energy - prediction.energy).abs() > 1e-4
    assert (net(unbonded).energy - prediction.energy).abs() > 1e-4


def test_an_isolated_atom_has_an_energy_and_no_force(net: EnergyModel) -> None:
    lonely = net(atoms([8], [[1.0, 2.0, 3.0]]))
    assert torch.isfinite(lonely.energy).all()
    assert lonely.forces.tolist() == [[0.0, 0.0, 0.0]]
    pair = net(Batch.from_data_list([atoms([8], [[0.0, 0, 0]]), molecule("CCO")]))
    torch.testing.assert_close(pair.energy[:1], lonely.energy, rtol=0, atol=1e-10)


def test_collinear_atoms_have_finite_second_derivatives(net: EnergyModel) -> None:
    line = atoms([1, 6, 7, 6, 1], [[x, 0, 0] for x in (-2.2, -1.1, 0.0, 1.1, 2.2)])
    pos = line.pos.requires_grad_()
    forces = net(line).forces
    for component in forces.flatten():
        (row,) = torch.autograd.grad(component, pos, retain_graph=True)
        assert torch.isfinite(row).all()
    # Straight lines have no sideways force.
    torch.testing.assert_close(forces[:, 1:], torch.zeros(5, 2).double(), rtol=0, atol=1e-12)


def test_second_derivatives_are_right(member: Path) -> None:
    whole = settings(member)
    fewer = {key: value for key, value in {"width": 8, "layers": 1, "n_radial": 4}.items() if key in whole}
    small = build_net({**whole, **fewer}, stats(), seed=1).double().eval()
    data = atoms([8, 1, 6], [[0.0, 0, 0], [0.9, 0.3, 0], [-0.7, 1.1, 0.4]])
    pos = data.pos.requires_grad_()
    assert torch.autograd.gradgradcheck(lambda p: small(moved(data, p), forces=False).energy, (pos,))


def test_one_step_of_training_on_energies_and_forces_lowers_the_loss(net: EnergyModel) -> None:
    batch = Batch.from_data_list([molecule(smiles) for smiles in SMILES])
    net.train()

    def loss() -> torch.Tensor:
        prediction = net(batch)
        return (prediction.energy - 1.0).square().mean() + (prediction.forces - 0.1).square().mean()

    optimizer = torch.optim.SGD(net.parameters(), lr=1e-6)  # small enough for any scale of the weights
    before = loss()
    before.backward()
    weights = dict(net.named_parameters())
    assert not [key for key, weight in weights.items() if weight.grad is None], "no energy depends on these weights"
    assert all(torch.isfinite(weight.grad).all() for weight in weights.values())
    optimizer.step()
    assert loss() < before


def test_float32_agrees_with_float64(net: EnergyModel) -> None:
    data = molecule("NCC(=O)[O-]")
    exact = net(data)
    rough = net.float()(moved(data, data.pos.float()))
    assert rough.energy.dtype == rough.forces.dtype == torch.float32
    torch.testing.assert_close(rough.energy.double(), exact.energy, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(rough.forces.double(), exact.forces, rtol=1e-5, atol=2e-5)


def test_the_seed_fixes_the_weights_and_no_global_state_changes(member: Path) -> None:
    state = torch.get_rng_state()
    first, second, other = (build_net(settings(member), stats(), seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_save_and_load_give_the_same_predictions(member: Path, net: EnergyModel, tmp_path: Path) -> None:
    name, entry = member.stem, {"net": settings(member), "stats": stats().to_dict(), "seed": 99}
    references = ReferenceEnergies({z: -10.0 * z for z in stats().elements}, "made up")
    saved = Ensemble({name: net}, references, {"members": {name: entry}})
    loaded = Ensemble.load(saved.save(tmp_path / "ensemble"))
    records = [record(smiles) for smiles in SMILES]
    before, after = saved.predict(records), loaded.predict(records)
    assert np.array_equal(before.member_energies, after.member_energies)
    assert before.forces is not None and after.forces is not None
    assert all(np.array_equal(a, b) for a, b in zip(before.forces, after.forces, strict=True))


def test_an_element_unseen_in_training_is_refused_by_name(net: EnergyModel) -> None:
    with pytest.raises(GraphError, match=r"never seen Br"):
        net(atoms([35, 1], [[0.0, 0, 0], [1.4, 0, 0]]))


def test_a_graph_cut_too_short_is_refused(net: EnergyModel) -> None:
    with pytest.raises(GraphError, match=rf"cut at 2 Å .* up to {net.cutoff:g} Å"):
        net(graph(record("CCO"), 2.0, dtype=torch.float64))
