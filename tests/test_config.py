"""Every configuration composes, and what it names can be made."""

from pathlib import Path

import pytest
from hydra.utils import instantiate

from sddfkit.config import absolute_root, load, load_run, plain
from sddfkit.verbs import prepare_folder
from sddfkit.workflows.active import LoopSettings

CONF = Path(__file__).parents[1] / "conf"
VERBS = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in {"hydra", "__pycache__"})
MEMBERS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def overrides_for(verb: str) -> list[str]:
    return ["data=somewhere"] if verb == "train" else []


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb):
    cfg = load(verb, overrides_for(verb))
    assert Path(cfg.paths.root).is_absolute()
    assert plain(cfg)["seed"] == 0


@pytest.mark.parametrize(("group", "member"), MEMBERS)
def test_every_member_composes_and_can_be_made(group, member, tmp_path):
    cfg = load("active", [f"{group}={member}", f"paths.root={tmp_path}"])
    chosen = cfg.get(group)
    if group == "model":
        assert list(cfg.model) == [member]
        assert {"_target_", "cutoff"} <= set(cfg.model[member])
    elif group == "loop":
        LoopSettings(**chosen)
    elif group == "experiment":
        assert cfg.name == member
    elif "_target_" in (chosen or {}):
        assert instantiate(chosen, _convert_="all") is not None


def test_a_sweep_over_single_members_and_lists_of_members():
    assert list(load("train", ["data=x", "model=[gen,pna]"]).model) == ["gen", "pna"]


def test_a_misspelt_override_is_an_error():
    with pytest.raises(Exception, match="experimnt"):
        load("active", ["experimnt=demo"])
    with pytest.raises(Exception, match="sed"):
        load("active", ["sed=1"])


def test_a_run_keeps_its_resolved_configuration(tmp_path):
    cfg = load("active", ["experiment=smoke", "seed=7", f"paths.root={tmp_path}"])
    folder = prepare_folder(absolute_root(cfg), tmp_path / "run")
    again = load_run(folder)
    assert plain(again) == plain(cfg)
    assert again.seed == 7
    with pytest.raises(FileNotFoundError, match="folder of a run"):
        load_run(tmp_path)


def test_loop_settings_are_checked():
    good = plain(load("active"))["loop"]
    with pytest.raises(ValueError, match="seed_size"):
        LoopSettings(**{**good, "seed_size": 0})
    with pytest.raises(ValueError, match="negative"):
        LoopSettings(**{**good, "rounds": -1})
