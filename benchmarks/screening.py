"""Screening a catalogue, and choosing 1,000 of 1,000,000.

    python benchmarks/screening.py            a million lines, a million rows: a quarter of an hour on two cores
    python benchmarks/screening.py --quick    a few thousand of each, seconds

First it asserts that a screening by processes, one of them interrupted, equals a plain loop over the file. Then:

- in turns, what RDKit's parser and MACCS keys take alone on the same cores, and what a screening takes with its
  reading, filters, score and bookkeeping (the start of processes is left out of both);
- the memory of all processes while a file of ``--lines`` lines goes by: the slope of a straight line through it;
- the time in which each strategy that scales chooses 1,000 rows, and the most memory.

The last line is one JSON object.
"""

import argparse
import itertools
import json
import multiprocessing
import os
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _screening_molecules import bare, molecules
from hydra.utils import instantiate
from rdkit import Chem

from sddfkit.active import Pool
from sddfkit.chem.fingerprints import maccs
from sddfkit.chem.molecules import molecule_id
from sddfkit.chem.screening import Screen
from sddfkit.config import load
from sddfkit.workflows.screening import Screening, screen_file

CORES = len(os.sched_getaffinity(0))
WEIGHTS = tuple(np.random.default_rng(0).normal(0.0, 1e-3, size=167).tolist())
SCREEN = Screen(("H", "C", "N", "O", "F", "S", "Cl"), max_heavy_atoms=40, weights=WEIGHTS, constant=0.02)
SCALING = ("random", "disagreement", "relative_std", "loss_predictor", "diversity", "kmeans", "uncertainty_diversity",
           "cost_aware")  # fmt: skip
"""The strategies that claim to scale; the others need forces or RMSD, which nobody has for a million conformers."""


def silent(state: Screening) -> None:
    """Show nothing."""
    del state


def catalogue(path: Path, lines: int) -> list[str]:
    """Write a tab-separated catalogue, and return its SMILES."""
    smiles = list(itertools.islice(molecules(), lines))
    assert len(smiles) == lines
    with path.open("w") as file:
        file.write("smiles\tid\tType\n")
        file.writelines(f"{text}\tM{i}\tS\n" for i, text in enumerate(smiles))
    return smiles


def assert_same_as_a_plain_loop(folder: Path, lines: int) -> int:
    """The best by processes, after an interruption, are those of a loop without any of it."""
    path = folder / "small.cxsmiles"
    smiles = [*catalogue(path, lines), "nonsense", "C[Si](C)C", "C*"]
    with path.open("a") as file:
        file.writelines(f"{text}\tX\tS\n" for text in smiles[-3:])
    found: dict[str, float] = {}
    for text in smiles[:-3]:
        mol = Chem.MolFromSmiles(text)
        if mol is not None and mol.GetNumHeavyAtoms() <= 40:
            found[molecule_id(mol)] = float(maccs([text])[0] @ np.array(WEIGHTS)) + 0.02
    expected = sorted(found.values(), reverse=True)[:50]

    calls = itertools.count()

    def stop(state: Screening) -> None:
        del state
        if next(calls) == 3:
            raise KeyboardInterrupt

    settings: dict[str, Any] = {"top": 50, "sample": 20, "chunk_lines": 100}
    whole = screen_file(path, SCREEN, **settings, workers=CORES, show=silent)
    try:
        screen_file(path, SCREEN, **settings, workers=1, show=stop, checkpoint=folder / "kept.json")
        raise AssertionError("the screening was not interrupted")
    except KeyboardInterrupt:
        pass
    rest = screen_file(path, SCREEN, **settings, workers=CORES, show=silent, checkpoint=folder / "kept.json")
    scores = [candidate.row[3] for candidate in whole.top.sorted()]
    np.testing.assert_allclose(scores, expected, atol=2e-9)
    assert whole.top.sorted() == rest.top.sorted() and whole.sample.sorted() == rest.sample.sorted()
    assert whole.lines == rest.lines == len(smiles) and whole.reasons == rest.reasons
    assert whole.molecules + sum(whole.reasons.values()) == whole.lines
    print(f"same as a plain loop: {whole.lines} lines, {whole.molecules} molecules, {dict(whole.reasons)}", flush=True)
    return whole.lines


def throughput(folder: Path, lines: int, repeats: int) -> dict[str, Any]:
    """Microseconds a molecule on all cores: RDKit alone, and a screening; the best of the repeats, in turns."""
    path = folder / "timed.cxsmiles"
    smiles = catalogue(path, lines)
    portions = [smiles[i : i + 500] for i in range(0, lines, 500)]
    best = {"bare": np.inf, "screening": np.inf}
    ratios = []
    for _ in range(repeats):
        with ProcessPoolExecutor(CORES, mp_context=multiprocessing.get_context("spawn")) as pool:
            list(pool.map(bare, [smiles[:500]] * 2 * CORES))
            start = time.perf_counter()
            done = sum(pool.map(bare, portions))
            alone = time.perf_counter() - start
        state = screen_file(path, SCREEN, top=1000, workers=CORES, show=silent)
        assert done == lines and state.lines == lines
        best = {"bare": min(best["bare"], alone), "screening": min(best["screening"], state.seconds)}
        ratios.append(state.seconds / alone)
    ratio = best["screening"] / best["bare"]
    micro = {name: round(1e6 * value / lines, 1) for name, value in best.items()}
    print(f"{CORES} cores, {lines} molecules: RDKit alone {micro['bare']} µs, screening {micro['screening']} µs, "
          f"ratio {ratio:.3f} (each turn: {', '.join(f'{r:.3f}' for r in ratios)})", flush=True)  # fmt: skip
    return {"lines": lines, "us_per_molecule": micro, "ratio": round(ratio, 3), "ratios": [round(r, 3) for r in ratios]}


