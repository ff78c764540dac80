"""The command line as a user types it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sddfkit import __version__
from sddfkit.cli import VERBS, main
from sddfkit.models import Ensemble


def sddfkit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "SDDFKIT_ROOT"}
    return subprocess.run(
        [sys.executable, "-m", "sddfkit", *arguments],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


def test_help_names_every_verb(capsys):
    assert main([]) == 0 == main(["--help"])
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    assert main(["--version"]) == 0
    assert __version__ in capsys.readouterr().out


def test_a_wrong_verb_is_answered_with_the_nearest(capsys):
    assert main(["activ"]) == 2
    assert "did you mean 'active'?" in capsys.readouterr().err


def test_the_configuration_can_be_shown_without_a_run(tmp_path):
    done = sddfkit("active", "experiment=smoke", "seed=5", "--cfg", "job", cwd=tmp_path)
    assert done.returncode == 0 and "seed: 5" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_failure_is_a_sentence(tmp_path):
    done = sddfkit("label", "molecules.path=nowhere.smi", "level=gfn2", cwd=tmp_path)
    assert done.returncode == 1
    assert "nowhere.smi" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_label_then_train_on_a_file_of_ones_own(tmp_path):
    lines = [
        "smiles,title", "CCO,ethanol", "C1CC1,cyclopropane", "not a molecule,rubbish", "c1ccoc1,furan", "CCBr,bromide",
        "CC=O,acetaldehyde", "C1CCC1,cyclobutane", "CCN,ethylamine", "c1ccsc1,thiophene", "C1CO1,oxirane",
        "CCS,ethanethiol", "CSC,dimethyl sulfide",
    ]  # fmt: skip
    (tmp_path / "mine.csv").write_text("\n".join(lines) + "\n")
    labelled = sddfkit(
        "label", "molecules=file", "molecules.path=mine.csv", "molecules.elements=[H,C,N,O,S]", "level=gfn2",
        "conformers.n_conformers=3", "conformers.prune_rmsd=0.01", cwd=tmp_path,
    )  # fmt: skip
    assert labelled.returncode == 0, labelled.stderr
    assert "mine.csv:4" in labelled.stdout and "mine.csv:6" in labelled.stdout and "Br" in labelled.stdout
    snapshot = next((tmp_path / "sddfkit-data" / "runs").glob("*-label")) / "snapshot"
    manifest = json.loads((snapshot / "manifest.json").read_text())
    assert manifest["level"] == "GFN2-xTB" and manifest["columns"]["forces"]["unit"] == "eV/Å"

    trained = sddfkit(
        "train", f"data={snapshot}", "model=[gen,resgated]", "trainer.max_epochs=3", "preset.width=16", cwd=tmp_path
    )
    assert trained.returncode == 0, trained.stderr
    folder = Path(trained.stdout.strip().splitlines()[-1].removeprefix("ensemble: "))
    assert list(Ensemble.load(folder).members) == ["gen", "resgated"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_sweep_with_joblib_shares_one_store(tmp_path):
    done = sddfkit(
        "active", "-m", "experiment=smoke", "level=gfn2", "strategy=random,loss_predictor", "model=gen,pna",
        "loop.rounds=1", "trainer.max_epochs=2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (sweep,) = (tmp_path / "sddfkit-data" / "runs").glob("*-sweep")
    reports = [json.loads((sweep / str(job) / "report.json").read_text()) for job in range(4)]
    assert [(r["strategy"], r["members"]) for r in reports] == [
        ("Random", ["gen"]), ("Random", ["pna"]), ("LossPredictor", ["gen"]), ("LossPredictor", ["pna"]),
    ]  # fmt: skip
    assert len({r["split"]["hash"] for r in reports}) == 1
    assert sum(r["calculations"]["computed"] for r in reports) < sum(r["calculations"]["known"] for r in reports)
