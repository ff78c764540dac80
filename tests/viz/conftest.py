"""A synthetic run with real molecules: every key of a report, deterministic numbers."""

import math
from typing import Any

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

KCAL = 23.060548
MEMBERS = ["gen", "pna", "resgated", "general", "transformer"]
TEST = {
    "ibuprofen-like acid": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "phenylpyridine": "c1ccc(cc1)-c1ccccn1",
    "N-methylpiperazine": "CN1CCNCC1",
    "benzoxazole": "c1ccc2ocnc2c1",
    "tetrahydropyran-4-ol": "OC1CCOCC1",
    "thiophene-2-carboxamide": "NC(=O)c1cccs1",
    "fluoroindole": "Fc1ccc2[nH]ccc2c1",
    "cyclohexyl ketone": "CC(=O)C1CCCCC1",
    "pyrazole ester": "CCOC(=O)c1cn[nH]c1",
    "morpholine amide": "CC(=O)N1CCOCC1",
    "chlorobenzylamine": "NCc1ccc(Cl)cc1",
    "butyric acid": "CCCC(=O)O",
}
CHOSEN = {
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "L-serine": "N[C@@H](CO)C(=O)O",
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "nicotine": "CN1CCC[C@H]1c1cccnc1",
    "2-thienylethanol": "OCCc1cccs1",
    "glycine methyl ester": "COC(=O)CN",
    "chloroquinoline": "Clc1ccnc2ccccc12",
    "sulfonamide": "CS(=O)(=O)Nc1ccccc1",
    "fluorophenol": "Oc1ccccc1F",
    "diethyl ether": "CCOCC",
    "caffeine": "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
}


def conformers(smiles: str, n: int) -> Chem.Mol:
    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMultipleConfs(mol, n, randomSeed=7)
    return mol


def metrics(energy: float, force: float) -> dict[str, float]:
    return {
        "energy_mae_kcal_mol": energy,
        "energy_rmse_kcal_mol": 1.3 * energy,
        "energy_mae_mev_per_atom": energy / KCAL * 1000 / 16,
        "force_mae_kcal_mol_A": force,
        "force_rmse_kcal_mol_A": 1.6 * force,
    }


