"""The members of each family that the contract tests run on: the shipped ones, and those of ``--members`` folders."""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]


def folders() -> list[Path]:
    """The folders given with ``--members``."""
    return [Path(folder) for folder in os.environ.get("SDDFKIT_TEST_MEMBERS", "").split(os.pathsep) if folder]


def configs(group: str) -> list[Path]:
    """The YAML files of a group: the package's ``conf/<group>/*.yaml``, then those of the ``--members`` folders."""
    return [path for root in (ROOT, *folders()) for path in sorted((root / "conf" / group).glob("*.yaml"))]


def member_modules() -> list[Path]:
    """The ``*.py`` files of the ``--members`` folders."""
    return [path for folder in folders() for path in sorted(folder.glob("*.py"))]


def names(paths: Iterable[Path]) -> list[str]:
    """How tests call the members: the names of their files."""
    return [path.stem for path in paths]


def settings(path: Path) -> dict[str, Any]:
    """The settings in a member's YAML; ``${preset.…}`` is resolved with the preset "smooth".

    Fails the test, with a sentence that names the file, if the settings lack a ``_target_`` that can be imported.
    """
    preset = OmegaConf.load(ROOT / "conf" / "preset" / "smooth.yaml")
    whole = OmegaConf.create({"preset": preset, "member": OmegaConf.load(path)})
    found = OmegaConf.to_container(whole.member, resolve=True)
    if not isinstance(found, dict) or "_target_" not in found:
        pytest.fail(f"{path} has no entry _target_: it names the class, as package.module.Class", pytrace=False)
    locate(str(found["_target_"]), path)
    return {str(key): value for key, value in found.items()}


def locate(target: str, path: Path) -> Any:
    """The object at a dotted path that `path` names; fails the test with a sentence if it cannot be imported."""
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        reason = error
    pytest.fail(
        f"{path} names {target}, which cannot be imported: {reason}. Is the spelling right? A module outside the tree "
        f"must lie in a folder that is given with --members (given: {', '.join(map(str, folders())) or 'none'}) "
        f"or is on PYTHONPATH (now: {os.environ.get('PYTHONPATH') or 'not set'})",
        pytrace=False,
    )
