"""Integrators against what is known of a harmonic well, and noise that belongs to a molecule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sddfkit.data import Record
from sddfkit.dynamics import BAOAB, HarmonicWells, VelocityVerlet, at_rest, kinetic_energy, thermalised
from sddfkit.dynamics.noise import Noise, Use, streams_of
from sddfkit.dynamics.state import MDState
from sddfkit.units import ACCELERATION, BOLTZMANN

H, C, CL = 1, 6, 17
MASS = {H: 1.008, C: 12.011, CL: 35.45}
DT = 0.5
OMEGA_DT = 0.5
STIFFNESS = {z: m * (OMEGA_DT / DT) ** 2 / ACCELERATION for z, m in MASS.items()}  # one frequency for all
WELLS = HarmonicWells(STIFFNESS)


def atoms(elements: list[int], name: str = "a") -> Record:
    n = len(elements)
    numbers, places = np.array(elements, dtype=np.int32), np.arange(3.0 * n).reshape(n, 3)
    no_bonds, no_charge = np.zeros((0, 3), dtype=np.int32), np.zeros(n, dtype=np.int32)
    return Record(name, "m", "", "m", 0, 0, 1, numbers, places, no_bonds, no_charge)


def displacement(state: MDState) -> torch.Tensor:
    return state.positions - torch.as_tensor(np.concatenate([record.positions for record in state.records]))


@pytest.fixture(scope="module")
def means() -> dict[str, dict[int, float]]:
    """By element: ⟨x²⟩ k/kT, and the kinetic temperature after O and at the end of the step, over that of the bath.

    45 molecules of 60 atoms are 2,700 wells in three dimensions, 900 for each element, over 600 steps.
    """
    temperature, triples = 400.0, 900
    records = [atoms([H, C, CL] * 20, str(k)) for k in range(triples // 20)]
    state = thermalised(at_rest(records, WELLS, temperature=temperature), seed=11)
    baoab = BAOAB(seed=12, dt=DT, friction=1.0)
    sums = torch.zeros(3, 3 * triples, dtype=torch.float64)
    kt = BOLTZMANN * temperature
    k = torch.tensor([STIFFNESS[z] for z in (H, C, CL)] * triples)
    steps = 0
    for step in range(650):
        half = baoab.to_noise(state)
        state = baoab.from_noise(half, WELLS)
        if step >= 50:
            steps += 1
            sums[0] += k * displacement(state).square().mean(1) / kt
            for row, at in ((1, half), (2, state)):
                sums[row] += at.masses * at.velocities.square().mean(1) / (ACCELERATION * kt)
    wells = (sums / steps).reshape(3, triples, 3)
    assert float((wells.std(1) / triples**0.5).max()) < 0.003  # the standard error of what the tests compare to 1 %
    found = wells.mean(1)
    return {name: dict(zip((H, C, CL), row.tolist(), strict=True)) for name, row in zip("xoe", found, strict=True)}


def test_baoab_samples_positions_exactly_at_half_a_radian_a_step(means):
    for z, found in means["x"].items():
        assert found == pytest.approx(1.0, rel=0.01), z


def test_kinetic_temperature_is_exact_after_o_and_known_at_the_end_of_a_step(means):
    for z in (H, C, CL):
        assert means["o"][z] == pytest.approx(1.0, rel=0.01), z
        assert means["e"][z] == pytest.approx(1.0 - OMEGA_DT**2 / 4.0, rel=0.01), z


def test_start_velocities_are_those_of_the_bath_of_each_molecule():
    records = [atoms([H, C] * 100, str(k)) for k in range(60)]
    baths = torch.linspace(100.0, 600.0, 60, dtype=torch.float64)
    state = thermalised(at_rest(records, WELLS, temperature=baths), seed=3)
    in_units = state.velocities.square().mean(1) * state.masses / (ACCELERATION * BOLTZMANN * baths[state.molecule])
    for first in (0, 1):  # by element; 18,000 numbers, standard error 1 %
        assert float(in_units[first::2].mean()) == pytest.approx(1.0, rel=0.04)
    ratio = kinetic_energy(state) / (1.5 * BOLTZMANN * 200 * baths)
    assert float((ratio - 1.0).abs().max()) < 0.3


def test_verlet_conserves_energy_to_second_order_without_drift():
    def errors(dt: float) -> np.ndarray:
        state = thermalised(at_rest([atoms([H, C, CL])], WELLS, temperature=500.0), seed=5)
        state = state.evaluated(WELLS)
        verlet = VelocityVerlet(dt)
        total = []
        for _ in range(round(200.0 / dt)):
            state = verlet(state, WELLS)
            total.append(float(state.energies + kinetic_energy(state)))
        return np.array(total)

    coarse, fine = errors(0.1), errors(0.05)
    amplitude = [np.ptp(values) for values in (coarse, fine)]
    assert amplitude[0] / amplitude[1] == pytest.approx(4.0, rel=0.05)
    for values in (coarse, fine):
        slope = np.polyfit(np.arange(len(values)), values, 1)[0] * len(values)
        assert abs(slope) < 0.02 * np.ptp(values)


def test_verlet_is_reversible_and_baoab_without_friction_is_verlet():
    start = thermalised(at_rest([atoms([H, C, CL])], WELLS, temperature=500.0), seed=5)
    verlet, without = VelocityVerlet(0.3), BAOAB(seed=1, dt=0.3, friction=0.0)
    there, same = start, start
    for _ in range(50):
        there, same = verlet(there, WELLS), without(same, WELLS)
    torch.testing.assert_close(same.positions, there.positions, atol=1e-12, rtol=0)
    from dataclasses import replace

    back = replace(there, velocities=-there.velocities)
    for _ in range(50):
        back = verlet(back, WELLS)
    torch.testing.assert_close(back.positions, start.positions, atol=1e-11, rtol=0)
    assert there.step == 50 and there.time == pytest.approx(15.0)


def test_a_step_leaves_the_state_it_was_given_alone():
    start = thermalised(at_rest([atoms([H, C])], WELLS, temperature=500.0), seed=5)
    kept = start.positions.clone(), start.velocities.clone()
    BAOAB(seed=1)(start, WELLS)
    assert torch.equal(start.positions, kept[0]) and torch.equal(start.velocities, kept[1])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=6), st.integers(0, 2**64 - 1), st.data())
def test_a_molecule_moves_the_same_way_alone_and_in_any_company(sizes, seed, data):
    records = [atoms([H] * size, str(k)) for k, size in enumerate(sizes)]
    chosen = data.draw(st.permutations(range(len(records))).map(lambda order: order[: 1 + seed % len(order)]))

    def moved(some):
        state = thermalised(at_rest(some, WELLS, temperature=300.0), seed)
        for _ in range(3):
            state = BAOAB(seed)(state, WELLS)
        return {record.record_id: state.positions[state.atoms_of(k)] for k, record in enumerate(some)}

    whole = moved(records)
    for name, places in moved([records[k] for k in chosen]).items():
        assert torch.equal(places, whole[name])


def test_draws_of_different_seeds_streams_steps_and_uses_differ_and_are_normal():
    draws = [
        Noise(seed).normal([stream], [3000], step=step, use=use)
        for seed, stream, step, use in [
            (0, 0, 0, Use.NOISE),
            (1, 0, 0, Use.NOISE),
            (0, 1, 0, Use.NOISE),
            (0, 0, 1, Use.NOISE),
            (0, 0, 0, Use.VELOCITIES),
        ]
    ]
    correlation = np.corrcoef(np.stack(draws).reshape(5, -1))
    assert np.abs(correlation - np.eye(5)).max() < 0.05
    assert np.stack(draws).std() == pytest.approx(1.0, abs=0.02)


def test_what_is_asked_wrongly_is_explained():
    record = atoms([H])
    with pytest.raises(ValueError, match="more than once and would get the same noise"):
        at_rest([record, record], WELLS)
    assert len(at_rest([record, record], WELLS, streams=[1, 2])) == 2
    with pytest.raises(ValueError, match="as many different streams"):
        at_rest([record, record], WELLS, streams=[1, 1])
    with pytest.raises(ValueError, match="no records"):
        at_rest([], WELLS)
    with pytest.raises(ValueError, match="temperature is"):
        at_rest([record], WELLS, temperature=-1.0)
    with pytest.raises(ValueError, match="seed is -1"):
        BAOAB(seed=-1)
    with pytest.raises(ValueError, match="dt is 0"):
        VelocityVerlet(0.0)
    with pytest.raises(ValueError, match="friction is"):
        BAOAB(seed=1, friction=-0.1)
    assert len(set(streams_of([atoms([H], str(k)) for k in range(100)]))) == 100
