"""The stream computes what `sample` computes, hands it out early, keeps little, and goes on to the bit."""

import pytest
import torch
from torch import Tensor

from xnemo.animate import sample
from xnemo.animation import noise
from xnemo.config import ModelConfig
from xnemo.encode import Reference
from xnemo.model import XNeMo, seeded
from xnemo.solvers import SCHEDULERS, SchedulerName
from xnemo.stream import Stream


@pytest.fixture(scope="module", params=[True, False], ids=["shared noise", "noise per frame"])
def model(request: pytest.FixtureRequest) -> XNeMo:
    config = ModelConfig.small()
    unet = config.unet.model_copy(update={"in_channels": 4, "channels": (16,)})
    codec = config.codec.model_copy(update={"channels": 4})
    model = seeded(config.model_copy(update={"unet": unet, "codec": codec, "shared_noise": request.param}), 0).eval()
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():  # zero-initialised layers would hide a mistake
        for parameter in model.denoiser.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=draw)
    return model


def inputs(model: XNeMo, frames: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw, side, tokens = torch.Generator().manual_seed(2), model.config.latent_size, model.config.motion_shape
    return (
        torch.randn(1, 4, side, side, generator=draw),
        torch.randn(1, 1, model.config.unet.context_dim, generator=draw),
        torch.randn(1, 1, *tokens, generator=draw),
        torch.randn(1, frames, *tokens, generator=draw),
    )


def stream(model: XNeMo, frames: int, **options: object) -> Stream:
    latents, context, null, motion = inputs(model, frames)
    asked = {"steps": 3, "guidance_scale": 2.0, "seed": 5, "window_size": 8, "overlap": 2} | options
    who = Reference(latents, context, null)
    return Stream(model, lambda first: who, lambda a, b: motion[:, a:b], frames, **asked)  # type: ignore[arg-type]


@pytest.mark.parametrize("frames", [1, 8, 9, 27])
def test_it_is_what_sampling_the_whole_clip_gives(model: XNeMo, frames: int) -> None:
    latents, context, null, motion = inputs(model, frames)
    whole = sample(
        model, latents, context, motion, null, steps=3, guidance_scale=2.0, noise=noise(model, frames, 5),
        window_size=8, overlap=2,
    )  # fmt: skip
    torch.testing.assert_close(torch.cat(list(stream(model, frames)), dim=2), whole, rtol=1e-4, atol=1e-4)


def test_what_it_keeps_does_not_grow_with_the_clip(model: XNeMo) -> None:
    def most(frames: int) -> int:
        kept: list[int] = []
        walking = stream(
            model, frames, steps=2, guidance_scale=1.0, on_step=lambda *_: kept.append(len(walking.stretches))
        )
        list(walking)
        return max(kept)

    assert most(80) == most(40) <= 4


def test_each_stretch_has_the_look_of_its_own_portrait(model: XNeMo) -> None:
    latents, context, null, motion = inputs(model, 14)
    one, other = Reference(latents, context, null), Reference(-latents, context, null)
    asked = {"steps": 2, "guidance_scale": 2.0, "seed": 5, "window_size": 7, "overlap": 0}

    def made(*looks: Reference) -> Tensor:
        who = {0: looks[0], 7: looks[-1]}
        return torch.cat(list(Stream(model, who.__getitem__, lambda a, b: motion[:, a:b], 14, **asked)), dim=2)  # type: ignore[arg-type]

    changing = made(one, other)
    assert torch.equal(changing[:, :, :7], made(one)[:, :, :7])
    assert torch.equal(changing[:, :, 7:], made(other)[:, :, 7:])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("stopped", [1, 3])
def test_a_stopped_stream_goes_on_to_the_bit(model: XNeMo, scheduler: SchedulerName, stopped: int) -> None:
    whole = torch.cat(list(stream(model, 27, scheduler=scheduler, steps=3)), dim=2)
    before, pieces = stream(model, 27, scheduler=scheduler, steps=3), []
    for piece in before:
        pieces.append(piece)
        if len(pieces) == stopped:
            state = before.state()
            break
    after = stream(model, 27, scheduler=scheduler, steps=3)
    after.go_on(state)
    assert torch.equal(torch.cat([*pieces, *after], dim=2), whole)


def test_a_step_may_cancel(model: XNeMo) -> None:
    def enough(window: int, step: int, latents: Tensor) -> None:
        if (window, step) == (1, 1):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(stream(model, 30, on_step=enough))
