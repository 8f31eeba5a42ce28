"""The paper's ablations (Table 2, appendix B) as switches of the configuration: each changes what it says."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.xnemo.test_stages import BOXES, SMOKE, names_with_gradient, pairs, stage, step, unlock
from xnemo.batch import to_unit
from xnemo.config import ModelConfig
from xnemo.crops import face_crop, square
from xnemo.draw import Draw
from xnemo.model import XNeMo, seeded
from xnemo.motion_attention import MotionModule
from xnemo.stages import GanLossConfig, StageConfig

NO_GAN = GanLossConfig(weight=0.0)


def changed(**changes: Any) -> ModelConfig:
    return ModelConfig.model_validate(SMOKE.model_dump() | changes)


def inputs_of(module: torch.nn.Module, work: Any) -> list[Any]:
    """Positional and keyword inputs of every call of the module while `work` runs."""
    seen: list[Any] = []
    hook = module.register_forward_pre_hook(lambda _, args, kwargs: seen.append((args, kwargs)), with_kwargs=True)
    work()
    hook.remove()
    return seen


def test_without_the_gan_head_nothing_of_it_is_left() -> None:
    trained = stage("motion", gan=NO_GAN)
    assert trained.gan is None
    assert trained.discriminator is None
    assert {group["name"] for group in trained.groups()} == {"motion_encoder", "motion_modules"}
    assert step(trained, pairs()).keys() == {"loss", "diffusion"}


def test_without_end_to_end_the_gan_head_alone_trains_the_encoder_which_then_stays() -> None:
    first = stage("motion", unlock(seeded(SMOKE, 0)), warmup_samples=10**9)
    step(first, pairs())
    moved = {n for n, p in first.named_parameters() if p.grad is not None and p.grad.any()}
    assert any(name.startswith("model.motion_encoder.model.") for name in moved)
    assert not any(name.startswith("model.denoiser.") for name in moved)
    second = stage("motion", unlock(seeded(SMOKE, 0)), encoder="frozen", gan=NO_GAN)
    step(second, pairs())
    moved = names_with_gradient(second)
    assert not any(name.startswith("model.motion_encoder.model.") for name in moved)
    assert "model.motion_encoder.final_proj.weight" in moved
    assert any(".motion_modules." in name for name in moved)


def test_a_frozen_encoder_with_a_gan_head_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gan\.weight=0"):
        StageConfig(encoder="frozen")


@pytest.mark.parametrize(("ratio", "kept"), [(0.0, None), (0.3, 44), (0.75, 16), (0.95, 3)])
def test_masking_leaves_its_share_of_the_reference(ratio: float, kept: int | None) -> None:
    trained = stage("motion", masking=ratio, reference_drop=0.0, gan=NO_GAN)
    ((_, told),) = inputs_of(trained.model.denoiser, lambda: trained.losses(pairs(), Draw(0, pairs().ids)))
    if kept is None:
        assert told["kept"] is None
    else:
        assert told["kept"]["down_blocks.0.attentions.0.transformer_blocks.0"].shape[1] == kept


def test_without_augmentation_the_encoder_sees_the_plain_crop() -> None:
    batch, size = pairs(), SMOKE.motion_encoder.image_size
    plain = face_crop(to_unit(batch.target), square(BOXES.roll(1, 0)), size, padding="border")

    def seen(enabled: bool) -> Tensor:
        trained = stage("motion", gan=NO_GAN, augment={"enabled": enabled})
        ((args, _),) = inputs_of(
            trained.model.motion_encoder.model, lambda: trained.losses(batch, Draw(0, pairs().ids))
        )
        return args[0]

    assert torch.equal(seen(False), plain)
    assert (seen(True) - plain).abs().mean() > 0.02


def test_without_cross_attention_motion_is_a_map_that_is_added() -> None:
    model = unlock(seeded(changed(motion_input="map"), 0))
    assert not any(isinstance(module, MotionModule) for module in model.modules())
    trained = stage("motion", model, gan=NO_GAN)
    (group,) = [group for group in trained.groups() if group["name"] == "motion_modules"]
    assert {id(p) for p in group["params"]} == {id(p) for p in model.denoiser.motion_map.parameters()}
    step(trained, pairs())
    assert model.motion_encoder.model.fc.weight.grad.any()
    assert moved_by_motion(model) > 1e-3


def test_a_fresh_map_changes_nothing_and_a_window_of_it_is_cut_like_tokens() -> None:
    model = seeded(changed(motion_input="map"), 0).eval()
    assert moved_by_motion(model) == 0
    denoiser, latents, motion = unlock(model).denoiser, torch.randn(1, 48, 3, 8, 8), torch.randn(1, 3, 32, 16)
    ids = torch.tensor([2, 0])
    window = denoiser.prepare(model.null_context(1), motion).frames(ids)
    fresh = denoiser(latents[:, :, ids], 9, model.null_context(1), motion[:, ids])
    torch.testing.assert_close(denoiser.denoise(latents[:, :, ids], 9, window), fresh)


def test_without_cross_attention_tokens_still_know_their_place_on_the_head() -> None:
    small = ModelConfig.small()
    shape = ModelConfig.model_validate(small.model_dump() | {"motion_input": "map"})
    model = unlock(seeded(shape, 0))
    latents, told = torch.ones(1, 12, 1, 16, 16), torch.zeros(1, 1, *shape.motion_shape)
    there = told.clone()
    there[..., -1, :3] = torch.tensor([0.3, 0.0, 1.0])  # f_rts of a head that moved down
    bank = model.reference_net(torch.randn(1, 12, 16, 16), model.null_context(1), None)
    first, second = (model.denoiser(latents, 500, model.null_context(1), each, bank) for each in (told, there))
    assert (first - second).abs().max() > 1e-3


@pytest.mark.parametrize("width", [16, 64])
def test_the_width_of_the_code_is_a_key(width: int) -> None:
    model = seeded(changed(motion_encoder=SMOKE.motion_encoder.model_dump() | {"f_mot": width}), 0)
    assert model.motion_encoder.encode(torch.zeros(2, 3, 32, 32)).shape == (2, width)
    step(stage("motion", model), pairs())


def moved_by_motion(model: XNeMo) -> float:
    """How far two motions lead the denoiser apart."""
    latents = torch.ones(1, 48, 1, 8, 8)
    told = [model.denoiser(latents, 500, model.null_context(1), torch.full((1, 1, 32, 16), v)) for v in (0.0, 1.0)]
    return float((told[0] - told[1]).abs().max())
