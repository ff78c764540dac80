"""How fast the ensembles are, on one thread: the published networks by exact algebra, and the smooth ones.

    python benchmarks/ensemble_speed.py            published sizes, 32 conformers of 44 atoms; ten minutes or so
    python benchmarks/ensemble_speed.py --quick    narrow networks and few molecules, seconds

First it asserts that exact algebra gives what torch-geometric's convolutions give. Then, in turns and in one process:

- each published network by torch-geometric ("plain") and by exact algebra: energies, energies and forces, a step of
  training;
- the smooth ensemble of five against the architecture of ANI-2x (torchani, eight networks, random weights), energies
  and forces, with the search for neighbours;
- the smooth ensemble from 20 to 2,000 atoms, and its memory while molecules stream through.

Times are seconds of CPU, the best of the repeats. The last line is one JSON object.
"""

import argparse
import gc
import json
import os
import sys
import time
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil
import torch
from _ensemble_molecules import N_ATOMS, conformers, crowd, small
from torch_geometric.data import Batch

from sddfkit.config import load, plain
from sddfkit.data import Record
from sddfkit.data.references import ReferenceEnergies
from sddfkit.models import Ensemble, GraphStats, graph, graph_stats
from sddfkit.models.build import build_net
from sddfkit.models.sddf import SDDFModel

TASKS = ("energy", "gradient", "step")
PATHS = ("plain", "exact")
BARS = {"energy": 12.0, "gradient": 10.0, "step": 10.0}


def networks(preset: str, stats: GraphStats, *overrides: str) -> dict[str, Any]:
    """The five networks of a preset, as the configuration makes them."""
    cfg = plain(load("train", ["data=none", f"preset={preset}", *overrides]))
    return {name: build_net(settings, stats, seed=1) for name, settings in cfg["model"].items()}


def off_the_plane(batch: Batch) -> Batch:
    """Moved along z: the published networks refuse molecules near the plane z = 0."""
    batch.pos = batch.pos + torch.tensor([0.0, 0.0, 20.0], dtype=batch.pos.dtype)
    return batch


def assert_fidelity(records: Sequence[Record], stats: GraphStats, width: int) -> dict[str, float]:
    """The largest differences between the two paths, relative to the largest value."""
    worst = {"energy_float32": 0.0, "energy_float64": 0.0, "gradient_float64": 0.0}
    for name, net in networks("sddf", stats, f"preset.width={width}").items():
        for dtype in (torch.float32, torch.float64):
            batch = off_the_plane(Batch.from_data_list([graph(record, 4.0, dtype=dtype) for record in records]))
            batch.pos.requires_grad_()
            net.to(dtype).eval()
            energy, gradients = {}, {}
            for path in PATHS:
                net.path = path
                energy[path] = net(batch, forces=False).energy
                wanted = [batch.pos, *net.parameters()]
                gradients[path] = torch.autograd.grad(energy[path].sum(), wanted, allow_unused=True)
            key = f"energy_{str(dtype).removeprefix('torch.')}"
            worst[key] = max(worst[key], _apart(energy["plain"], energy["exact"]))
            if dtype == torch.float64:
                top = max(float(g.abs().max()) for g in gradients["plain"] if g is not None)
                names = ["positions", *(key for key, _ in net.named_parameters())]
                for key, one, other in zip(names, gradients["plain"], gradients["exact"], strict=True):
                    if one is None or other is None:
                        assert all(g is None or not g.any() for g in (one, other)), key
                    elif name == "transformer" and key.endswith("lin_key.bias"):
                        # A softmax ignores it: rounding is all there is.
                        assert max(float(one.abs().max()), float(other.abs().max())) < 1e-14 * top, key
                    else:
                        worst["gradient_float64"] = max(worst["gradient_float64"], _apart(one, other))
        print(f"  {name}: same", flush=True)
    assert worst["energy_float32"] < 1e-5 and worst["energy_float64"] < 1e-10 and worst["gradient_float64"] < 1e-10, (
        worst
    )
    return worst


