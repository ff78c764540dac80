"""All that a notebook needs of Hydra.

>>> cfg = load("active", ["experiment=smoke", "seed=1"])
>>> cfg.seed, sorted(cfg.model)
(1, ['gen', 'general', 'pna', 'resgated', 'transformer'])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

CONFIG_MODULE = "sddfkit.conf"


def load(verb: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose the configuration of a verb with Hydra overrides, as the command line does.

    Parameters
    ----------
    verb
        ``"active"``, ``"label"`` or ``"train"``: the name of a root configuration.
    overrides
        For instance ``["experiment=smoke", "strategy=random"]``.

    Notes
    -----
    May be called any number of times in one kernel.
    """
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        cfg = compose(verb, overrides=list(overrides))
    return absolute_root(cfg)


def load_run(folder: str | Path) -> DictConfig:
    """Return the resolved configuration of a finished run.

    Raises
    ------
    FileNotFoundError
        If the folder holds no ``config.yaml``.
    """
    path = Path(folder) / "config.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: is {folder} the folder of a run (sddfkit-data/runs/...)?")
    cfg = OmegaConf.load(path)
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path} holds no mapping")
    return cfg


def absolute_root(cfg: DictConfig) -> DictConfig:
    """Make ``paths.root`` absolute, so that nothing depends on the working folder later."""
    cfg.paths.root = str(Path(cfg.paths.root).expanduser().absolute())
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return a configuration as plain dictionaries and lists, all interpolations resolved."""
    container = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    assert isinstance(container, Mapping)
    return {str(key): value for key, value in container.items()}
