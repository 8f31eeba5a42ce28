"""How a face has turned: where its features are, and that a code can tell."""

import pytest
import torch

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.model import seeded
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.turn import features, fit_turn


def test_features_follow_the_head_within_its_box_and_not_where_the_box_goes() -> None:
    who = random_identities([1])
    still, place = torch.zeros(1, len(MOTION)), torch.zeros(1, 3)
    at_rest = features(who, still, place)
    assert at_rest.abs().max() < 0.6
    torch.testing.assert_close(features(who, still, torch.tensor([[0.1, -0.05, 0.2]])), at_rest, rtol=0, atol=1e-5)
    turned = still.clone()
    turned[0, MOTION.index("yaw")] = 25.0
    assert (features(who, turned, place) - at_rest)[..., 0].mean() > 0.03  # to the picture's right
    rolled = still.clone()
    rolled[0, MOTION.index("roll")] = 15.0
    moved = (features(who, rolled, place) - at_rest)[0, :, 1]
    right, left = at_rest[0, :, 0] > 0.1, at_rest[0, :, 0] < -0.1
    assert moved[right].mean() > moved[left].mean() + 0.03  # clockwise: the right side goes down


def test_a_code_tells_most_of_the_turn() -> None:
    encoder = seeded(ModelConfig.small(), 0).motion_encoder  # its random features see the face all the same
    assert fit_turn(encoder, 48, count=400) > 0.5
    assert encoder.turn is not None
    assert encoder.turn.weight.abs().max() > 0


def test_the_fit_is_the_same_to_the_bit_wherever_memory_lies() -> None:
    encoder, kept, taken = seeded(ModelConfig.small(), 0).motion_encoder, [], []
    for call in range(4):
        fit_turn(encoder, 48, count=60)
        assert encoder.turn is not None
        kept.append(encoder.turn.weight.clone())
        taken += [bytearray(1237 * call + 13), torch.ones(777 * call + 5)]
    assert all(torch.equal(weight, kept[0]) for weight in kept)


def test_an_encoder_without_places_has_no_turn_to_fit() -> None:
    config = ModelConfig.small()
    plain = config.model_copy(update={"unet": config.unet.model_copy(update={"token_places": "picture"})})
    with pytest.raises(XNeMoError, match="token_places"):
        fit_turn(seeded(plain, 0).motion_encoder, 48, count=2)
