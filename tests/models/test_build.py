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
        ({"_target_": "sddfkit.models.gen.GENN"}, "'sddfkit.models.gen.GENN' cannot be imported"),
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
