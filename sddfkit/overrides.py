"""Overrides that a person typed: composed with the configuration, or explained."""

import difflib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

CONFIG_MODULE = "sddfkit.conf"
_TAKE_SEVERAL = ("model",)
_OBJECTS = ("level", "strategy", "split", "store", "cluster", "conformers")
_NULLABLE = ("prune_rmsd", "elements", "max_heavy_atoms", "patience", "scheduler", "loss", "predictor")
MOST_CHECKED = 50
"""So many values of each sweep are checked before the first job runs."""
_WORDS = {bool: "true or false", int: "a whole number", float: "a number"}


class SettingsError(ValueError):
    """What was asked for is wrong in itself; the message says what, and what would be right."""


def composed(
    verb: str, overrides: Sequence[str] = (), *, config_dir: str | Path | None = None, multirun: bool = False
) -> DictConfig:
    """Compose the configuration of a verb, with the node ``hydra``, and check it as far as it can be without running.

    Parameters
    ----------
    verb
        The name of a root configuration.
    overrides
        As typed. Of a sweep (``a=1,2``) the first values are taken; each of the others is checked.
    config_dir
        A folder of one's own with configuration groups, searched before the package's.
    multirun
        Whether overrides may be sweeps.

    Raises
    ------
    SettingsError
        An override that cannot be read, a key, group or choice that does not exist (the nearest is named), a value of
        another kind than the default's, a mandatory value that is missing.
    """
    mine = [str(config_dir)] if config_dir is not None else []
    with _searching(config_dir) as search:
        parsed = [_parse(text) for text in overrides]
        choices = [_choices(override, multirun) for override in parsed]
        first = [values[0] for values in choices]
        jobs = [first]
        for place, values in enumerate(choices):
            jobs += [[*first[:place], value, *first[place + 1 :]] for value in values[1:MOST_CHECKED]]
        try:
            found = [_checked(verb, job, parsed, search) for job in jobs]
        except SettingsError:
            raise
        except yaml.YAMLError as error:
            raise SettingsError(f"a configuration file cannot be read: {' '.join(str(error).split())}") from error
        except (HydraException, OmegaConfBaseException, TypeError, ValueError) as error:  # it raises all four
            raise SettingsError(_explained(error, verb, overrides, search, mine)) from error
    return found[0]


def _checked(verb: str, overrides: Sequence[str], parsed: Sequence[Override], search: Sequence[str]) -> DictConfig:
    cfg = compose(verb, overrides=[*overrides, *search], return_hydra_config=True)
    job = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])  # hydra's own needs a running job
    OmegaConf.to_container(job, resolve=True)
    groups = [
        text
        for text, override in zip(overrides, parsed, strict=True)
        if _is_group(override.key_or_group) and not override.is_delete()
    ]
    defaults = compose(verb, overrides=[*groups, *search])
    if lost := sorted({*defaults} - {*job}):
        raise SettingsError(f"{verb} needs the settings {', '.join(map(str, lost))}, which are taken away (~)")
    for text, override in zip(overrides, parsed, strict=True):
        if text not in groups and not override.is_add() and not override.is_delete():
            _check_kind(override.key_or_group, cfg, defaults)
    if missing := sorted(OmegaConf.missing_keys(job)):
        raise SettingsError(f"{missing[0]} is not given: add {missing[0]}=...")
    for group in _OBJECTS:
        if group in job and (not OmegaConf.is_dict(job[group]) or "_target_" not in job[group]):
            raise SettingsError(f"{group} names no class: its YAML needs the line `_target_: package.module.Name`")
    return cfg


def explained(error: Exception, verb: str, overrides: Sequence[str], config_dir: str | Path | None = None) -> str:
    """Return what is wrong with the overrides that Hydra or OmegaConf refused, in a sentence."""
    with _searching(config_dir) as search:
        return _explained(error, verb, overrides, search, [str(config_dir)] if config_dir is not None else [])


@contextmanager
def _searching(config_dir: str | Path | None) -> Iterator[list[str]]:
    """Open Hydra on the package's configuration; give the override that adds a folder of one's own."""
    search = []
    if config_dir is not None:
        folder = Path(config_dir).absolute()
        if not folder.is_dir():
            raise SettingsError(f"--config-dir {config_dir} is no folder")
        search = [f"hydra.searchpath=[{quoted(f'file://{folder}')}]"]
    GlobalHydra.instance().clear()
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        yield search


def quoted(text: str) -> str:
    """Return a value as Hydra's grammar reads any text: in quotes."""
    return "'" + re.sub(r"(\\*)'", r"\1\1\\'", text) + "'"


