"""The sampling loop: guidance, windows, initial latents, and that everything random is handed in."""

from typing import Any

import pytest
import torch
from torch import Tensor

from xnemo.animate import blur, guide, initial_latents, prepare, sample
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo, seeded
from xnemo.schedule import Schedule


def narrow(levels: int) -> ModelConfig:
    """The small shape with a UNet of `levels` levels, 32 channels each, on latents of 8 x 8."""
    config = ModelConfig.small()
    unet = config.unet.model_copy(update={"channels": (32,) * levels, "attention": (True,) * levels})
    return config.model_copy(update={"unet": unet, "image_size": 8 * config.codec.factor})


@pytest.fixture(scope="module")
def model() -> XNeMo:
    """A small model whose motion and temporal modules are not silent."""
    model = seeded(narrow(levels=2), seed=0).eval()
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.denoiser.named_parameters():
        if name.endswith("temporal_transformer.proj_out.weight"):
            parameter.data.normal_(0, 0.1, generator=generator)
    return model


def inputs(frames: int = 5, seed: int = 1) -> dict[str, Any]:
    config, generator = narrow(levels=2), torch.Generator().manual_seed(seed)
    size, tokens = (config.latent_size,) * 2, config.motion_shape

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "reference_latents": normal(1, config.codec.channels, *size),
        "context": torch.zeros(1, 1, config.unet.context_dim),
        "motion": normal(1, frames, *tokens),
        "null_motion": normal(1, 1, *tokens),
        "noise": normal(1, config.codec.channels, frames, *size),
        "steps": 2,
        "guidance_scale": 2.5,
    }


def test_the_same_inputs_give_the_same_clip_whatever_the_global_seed(model: XNeMo) -> None:
    torch.manual_seed(1)
    first = sample(model, **inputs())
    torch.manual_seed(2)
    assert torch.equal(first, sample(model, **inputs()))
    assert first.shape == (1, model.config.codec.channels, 5, 8, 8)


def test_one_step_is_guided_denoising_from_the_blurred_reference(model: XNeMo) -> None:
    given = inputs() | {"steps": 1}
    reference, context, motion = given["reference_latents"], given["context"], given["motion"]
    own = given["null_motion"][:, 0]
    schedule = Schedule(model.config.schedule)
    t = schedule.ddim_timesteps(1)[0]
    with torch.no_grad():
        x = initial_latents(schedule, reference, given["noise"], t)
        cond = model.denoiser(x, t, context, motion, model.reference_net(reference, context, own))
        uncond = model.denoiser(x, t, model.null_context(1), given["null_motion"], None)
    expected = schedule.ddim_step(uncond + 2.5 * (cond - uncond), t, -1, x)
    torch.testing.assert_close(sample(model, **given), expected, rtol=1e-4, atol=1e-4)


def test_scale_one_is_the_conditional_branch_and_prepares_no_other(model: XNeMo) -> None:
    given = inputs() | {"guidance_scale": 1.0}
    conditions = [given[name] for name in ("reference_latents", "context", "motion", "null_motion")]
    assert prepare(model, *conditions, scale=1.0)[1] is None
    almost = sample(model, **given | {"guidance_scale": 1 + 1e-6})
    torch.testing.assert_close(sample(model, **given), almost, rtol=1e-3, atol=1e-4)


def test_guidance_of_scale_one_plus_w_is_the_papers_equation() -> None:
    cond, uncond = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(guide(cond, uncond, 1 + 2.5), (1 + 2.5) * cond - 2.5 * uncond)


@pytest.mark.parametrize("windows", ["open", "released"])
def test_without_temporal_attention_windows_change_nothing(windows: Any) -> None:
    model = seeded(narrow(levels=1), seed=0).eval()
    one = sample(model, **inputs(frames=9))
    cut = sample(model, **inputs(frames=9), windows=windows, offsets=[0, 3], window_size=4, overlap=1)
    torch.testing.assert_close(cut, one, rtol=1e-3, atol=1e-3)


def test_offsets_move_the_windows(model: XNeMo) -> None:
    options: dict[str, Any] = inputs(frames=9) | {"window_size": 4, "overlap": 1}
    assert not torch.allclose(sample(model, **options, offsets=[0, 0]), sample(model, **options, offsets=[1, 2]))


def test_a_frame_follows_its_own_motion(model: XNeMo) -> None:
    given = inputs() | {"steps": 1, "window_size": 1, "overlap": 0}
    moved = given["motion"].clone()
    moved[:, 3] += 1
    change = (sample(model, **given | {"motion": moved}) - sample(model, **given)).abs().amax((0, 1, 3, 4))
    assert change[3] > 1e-3
    assert change[[0, 1, 2, 4]].max() == 0


def test_the_blur_leaves_flat_latents_and_keeps_the_mean_of_waves_away() -> None:
    flat = torch.full((1, 4, 8, 8), 0.7)
    torch.testing.assert_close(blur(flat), flat)
    wave = torch.tensor([1.0, -1.0]).repeat(8).expand(1, 1, 16, 16)
    assert blur(wave).abs().max() < 0.2


def test_noise_can_be_the_start() -> None:
    given, schedule = inputs(), Schedule(ModelConfig.small().schedule)
    start = initial_latents(schedule, given["reference_latents"], given["noise"], 953, "noise")
    assert torch.equal(start, given["noise"])


@pytest.mark.parametrize("size", [(4, 4), (4, 9)])
def test_latents_smaller_than_the_blur_are_refused_and_may_start_from_noise(
    model: XNeMo, size: tuple[int, int]
) -> None:
    channels = model.config.codec.channels
    small = inputs() | {
        "reference_latents": torch.zeros(1, channels, *size),
        "noise": torch.ones(1, channels, 5, *size),
    }
    with pytest.raises(XNeMoError, match=rf"latents of {size[0]} x {size[1]} are too small .* 5 x 5"):
        sample(model, **small)
    assert sample(model, **small, initial="noise").shape == (1, channels, 5, *size)


def test_progress_is_told_after_every_step_and_may_cancel(model: XNeMo) -> None:
    told: list[int] = []

    def cancel(step: int, latents: Tensor) -> None:
        told.append(step)
        if step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(model, **inputs(frames=1) | {"steps": 4}, on_step=cancel)
    assert told == [1, 2]


@pytest.mark.parametrize(
    ("change", "word"), [({"offsets": [1]}, "offsets"), ({"motion": inputs(frames=4)["motion"]}, "frames")]
)
def test_inputs_that_do_not_fit_are_named(model: XNeMo, change: dict[str, Any], word: str) -> None:
    with pytest.raises(XNeMoError, match=word):
        sample(model, **inputs() | change)
