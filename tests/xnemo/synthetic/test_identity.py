"""A seed is a person, and a person has natural colours and proportions."""

import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.synthetic.identity import IDENTITY, random_identities, random_identity, traits


def test_a_seed_is_always_the_same_person_and_another_seed_another() -> None:
    assert torch.equal(random_identity(7), random_identity(7))
    assert (random_identity(7) - random_identity(8)).abs().max() > 0.1


def test_skin_is_warmer_than_grey_for_everyone() -> None:
    red, green, blue = traits(random_identities(range(200))).skin.flatten(1).unbind(1)
    assert bool((red > green).all())
    assert bool((green > blue).all())


def test_features_keep_their_order_down_the_face() -> None:
    who = traits(random_identities(range(200)))
    heights = torch.cat([who.hairline_y, who.brow_y, 0 * who.brow_y, who.nose_tip_y, who.mouth_y, who.height], -1)
    assert bool((heights.diff() > 0.05).all())


def test_values_outside_the_range_are_the_nearest_allowed() -> None:
    far, near = traits(torch.full((1, len(IDENTITY)), 9.0)), traits(torch.ones(1, len(IDENTITY)))
    assert torch.equal(far.width, near.width)


def test_a_wrong_number_of_traits_is_refused() -> None:
    with pytest.raises(XNeMoError, match="identity must be"):
        traits(torch.zeros(2, 5))
