"""From a plain configuration dict with a dotted `_target_` to the object it names, without Hydra or pickle."""

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
        When there is no such module or attribute.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"_target_ {target!r} cannot be imported ({error}); expected package.module.Name") from error


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
