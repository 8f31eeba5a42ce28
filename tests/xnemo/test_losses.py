"""Losses of the diffusion and of the GAN head."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from xnemo import losses
from xnemo.errors import XNeMoError


def test_diffusion_loss_is_the_weighted_mean_of_squares() -> None:
    prediction, target = torch.zeros(2, 4, 1, 2, 2), torch.ones(2, 4, 1, 2, 2)
    assert losses.diffusion(prediction, target, torch.ones(2)) == 1
    assert losses.diffusion(prediction, target, torch.tensor([0.0, 3.0])) == 1.5


def test_timesteps_are_uniform_unless_shifted_towards_noise() -> None:
    u = (torch.arange(1000) + 0.5) / 1000
    assert torch.equal(losses.shift_timesteps(u, 1.0, 1000), torch.arange(1000))
    shifted = losses.shift_timesteps(u, 5.0, 1000)
    assert shifted.median() == pytest.approx(833, abs=2)
    assert shifted.max() <= 999


def test_hinge_stops_pushing_beyond_the_margin() -> None:
    real, fake = torch.tensor([2.0, 3.0]), torch.tensor([-2.0, -1.5])
    assert losses.hinge_discriminator(real, fake) == 0
    assert losses.hinge_discriminator(-real, -fake) == pytest.approx(3.5 + 2.75)
    assert losses.hinge_generator(fake) == 1.75


def test_feature_distance_trains_the_fake_side_only() -> None:
    fake = [torch.zeros(1, 2, requires_grad=True), torch.zeros(1, 3, requires_grad=True)]
    real = [torch.ones(1, 2, requires_grad=True), torch.full((1, 3), 3.0, requires_grad=True)]
    assert losses.feature_distance(fake, real, "sum") == 4
    mean = losses.feature_distance(fake, real, "mean")
    assert mean == 2
    mean.backward()
    assert fake[0].grad is not None
    assert real[0].grad is None


def test_random_features_are_fixed_frozen_and_leave_the_global_seed_alone() -> None:
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = losses.perceptual_features("random", None)
    assert torch.equal(torch.rand(1), expected)
    again = losses.perceptual_features("random", None)
    assert all(torch.equal(a, b) for a, b in zip(first(images), again(images), strict=True))
    assert not any(p.requires_grad for p in first.parameters())
    assert all(0.1 < f.std() < 10 for f in first(images))


def test_vgg_weights_are_read_by_torchvision_names_at_caffe_scale(tmp_path: Path) -> None:
    plan = [64, 64, "pool", 128, 128, "pool", *[256] * 4, "pool", *[512] * 4, "pool", 512]
    layers: list[nn.Module] = []
    width = 3
    for step in plan:
        if step == "pool":
            layers.append(nn.AvgPool2d(2))
        else:
            layers += [nn.Conv2d(width, int(step), 3, padding=1), nn.ReLU()]
            width = int(step)
    vgg = nn.Sequential(*layers).requires_grad_(False)
    save_file({f"features.{k}": v for k, v in vgg.state_dict().items()}, tmp_path / "vgg19.safetensors")
    features = losses.perceptual_features("vgg19", tmp_path / "vgg19.safetensors")
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    got = features(images)
    mean = torch.tensor([103.939, 116.779, 123.68]).view(1, 3, 1, 1)
    assert len(got) == 13
    assert torch.allclose(got[-1], vgg((images.flip(1) + 1) * 127.5 - mean), rtol=1e-3, atol=1e-3)


def test_a_wrong_or_missing_weights_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(XNeMoError, match=r"none\.pth"):
        losses.perceptual_features("vggface", tmp_path / "none.pth")
    save_file({"features.0.weight": torch.zeros(64, 3, 3, 3)}, tmp_path / "other.safetensors")
    with pytest.raises(XNeMoError, match=r"features\.0\.bias"):
        losses.perceptual_features("vgg19", tmp_path / "other.safetensors")
    with pytest.raises(XNeMoError, match="need a weights file"):
        losses.perceptual_features("vgg19", None)
