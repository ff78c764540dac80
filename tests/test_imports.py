"""Who may import whom. This test is the documentation of the picture: each package in a fresh interpreter."""

import json
import subprocess
import sys

import pytest

MUST_NOT_LOAD = {
    "flashrmsd_cy": {"rdkit", "sddfkit", "torch"},
    "sddfkit": {"torch", "mlflow", "pyscf", "rdkit"},
    "sddfkit.chem": {"torch", "sqlalchemy", "ipyparallel", "hydra", "qcengine"},
    "sddfkit.qc": {"torch", "rdkit", "sqlalchemy", "ipyparallel", "hydra"},
    "sddfkit.qc.supervisor": {"torch", "rdkit", "sqlalchemy", "ipyparallel", "hydra"},
    "sddfkit.qc.worker": {"torch", "rdkit", "scipy", "pint"},
    "sddfkit.factory": {"torch", "hydra", "mlflow"},
    "sddfkit.factory.survey": {"qcelemental", "ipyparallel", "numpy", "rdkit", "alembic", "psycopg"},
    "sddfkit.rmsd_set": {"torch", "ipyparallel", "sqlalchemy", "hydra", "biotite", "pynauty", "spyrmsd"},
    "sddfkit.data": {"torch", "ipyparallel", "sqlalchemy", "pytorch_lightning", "mlflow", "hydra"},
    "sddfkit.models": {"ipyparallel", "sqlalchemy", "pytorch_lightning", "mlflow", "hydra"},
    "sddfkit.dynamics": {"ipyparallel", "sqlalchemy", "pytorch_lightning", "mlflow", "hydra"},
    "sddfkit.training": {"ipyparallel", "hydra", "lightning"},
    "sddfkit.active": {"torch", "rdkit", "ipyparallel", "sddfkit.chem", "sddfkit.data", "sddfkit.models"},
    "sddfkit.viz": {"torch", "sqlalchemy", "ipyparallel", "hydra", "mlflow"},
    "sddfkit.config": {"torch", "mlflow", "pyscf"},
    "sddfkit.cli": {"torch", "mlflow", "pyscf", "hydra", "rdkit", "numpy"},
}


def loaded_by(statement: str) -> set[str]:
    code = f"{statement}\nimport sys, json\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.strip().splitlines()[-1]))


@pytest.mark.parametrize("package", MUST_NOT_LOAD)
def test_a_package_loads_nothing_that_it_must_not(package):
    assert loaded_by(f"import {package}") & MUST_NOT_LOAD[package] == set()


def test_all_that_the_factory_names_loads_nothing_that_it_must_not():
    assert loaded_by("from sddfkit.factory import *") & MUST_NOT_LOAD["sddfkit.factory"] == set()


def test_help_loads_nothing_heavy():
    for arguments in (["--help"], ["watch", "--help"]):
        modules = loaded_by(
            "import contextlib, sddfkit.cli\n"
            f"with contextlib.suppress(SystemExit):\n    assert sddfkit.cli.main({arguments}) == 0"
        )
        assert modules & {*MUST_NOT_LOAD["sddfkit.cli"], "rich", "sqlalchemy"} == set()
