"""The assembled model: the image token, its null, the seed."""

from collections.abc import Callable

import pytest
import torch

from xnemo.codec import build_codec
from xnemo.config import ModelConfig
from xnemo.model import XNeMo, seeded


@pytest.fixture(scope="module")
def small() -> XNeMo:
    return seeded(ModelConfig.small(), seed=0)


def test_one_prediction_through_all_parts(small: XNeMo) -> None:
    side, face = small.config.image_size, small.config.motion_encoder.image_size
    images, faces = torch.rand(2, 3, side, side) * 2 - 1, torch.rand(2, 3, face, face) * 2 - 1
    codec = build_codec(small.config.codec)
    codec.fit(images, steps=1)
    latents, context = codec.encode(images), small.context(images)
    tokens = small.motion_encoder(faces, torch.tensor([[0.0, 0.0, 1.0]] * 2))
    bank = small.reference_net(latents, context)
    out = small.denoiser(latents[:, :, None], torch.tensor([3, 500]), context, tokens[:, None], bank)
    assert out.shape == (*latents.shape[:2], 1, *latents.shape[2:])


def test_the_released_shape_has_the_released_tensors(released_shapes: Callable[[str], dict[str, list[int]]]) -> None:
    with torch.device("meta"):
        model = XNeMo(ModelConfig.sd15())
    parts = {
        "denoising_unet_full": model.denoiser,
        "reference_unet": model.reference_net,
        "motion_encoder": model.motion_encoder,
        "clip_image_encoder": model.image_encoder,
        "vae_svd_temporal_decoder": model.codec.vae,
    }
    for name, part in parts.items():
        assert {key: list(t.shape) for key, t in part.state_dict().items()} == released_shapes(name), name


def test_without_an_image_encoder_the_context_is_the_null_context(small: XNeMo) -> None:
    context = small.context(torch.rand(2, 3, small.config.image_size, small.config.image_size))
    assert torch.equal(context, small.null_context(2))
    assert context.shape == (2, 1, small.config.unet.context_dim)
    assert not context.any()


def test_the_image_token_tells_images_apart_at_any_size(tiny_config: ModelConfig) -> None:
    light = tiny_config.model_copy(update={"motion_encoder": ModelConfig.small().motion_encoder})
    model = seeded(light, seed=0).eval()
    bright, dark = torch.ones(1, 3, 96, 128), -torch.ones(1, 3, 256, 256)
    tokens = model.context(bright), model.context(dark)
    assert tokens[0].shape == (1, 1, 32)
    assert not torch.allclose(*tokens)


def test_a_seed_fixes_the_weights_and_leaves_the_callers_randomness_alone(small: XNeMo) -> None:
    before = torch.get_rng_state()
    again = seeded(ModelConfig.small(), seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(small.parameters(), again.parameters(), strict=True))


def test_unused_parameters_are_parameters_of_the_model(small: XNeMo) -> None:
    assert small.unused() < {name for name, _ in small.named_parameters()}
