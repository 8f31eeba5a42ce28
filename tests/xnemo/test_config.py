"""The configuration: one round trip, and sizes that do not go together."""

from typing import Any

import pytest
from pydantic import ValidationError

from xnemo.config import GanConfig, ModelConfig, UNetConfig


@pytest.mark.parametrize(
    "config", [ModelConfig.sd15(), ModelConfig.small(), ModelConfig.tiny()], ids=["sd15", "small", "tiny"]
)
def test_a_configuration_survives_json(config: ModelConfig) -> None:
    assert ModelConfig.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unet": {"in_channels": 5}}, "equal codec.channels"),
        ({"unet": {"context_dim": 5}}, "equal unet.context_dim"),
        ({"image_size": 500}, "image_size 500 must be a multiple of 64"),
        ({"unet": {"attention": [True]}}, "one entry per level: 4"),
        ({"unet": {"heads": 7}}, "320 must be even, a multiple of heads"),
        ({"unet": {"channels": [24], "attention": [True], "norm_groups": 8, "token_places": "picture"}}, "24 .* of 16"),
        ({"unet": {"token_places": "head"}, "motion_token_dim": 8}, "motion_token_dim must be at least 9"),
        ({"gan": {"image_size": 225}}, "must give gan.image_size"),
        ({"unet": {"widths": [1]}}, "Extra inputs"),
    ],
)
def test_sizes_that_do_not_fit_are_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig.model_validate(values)


def test_a_configuration_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        UNetConfig().heads = 4  # type: ignore[misc]
    assert GanConfig() == ModelConfig.sd15().gan
