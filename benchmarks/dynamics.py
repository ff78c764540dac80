"""Dynamics of many molecules at once: that it is right, and how much faster it is than one by one. One thread.

    python benchmarks/dynamics.py            64 molecules of 40 atoms; about five minutes on a quiet core
    python benchmarks/dynamics.py --quick    few molecules and steps, one network, seconds

First it asserts:

- BAOAB in harmonic wells at dt·ω = 0.5: ⟨x²⟩, and the kinetic temperature after O and at the end of the step, for each
  of three elements, within 1 %;
- velocity Verlet: four times less energy error at half the step, no drift;
- a batch of molecules moves as its molecules do alone, to 1e-10 (float64), and twice the same;
- forces of a batch are those that ASE gets.

Then, in turns and in one process: Langevin dynamics of all molecules at once, with stop rules, against ASE's Langevin
of one molecule after another with the same network behind :class:`sddfkit.dynamics.EnsembleCalculator`. Networks are
those of the presets, with fresh weights; times are CPU time for a step of one molecule, the best of the repeats.
The last line is one JSON object; its ``ratio`` is the smallest of the small preset's networks, which is what drives
molecules when their ensemble is young. ``ratios`` has all.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import ase.md.langevin
import ase.units
import numpy as np
import torch
from rdkit import Chem
from rdkit.Chem import AllChem

from sddfkit.config import load, plain
from sddfkit.data import Record, ReferenceEnergies, conformer_records, to_records
from sddfkit.dynamics import (
    BAOAB,
    AtomLost,
    BondStretched,
    EnsembleCalculator,
    EnsemblePotential,
    HarmonicWells,
    Sum,
    VelocityVerlet,
    at_rest,
    atoms_of,
    kinetic_energy,
    langevin,
    simulate,
    thermalised,
)
from sddfkit.models import Ensemble, GraphStats, graph, graph_stats
from sddfkit.models.build import build_net
from sddfkit.units import ACCELERATION, BOLTZMANN

# 40 atoms each.
SMILES = {
    "propranolol": "CC(C)NCC(O)COc1cccc2ccccc12",
    "fluoxetine": "CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1",
    "diphenhydramine": "CN(C)CCOC(c1ccccc1)c1ccccc1",
    "morphine": "CN1CCC23C4Oc5c(O)ccc(CC1C2C=CC4O)c35",
    "promazine": "CN(C)CCCN1c2ccccc2Sc2ccccc12",
    "mianserin": "CN1CCN2c3ccccc3Cc3ccccc3C2C1",
    "chlorpromazine": "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12",
}
N_ATOMS = 40
DT, FRICTION, TEMPERATURE = 0.5, 0.02, 300.0
BAR = 5.0
MASS = {1: 1.008, 6: 12.011, 17: 35.45}
OMEGA_DT = 0.5


def molecules(count: int) -> list[Record]:
    """So many conformers of the seven molecules in turn, relaxed by MMFF94."""
    made = []
    for smiles in SMILES.values():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        AllChem.EmbedMultipleConfs(mol, -(-count // len(SMILES)), randomSeed=7)
        AllChem.MMFFOptimizeMoleculeConfs(mol)
        made.append(to_records(conformer_records(mol)))
    records = [rows[k] for k in range(min(map(len, made))) for rows in made]
    records = list({record.record_id: record for record in records}.values())[:count]
    assert len(records) == count and all(len(record.atomic_numbers) == N_ATOMS for record in records)
    return records


def of_atoms(elements: Sequence[int]) -> Record:
    """A record of atoms without bonds, for the wells."""
    n = len(elements)
    numbers, places = np.array(elements, dtype=np.int32), np.zeros((n, 3))
    return Record("wells", "", "", "", 0, 0, 1, numbers, places, np.zeros((0, 3), np.int32), np.zeros(n, np.int32))


def wells(triples: int, steps: int) -> dict[str, Any]:
    """What BAOAB does in wells, over what it should: by quantity, for each element, with the standard error."""
    stiffness = {z: m * (OMEGA_DT / DT) ** 2 / ACCELERATION for z, m in MASS.items()}
    potential = HarmonicWells(stiffness)
    state = thermalised(at_rest([of_atoms([*MASS] * triples)], potential, temperature=TEMPERATURE), seed=1)
    baoab = BAOAB(seed=2, dt=DT, friction=1.0)
    kt = BOLTZMANN * TEMPERATURE
    k = torch.tensor([*stiffness.values()] * triples, dtype=torch.float64)
    sums, counted = torch.zeros(3, 3 * triples, dtype=torch.float64), 0
    for step in range(steps):
        half = baoab.to_noise(state)
        state = baoab.from_noise(half, potential)
        if step >= 50:
            counted += 1
            sums[0] += k * state.positions.square().mean(1) / kt
            for row, at in ((1, half), (2, state)):
                sums[row] += at.masses * at.velocities.square().mean(1) / (ACCELERATION * kt)
    sums[2] /= 1.0 - OMEGA_DT**2 / 4.0
    each = (sums / counted).reshape(3, triples, 3)
    error = float((each.std(1) / triples**0.5).max())
    assert error < 0.003, f"the standard error of the wells is {error:.2%}"
    means = each.mean(1)
    assert float((means - 1.0).abs().max()) < 0.01, means
    names = ("x2", "temperature_after_o", "temperature_at_end")
    found = {name: [round(v, 4) for v in row] for name, row in zip(names, means.tolist(), strict=True)}
    return {**found, "wells": 3 * triples, "standard_error": round(error, 5)}


def verlet() -> dict[str, float]:
    """Range of the energy error at two steps, and the drift over the run in units of that range."""
    potential = HarmonicWells({z: m * 1.0 / ACCELERATION for z, m in MASS.items()})
    ranges, drifts = [], []
    for dt in (0.1, 0.05):
        state = thermalised(at_rest([of_atoms([*MASS])], potential, temperature=TEMPERATURE), seed=1)
        totals = []
        for _ in range(round(200.0 / dt)):
            state = VelocityVerlet(dt)(state, potential)
            totals.append(float(state.energies + kinetic_energy(state)))
        ranges.append(float(np.ptp(totals)))
        drifts.append(abs(float(np.polyfit(np.arange(len(totals)), totals, 1)[0])) * len(totals) / ranges[-1])
    assert abs(ranges[0] / ranges[1] / 4.0 - 1.0) < 0.05 and max(drifts) < 0.02, (ranges, drifts)
    return {"error_ratio_at_half_the_step": round(ranges[0] / ranges[1], 3), "drift": round(max(drifts), 5)}


def networks(preset: str, stats: GraphStats, dtype: torch.dtype = torch.float32) -> dict[str, Ensemble]:
    """The networks of a preset, with fresh weights, each as an ensemble of one."""
    cfg = plain(load("train", ["data=none", f"preset={preset}"]))
    references = ReferenceEnergies(dict.fromkeys(stats.elements, 0.0), "none")
    return {
        name: Ensemble({name: build_net(settings, stats, seed=1).to(dtype)}, references, {})
        for name, settings in cfg["model"].items()
    }


def alone_as_together(records: Sequence[Record], stats: GraphStats, steps: int) -> dict[str, Any]:
    """Differences of whole trajectories between a batch, the same batch again, and its molecules one by one."""
    ensemble = networks("smooth_small", stats, torch.float64)["gen"]
    for weights in ensemble.members["gen"].readout.parameters():
        weights.data *= 3.0  # fresh weights hardly push; these do
    # Wells keep the atoms where molecules have theirs: a network that knows no repulsion would let them collide, and
    # then the last digit of any two programs grows to the first within the run.
    wells = HarmonicWells(dict.fromkeys(stats.elements, 5.0))
    potential = Sum(EnsemblePotential(ensemble), wells)
    run = partial(langevin, potential=potential, seed=3, temperature=TEMPERATURE, duration=steps * DT, stops=())
    together, again = (run(records, frame_every=DT * steps / 2) for _ in range(2))
    worst = 0.0
    for k, record in enumerate(records):
        assert all(np.array_equal(getattr(together[k], n), getattr(again[k], n)) for n in ("positions", "velocities"))
        (alone,) = run([record], frame_every=DT * steps / 2)
        for name in ("positions", "forces"):
            worst = max(worst, float(np.abs(getattr(alone, name) - getattr(together[k], name)).max()))
    assert worst < 1e-10, worst
    calculated = atoms_of(records[0])
    calculated.calc = EnsembleCalculator(ensemble, records[0])
    apart = np.abs(calculated.get_forces() - together[0].forces[0]).max()
    assert apart < 1e-10, apart
    strength = float(np.sqrt(np.mean([np.square(t.forces).mean() for t in together])))
    return {
        "molecules": len(records),
        "steps": steps,
        "rms_force": round(strength, 3),
        "largest_difference": worst,
        "from_ase": float(apart),
    }


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def race(ensemble: Ensemble, records: Sequence[Record], steps: int, repeats: int) -> dict[str, float]:
    """Milliseconds of a step of one molecule, all at once and by ASE, and their ratio."""
    potential = EnsemblePotential(ensemble)
    start = thermalised(at_rest(records, potential, temperature=TEMPERATURE), seed=1)

    def ours() -> None:
        found = simulate(
            start,
            potential,
            BAOAB(1, DT, FRICTION),
            duration=steps * DT,
            frame_every=steps * DT,
            stops=(BondStretched(10.0), AtomLost(30.0)),  # looked at, but networks that know nothing shall not stop
        )
        assert all(len(t) == 2 and t.stop is None for t in found)

    some = range(0, len(records), max(1, len(records) // 8))  # one is like the other

    def ases() -> None:
        for k in some:
            atoms = atoms_of(records[k])
            atoms.calc = EnsembleCalculator(ensemble, records[k])
            atoms.set_velocities(start.velocities[start.atoms_of(k)].numpy() / ase.units.fs)
            ase.md.langevin.Langevin(
                atoms,
                DT * ase.units.fs,
                temperature_K=TEMPERATURE,
                friction=FRICTION / ase.units.fs,
                fixcm=False,
                rng=np.random.default_rng(1),
            ).run(steps)

    best = {"together": np.inf, "ase": np.inf}
    for turn in range(repeats + 1):
        for name, work, count in (("together", ours, len(records)), ("ase", ases, len(some))):
            spent = seconds(work) / count / steps
            if turn:  # the first turn warms up
                best[name] = min(best[name], spent)
    return {
        "together_ms": round(1e3 * best["together"], 3),
        "ase_ms": round(1e3 * best["ase"], 3),
        "ratio": round(best["ase"] / best["together"], 2),
    }


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few molecules and steps, one network, seconds")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--presets", default="smooth_small,smooth")
    parser.add_argument("--networks", default="", help="names, separated by commas; all of them by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    records = molecules(14 if asked.quick else asked.molecules)
    stats = graph_stats([graph(record, 5.0) for record in records])
    print("correctness:", flush=True)
    found: dict[str, Any] = {
        "wells": wells(600, 700) if asked.quick else wells(3000, 2000),
        "verlet": verlet(),
        "alone_as_together": alone_as_together(records[:4], stats, 6)
        if asked.quick
        else alone_as_together(records, stats, 200),
    }
    for part, result in found.items():
        print(f"  {part}: {result}", flush=True)
    presets, steps, repeats = ("smooth_small",) if asked.quick else asked.presets.split(","), 20, asked.repeats
    chosen = ("gen",) if asked.quick else tuple(filter(None, asked.networks.split(",")))
    if asked.quick:
        steps, repeats = 4, 1
    print(f"a step of one of {len(records)} molecules of {N_ATOMS} atoms, ms of CPU:", flush=True)
    found["speed"] = {}
    for preset in presets:
        found["speed"][preset] = {}
        for name, ensemble in networks(preset, stats).items():
            if chosen and name not in chosen:
                continue
            result = found["speed"][preset][name] = race(ensemble, records, steps, repeats)
            print(
                f"  {preset:12} {name:12} together {result['together_ms']:7.2f}, ASE {result['ase_ms']:7.2f}, "
                f"ratio {result['ratio']:5.2f}",
                flush=True,
            )
    found["ratios"] = {
        preset: {name: r["ratio"] for name, r in rows.items()} for preset, rows in found["speed"].items()
    }
    found["ratio"] = min(found["ratios"][presets[0]].values())
    found["bar"] = BAR
    print(json.dumps({"molecules": len(records), "atoms": N_ATOMS, **found}))


if __name__ == "__main__":
    main()