def predictions(rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    for name, smiles in TEST.items():
        mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
        heavy, atoms = mol.GetNumHeavyAtoms(), mol.GetNumAtoms()
        offset, wrong = rng.normal(0, 0.35), rng.normal(0, 0.09) * heavy / 9
        for k in range(6):
            energy = offset + rng.gamma(2.0, 0.05)
            error = wrong + rng.normal(0, 0.04)
            forces = rng.normal(0, 0.9, 3 * atoms)
            rows.append(
                {
                    "record_id": f"{name[:4]}-{k}",
                    "molecule_id": Chem.MolToSmiles(Chem.RemoveHs(mol)),
                    "name": name,
                    "n_heavy": heavy,
                    "n_atoms": atoms,
                    "energy": energy,
                    "energy_pred": energy + error,
                    "energy_std": 0.4 * abs(error) * math.exp(rng.normal(0, 0.7)) + 0.01,
                    "forces": forces.tolist(),
                    "forces_pred": (0.9 * forces + rng.normal(0, 0.2, 3 * atoms)).tolist(),
                }
            )
    return rows


def selection(rng: np.random.Generator, number: int, usual: float) -> list[dict[str, Any]]:
    names = list(CHOSEN)
    picked = []
    for rank in range(1, 13):
        name = names[(rank // 2 + 4 * number) % len(names)]
        mol = Chem.MolFromSmiles(CHOSEN[name])
        score = 0.6 / rank**0.4
        picked.append(
            {
                "record_id": f"r{number}c{rank:02d}",
                "molecule_id": Chem.MolToSmiles(mol),
                "name": name,
                "score": score,
                "rank": rank,
                "reason": "largest force disagreement" if rank % 3 else "far from every labelled fingerprint",
                "energy_error_kcal_mol": float(usual * rng.normal(0.4, 1.8)),
                "n_heavy": mol.GetNumHeavyAtoms(),
            }
        )
    return picked


def build() -> tuple[dict[str, Any], dict[str, str]]:
    """Return a report and the molblocks of its views."""
    rng = np.random.default_rng(20)
    rows = predictions(rng)
    errors = np.array([r["energy_pred"] - r["energy"] for r in rows]) * KCAL
    forces = np.concatenate([np.subtract(r["forces_pred"], r["forces"]) for r in rows]) * KCAL
    final = metrics(float(np.abs(errors).mean()), float(np.abs(forces).mean()))
    rounds = []
    for number, factor in enumerate((3.1, 1.9, 1.3, 1.0)):
        ensemble = {key: value * factor ** (1.0 if "energy" in key else 0.6) for key, value in final.items()}
        members = {
            name: {key: value * (1.12 + 0.16 * i + 0.1 * rng.random()) for key, value in ensemble.items()}
            for i, name in enumerate(MEMBERS)
        }
        rounds.append(
            {
                "round": number,
                "n_labelled_train": 96 + 12 * number,
                "n_failed": int(number == 1),
                "wall_s": 210.0 + 30 * number,
                "metrics": {"ensemble": ensemble, "members": members, "baseline": metrics(9.4 - 0.1 * number, 16.6)},
                "selected": selection(rng, number, ensemble["energy_mae_kcal_mol"]) if number < 3 else [],
            }
        )
    views, molblocks = [], {}
    for number, (name, smiles) in enumerate(list(CHOSEN.items())[:4]):
        mol = conformers(smiles, 3)
        for k in range(mol.GetNumConformers()):
            key = rounds[0]["selected"][0]["record_id"] if number + k == 0 else f"view-{number}-{k}"
            caption = f"{name}, conformer {k + 1}: chosen in round 0, score {0.5 - 0.1 * k:.2f}"
            views.append({"record_id": key, "name": name, "caption": caption})
            molblocks[key] = Chem.MolToMolBlock(mol, confId=k)
    report = {
        "title": "Active learning on the demo molecules",
        "created": "2026-11-21T07:05:12+00:00",
        "seed": 42,
        "strategy": "force_disagreement",
        "preset": "smooth",
        "members": MEMBERS,
        "command": "sddfkit active experiment=demo seed=42",
        "level": {
            "name": "wb97x_631gd",
            "method": "wb97x",
            "basis": "6-31G(d)",
            "program": "pyscf",
            "version": "2.14.0",
            "why": "first of pyscf, psi4 that is installed",
        },
        "molecules": {
            "source": "demo",
            "accepted": 64,
            "rejected": [
                {"source": "demo.smi", "line": 12, "text": "C1CC", "reason": "not a SMILES: unclosed ring"},
                {"source": "demo.smi", "line": 31, "text": "CC[Si](C)C", "reason": "element Si is not covered"},
            ],
        },
        "conformers": {
            "asked": 640,
            "embedded": 634,
            "kept": 301,
            "failures": {"bad double bond stereo": 4, "minimisation failed": 2},
            "molecules": [
                {
                    "molecule_id": smiles,
                    "name": name,
                    "asked": 10,
                    "embedded": 10 - i % 3,
                    "kept": 5 - i % 4,
                    "failures": {"minimisation failed": i % 3} if i % 3 else {},
                }
                for i, (name, smiles) in enumerate({**TEST, **CHOSEN}.items())
            ],
        },
        "split": {
            "hash": "9f2c41d07be34a6e8812",
            "folds": {
                "train": {"molecules": 41, "scaffolds": 22, "records": 198},
                "validation": {"molecules": 9, "scaffolds": 5, "records": 27},
                "test": {"molecules": 12, "scaffolds": 9, "records": 72},
                "excluded": {"molecules": 2, "scaffolds": 2, "records": 4},
            },
            "excluded": [
                {"molecule_id": "Cc1ccc2ocnc2c1", "reason": "similarity 0.82 to c1ccc2ocnc2c1 in the test fold"},
                {"molecule_id": "CC1CCNCC1", "reason": "similarity 0.74 to CN1CCNCC1 in the test fold"},
            ],
        },
        "references": {"H": -13.587, "C": -1029.812, "N": -1485.303, "O": -2042.011, "S": -10831.9, "Cl": -12520.4},
        "rounds": rounds,
        "predictions": rows,
        "learning": {
            "n_labelled_train": [r["n_labelled_train"] for r in rounds],
            "energy_mae_kcal_mol": [r["metrics"]["ensemble"]["energy_mae_kcal_mol"] for r in rounds],
            "force_mae_kcal_mol_A": [r["metrics"]["ensemble"]["force_mae_kcal_mol_A"] for r in rounds],
        },
        "failures": [
            {
                "class": "convergence",
                "count": 2,
                "examples": [
                    {"record_id": "5d0a", "name": "nicotine", "message": "SCF not converged after 100 cycles"},
                    {"record_id": "77c1", "name": "caffeine", "message": "SCF not converged after 100 cycles"},
                ],
            },
            {
                "class": "time",
                "count": 1,
                "examples": [{"record_id": "a1b2", "name": "lidocaine", "message": "killed after 600 s"}],
            },
        ],
        "calculations": {
            "labelled": 224,
            "known": 40,
            "computed": 191,
            "failed": 3,
            "core_hours": 2.31,
            "program_wall_s": 8303.0,
        },
        "timings": [
            {"stage": "conformers", "wall_s": 7.4},
            {"stage": "labels, start", "wall_s": 3100.0},
            {"stage": "training, round 0", "wall_s": 210.0},
            {"stage": "labels, round 0", "wall_s": 388.0},
            {"stage": "training, round 1", "wall_s": 240.0},
            {"stage": "labels, round 1", "wall_s": 402.0},
            {"stage": "training, round 2", "wall_s": 270.0},
            {"stage": "labels, round 2", "wall_s": 371.0},
            {"stage": "training, round 3", "wall_s": 300.0},
            {"stage": "report", "wall_s": 3.2},
        ],
        "views": views,
        "environment": {"sddfkit": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "rdkit": "2026.9.1"},
    }
    return report, molblocks


@pytest.fixture(scope="session")
def built() -> tuple[dict[str, Any], dict[str, str]]:
    return build()
