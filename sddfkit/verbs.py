"""From a composed configuration to the call of a workflow: what the command line and a notebook share.

Each verb takes a configuration (``sddfkit.config.load``), the folder of the run and, for the report, what the person
typed; it returns a line that names what it made. A run that was interrupted goes on in its own folder. Each raises
:class:`~sddfkit.config.SettingsError` for settings that are wrong in themselves, and ValueError if a run was finished
in this folder, or still runs there.
"""

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from sddfkit import runs, sweep
from sddfkit.config import SettingsError, absolute_paths, plain, text


def active(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Run active learning as configured; return a line that names the report."""
    from sddfkit.workflows.active import LoopSettings, active_learning
    from sddfkit.workflows.arrays import ARRAYS

    with _job("active", cfg, folder, command) as (path, settings):
        with _settings():
            _check_models(settings["model"])
            if settings["baseline"]["level"] is not None:
                raise SettingsError(
                    "active learning has no baseline yet: take baseline=none, then `sddfkit train baseline=… "
                    "data=<the run's snapshot>` on what it labelled"
                )
            _located(cfg.strategy._target_)
            parts = {
                **_labelling(cfg, settings),
                "split": instantiate(cfg.split, _convert_="all"),
                "strategy": instantiate(cfg.strategy),
                "loop": LoopSettings(**settings["loop"]),
            }
            if unknown := parts["strategy"].needs - ARRAYS:
                raise SettingsError(f"the strategy needs {sorted(unknown)}, the loop can give {sorted(ARRAYS)}")
        report = active_learning(
            **parts,
            models=settings["model"],
            trainer=settings["trainer"],
            strategy_name=cfg.strategy._target_.rsplit(".", 1)[-1],
            tracking=settings["logger"],
            preset=settings["preset"]["name"],
            root=Path(settings["paths"]["root"]),
            folder=path,
            seed=settings["seed"],
            name=settings["name"],
            command=command,
            config=settings,
            parent_run_id=sweep.parent_run_id(path),
        )
        runs.point_latest(Path(settings["paths"]["root"]), path)
    return f"report: {report}"


def label(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Label molecules as configured; return a line that names the snapshot."""
    from sddfkit.workflows.label import label_molecules

    with _job("label", cfg, folder, command) as (path, settings):
        with _settings():
            parts = _labelling(cfg, settings)
        snapshot = label_molecules(
            **parts, root=Path(settings["paths"]["root"]), folder=path, seed=settings["seed"]
        )  # fmt: skip
    return f"snapshot: {snapshot}"


def train(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Train an ensemble as configured; return a line that names its folder."""
    from sddfkit.workflows.train import train_from_snapshot

    with _job("train", cfg, folder, command) as (path, settings):
        with _settings():
            _check_models(settings["model"])
            split = instantiate(cfg.split, _convert_="all")
            baseline = None
            if settings["baseline"]["level"] is not None:
                baseline = (_level(cfg.baseline.level), _factory(cfg, settings))
        ensemble = train_from_snapshot(
            snapshot=Path(settings["data"]),
            split=split,
            models=settings["model"],
            trainer=settings["trainer"],
            tracking=settings["logger"],
            root=Path(settings["paths"]["root"]),
            folder=path,
            seed=settings["seed"],
            config=settings,
            parent_run_id=sweep.parent_run_id(path),
            baseline=baseline,
        )
    return f"ensemble: {ensemble}"


def predict(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Predict molecules by the ensemble of a finished run; return a line that names the table."""
    from sddfkit.workflows.predict import find_ensemble, predict_molecules

    with _job("predict", cfg, folder, command) as (path, settings):
        with _settings():
            embed = _embedding(cfg, settings)
            ensemble = find_ensemble(settings["run"], Path(settings["paths"]["root"]))
            factory = _factory(cfg, settings)
        table = predict_molecules(
            ensemble=ensemble,
            molecules=settings["molecules"],
            embed=embed,
            folder=path,
            seed=settings["seed"],
            factory=factory,
        )
    return f"predictions: {table}"


def evaluate(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Judge the ensemble of a finished run on labelled records; return a line that names the numbers."""
    from sddfkit.workflows.evaluate import evaluate_run
    from sddfkit.workflows.predict import find_ensemble

    with _job("evaluate", cfg, folder, command) as (path, settings):
        with _settings():
            ensemble = find_ensemble(settings["run"], Path(settings["paths"]["root"]))
            factory = _factory(cfg, settings)
        numbers = evaluate_run(
            ensemble=ensemble,
            snapshot=None if settings["data"] is None else Path(settings["data"]),
            folder=path,
            include_seen=settings["include_seen"],
            seed=settings["seed"],
            factory=factory,
        )
    return f"evaluation: {numbers}"


def screen(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Screen a file of molecules as configured; return a line that names the table."""
    from sddfkit.chem.screening import Screen
    from sddfkit.chem.sources import located
    from sddfkit.workflows.screening import find_predictor, load_predictor, screen_molecules

    with _job("screen", cfg, folder, command) as (path, settings):
        with _settings():
            located(settings["path"])
            elements = settings["screen"].pop("elements")
            weights, constant = None, 0.0
            if settings["predictor"] is not None:
                found = find_predictor(settings["predictor"], Path(settings["paths"]["root"]))
                weights, constant = load_predictor(found)
            what = Screen(
                **settings["screen"],
                elements=None if elements is None else tuple(elements),
                seed=settings["seed"],
                weights=weights,
                constant=constant,
            )
            top = 0 if weights is None else settings["top"]
            if not top and not settings["sample"]:
                raise SettingsError("nothing would be kept: give sample, or top and a predictor")
        table = screen_molecules(
            molecules=settings["path"],
            screen=what,
            top=top,
            sample=settings["sample"],
            workers=settings["workers"],
            folder=path,
            smiles_column=settings["smiles_column"],
            name_column=settings["name_column"],
        )
    return f"molecules: {table}"


def md(cfg: DictConfig, folder: str | Path, *, command: str = "") -> str:
    """Move molecules by the ensemble of a finished run; return a line that names the table of trajectories."""
    from sddfkit.workflows.md import molecular_dynamics
    from sddfkit.workflows.predict import find_ensemble

    with _job("md", cfg, folder, command) as (path, settings):
        with _settings():
            embed = _embedding(cfg, settings)
            move = instantiate(cfg.dynamics, _convert_="all")
            ensemble = find_ensemble(settings["run"], Path(settings["paths"]["root"]))
        table = molecular_dynamics(
            ensemble=ensemble,
            molecules=settings["molecules"],
            embed=embed,
            move=move,
            frames=settings["frames"],
            per_trajectory=settings["per_trajectory"],
            folder=path,
            seed=settings["seed"],
        )
    return f"trajectories: {table}"


@contextmanager
def _job(verb: str, cfg: DictConfig, folder: str | Path, command: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Hold the folder of a run, with the resolved configuration in it; give the folder and the settings."""
    absolute_paths(cfg)
    path = Path(folder).absolute()
    settings = plain(cfg)
    if settings["seed"] < 0:
        raise SettingsError(f"seed is {settings['seed']}, expected 0 or more")
    with runs.claimed(path, runs.RUN, {"verb": verb, "command": command}, text(cfg)):
        yield path, settings


@contextmanager
def _settings() -> Iterator[None]:
    """What goes wrong while objects are made from the settings is the settings' fault."""
    try:
        yield
    except InstantiationException as error:
        where = str(error).partition("full_key: ")[2].strip()
        raise SettingsError(f"{where or 'the configuration'}: {error.__cause__ or error}") from error
    except (TypeError, ValueError, RuntimeError) as error:
        raise SettingsError(str(error)) from error


def _labelling(cfg: DictConfig, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the parts that make labels out of molecules."""
    from sddfkit.qc.properties import property_named

    for name in settings["properties"]:
        property_named(name)
    level = _level(cfg.level)
    open_cluster = instantiate(cfg.cluster)
    open_cluster(Path(settings["paths"]["root"]) / "clusters" / "check")  # checks its settings, starts nothing
    return {
        "molecules": settings["molecules"],
        "embed": _embedding(cfg, settings),
        "level": level,
        "open_store": instantiate(cfg.store),
        "open_cluster": open_cluster,
        "properties": settings["properties"],
    }


def _level(chosen: DictConfig) -> Any:
    """Return the level of theory that a part of the configuration describes."""
    from sddfkit.qc.levels import Level

    level = instantiate(chosen, _convert_="all")
    if not isinstance(level, Level):
        raise SettingsError(f"level is made by {chosen._target_}, which gives no sddfkit.qc.Level")
    return level


def _factory(cfg: DictConfig, settings: dict[str, Any]) -> Any:
    """Return what computes baselines; nothing is opened or started before one is asked for."""
    from sddfkit.workflows.baseline import Factory

    return Factory(instantiate(cfg.store), instantiate(cfg.cluster), Path(settings["paths"]["root"]))


def _embedding(cfg: DictConfig, settings: dict[str, Any]) -> Any:
    """Return what makes conformers, after a try on methane, which any sound settings allow."""
    from rdkit import Chem

    from sddfkit.chem.molecules import element_numbers

    element_numbers(settings["molecules"]["elements"])
    embed = instantiate(cfg.conformers)
    embed(Chem.AddHs(Chem.MolFromSmiles("C")), rng=np.random.default_rng(0))
    return embed


def _check_models(models: dict[str, Any]) -> None:
    for name, net in models.items():
        if not isinstance(net, dict) or "_target_" not in net:
            raise SettingsError(
                f"model.{name} is no network: the YAML of a network begins with the line "
                "`# @package model.<its name>` and names its class as _target_"
            )
        arguments = {key: value for key, value in net.items() if key != "_target_"}
        try:
            inspect.signature(_located(net["_target_"])).bind(**arguments, stats=None, seed=0)
        except TypeError as error:
            raise SettingsError(f"model.{name}: {net['_target_']} cannot be made: {error}") from error


def _located(target: str) -> Any:
    from sddfkit.models.build import locate

    return locate(target)
