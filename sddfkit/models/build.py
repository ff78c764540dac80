"""From a plain configuration dict with a dotted `_target_` to the object it names, without Hydra or pickle."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from sddfkit.models.base import EnergyModel
from sddfkit.models.graphs import GraphStats


def locate(target: str) -> Any:
    """The object at a dotted path, such as ``sddfkit.models.gen.GEN``.

    Raises
    ------
    ValueError
        When there is no such module or attribute; says what to install or to put on ``PYTHONPATH``.
    """
    module, _, name = target.rpartition(".")
    if not module or not name:
        raise ValueError(f"_target_ {target!r} cannot be imported: expected package.module.Name")
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {_missing(module, error.name or '')}") from error
    except ImportError as error:
        raise ValueError(f"_target_ {target!r} cannot be imported: {error}") from error
    if not hasattr(found, name):
        near = difflib.get_close_matches(name, dir(found), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"_target_ {target!r} cannot be imported: {module} has no {name}{hint}")
    return getattr(found, name)


def _missing(module: str, name: str) -> str:
    """What to do about a module `name` that is not found while `module` is imported."""
    package = name.partition(".")[0]
    if module != name and not module.startswith(f"{name}."):
        return f"{module} needs the module {name}; install the package {package}"
    if name != package:
        return f"the package {package} has no module {name}; see that it is the version that the network was made with"
    return (
        f"there is no module {name}; install the package {package}, or put the folder that holds {package}.py or "
        f"{package}/ on PYTHONPATH"
    )


def build(config: Mapping[str, Any], *args: Any, **extra: Any) -> Any:
    """Call the `_target_` of `config` with `args`, its other entries and `extra`.

    >>> build({"_target_": "fractions.Fraction", "numerator": 3}, denominator=4)
    Fraction(3, 4)
    """
    if "_target_" not in config:
        raise ValueError(f"the configuration {dict(config)} names no _target_")
    arguments = {key: value for key, value in config.items() if key != "_target_"}
    return locate(config["_target_"])(*args, **arguments, **extra)


def build_net(config: Mapping[str, Any], stats: GraphStats, seed: int) -> EnergyModel:
    """The network that `config` describes, with fresh weights from `seed`.

    Raises
    ------
    ValueError
        When the target is missing or is no :class:`~sddfkit.models.base.EnergyModel`.
    """
    net = build(config, stats=stats, seed=seed)
    if not isinstance(net, EnergyModel):
        raise ValueError(f"{config['_target_']} is no EnergyModel")
    return net