def memory_slope(folder: Path, lines: int) -> dict[str, Any]:
    """MiB per million lines, of this process and those it started, over the second half of a file."""
    path = folder / "long.cxsmiles"
    with path.open("w") as file:
        file.write("smiles\tid\tType\n")
        file.writelines(f"{text}\tM{i}\tS\n" for i, text in enumerate(itertools.islice(molecules(), lines)))
    me = psutil.Process()
    points: list[tuple[int, float]] = []

    def look(state: Screening) -> None:
        if state.lines % max(lines // 200, 1000) == 0:
            points.append((state.lines, _resident(me)))

    state = screen_file(path, SCREEN, top=1000, sample=1000, show=look, checkpoint=folder / "long.json")
    at, held = np.array([point for point in points if point[0] >= lines / 2]).T
    slope = float(np.polyfit(at / 1e6, held, 1)[0])
    rate = lines / state.seconds
    print(
        f"{lines} lines at {rate:.0f} a second: {held.max():.0f} MiB at most, {slope:+.1f} MiB a million lines",
        flush=True,
    )
    return {
        "lines": lines,
        "lines_per_s": round(rate),
        "most_mib": round(float(held.max())),
        "slope_mib": round(slope, 1),
    }


def _resident(process: psutil.Process) -> float:
    held = 0
    for one in (process, *process.children(recursive=True)):
        try:
            held += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return held / 2**20


def selection(rows: int) -> dict[str, Any]:
    """Seconds in which each strategy chooses 1,000, and the most MiB beyond the pool, seen every 10 ms."""
    pool = made_up_pool(rows, 1)
    labelled = made_up_pool(2000, 2, labelled=True)
    found: dict[str, Any] = {}
    for name in SCALING:
        strategy = instantiate(load("active", [f"strategy={name}"]).strategy)
        if strategy.learns:
            strategy = strategy.fit(labelled)
        with Peak() as peak:
            start = time.perf_counter()
            chosen = strategy(pool, 1000, np.random.default_rng(0))
            spent = time.perf_counter() - start
        assert len(set(chosen)) == 1000
        found[name] = {"seconds": round(spent, 2), "mib": round(peak.mib)}
        print(f"  1,000 of {rows} by {name:22} {spent:6.2f} s, {peak.mib:6.0f} MiB", flush=True)
    return found


def made_up_pool(n: int, seed: int, *, labelled: bool = False) -> Pool:
    """A pool of n conformers, four of each molecule, in no order."""
    rng = np.random.default_rng(seed)
    molecule = rng.permutation(n) // 4
    keys = (rng.random((n // 4 + 1, 167)) < rng.random(167) ** 2).astype(np.uint8)
    shifted = rng.normal(-30.0, 0.2, size=(3, n))
    features: dict[str, Any] = {
        "member_energies": shifted - 4000.0,
        "shifted_energies": shifted,
        "n_atoms": rng.integers(10, 60, size=n),
        "maccs": keys[molecule],
        "expected_minutes": rng.uniform(0.1, 5.0, size=n),
    }
    if labelled:
        features["errors"] = np.abs(rng.normal(size=(3, n)))
    return Pool([f"r{i:08d}" for i in rng.permutation(n)], [f"m{i}" for i in molecule.tolist()], features)


class Peak:
    """The most memory that this process holds while the context lasts, beyond what it held before, MiB."""

    mib = 0.0

    def __enter__(self) -> "Peak":
        self._process = psutil.Process()
        self._before = self._process.memory_info().rss
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.01):
            self.mib = max(self.mib, (self._process.memory_info().rss - self._before) / 2**20)


def main() -> None:
    """Assert, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, seconds")
    parser.add_argument("--lines", type=int, help="of the file whose screening is watched (default: a million)")
    parser.add_argument("--rows", type=int, help="of the pool that is chosen from (default: a million)")
    given = parser.parse_args()
    lines = given.lines or (3_000 if given.quick else 1_000_000)
    rows = given.rows or (20_000 if given.quick else 1_000_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checked = assert_same_as_a_plain_loop(folder, 600)
        speed = throughput(folder, 1_000 if given.quick else 60_000, 1 if given.quick else 3)
        memory = memory_slope(folder, lines)
    chosen = selection(rows)
    result = {
        "checked_lines": checked,
        "cores": CORES,
        "throughput": speed,
        "memory": memory,
        "selection": {"rows": rows, "chosen": 1000, "strategies": chosen},
        "bars": {
            "ratio_at_most_1.10": speed["ratio"] <= 1.10,
            "selection_under_10_s": all(row["seconds"] < 10.0 for row in chosen.values()),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
