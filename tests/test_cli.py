"""The command line as a user types it."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import warm
from mlflow.tracking import MlflowClient

from sddfkit import __version__
from sddfkit.cli import VERBS, main
from sddfkit.models import Ensemble


def sddfkit(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "SDDFKIT_ROOT"}
    return warm.run("sddfkit", *arguments, cwd=cwd, env=environment)


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
def test_label_sweep_predict_and_evaluate_on_a_file_of_ones_own(tmp_path):
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

    swept = sddfkit(
        "train", "-m", f"data={snapshot}", "model=gen,resgated", "preset=smooth_small", "trainer.max_epochs=2",
        "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", cwd=tmp_path,
    )  # fmt: skip
    assert swept.returncode == 0, swept.stderr
    (folder,) = (tmp_path / "sddfkit-data" / "runs").glob("*-train-sweep")
    with (folder / "summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["job"], row["model"], row["state"]) for row in rows] == [
        ("0", "gen", "finished"), ("1", "resgated", "finished"),
    ]  # fmt: skip
    best = min(rows, key=lambda row: float(row["validation_energy_mae_kcal_mol"]))
    assert f"best: job {best['job']}" in swept.stdout
    assert list(Ensemble.load(folder / "best").members) == [best["model"]]

    client = MlflowClient(f"sqlite:///{tmp_path}/sddfkit-data/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("train").experiment_id])
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    jobs = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    members = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in {job.info.run_id for job in jobs}]
    assert (len(jobs), len(members)) == (2, 2) and {run.info.status for run in runs} == {"FINISHED"}
    assert (
        parent.data.tags["best_job"] == best["job"] and "validation_energy" in parent.data.tags["mlflow.note.content"]
    )

    alone = tmp_path / "another machine"
    shutil.copytree(folder / "best", alone / "ensemble")
    (alone / "new.smi").write_text("CCCO propanol\nCCBr bromide\n")
    predicted = sddfkit(
        "predict", "run=ensemble", "molecules=file", "molecules.path=new.smi", "conformers.n_conformers=2", cwd=alone
    )
    assert predicted.returncode == 0, predicted.stderr
    (made,) = (alone / "sddfkit-data" / "runs").glob("*-predict")
    assert "propanol" in (made / "predictions.csv").read_text() and "Br" in (made / "failures.csv").read_text()
    judged = sddfkit("evaluate", f"run={folder}", cwd=tmp_path)
    assert judged.returncode == 0, judged.stderr
    (numbers,) = (tmp_path / "sddfkit-data" / "runs").glob("*-evaluate/evaluation.json")
    assert float(best["test_energy_mae_kcal_mol"]) == pytest.approx(
        json.loads(numbers.read_text())["metrics"]["ensemble"]["energy_mae_kcal_mol"]
    )


def test_a_signal_amid_an_import_gives_the_exit_code_as_well(tmp_path):
    (tmp_path / "hydra.py").write_text("import os, signal\nexec('os.kill(os.getpid(), signal.SIGTERM)')\n")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-m", "sddfkit", "label"], cwd=tmp_path, env=environment, check=False)
    assert done.returncode == 130
