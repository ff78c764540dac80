"""Runs: a molecule moves as it does alone, stopped ones disturb nobody, a killed run goes on to the same numbers."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.active import confidence_score
from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.dynamics import (
    AtomLost,
    BondStretched,
    CheckpointError,
    EnsemblePotential,
    Evaluation,
    HarmonicWells,
    LowConfidence,
    Potential,
    Spread,
    Sum,
    Trajectory,
    VelocityVerlet,
    at_rest,
    kinetic_energy,
    langevin,
    least_confident,
    load_trajectories,
    save_trajectories,
    simulate,
    tblite,
    thermalised,
    write_extxyz,
)
from sddfkit.models import Ensemble, graph, graph_stats
from sddfkit.models.build import build_net


def conformers(smiles: str, count: int = 1) -> list[Record]:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, count, randomSeed=1)
    return to_records(conformer_records(mol))


RECORDS = [conformers(smiles)[0] for smiles in ("CO", "C[NH3+]", "CCO", "O", "CC(=O)N", "C1CC1")]
WELLS = HarmonicWells(dict.fromkeys((1, 6, 7, 8), 5.0))
SHORT = {"duration": 10.0, "frame_every": 2.5, "temperature": 300.0}


def random_ensemble(records: Sequence[Record], cutoff: float) -> Ensemble:
    stats = graph_stats([graph(record, cutoff) for record in records])
    config = {"_target_": "sddfkit.models.resgated.ResGated", "width": 8, "layers": 1, "cutoff": cutoff}
    members = {name: build_net(config, stats, 0).double() for name in ("one", "other")}
    noise = torch.Generator().manual_seed(1)
    for weights in members["other"].parameters():  # they differ a little, as members do
        weights.data *= 1.0 + 0.01 * torch.randn(weights.shape, generator=noise, dtype=weights.dtype)
    return Ensemble(members, ReferenceEnergies({1: -13.6, 6: -1030.0, 7: -1480.0, 8: -2040.0}, "made up"), {})


@pytest.fixture(scope="module")
def bound() -> Potential:
    """Forces of two networks in wells that hold the molecules together."""
    return Sum(EnsemblePotential(random_ensemble(RECORDS, 3.0)), WELLS)


def assert_same(found: Trajectory, expected: Trajectory, atol: float) -> None:
    assert found.record.record_id == expected.record.record_id and found.stop == expected.stop
    for name in ("times", "positions", "velocities", "forces", "energies", "scores", "spreads"):
        one, other = getattr(found, name), getattr(expected, name)
        assert one.shape == other.shape, name
        if atol:
            np.testing.assert_allclose(one, other, atol=atol, rtol=0, err_msg=name)
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)


class Trouble:
    """A potential that is `inner`, and from its given call on goes wrong for one molecule."""

    def __init__(
        self, inner: Potential, victim: Record, call: int, wrong: Callable[[Evaluation, slice, int], Evaluation]
    ):
        self.inner, self.victim, self.left, self.wrong = inner, victim.record_id, call, wrong

    def __call__(self, records: Sequence[Record], positions: torch.Tensor) -> Evaluation:
        found = self.inner(records, positions)
        self.left -= 1
        names = [record.record_id for record in records]
        if self.left > 0 or self.victim not in names:
            return found
        k = names.index(self.victim)
        first = sum(len(record.atomic_numbers) for record in records[:k])
        return self.wrong(found, slice(first, first + len(records[k].atomic_numbers)), k)


def kicked(found: Evaluation, atoms: slice, k: int) -> Evaluation:
    forces = found.forces.clone()
    forces[atoms.start, 0] += 1e5
    return replace(found, forces=forces)


def not_a_number(found: Evaluation, atoms: slice, k: int) -> Evaluation:
    energies = found.energies.clone()
    energies[k] = torch.nan
    return replace(found, energies=energies, failures={k: "out of memory"})


def opposed(found: Evaluation, atoms: slice, k: int) -> Evaluation:
    forces = found.member_forces.clone()
    forces[1, atoms] = -forces[0, atoms]
    return replace(found, member_forces=forces)


def test_a_batch_moves_as_its_molecules_do_alone_and_a_seed_fixes_it(bound: Potential) -> None:
    settings = {**SHORT, "temperature": (300.0, 600.0)}
    together = langevin(RECORDS, bound, seed=4, **settings)
    assert [len(found) for found in together] == [5] * 6
    again = langevin(RECORDS, bound, seed=4, **settings)
    for k, record in enumerate(RECORDS):
        assert_same(again[k], together[k], atol=0)
        (alone,) = langevin([record], bound, seed=4, **settings)
        assert_same(alone, together[k], atol=1e-10)
    other = langevin(RECORDS, bound, seed=5, **SHORT)
    assert np.abs(other[0].positions[1] - together[0].positions[1]).max() > 1e-3
    temperatures = {found.temperature for found in together}
    assert len(temperatures) == 6 and all(300.0 <= t < 600.0 for t in temperatures)


@pytest.mark.long
def test_64_molecules_of_about_40_atoms_move_as_alone() -> None:
    records = conformers("CC(C)Cc1ccc(cc1)C(C)C(=O)NCCO", 64)
    potential = Sum(EnsemblePotential(random_ensemble(records, 5.0)), WELLS)
    settings = {"duration": 100.0, "frame_every": 50.0, "temperature": 450.0}
    together = langevin(records, potential, seed=1, **settings)
    for k in range(0, 64, 4):
        (alone,) = langevin([records[k]], potential, seed=1, **settings)
        assert_same(alone, together[k], atol=1e-10)


@pytest.mark.parametrize(
    ("wrong", "rule", "detail"),
    [
        (kicked, "bond", r"the bond of atoms 0 and \d is .* Å long"),
        (not_a_number, "failed", "out of memory"),
        (opposed, "confidence", "ConfidenceScore -"),
    ],
)
def test_a_stopped_molecule_keeps_its_last_frame_and_its_reason_and_disturbs_nobody(bound, wrong, rule, detail) -> None:
    trouble = Trouble(bound, RECORDS[2], 8, wrong)  # the start is the first call
    found = langevin(RECORDS, trouble, seed=4, **SHORT)
    undisturbed = langevin(RECORDS, bound, seed=4, stops=(), **SHORT)
    for k in (0, 1, 3, 4, 5):
        assert_same(found[k], undisturbed[k], atol=1e-11)
    stopped = found[2]
    assert stopped.stop is not None and stopped.stop.rule == rule and re.search(detail, stopped.stop.detail)
    assert stopped.times[-1] == stopped.stop.time and stopped.times[:2].tolist() == [0.0, 2.5]
    assert 2.5 < stopped.stop.time <= 4.0
    assert np.isfinite(stopped.positions).all() and np.isfinite(stopped.energies).all()
    assert np.array_equal(stopped.positions[:2], undisturbed[2].positions[:2])


def test_all_can_stop_and_a_molecule_can_fail_at_the_start() -> None:
    def failing(records: Sequence[Record], positions: torch.Tensor) -> Evaluation:
        found = WELLS(records, positions)
        return replace(found, energies=found.energies * torch.nan, failures=dict.fromkeys(range(len(records)), "no"))

    found = langevin(RECORDS[:2], failing, seed=1, **SHORT)
    assert [(len(t), t.stop) for t in found] == [(0, ("failed", 0.0, "no"))] * 2
    free = langevin(RECORDS[:1], HarmonicWells(dict.fromkeys((1, 6, 8), 0.0)), seed=1, temperature=3000.0)
    assert free[0].stop is not None and free[0].stop.rule == "bond" and free[0].times[-1] == free[0].stop.time < 200.0


def test_stop_rules_find_what_they_are_for(bound: Potential) -> None:
    state = at_rest(RECORDS, bound)
    assert BondStretched()(state) == {} == AtomLost()(state)
    far = state.positions.clone()
    far[state.atoms_of(2)][-1] += 10.0
    far[state.atoms_of(4).start] += 1.0
    moved = replace(state, positions=far)
    assert set(BondStretched()(moved)) == {2, 4} and set(AtomLost()(moved)) == {2}
    assert "8 is" in AtomLost()(moved)[2]
    ion = RECORDS[3]._replace(positions=np.array([[0, 0, 0], [4.0, 0, 0], [0, 0, 1.0]]))
    apart = at_rest([ion], WELLS)
    assert AtomLost()(apart) == {}  # so far it was at the start
    assert set(AtomLost()(replace(apart, positions=1.7 * apart.positions))) == {0}
    scores = [confidence_score(f.numpy()) for f in state.evaluation.member_forces.split(state.sizes, dim=1)]
    threshold = sorted(scores)[2] + 1e-9
    assert set(LowConfidence(below=threshold)(state)) == {k for k, s in enumerate(scores) if s < threshold}
    mean = state.evaluation.member_forces.mean(0)
    away = (state.evaluation.member_forces - mean).square().sum(-1).mean(0).sqrt()
    spreads = [float(part.max()) for part in away.split(state.sizes)]
    assert set(Spread(above=sorted(spreads)[3])(state)) == {k for k, s in enumerate(spreads) if s > sorted(spreads)[3]}
    with pytest.raises(ValueError, match="at least two members"):
        Spread(above=1.0)(at_rest(RECORDS, WELLS))


class Killed(BaseException):
    pass


def interrupted(at: int) -> Callable:
    def wrap(steps, total):
        for done, step in enumerate(steps):
            if done == at:
                raise Killed
            yield step

    return wrap


@pytest.mark.parametrize("at", [1, 8, 19])
def test_a_run_that_was_killed_goes_on_to_the_same_numbers(bound: Potential, tmp_path: Path, at: int) -> None:
    trouble = lambda: Trouble(bound, RECORDS[2], 8, opposed)  # noqa: E731
    expected = langevin(RECORDS, trouble(), seed=4, checkpoint=tmp_path / "whole.npz", **SHORT)
    path = tmp_path / "md.npz"
    with pytest.raises(Killed):
        langevin(RECORDS, trouble(), seed=4, checkpoint=path, progress=interrupted(at), **SHORT)
    after = Trouble(bound, RECORDS[2], 8 - at // 5 * 5, opposed)
    for found, whole in zip(langevin(RECORDS, after, seed=4, checkpoint=path, **SHORT), expected, strict=True):
        assert_same(found, whole, atol=0)
    # What is finished is read, and a longer run goes on from there.
    for found, whole in zip(langevin(RECORDS, bound, seed=4, checkpoint=path, **SHORT), expected, strict=True):
        assert_same(found, whole, atol=0)
    longer = langevin(RECORDS, bound, seed=4, checkpoint=path, **{**SHORT, "duration": 12.5})
    direct = langevin(RECORDS, bound, seed=4, **{**SHORT, "duration": 12.5})
    for k in (0, 1, 3, 4, 5):
        assert_same(longer[k], direct[k], atol=1e-11)


def test_a_checkpoint_of_another_run_is_refused(bound: Potential, tmp_path: Path) -> None:
    path = tmp_path / "md.npz"
    langevin(RECORDS, bound, seed=4, checkpoint=path, **SHORT)
    for other in ({"seed": 5}, {"seed": 4, "dt": 0.25}, {"seed": 4, "temperature": 301.0}, {"seed": 4, "stops": ()}):
        with pytest.raises(CheckpointError, match="other molecules, seed or settings"):
            langevin(RECORDS, bound, checkpoint=path, **{**SHORT, **other})
    with pytest.raises(CheckpointError, match="other molecules"):
        langevin(RECORDS[1:], bound, seed=4, checkpoint=path, **SHORT)
    with pytest.raises(CheckpointError, match="another potential"):
        other_nets = random_ensemble(RECORDS, 2.5)
        langevin(RECORDS, Sum(EnsemblePotential(other_nets), WELLS), seed=4, checkpoint=path, **SHORT)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        langevin(RECORDS, bound, seed=4, checkpoint=path, **SHORT)


def test_verlet_runs_too_and_tblite_conserves_energy(tmp_path: Path) -> None:
    pytest.importorskip("tblite", reason="tblite is not installed")
    potential = tblite()
    water = RECORDS[3]
    state = thermalised(at_rest([water], potential, temperature=300.0), seed=1)
    (found,) = simulate(state, potential, VelocityVerlet(0.5), duration=20.0, frame_every=0.5)
    total = [
        energy + float(kinetic_energy(replace(state, velocities=torch.from_numpy(v))))
        for energy, v in zip(found.energies, found.velocities, strict=True)
    ]
    assert len(total) == 41 and np.ptp(total) < 0.05 * np.ptp(found.energies) + 1e-3
    assert found.stop is None and np.isnan(found.scores).all()


def test_frames_become_records_that_name_parent_and_time(bound: Potential) -> None:
    found = langevin(RECORDS, bound, seed=4, **SHORT)
    chosen = least_confident(found, 7)
    every = sorted(
        (float(score), t.record.record_id, float(time), t.positions[f])
        for t in found
        for f, (score, time) in enumerate(zip(t.scores, t.times, strict=True))
        if time > 0
    )[:7]
    assert len({record.record_id for record in chosen}) == 7
    assert [len(t) for t in found] == [5] * 6
    by_id = {record.record_id: record for record in RECORDS}
    for record, (_, parent, time, places) in zip(chosen, every, strict=True):
        assert record.parent == parent and record.origin.endswith(f" K, {time:g} fs")
        np.testing.assert_allclose(record.positions, places, atol=1e-6)
        assert np.array_equal(record.bonds, by_id[parent].bonds) and record.energy is None and record.forces is None
        assert record.molecule_id == by_id[parent].molecule_id and record.record_id != parent
    assert max(sum(r.parent == p for r in least_confident(found, 99, per_trajectory=1)) for p in by_id) == 1
    assert len(least_confident(found, 99)) == 24 and least_confident(found, 0) == []
    with pytest.raises(ValueError, match="at least two members"):
        least_confident(langevin(RECORDS, WELLS, seed=4, **SHORT), 2)


@pytest.fixture(scope="module")
def found(bound: Potential) -> list[Trajectory]:
    """Of which one was stopped."""
    return langevin(RECORDS, Trouble(bound, RECORDS[2], 8, opposed), seed=4, **SHORT)


@pytest.mark.parametrize("name", ["all.npz", "all.zarr"])
def test_trajectories_are_read_again(found: list[Trajectory], name: str, tmp_path: Path) -> None:
    if name.endswith(".zarr"):
        pytest.importorskip("zarr", reason="zarr is not installed")
    read = load_trajectories(save_trajectories(tmp_path / name, found))
    for one, other in zip(read, found, strict=True):
        assert_same(one, other, atol=0)
        assert one.stream == other.stream and one.temperature == other.temperature
        for field, value in one.record._asdict().items():
            assert np.array_equal(value, getattr(other.record, field)), field


def test_a_zarr_store_explains_itself(found: list[Trajectory], tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed")
    root = zarr.open_group(save_trajectories(tmp_path / "all.zarr", found), mode="r")
    assert len(list(root.groups())) == root.attrs["trajectories"] == len(found)
    group = root["000002"]
    assert group["positions"].shape == found[2].positions.shape and group["positions"].attrs["unit"] == "Å"
    assert group.attrs["record"]["smiles"] == "CCO" and group.attrs["stop"]["rule"] == "confidence"


def test_trajectories_are_read_by_ase(found: list[Trajectory], tmp_path: Path) -> None:
    trajectory = found[2]
    path = write_extxyz(tmp_path / "one" / "2.extxyz", trajectory)
    frames = ase.io.read(path, ":")
    assert len(frames) == len(trajectory)
    # To readers of plain XYZ (MDAnalysis) a line is an element and its place, whatever follows.
    symbol, *place = path.read_text().splitlines()[2].split()[:4]
    assert symbol == "C" and np.allclose([float(x) for x in place], trajectory.positions[0, 0], atol=1e-7)
    for k, atoms in enumerate(frames):
        np.testing.assert_allclose(atoms.positions, trajectory.positions[k], atol=1e-7)
        np.testing.assert_allclose(atoms.get_forces(), trajectory.forces[k], atol=1e-7)
        np.testing.assert_allclose(atoms.arrays["velocities"], trajectory.velocities[k], atol=1e-7)
        assert atoms.get_potential_energy() == pytest.approx(trajectory.energies[k])
        assert atoms.info["time"] == trajectory.times[k]
        assert atoms.info["confidence"] == pytest.approx(trajectory.scores[k])
        assert atoms.info["origin"] == f"record {trajectory.record.record_id}"
        assert atoms.numbers.tolist() == trajectory.record.atomic_numbers.tolist()


def test_settings_that_make_no_sense_are_explained(bound: Potential) -> None:
    for wrong, why in (
        ({"duration": 20.3}, "duration is 20.3 fs, expected a positive multiple of the step"),
        ({"frame_every": 0.1}, "frame_every is 0.1"),
        ({"temperature": (600.0, 300.0)}, "the lower first"),
        ({"temperature": -1.0}, "temperature is"),
        ({"streams": [1, 2]}, "as many different streams"),
    ):
        with pytest.raises(ValueError, match=why):
            langevin(RECORDS, bound, seed=1, **{**SHORT, **wrong})
