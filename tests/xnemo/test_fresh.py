"""Help for shapes trained from nothing: off in the released shape, and doing what it says where it is on."""

import torch

from xnemo.config import ModelConfig
from xnemo.fresh import align
from xnemo.model import seeded
from xnemo.places import place_table


def test_the_released_shape_has_none_of_it():
    released = ModelConfig.sd15()
    assert not released.unet.token_places
    assert released.motion_encoder.rts_gain == 1.0
    assert not released.shared_noise
    assert released.guidance_scale == 3.5


def test_places_differ_and_neighbours_are_most_alike():
    table = place_table(8, 8, 64)
    alike = table @ table.T
    assert alike.argmax(1).tolist() == list(range(64))
    assert alike[0, 1] > alike[0, 7]
    assert alike[0, 8] > alike[0, 56]


def test_attention_of_an_aligned_model_begins_at_its_own_place():
    model = seeded(ModelConfig.small(), 0)
    align(model)
    _, transformer = next(iter(model.denoiser.transformers()))
    attention = transformer.block.attn1
    picture = torch.randn(1, model.config.unet.channels[0], 8, 8, generator=torch.Generator().manual_seed(0))
    tokens = transformer.block.norm1(transformer.tokens(picture))[0]
    scores = attention.to_q(tokens) @ attention.to_k(tokens).T
    assert (scores.argmax(1) == torch.arange(64)).float().mean() > 0.9
    with torch.no_grad():
        copied = attention.to_out(attention.to_v(tokens)) - attention.to_out.get_parameter("0.bias")
    torch.testing.assert_close(copied, tokens, rtol=1e-3, atol=1e-4)


def test_an_aligned_reference_net_speaks_the_denoisers_language():
    model = seeded(ModelConfig.small(), 0)
    align(model)
    shared = model.denoiser.state_dict()
    assert all(torch.equal(tensor, shared[key]) for key, tensor in model.reference_net.state_dict().items())


def test_stretching_placement_leaves_a_resting_head_at_rest():
    config = ModelConfig.small()
    plain = config.model_copy(update={"motion_encoder": config.motion_encoder.model_copy(update={"rts_gain": 1.0})})
    stretched, released = seeded(config, 0).motion_encoder, seeded(plain, 0).motion_encoder
    code = torch.zeros(1, config.motion_encoder.f_mot)
    rest, moved = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.1, -0.2, 1.2]])
    torch.testing.assert_close(stretched.fuse(code, rest), released.fuse(code, rest))
    gain = config.motion_encoder.rts_gain
    torch.testing.assert_close(stretched.fuse(code, moved), released.fuse(code, rest + gain * (moved - rest)))
