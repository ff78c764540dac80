"""From a composed configuration to the call of a workflow: what the command line and a notebook share."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from sddfkit.config import absolute_root, plain


def prepare_folder(cfg: DictConfig, folder: str | Path) -> Path:
    """Make the folder of a run and write the resolved configuration into it.

    Raises
    ------
    ValueError
        If a run was finished in this folder.
    """
    path = Path(folder).absolute()
    done = [name for name in ("report.html", "snapshot", "ensemble") if (path / name).exists()]
    if "report.html" in done or (done and not (path / "mlflow-run.json").exists()):
        raise ValueError(f"{path} holds a finished run ({', '.join(done)}): name another folder")
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(plain(cfg))))
    return path


def active(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Run active learning as configured; return a line that names the report.

    Parameters
    ----------
    cfg
        ``load("active", [...])``.
    folder
        Where the run keeps its configuration, ensemble and report.
    command
        What the person typed, for the report.
    """
    from sddfkit.workflows.active import LoopSettings, active_learning

    absolute_root(cfg)
    path = prepare_folder(cfg, folder)
    settings = plain(cfg)
    molecules: dict[str, Any] = settings["molecules"]
    root = Path(settings["paths"]["root"])
    report = active_learning(
        molecules=molecules,
        embed=instantiate(cfg.conformers),
        level=instantiate(cfg.level, _convert_="all"),
        open_store=instantiate(cfg.store),
        open_cluster=instantiate(cfg.cluster),
        split=instantiate(cfg.split, _convert_="all"),
        models=settings["model"],
        trainer=settings["trainer"],
        strategy=instantiate(cfg.strategy),
        strategy_name=cfg.strategy._target_.rsplit(".", 1)[-1],
        loop=LoopSettings(**settings["loop"]),
        tracking=settings["logger"],
        preset=settings["preset"]["name"],
        root=root,
        folder=path,
        seed=settings["seed"],
        name=settings["name"],
        command=command,
        config=settings,
    )
    return f"report: {report}"


def label(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Label molecules as configured; return a line that names the snapshot."""
    from sddfkit.workflows.label import label_molecules

    del command
    absolute_root(cfg)
    path = prepare_folder(cfg, folder)
    settings = plain(cfg)
    snapshot = label_molecules(
        molecules=settings["molecules"],
        embed=instantiate(cfg.conformers),
        level=instantiate(cfg.level, _convert_="all"),
        open_store=instantiate(cfg.store),
        open_cluster=instantiate(cfg.cluster),
        root=Path(settings["paths"]["root"]),
        folder=path,
        seed=settings["seed"],
    )
    return f"snapshot: {snapshot}"


def train(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Train an ensemble as configured; return a line that names its folder."""
    from sddfkit.workflows.train import train_from_snapshot

    del command
    absolute_root(cfg)
    path = prepare_folder(cfg, folder)
    settings = plain(cfg)
    ensemble = train_from_snapshot(
        snapshot=Path(settings["data"]),
        split=instantiate(cfg.split, _convert_="all"),
        models=settings["model"],
        trainer=settings["trainer"],
        tracking=settings["logger"],
        root=Path(settings["paths"]["root"]),
        folder=path,
        seed=settings["seed"],
        config=settings,
    )
    return f"ensemble: {ensemble}"
