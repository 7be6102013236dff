"""Every value of a wrong kind in the configuration of a network is a ConfigError."""

from dataclasses import fields
from typing import Any

import pytest

from vggtq.errors import ConfigError
from vggtq.models.vggt.config import VGGTConfig, parse_config

ODD = [
    "x",
    "",
    None,
    [],
    {},
    [1, 2, 3, 4, 5],
    b"abcd",
    float("nan"),
    float("inf"),
    -1,
    -0.5,
    10**400,
    1e308,
    object(),
]
KEYS = [
    (section.name, key.name, getattr(getattr(VGGTConfig(), section.name), key.name))
    for section in fields(VGGTConfig)
    for key in fields(getattr(VGGTConfig(), section.name))
]


@pytest.mark.parametrize(("section", "key", "default"), KEYS, ids=lambda value: str(value))
def test_every_key_refuses_odd_values(section: str, key: str, default: object) -> None:
    odd = [*ODD, *([1.5, "3", True] if not isinstance(default, bool | float) else ["1", 10**7])]
    for value in [*odd, *([[item] * 4 for item in odd] if isinstance(default, tuple) else [])]:
        with pytest.raises(ConfigError) as error:
            parse_config({section: {key: value}})
        assert f"{section}.{key}" in str(error.value) and "\n" not in str(error.value)
        assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    "config", [[], 0, "", False, 3, "vggt", [1], {1: {}}, {"dpt": None}, {"dpt": {None: 1}}]
)
def test_what_is_no_mapping_is_refused(config: Any) -> None:
    with pytest.raises(ConfigError):
        parse_config(config)
    assert parse_config(None) == parse_config({}) == VGGTConfig()


def test_no_hidden_layer_is_empty() -> None:
    for section in ("aggregator", "patch_embed"):
        with pytest.raises(ConfigError, match=rf"{section}\.mlp_ratio: 0\.0001 .* 1024"):
            parse_config({section: {"mlp_ratio": 1e-4}})
