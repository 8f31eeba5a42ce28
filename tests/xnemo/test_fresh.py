"""Help for shapes trained from nothing: off in the released shape, and doing what it says where it is on."""

import pytest
import torch

from xnemo import places
from xnemo.config import ModelConfig
from xnemo.crops import REFERENCE_SCALE
from xnemo.fresh import align
from xnemo.model import seeded
from xnemo.motion_encoder import REST, TURN, told_place
from xnemo.places import head_places, place_table


def test_the_released_shape_has_none_of_it():
    released = ModelConfig.sd15()
    assert released.unet.token_places == "none"
    assert released.motion_encoder.rts_gain == 1.0
    assert not released.shared_noise
    assert released.guidance_scale == 3.5


def test_places_differ_and_neighbours_are_most_alike():
    table = place_table(8, 8, 64)
    alike = table @ table.T
    assert alike.argmax(1).tolist() == list(range(64))
    assert alike[0, 1] > alike[0, 7]
    assert alike[0, 8] > alike[0, 56]


def test_attention_of_an_aligned_model_begins_at_its_own_place_whatever_is_there():
    model = seeded(ModelConfig.small(), 0)
    align(model)
    side, draw = model.config.latent_size, torch.Generator().manual_seed(0)
    noise, picture = torch.randn(2, 1, model.config.unet.channels[0], side, side, generator=draw)
    for _, transformer in model.denoiser.transformers():
        attention = transformer.block.attn1
        asking, told = (transformer.block.norm1(transformer.tokens(x))[0] for x in (noise, picture))
        scores = attention.to_q(asking) @ attention.to_k(told).T
        assert (scores.argmax(1) == torch.arange(side**2)).float().mean() > 0.9
        with torch.no_grad():
            copied = attention.to_out(attention.to_v(told)) - attention.to_out.get_parameter("0.bias")
        torch.testing.assert_close(copied, told, rtol=1e-3, atol=1e-4)


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
    told, stretch = (encoder.fuse(code, rts)[:, :-1] for encoder, rts in (
        (stretched, moved), (released, rest + gain * (moved - rest))))  # fmt: skip
    torch.testing.assert_close(told, stretch)


def placed(*f_rts: float, turn: tuple[float, ...] = (0.0,) * TURN) -> torch.Tensor:
    return torch.tensor([[*f_rts, *turn]])


def test_places_on_a_head_move_with_it_and_those_in_the_picture_stay():
    at_rest = head_places(None, 8, 8, 64)[0].view(8, 8, 64)
    assert not at_rest[..., :32].any()  # free for the content
    own, face = slice(32, 48), slice(48, 64)
    assert torch.equal(at_rest[..., own], at_rest[..., face])
    cell = REFERENCE_SCALE / 8  # of the picture, in sides of the face's box
    moved = head_places(placed(cell, -2 * cell, 1.0), 8, 8, 64)[0].view(8, 8, 64)
    assert torch.equal(moved[..., own], at_rest[..., own])
    torch.testing.assert_close(moved[1:, :-2, face], at_rest[:-1, 2:, face], rtol=0, atol=1e-5)
    near = head_places(placed(0.0, 0.0, 2.0), 8, 8, 64)[0].view(8, 8, 64)
    middle = at_rest[3:5, 3:5, face].mean((0, 1))
    assert (near[..., face] - middle).norm(dim=-1).sum() < (at_rest[..., face] - middle).norm(dim=-1).sum()


