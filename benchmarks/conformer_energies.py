"""Energies of conformers of drug-like molecules relative to each other: an ensemble that corrects GFN2-xTB, one alone.

- ``--train FILE.npz --out DIR`` trains five networks on the difference between the labels and GFN2-xTB (Δ), and five on
  the labels themselves, within so many minutes on all cores. A run that was killed goes on where it was.
- ``--predict FILE.npz --model DIR --out pred.npz`` needs no labels. It writes, one value a row and NaN where a row is
  refused: ``ensemble`` (GFN2-xTB plus Δ), ``ensemble_no_delta`` and ``gfn2``, hartree; ``std``, hartree, the standard
  deviation of the members' Δ relative to their mean over the rows of the same molecule; ``reason``.
- ``--study FILE.npz --out DIR`` does both on a strict split by molecule (`sddfkit.data.strict_scaffold_split`), with
  each seed, and compares with the other columns of the file. This is the default where the set is in
  ``../shared/data/conformer_benchmark``.

The layout of a file is that of `sddfkit.data.readers.conformer_benchmark`. All energies are compared as differences
from the mean of their own molecule (`sddfkit.data.within_molecule`). The last line printed is one JSON object.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _conformer_rows import Rows, read_rows
from numpy.typing import NDArray
from omegaconf import OmegaConf

from sddfkit.config import load
from sddfkit.data import (
    Record,
    compare_medians,
    fit_reference_energies,
    from_records,
    median_intervals,
    strict_scaffold_split,
    within_molecule,
)
from sddfkit.models import Ensemble, graph, graph_stats
from sddfkit.models.build import build_net
from sddfkit.training.datamodule import GraphDataModule
from sddfkit.training.fit import fit_member
from sddfkit.units import HARTREE_TO_EV

SET = Path(__file__).parents[2] / "shared" / "data" / "conformer_benchmark" / "conformers.npz"
MODELS = ("gen", "pna", "resgated", "general", "transformer")
SHARES = {"delta": 0.65, "no_delta": 0.35}
"""Of the time: the ensemble with Δ is the one to use."""
VALIDATION = 10
"""One molecule in so many is held out by each member for choosing its weights, another tenth by each."""
LABEL = "wb97x_nod"


def labelled(rows: Rows, energy: str) -> tuple[list[Record], list[Record], dict[str, Any]]:
    """Records with Δ and with the labels themselves (eV), and what was left out."""
    if energy not in rows.arrays:
        raise SystemExit(f"the file has no energies {energy!r}; its arrays are {', '.join(sorted(rows.arrays))}")
    labels = np.asarray(rows.arrays[energy], dtype=np.float64) * HARTREE_TO_EV
    known = [
        (record, label)
        for record, label in zip(rows.records, labels, strict=True)
        if record is not None and np.isfinite(label)
    ]
    delta = [record._replace(energy=label - record.energy, level=f"{energy} - GFN2-xTB") for record, label in known]
    plain = [record._replace(energy=label, level=energy) for record, label in known]
    left_out = {
        "rows": len(labels),
        "without_label": int((~np.isfinite(labels)).sum()),
        "refused": dict(Counter(reason for reason in rows.reasons if reason)),
        "used": len(known),
    }
    return delta, plain, left_out


def settings(preset: str, models: Sequence[str]) -> dict[str, Any]:
    """The configurations of the networks and of the trainer."""
    cfg = load("train", ["data=none", f"model=[{','.join(models)}]", f"preset={preset}", "trainer=conformers"])
    found = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(found, dict)
    return found


def seconds_per_epoch(net: Mapping[str, Any], trainer: Mapping[str, Any], records: Sequence[Record]) -> float:
    """Of one network, measured on a few steps."""
    sample = [graph(record, net["cutoff"], energy=0.0) for record in records[:: max(1, len(records) // 200)]]
    built = build_net(net, graph_stats(sample), 0)
    loader = GraphDataModule(sample, sample, batch_size=trainer["batch_size"], seed=0).train_dataloader()
    taken = []
    for batch in list(loader)[:6]:
        start = time.process_time()  # whatever else the machine does
        built(batch, forces=False).energy.sum().backward()
        taken.append(time.process_time() - start)
    return float(np.median(taken)) * len(records) / trainer["batch_size"]


def plan(folder: Path, minutes: float, workers: int, records: Sequence[Record], found: Mapping[str, Any]) -> dict:
    """Epochs of each network that fit into the time; what was decided once stands, so that a run can go on."""
    path = folder / "plan.json"
    if path.is_file():
        return json.loads(path.read_text())
    speed = {name: seconds_per_epoch(net, found["trainer"], records) for name, net in found["model"].items()}
    each = 60.0 * minutes * workers / len(speed) / 1.3  # the cores share a memory, validation takes its time
    epochs = {
        kind: {name: max(2, int(share * each / seconds)) for name, seconds in speed.items()}
        for kind, share in SHARES.items()
    }
    path.write_text(json.dumps(epochs))
    return epochs


def train(
    rows: Rows,
    folder: Path,
    *,
    energy: str,
    minutes: float,
    workers: int,
    preset: str,
    seed: int,
    models: Sequence[str] = MODELS,
) -> dict:
    """Both ensembles; returns what was used and how long it took."""
    start = time.perf_counter()
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    delta, plain, about = labelled(rows, energy)
    found = settings(preset, models)
    epochs = plan(folder, minutes, workers, delta, found)
    jobs = []
    for kind, records in (("delta", delta), ("no_delta", plain)):
        # Rare elements too are determined; a common shift of a molecule's conformers is of no interest here.
        elements = sorted({int(z) for record in records for z in record.atomic_numbers})
        references = fit_reference_energies(records, dict.fromkeys(elements, 0.0), ridge=1e-6)
        for number, (name, net) in enumerate(found["model"].items()):
            held_out = _held_out(records, number, seed)
            files = {}
            for part, wanted in (("train", False), ("validation", True)):
                files[part] = folder / f"{kind}-{name}-{part}.parquet"
                _write(files[part], [record for record in records if (record.molecule_id in held_out) == wanted])
            jobs.append(
                {
                    "name": name,
                    "net": net,
                    "module": found["trainer"]["module"],
                    "trainer": {**found["trainer"], "max_epochs": epochs[kind][name]},
                    "train_records": str(files["train"]),
                    "validation_records": str(files["validation"]),
                    "references": references.to_dict(),
                    "seed": 1000 * seed + number,
                    "folder": str(folder / kind / name),
                    "threads": 1,
                }
            )
    # The longest first.
    jobs.sort(key=lambda job: -job["trainer"]["max_epochs"])
    with _pool(workers) as pool:
        waiting = {pool.submit(fit_member, job): job for job in jobs}
        for done in as_completed(waiting):
            card = done.result()
            kind = Path(waiting[done]["folder"]).parent.name
            print(
                f"  [{time.perf_counter() - start:5.0f} s] {kind} {card['name']}: {card['epochs']} epochs, best "
                f"{card['best_epoch']}, {card['wall_s']:.0f} s",
                flush=True,
            )
    for kind in SHARES:
        folders = [folder / kind / name for name in found["model"]]
        Ensemble.from_members(folders).save(folder / f"{kind}.safetensors")
    return {**about, "epochs": epochs, "train_s": round(time.perf_counter() - start, 1)}


def predict(rows: Rows, folder: Path) -> dict[str, NDArray[Any]]:
    """Columns of predictions, hartree; see the docstring of this file."""
    torch.set_num_threads(1)
    reasons = rows.reasons.astype(object)
    count = len(rows.records)
    found = {kind: np.full(count, np.nan) for kind in SHARES}
    for kind in SHARES:
        ensemble = Ensemble.load(folder / f"{kind}.safetensors")
        members = np.full((len(ensemble.members), count), np.nan)
        usable = []
        for i, record in enumerate(rows.records):
            if record is None:
                continue
            unknown = set(record.atomic_numbers.tolist()) - set(next(iter(ensemble.members.values())).stats.elements)
            if unknown:
                reasons[i] = f"never trained on the elements with Z = {', '.join(map(str, sorted(unknown)))}"
                continue
            usable.append(i)
        for first in range(0, len(usable), 64):
            where = usable[first : first + 64]
            prediction = ensemble.predict([rows.records[i] for i in where], forces=False, batch_size=32)
            found[kind][where] = prediction.energy
            members[:, where] = prediction.member_energies
        if kind == "delta":
            spread = _spread(rows.arrays["name"], members)
    return {
        "ensemble": (rows.gfn2 + found["delta"]) / HARTREE_TO_EV,
        "ensemble_no_delta": found["no_delta"] / HARTREE_TO_EV,
        "gfn2": rows.gfn2 / HARTREE_TO_EV,
        "std": spread / HARTREE_TO_EV,
        "reason": reasons.astype(np.str_),
    }


def _spread(names: NDArray[Any], members: NDArray[np.float64]) -> NDArray[np.float64]:
    """Standard deviation over members (m, n) of energies relative to the molecule's mean, (n,); NaN stays."""
    _, molecule = np.unique(names, return_inverse=True)
    spread = np.full(len(names), np.nan)
    for i in range(molecule.max() + 1):
        rows = np.flatnonzero((molecule == i) & np.isfinite(members[0]))
        if len(rows):
            spread[rows] = (members[:, rows] - members[:, rows].mean(axis=1, keepdims=True)).std(axis=0)
    return spread


