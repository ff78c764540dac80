"""Every configuration composes, and what it names can be made."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.utils import instantiate

from sddfkit.config import SettingsError, load, load_run, plain, text
from sddfkit.runs import RUN, claimed, fresh, state_of, unfinished
from sddfkit.workflows.active import LoopSettings

CONF = Path(__file__).parents[1] / "conf"
VERBS = sorted(path.stem for path in CONF.glob("*.yaml"))
GROUPS = sorted(path.name for path in CONF.iterdir() if path.is_dir() and path.name not in {"hydra", "__pycache__"})
MEMBERS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]


def overrides_for(verb: str) -> list[str]:
    return {"train": ["data=somewhere"], "screen": ["path=demo"]}.get(verb, [])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_composes(verb):
    cfg = load(verb, overrides_for(verb))
    assert Path(cfg.paths.root).is_absolute()
    assert plain(cfg)["seed"] == 0


MANDATORY = {
    ("molecules", "file"): ["molecules.path=mine.smi"],
    ("store", "postgres"): ["store.path=postgresql+psycopg://me@server:5432/labels"],
    ("cluster", "connect"): ["cluster.connection_file=ipcontroller-client.json"],
}


@pytest.mark.parametrize(("group", "member"), MEMBERS)
def test_every_member_composes_and_can_be_made(group, member, tmp_path):
    mandatory = MANDATORY.get((group, member), [])
    for override in mandatory:
        with pytest.raises(SettingsError, match=f"{override.partition('=')[0]} is not given"):
            load("active", [f"{group}={member}"])
    verb = "md" if group == "dynamics" else "active"
    cfg = load(verb, [f"{group}={member}", f"paths.root={tmp_path}", *mandatory])
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
    with pytest.raises(SettingsError, match=r"'experimnt'.*did you mean 'experiment'"):
        load("active", ["experimnt=demo"])
    with pytest.raises(SettingsError, match=r"'sed'.*did you mean 'seed'"):
        load("active", ["sed=1"])
    with pytest.raises(SettingsError, match="-m for a sweep"):
        load("active", ["seed=1,2"])


def test_a_folder_of_ones_own_is_searched_too(tmp_path):
    (tmp_path / "my conf" / "strategy").mkdir(parents=True)
    (tmp_path / "my conf" / "strategy" / "mine.yaml").write_text("_target_: sddfkit.active.random.Random\n")
    cfg = load("active", ["strategy=mine"], config_dir=tmp_path / "my conf")
    assert cfg.strategy._target_.endswith("Random")
    with pytest.raises(SettingsError, match="strategy=mine does not exist"):
        load("active", ["strategy=mine"])
    with pytest.raises(SettingsError, match="did you mean 'mine'"):
        load("active", ["strategy=mime"], config_dir=tmp_path / "my conf")


def test_a_run_keeps_its_resolved_configuration_and_is_continued_by_the_same_one_alone(tmp_path):
    cfg = load("active", ["experiment=smoke", "seed=7", f"paths.root={tmp_path}"])
    runs, identity = tmp_path / "runs", {"verb": "active"}
    folder = runs / "2026-01-01-smoke"
    with pytest.raises(RuntimeError, match="on purpose"), claimed(folder, RUN, identity, text(cfg)):
        assert state_of(folder)["state"] == "running"
        raise RuntimeError("stopped on purpose")
    assert plain(load_run(folder)) == plain(cfg) and load_run(folder).seed == 7
    assert state_of(folder)["state"] == "failed" and "on purpose" in state_of(folder)["reason"]
    other = load("active", ["experiment=smoke", "seed=8", f"paths.root={tmp_path}"])
    assert unfinished(runs, RUN, identity, text(cfg)) == folder
    assert unfinished(runs, RUN, identity, text(other)) is None
    assert unfinished(runs, RUN, {"verb": "label"}, text(cfg)) is None
    assert fresh(folder) == runs / "2026-01-01-smoke-2"
    with claimed(folder, RUN, identity, text(cfg)):
        pass
    assert unfinished(runs, RUN, identity, text(cfg)) is None
    with pytest.raises(ValueError, match="holds a finished run"), claimed(folder, RUN, identity):
        pass
    with pytest.raises(FileNotFoundError, match="folder of a run"):
        load_run(tmp_path)


def test_a_run_of_a_living_process_is_left_alone(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "run")], stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"held\n"
    assert unfinished(tmp_path, RUN, {}) is None
    with pytest.raises(ValueError, match=f"belongs to process {child.pid}"), claimed(tmp_path / "run", RUN, {}):
        pass
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert unfinished(tmp_path, RUN, {}) == tmp_path / "run"  # dead, though nobody has taken notice of it yet
    child.communicate()
    assert unfinished(tmp_path, RUN, {}) == tmp_path / "run"


HOLDER = """
import sys, time
from pathlib import Path
from sddfkit.runs import RUN, claimed
with claimed(Path(sys.argv[1]), RUN, {}):
    print("held", flush=True)
    time.sleep(60)
"""


def test_loop_settings_are_checked():
    good = plain(load("active"))["loop"]
    with pytest.raises(ValueError, match="seed_size"):
        LoopSettings(**{**good, "seed_size": 0})
    with pytest.raises(ValueError, match="negative"):
        LoopSettings(**{**good, "rounds": -1})
