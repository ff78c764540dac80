from pathlib import Path

import pytest

from sddfkit.models import GEN, GraphStats
from sddfkit.models.build import build_net, locate

STATS = GraphStats((1, 6), 4.0, 1.6)


def test_a_net_is_built_from_plain_values() -> None:
    net = build_net({"_target_": "sddfkit.models.gen.GEN", "width": 8, "layers": 1}, STATS, seed=0)
    assert isinstance(net, GEN)
    assert net.width == 8


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"width": 8}, "names no _target_"),
        ({"_target_": "sddfkit.models.gen.GENN"}, "'sddfkit.models.gen.GENN' cannot be imported.*did you mean GEN"),
        ({"_target_": "no_such_thing.Net"}, "install the package no_such_thing, or put the folder .* on PYTHONPATH"),
        ({"_target_": "no_such_thing.nets.Net"}, "no module no_such_thing; install .*no_such_thing/ on PYTHONPATH"),
        ({"_target_": "sddfkit.models.genn.GEN"}, "the package sddfkit has no module sddfkit.models.genn"),
        ({"_target_": ".GEN"}, "expected package.module.Name"),
        ({"_target_": "GEN"}, "expected package.module.Name"),
        ({"_target_": "builtins.dict"}, "builtins.dict is no EnergyModel"),
    ],
)
def test_wrong_targets_are_named(config: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_net(config, STATS, seed=0)


def test_a_misspelt_argument_is_not_ignored() -> None:
    with pytest.raises(TypeError, match="widht"):
        build_net({"_target_": "sddfkit.models.gen.GEN", "widht": 8}, STATS, seed=0)


def test_locate_finds_foreign_classes() -> None:
    assert locate("torch.optim.Adam").__name__ == "Adam"


def test_a_package_that_a_net_needs_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_needy.py").write_text("import no_such_thing.layers")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="own_needy needs the module no_such_thing; install the package no_such_thing"):
        locate("own_needy.Net")
