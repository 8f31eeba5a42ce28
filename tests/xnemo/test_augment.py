"""Augmentation of the driving crop."""

import pytest
import torch

from xnemo.augment import AugmentConfig, driving_crop
from xnemo.crops import face_crop, square
from xnemo.draw import Draw

BOX = torch.tensor([[16.0, 14.0, 46.0, 48.0]])
STILL = {"scale": 0, "anisotropy": 0, "shift": 0, "warp": 0, "colour": 0, "hue": 0, "grayscale": 0, "degrade": 0}


def frames(batch: int) -> torch.Tensor:
    """Smooth colour images [B,3,64,64] in [-1,1]."""
    coarse = torch.rand(batch, 3, 6, 6, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=(64, 64), mode="bicubic").clamp(-1, 1)


def crop(batch: int = 4, **config: object) -> torch.Tensor:
    draw = Draw(0, torch.arange(batch))
    return driving_crop(frames(batch), BOX.expand(batch, 4), 48, draw, AugmentConfig(**config))


def test_switched_off_it_keeps_the_plain_motion_crop() -> None:
    plain = face_crop(frames(4), square(BOX).expand(4, 4), 48, padding="border")
    assert torch.equal(crop(enabled=False), plain)


def test_ranges_of_zero_give_the_plain_crop_too() -> None:
    assert torch.allclose(crop(**STILL), crop(enabled=False), atol=2e-5)


@pytest.mark.parametrize(
    "one",
    [
        {"scale": 0.3},
        {"anisotropy": 0.1},
        {"shift": 0.05},
        {"warp": 0.03},
        {"colour": 0.4},
        {"hue": 0.1},
        {"grayscale": 1.0},
        {"degrade": 1.0},
    ],
)
def test_every_range_changes_the_picture_and_stays_in_bounds(one: dict) -> None:
    augmented = crop(8, **{**STILL, **one})
    assert (augmented - crop(8, enabled=False)).abs().mean() > 1e-3
    assert augmented.abs().max() <= 1


def test_grayscale_makes_the_channels_equal() -> None:
    grey = crop(**{**STILL, "grayscale": 1.0})
    assert torch.allclose(grey[:, 0], grey[:, 2], atol=1e-5)


def test_a_sample_is_augmented_the_same_in_any_batch() -> None:
    together = crop(4)
    for index in range(4):
        draw = Draw(0, torch.tensor([index]))
        alone = driving_crop(frames(4)[index : index + 1], BOX, 48, draw, AugmentConfig())
        assert torch.allclose(together[index], alone[0], atol=1e-5)