def _pool(workers: int) -> Executor:
    """Processes, or for one worker a thread of this one, which starts at once."""
    if workers == 1:
        return ThreadPoolExecutor(1)
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"))


def cached_rows(path: Path, folder: Path, workers: int) -> Rows:
    """`read_rows`, with the energies by GFN2-xTB kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    return read_rows(path, workers, folder / f"gfn2-{digest}.npz")


def study(path: Path, folder: Path, *, seeds: Sequence[int], **options: Any) -> dict[str, Any]:
    """Train and judge on one strict split, with each seed."""
    rows = cached_rows(path, folder, options["workers"])
    molecules = {record.molecule_id: record.smiles for record in rows.records if record is not None}
    fractions = {"train": 0.8, "test": 0.2}
    split = strict_scaffold_split(molecules, fractions=fractions, rng=np.random.default_rng(0))
    fold = dict(zip(split["molecule_id"].to_pylist(), split["fold"].to_pylist(), strict=True))
    parts = {
        name: _only(rows, [r is not None and fold[r.molecule_id] == name for r in rows.records]) for name in fractions
    }
    by_seed = {}
    for seed in seeds:
        place = folder / f"seed-{seed}"
        about = train(parts["train"], place, seed=seed, **options)
        found = predict(parts["test"], place)
        by_seed[str(seed)] = {**about, **judge(parts["test"], found, options["energy"])}
    return {"molecules": dict(Counter(fold.values())), "seeds": by_seed}


def judge(rows: Rows, found: Mapping[str, NDArray[Any]], energy: str) -> dict[str, Any]:
    """Medians over molecules of all columns, on those that ANI-2x can do and on those that it cannot."""
    columns = {name: np.asarray(found[name]) for name in ("ensemble", "ensemble_no_delta", "gfn2")}
    others = {name: rows.arrays[name] for name in ("ani2x", "b973c") if name in rows.arrays}
    names, target = rows.arrays["name"], rows.arrays[energy]
    tables = {}
    without = np.isnan(others["ani2x"]) if "ani2x" in others else np.ones(len(names), dtype=bool)
    hard = np.isin(names, np.unique(names[without]))
    for title, rows_of, shown in (
        ("all columns", ~hard, columns | others),
        ("not by ANI-2x", hard, columns | {k: v for k, v in others.items() if k != "ani2x"}),
        ("all", np.ones(len(names), dtype=bool), columns),
    ):
        if not rows_of.any():
            continue
        in_ev = {name: np.asarray(values, dtype=float)[rows_of] * HARTREE_TO_EV for name, values in shown.items()}
        scores = within_molecule(names[rows_of], target[rows_of] * HARTREE_TO_EV, in_ev)
        rng = np.random.default_rng(0)
        tables[title] = {
            "molecules": len(scores["ensemble"].molecules),
            "medians": {
                name: {k: _rounded(v) for k, v in median_intervals(score, rng, resamples=2000).items()}
                for name, score in scores.items()
            },
            "ensemble_minus": {
                name: {k: _rounded(v) for k, v in compare_medians(scores["ensemble"], score, rng).items()}
                for name, score in scores.items()
                if name != "ensemble"
            },
        }
        _show(title, tables[title])
    return {"tables": tables}


def _show(title: str, table: Mapping[str, Any]) -> None:
    print(f"  {title}: {table['molecules']} molecules; medians of MAE (kcal/mol), r2, R2")
    for name, row in table["medians"].items():
        print(f"    {name:18} {row['mae'][0]:6.3f} {row['r2'][0]:6.3f} {row['R2'][0]:6.3f}", flush=True)


def _rounded(interval: Sequence[float]) -> list[float]:
    return [round(float(value), 4) for value in interval]


def _held_out(records: Sequence[Record], number: int, seed: int) -> set[str]:
    """The tenth of the molecules that member `number` validates on."""
    molecules = sorted({record.molecule_id for record in records})
    order = np.random.default_rng(seed).permutation(len(molecules))
    return {molecules[i] for i in order[number :: max(2, min(VALIDATION, len(molecules) // 2))]}


def _write(path: Path, records: Sequence[Record]) -> None:
    import pyarrow.parquet as pq

    if not path.is_file():
        part = path.with_suffix(".part")
        pq.write_table(from_records(records), part)
        part.replace(path)


def _only(rows: Rows, wanted: Sequence[bool]) -> Rows:
    """Some of the rows; of the arrays those with one value a row."""
    keep = np.asarray(wanted)
    arrays = {name: values[keep] for name, values in rows.arrays.items() if len(values) == len(keep)}
    return Rows(arrays, [r for r, k in zip(rows.records, keep, strict=True) if k], rows.reasons[keep], rows.seconds)


def main() -> None:
    """Do what is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=Path, metavar="FILE.npz")
    parser.add_argument("--predict", type=Path, metavar="FILE.npz")
    parser.add_argument("--study", type=Path, metavar="FILE.npz")
    parser.add_argument("--model", type=Path, metavar="DIR", help="where --train put it")
    parser.add_argument("--out", type=Path, help="folder of a training or study, file of predictions")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, on all cores")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--energy", default=LABEL, help="the column with the labels")
    parser.add_argument("--preset", default="smooth")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="a small set made here, seconds")
    asked = parser.parse_args()
    options = {"energy": asked.energy, "minutes": asked.minutes, "workers": asked.workers, "preset": asked.preset}
    if asked.predict:
        if not (asked.model and asked.out):
            parser.error("--predict needs --model DIR and --out FILE.npz")
        start = time.perf_counter()
        rows = read_rows(asked.predict, asked.workers)
        found = predict(rows, asked.model)
        np.savez(asked.out, **found)
        refused = dict(Counter(reason for reason in found["reason"].tolist() if reason))
        report = {
            "rows": len(rows.records),
            "predicted": int(np.isfinite(found["ensemble"]).sum()),
            "refused": refused,
            "seconds_per_conformer": round((time.perf_counter() - start) / max(1, len(rows.records)), 4),
            "of_which_gfn2": round(rows.seconds / asked.workers / max(1, len(rows.records)), 4),
        }
    elif asked.train:
        if not asked.out:
            parser.error("--train needs --out DIR")
        report = train(cached_rows(asked.train, asked.out, asked.workers), asked.out, seed=asked.seeds[0], **options)
    elif asked.quick:
        report = quick()
    else:
        path = asked.study or SET
        if not path.is_file():
            parser.error(f"no such file: {path}; name one with --train, --predict or --study")
        report = study(path, asked.out or Path("conformer-energies"), seeds=asked.seeds, **options)
    print(json.dumps({"benchmark": "conformer_energies", **report}))


def quick() -> dict[str, Any]:
    """The whole way on a few small molecules whose labels are GFN1-xTB: more cannot be computed in seconds."""
    from _conformer_rows import small_set

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        path, bare = small_set(folder)
        options = {"energy": LABEL, "minutes": 0.05, "workers": 1, "preset": "smooth_small", "models": MODELS[:2]}
        about = train(cached_rows(path, folder, 1), folder / "model", seed=0, **options)
        found = predict(read_rows(bare, 1), folder / "model")
    assert np.isfinite(found["ensemble"][:-1]).all(), "rows are predicted, with or without a label"
    assert about["without_label"] == 1 and about["used"] == about["rows"] - 1
    assert "never trained" in found["reason"][-1] and np.isnan(found["ensemble"][-1])
    return {"quick": True, **about}


if __name__ == "__main__":
    main()
