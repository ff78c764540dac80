from pathlib import Path

import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import MISSING, OmegaConf

from sddfkit.chem.conformers import etkdg
from sddfkit.chem.molecules import molecule_id, molecules_from_smiles
from sddfkit.chem.sources import Rejected, read_molecules
from sddfkit.data.splits import assert_no_leak

CONF = Path(__file__).parents[2] / "conf"


def configs(group):
    return sorted((CONF / group).glob("*.yaml"))


@pytest.mark.parametrize("path", configs("molecules"), ids=lambda path: path.stem)
def test_molecule_sets(path):
    settings = OmegaConf.to_container(OmegaConf.load(path))
    assert settings.keys() == {"path", "elements", "min_heavy_atoms", "max_heavy_atoms", "stereo"}
    path = settings.pop("path")
    found = list(read_molecules("smoke" if path == MISSING else path, **settings))  # ???: a file of the user's own
    assert found
    assert not [item for item in found if isinstance(item, Rejected)]


@pytest.mark.parametrize("path", configs("conformers"), ids=lambda path: path.stem)
def test_conformer_generators(path):
    generate = instantiate(OmegaConf.load(path))
    (bare,) = molecules_from_smiles("CCO")
    placed = etkdg(bare, 3, np.random.default_rng(0), prune_rmsd=None).mol
    assert bare.GetNumConformers() == 0
    found = generate(placed, rng=np.random.default_rng(0))
    assert found.kept > 0
    if path.stem == "given":  # what there is to take, it takes; it makes none
        assert found.kept == 3 and generate(bare, rng=np.random.default_rng(0)).kept == 0
    else:
        assert generate(bare, rng=np.random.default_rng(0)).kept > 0


@pytest.mark.parametrize("path", configs("split"), ids=lambda path: path.stem)
def test_splits(path):
    molecules = {molecule_id(mol): mol for mol in read_molecules("smoke")}
    assert_no_leak(instantiate(OmegaConf.load(path))(molecules, rng=np.random.default_rng(0)))