def _apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).detach().abs().max() / one.detach().abs().max())


def task(net: SDDFModel, batch: Batch, name: str) -> Callable[[], Any]:
    """What is timed: energies, energies and forces, or a step of training on energies."""

    def energy() -> Any:
        net.eval()
        with torch.no_grad():
            return net(batch, forces=False)

    def gradient() -> Any:
        net.eval()
        return net(batch)

    def step() -> None:
        net.train().zero_grad(set_to_none=True)
        net(batch, forces=False).energy.abs().mean().backward()

    return {"energy": energy, "gradient": gradient, "step": step}[name]


def seconds(work: Callable[[], Any]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def published(records: Sequence[Record], stats: GraphStats, width: int, repeats: int) -> dict[str, Any]:
    """Best times of each network, and the ratios for the five together."""
    batch = off_the_plane(Batch.from_data_list([graph(record, 4.0) for record in records]))
    print(f"published networks: {batch.num_graphs} molecules, {batch.num_nodes} atoms, {batch.num_edges} edges")
    print(f"  {'':12}" + "".join(f"{name + ' plain':>16}{'exact':>8}{'ratio':>7}" for name in TASKS), flush=True)
    total = {(name, path): 0.0 for name in TASKS for path in PATHS}
    ratios: dict[str, Any] = {}
    for member, net in networks("sddf", stats, f"preset.width={width}").items():
        line, ratios[member] = f"  {member:12}", {}
        for name in TASKS:
            best = dict.fromkeys(PATHS, np.inf)
            for turn in range(repeats + 1):
                for path in PATHS:
                    net.path = path
                    if turn or path == "exact":  # the first turn warms up
                        best[path] = min(best[path], seconds(task(net, batch, name)))
            for path in PATHS:
                total[name, path] += best[path]
            ratios[member][name] = round(best["plain"] / best["exact"], 2)
            line += f"{best['plain']:16.3f}{best['exact']:8.3f}{ratios[member][name]:7.1f}"
        print(line, flush=True)
    five = {name: round(total[name, "plain"] / total[name, "exact"], 2) for name in TASKS}
    print(
        f"  {'five':12}" + "".join(f"{total[n, 'plain']:16.3f}{total[n, 'exact']:8.3f}{five[n]:7.1f}" for n in TASKS),
        flush=True,
    )
    return {
        "ratios": {**ratios, "five": five},
        "seconds": {f"{path}_{name}": round(total[name, path], 4) for name in TASKS for path in PATHS},
    }


def ani2x() -> torch.nn.Module | None:
    """The architecture of ANI-2x with random weights; None where torchani is not installed."""
    os.environ["TORCHANI_NO_WARN_EXTENSIONS"] = "1"  # CUDA ones
    if "huggingface_hub" not in sys.modules:
        # torchani imports it to fetch published weights. None are fetched here.
        hub = types.ModuleType("huggingface_hub")
        hub.hf_hub_download = None  # type: ignore[attr-defined]
        sys.modules["huggingface_hub"] = hub
    try:
        from torchani.arch import Assembler
        from torchani.constants import MASS  # noqa: F401  (an incomplete installation fails here, not later)
    except ImportError as error:
        print(f"torchani cannot be imported ({error}): no comparison with ANI-2x")
        return None
    assembler = Assembler(periodic_table_index=True)
    assembler.set_symbols(("H", "C", "N", "O", "S", "F", "Cl"))
    assembler.set_global_cutoff_fn("cosine")
    assembler.set_aev_computer(radial="ani2x", angular="ani2x", strategy="pyaev")
    assembler.set_atomic_networks(ctor="ani2x")
    assembler.set_neighborlist("all_pairs")
    assembler.set_zeros_as_self_energies()
    return assembler.assemble(8).requires_grad_(False)


def smooth_ensemble(stats: GraphStats) -> Ensemble:
    """The five networks of the default preset, with fresh weights."""
    return Ensemble(networks("smooth", stats), ReferenceEnergies(dict.fromkeys(stats.elements, 0.0), "none"), {})


def against_ani(ensemble: Ensemble, records: Sequence[Record], repeats: int) -> dict[str, Any] | None:
    """Energies and forces of the same molecules, in turns."""
    ani = ani2x()
    if ani is None:
        return None
    species = torch.from_numpy(np.stack([record.atomic_numbers for record in records])).long()
    positions = torch.from_numpy(np.stack([record.positions for record in records])).float()

    def peer() -> None:
        place = positions.clone().requires_grad_()
        energy = ani((species, place)).energies
        torch.autograd.grad(energy.sum(), place)

    def ours() -> None:
        ensemble.predict(records, batch_size=len(records))

    best = {"ani2x": np.inf, "smooth": np.inf}
    for turn in range(repeats + 1):
        for name, work in (("ani2x", peer), ("smooth", ours)):
            taken = seconds(work)
            best[name] = min(best[name], taken if turn else np.inf)
    best["ratio"] = best["ani2x"] / best["smooth"]
    print(
        f"energies and forces of {len(records)} molecules: ANI-2x (8 networks) {best['ani2x']:.3f} s, smooth ensemble "
        f"{best['smooth']:.3f} s: {best['ratio']:.2f} times as fast",
        flush=True,
    )
    return {key: round(float(value), 4) for key, value in best.items()}


def growth(ensemble: Ensemble, sizes: Sequence[int], repeats: int) -> dict[str, float]:
    """Milliseconds per atom, energies and forces, by the number of atoms."""
    per_atom = {}
    for size in sizes:
        record = crowd(size)
        n = len(record.atomic_numbers)
        taken = min(seconds(lambda record=record: ensemble.predict([record])) for _ in range(repeats + 1))
        per_atom[str(n)] = round(1e3 * taken / n, 4)
        print(f"  {n:6} atoms: {taken:.3f} s, {per_atom[str(n)]:.3f} ms per atom", flush=True)
    return per_atom


def memory(ensemble: Ensemble, counts: Sequence[int]) -> dict[str, float]:
    """Most memory of this process, MB above the start, while so many molecules stream through."""
    process, peaks = psutil.Process(), {}
    ensemble.predict(small(64))
    for count in counts:
        gc.collect()
        start = most = process.memory_info().rss
        for first in range(0, count, 64):
            ensemble.predict(small(min(64, count - first)))
            most = max(most, process.memory_info().rss)
        peaks[str(count)] = round((most - start) / 2**20, 1)
        print(f"  {count:6} molecules: {peaks[str(count)]:.1f} MB above {start / 2**20:.0f} MB", flush=True)
    return peaks


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="narrow networks and few molecules, seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=("published", "ani", "growth", "memory"), help="one part alone")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    count, width, repeats = (4, 128, 1) if asked.quick else (32, 1024, asked.repeats)
    records = conformers(count)
    stats = graph_stats([graph(record, 5.0) for record in [*records, *small(1)]])
    found: dict[str, Any] = {"atoms": N_ATOMS, "molecules": count, "width": width}

    def wanted(part: str) -> bool:
        return asked.only in (None, part)

    if wanted("published"):
        print("exact algebra against torch-geometric:", flush=True)
        found["fidelity"] = assert_fidelity(records[:2], stats, width)
        found["published"] = published(records, stats, width, repeats)
        found["bars"] = BARS
    ensemble = smooth_ensemble(stats)
    if wanted("ani"):
        found["smooth_against_ani2x"] = against_ani(ensemble, records, 1 if asked.quick else 10)
    if wanted("growth"):
        print("smooth ensemble, energies and forces:", flush=True)
        found["ms_per_atom"] = growth(
            ensemble, (20, 100) if asked.quick else (20, 50, 100, 200, 500, 1000, 2000), repeats
        )
    if wanted("memory"):
        print("memory while molecules stream through:", flush=True)
        found["memory_mb"] = memory(ensemble, (64, 128) if asked.quick else (2_000, 20_000))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
