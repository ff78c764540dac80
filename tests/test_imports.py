"""Who may import whom. This test is the documentation of the picture: packages in fresh interpreters."""

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


CHAINS = (
    ("flashrmsd_cy",),
    ("sddfkit", "sddfkit.cli", "sddfkit.factory.survey", "sddfkit.active", "sddfkit.config"),
    ("sddfkit.qc.worker", "sddfkit.qc.supervisor", "sddfkit.qc", "sddfkit.factory"),
    ("sddfkit.chem", "sddfkit.data", "sddfkit.rmsd_set", "sddfkit.viz"),
    ("sddfkit.models", "sddfkit.dynamics", "sddfkit.training"),
)
"""Imported in one interpreter, one after the other: none may find loaded what it must not load. A fresh one for each
would cost minutes."""


def loaded_by(*statements: str) -> list[set[str]]:
    """What is loaded after each statement."""
    told = "import sys, json; print('\\n' + json.dumps(sorted(sys.modules)))"
    code = "\n".join(f"{statement}\n{told}" for statement in statements)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [set(json.loads(line)) for line in done.stdout.splitlines() if line.startswith("[")]


def test_each_package_is_in_a_chain():
    assert sorted(package for chain in CHAINS for package in chain) == sorted(MUST_NOT_LOAD)


@pytest.mark.parametrize("chain", CHAINS, ids=lambda chain: chain[-1])
def test_a_package_loads_nothing_that_it_must_not(chain):
    loaded = loaded_by(*(f"import {package}" for package in chain))
    found = {package: sorted(modules & MUST_NOT_LOAD[package]) for package, modules in zip(chain, loaded, strict=True)}
    assert found == {package: [] for package in chain}


def test_all_that_the_factory_names_loads_nothing_that_it_must_not():
    assert loaded_by("from sddfkit.factory import *")[0] & MUST_NOT_LOAD["sddfkit.factory"] == set()


def test_help_loads_nothing_heavy():
    for arguments in (["--help"], ["watch", "--help"]):
        modules = loaded_by(
            "import contextlib, sddfkit.cli\n"
            f"with contextlib.suppress(SystemExit):\n    assert sddfkit.cli.main({arguments}) == 0"
        )[0]
        assert modules & {*MUST_NOT_LOAD["sddfkit.cli"], "rich", "sqlalchemy"} == set()
