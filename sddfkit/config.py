"""All that a notebook needs of Hydra.

>>> cfg = load("active", ["experiment=smoke", "seed=1"])
>>> cfg.seed, sorted(cfg.model)
(1, ['gen', 'general', 'pna', 'resgated', 'transformer'])
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, flag_override

from sddfkit.overrides import SettingsError, composed

__all__ = ["SettingsError", "absolute_paths", "load", "load_run", "plain", "text"]


def load(verb: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None) -> DictConfig:
    """Compose the configuration of a verb with Hydra overrides, as the command line does.

    Parameters
    ----------
    verb
        ``"active"``, ``"label"``, ``"train"``, ``"predict"``, ``"screen"``, ``"evaluate"`` or ``"md"``: the name of a
        root configuration.
    overrides
        For instance ``["experiment=smoke", "strategy=random"]``.
    config_dir
        A folder with configuration groups of one's own (``model/``, ``strategy/``, ``level/``).

    Raises
    ------
    SettingsError
        Something in the overrides is wrong; the message names the nearest that would be right.

    Notes
    -----
    May be called any number of times in one kernel.
    """
    cfg = composed(verb, overrides, config_dir=config_dir)
    with flag_override(cfg, ["struct", "readonly"], [False, False]):
        del cfg["hydra"]
    return absolute_paths(cfg)


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


def absolute_paths(cfg: DictConfig) -> DictConfig:
    """Make the paths in a configuration absolute, so that nothing depends on the working folder later.

    ``data`` is followed through links: ``runs/latest`` will point elsewhere one day.
    """
    try:
        cfg.paths.root = str(Path(cfg.paths.root).expanduser().absolute())
        if OmegaConf.select(cfg, "data") is not None:
            cfg.data = str(Path(cfg.data).expanduser().resolve())
        if (path := OmegaConf.select(cfg, "molecules.path")) and Path(path).expanduser().exists():
            cfg.molecules.path = str(Path(path).expanduser().absolute())
        if path := OmegaConf.select(cfg, "cluster.connection_file"):
            cfg.cluster.connection_file = str(Path(path).expanduser().absolute())
    except (TypeError, RuntimeError) as error:  # no text; a home folder that nobody has
        raise SettingsError(f"paths.root, data and molecules.path must be paths: {error}") from error
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the settings of a job as plain dictionaries and lists, all interpolations resolved."""
    job = OmegaConf.masked_copy(
        cfg, [str(key) for key in cfg if key != "hydra"]
    )  # whose own settings need a running job
    container = OmegaConf.to_container(job, resolve=True, throw_on_missing=True)
    assert isinstance(container, Mapping)
    return {str(key): value for key, value in container.items()}


def text(cfg: DictConfig) -> str:
    """Return the settings of a job as YAML: what ``config.yaml`` holds."""
    return OmegaConf.to_yaml(OmegaConf.create(plain(cfg)))