def test_places_on_a_turned_face_are_those_of_the_face_at_rest(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(places, "REACH", 1e9)
    at_rest = head_places(None, 8, 8, 64)[0].view(8, 8, 64)[..., 48:]
    clockwise = placed(0.0, 0.0, 1.0, turn=(-1.0, -1.0, 1.0, -1.0, 0.0, 0.0))  # (x, y) of the box is (y, -x) at rest
    turned = head_places(clockwise, 8, 8, 64)[0].view(8, 8, 64)[..., 48:]
    torch.testing.assert_close(turned, at_rest.rot90(-1, (0, 1)), rtol=0, atol=1e-5)
    cell = REFERENCE_SCALE / 8
    aside = head_places(placed(0.0, 0.0, 1.0, turn=(0.0, 0.0, 0.0, 0.0, cell, 0.0)), 8, 8, 64)[0].view(8, 8, 64)
    torch.testing.assert_close(aside[:, :-1, 48:], at_rest[:, 1:], rtol=0, atol=1e-5)


def test_what_is_far_from_the_face_does_not_turn_with_it(monkeypatch: pytest.MonkeyPatch):
    def moved() -> torch.Tensor:
        straight, turned = (head_places(placed(0.0, 0.0, 1.0, turn=turn), 16, 16, 64)[0].view(16, 16, 64)
                            for turn in ((0.0,) * TURN, (0.0, 0.02, -0.02, 0.0, 0.01, 0.0)))  # fmt: skip
        return (turned - straight).norm(dim=-1)

    near = moved()
    monkeypatch.setattr(places, "REACH", 1e9)
    everywhere = moved()
    assert near[0, 0] < 0.05 * everywhere[0, 0]
    assert near[7, 7] > 0.9 * everywhere[7, 7]


def test_a_reference_knows_its_own_turn():
    model = seeded(ModelConfig.small(), 0).eval()
    latents = torch.randn(1, model.config.codec.channels, *2 * [model.config.latent_size])
    code, rest = torch.zeros(1, model.config.motion_encoder.f_mot), torch.tensor([REST])
    plain = model.reference_net(latents, model.null_context(1))
    straight = model.reference_net(latents, model.null_context(1), model.motion_encoder.fuse(code, rest))
    torch.nn.init.constant_(model.motion_encoder.turn.bias, 0.2)
    turned = model.reference_net(latents, model.null_context(1), model.motion_encoder.fuse(code, rest))
    for name, tokens in plain.items():
        torch.testing.assert_close(straight[name], tokens)
        assert (turned[name] - tokens).abs().max() > 1e-3


def test_the_placement_reaches_the_denoiser_beside_the_motion_tokens():
    config = ModelConfig.small()
    model = seeded(config, 0)
    code, f_rts = torch.randn(2, config.motion_encoder.f_mot), torch.tensor([[0.1, -0.2, 1.2], [0.0, 0.3, 0.8]])
    tokens = model.motion_encoder.fuse(code, f_rts)[None]
    assert tokens.shape[2:] == config.motion_shape
    told, place = told_place(tokens)
    assert told.shape[2:] == (config.motion_tokens, config.motion_token_dim)
    assert torch.equal(place[0], torch.cat([f_rts, torch.zeros(2, TURN)], dim=1))
    conditions = model.denoiser.prepare(model.null_context(1), tokens)
    assert torch.equal(conditions.place[0], place[0])
    assert torch.equal(conditions.frames(torch.tensor([1])).place[0], place[0, 1:])
    assert model.denoiser.prepare(model.null_context(1), None).place is None


def test_a_head_at_rest_is_where_no_placement_puts_it():
    model = seeded(ModelConfig.small(), 0).eval()
    draw = torch.Generator().manual_seed(0)
    latents = torch.randn(1, model.config.codec.channels, 1, 8, 8, generator=draw)
    code = torch.zeros(1, model.config.motion_encoder.f_mot)
    with torch.no_grad():  # fresh motion modules add nothing, so the placement alone can tell the three apart
        none, rest, moved = (
            model.denoiser(latents, 999, model.null_context(1), tokens)
            for tokens in (None, *(model.motion_encoder.fuse(code, torch.tensor([rts]))[None]
                                   for rts in ([0.0, 0.0, 1.0], [0.2, 0.1, 1.1])))
        )  # fmt: skip
    torch.testing.assert_close(rest, none)
    assert (moved - rest).abs().max() > 1e-3