def _parse(text: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        key, _, value = text.partition("=")
        if key and value:
            raise SettingsError(
                f"the value of {text!r} cannot be read; in quotes it would: '{key}=\"{value}\"'"
            ) from error
        choices = [f"{group}={text}" for group in _groups() if text in _options(group)]
        hint = f"; did you mean {choices[0]!r}?" if choices else ""
        raise SettingsError(f"{text!r} is no override, they read key=value{hint}") from error


def _choices(override: Override, multirun: bool) -> list[str]:
    """Return what an override sets: itself, or of a sweep one override for each value."""
    text, key = override.input_line, override.key_or_group
    if _is_group(key) and not override.is_delete() and not override.is_sweep_override():
        value = override.value()
        if value is None or value == []:
            raise SettingsError(f"{text!r} names no choice: leave it out")
        if isinstance(value, list) and key not in _TAKE_SEVERAL:
            raise SettingsError(f"{text!r} names several, {key} takes one")
    if not override.is_sweep_override():
        return [str(text)]
    if not multirun:
        raise SettingsError(
            f"{text!r} lists several values: add -m for a sweep over them, or write "
            f"{override.get_key_element()}=[...] for a list"
        )
    if not override.is_discrete_sweep():
        raise SettingsError(f"{text!r} is an interval; list the values: a,b,c or range(1,4)")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def _explained(error: Exception, verb: str, overrides: Sequence[str], search: list[str], mine: Sequence[str]) -> str:
    if isinstance(error, InstantiationException):
        return f"{error.args[0].partition('full_key: ')[2] or 'the configuration'}: {error.__cause__ or error}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(str(error.missing_cfg_file), mine)
    text = str(error)
    if found := re.search(r"Could not load '([^']+)'", text):
        return _no_such_choice(found.group(1), mine)
    if found := re.search(r"Could not override '([^']*)'", text):
        return _no_such_key(found.group(1), verb, overrides, search)
    if isinstance(error, InterpolationKeyError):
        return f"{error.full_key} refers to something that is not there: {text.splitlines()[0]}"
    return " ".join(text.split())


def _no_such_choice(choice: str, mine: Sequence[str]) -> str:
    group, _, name = choice.rpartition("/")
    options = _options(group, mine)
    return f"{group}={name} does not exist, {group} can be {', '.join(options)}{_near(name, options)}"


def _no_such_key(key: str, verb: str, overrides: Sequence[str], search: list[str]) -> str:
    groups = [text for text in overrides if _is_group(text.partition("=")[0])]
    try:
        cfg = compose(verb, overrides=[*groups, *search])
    except (HydraException, OmegaConfBaseException):
        cfg = compose(verb)
    keys = sorted({*_keys(cfg), *_groups()})
    return f"there is no setting {key!r} in {verb!r}{_near(key, keys)} (`sddfkit {verb} --cfg job` shows them all)"


def _near(word: str, known: Sequence[str]) -> str:
    """Return "; did you mean …?" for the nearest word, if any is near; a bare name may be the end of a dotted one."""
    ends = [name for name in known if name.rpartition(".")[2] == word]
    near = ends[:1] or difflib.get_close_matches(word, known, n=1, cutoff=0.75)
    if not near and "." not in word:
        last = {name.rpartition(".")[2]: name for name in known}
        near = [last[name] for name in difflib.get_close_matches(word, last, n=1, cutoff=0.6)]
    near = near or difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]!r}?" if near else ""


def _keys(cfg: Any, prefix: str = "") -> Iterator[str]:
    for key in cfg:
        yield f"{prefix}{key}"
        child = cfg._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _keys(child, f"{prefix}{key}.")


def _groups() -> list[str]:
    loader = GlobalHydra.instance().config_loader()
    return [str(name) for name in loader.list_groups("") if name != "hydra"]


def _options(group: str, search: Sequence[str] = ()) -> list[str]:
    """Return the choices of a group, with those in a folder of one's own."""
    mine = {path.stem for folder in search for path in (Path(folder) / group).glob("*.yaml")}
    return sorted({*map(str, GlobalHydra.instance().config_loader().get_group_options(group)), *mine})


def _is_group(key: str) -> bool:
    return bool(_options(key.partition("@")[0].lstrip("+~")))


def _check_kind(key: str, cfg: DictConfig, defaults: DictConfig) -> None:
    """Refuse a value of another kind than the default's; where the default is null, anything goes."""
    parent, _, name = key.rpartition(".")
    holder = OmegaConf.select(defaults, parent) if parent else defaults
    mandatory = OmegaConf.is_dict(holder) and OmegaConf.is_missing(holder, name)
    default, value = None if mandatory else OmegaConf.select(defaults, key), OmegaConf.select(cfg, key)
    if (default is None and not mandatory) or (value is None and name in _NULLABLE):
        return
    if mandatory or isinstance(default, str):
        good, kind = value is not None and not OmegaConf.is_config(value), "a text"
    elif isinstance(default, (bool, int, float)):
        good = type(value) is type(default) or (isinstance(default, float) and type(value) is int)
        kind = _WORDS[type(default)]
    else:
        good = OmegaConf.is_list(value) == OmegaConf.is_list(default) and OmegaConf.is_config(value)
        kind = "a list such as [a,b]" if OmegaConf.is_list(default) else "settings with names"
    if not good:
        what = "null" if value is None else repr(value)
        hint = "" if mandatory else f" (the default is {default!r})"
        raise SettingsError(f"{key} is {what}, expected {kind}{hint}")
