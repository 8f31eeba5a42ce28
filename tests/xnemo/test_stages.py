"""The three stages: what each trains, and that a step learns."""

from typing import Any

import pytest
import torch

from xnemo import losses, picture_losses, plain_loop, stages
from xnemo.batch import ClipBatch, PairBatch, to_unit
from xnemo.config import CodecConfig, GanConfig, ModelConfig, MotionEncoderConfig, ScheduleConfig, UNetConfig
from xnemo.draw import Draw
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo, seeded
from xnemo.reference_attention import kept_tokens
from xnemo.stages import GanLossConfig, Stage, StageConfig, build_stage

SMOKE = ModelConfig(
    image_size=32,
    codec=CodecConfig(kind="patches", factor=4, channels=48, scaling=1.0),
    unet=UNetConfig(in_channels=48, channels=(16, 32), layers_per_block=1, attention=(True, True), heads=4,
                    norm_groups=8, context_dim=8),
    motion_encoder=MotionEncoderConfig(kind="small", image_size=32, widths=(8, 16, 16), maps=4, f_mot=24,
                                       attention_dim=16, attention_heads=2, rts_hidden=8, dropout=0.0),
    image_encoder=None,
    schedule=ScheduleConfig(prediction="sample"),
    gan=GanConfig(image_size=32, appearance="small", appearance_dim=16, base_size=8, channels=(16, 16, 8),
                  discriminator_channels=(8, 16)),
)  # fmt: skip
BOXES = torch.tensor([[8.0, 6.0, 26.0, 26.0], [10.0, 8.0, 30.0, 28.0], [6.0, 8.0, 24.0, 30.0], [9.0, 5.0, 27.0, 25.0]])


def pictures(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (*shape, 3, 36, 36), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def pairs() -> PairBatch:
    return PairBatch(pictures(4), pictures(4, seed=1), BOXES, BOXES.roll(1, 0), torch.arange(100, 104))


def clips() -> ClipBatch:
    return ClipBatch(pictures(2), pictures(2, 3, seed=1), BOXES[:2], BOXES[None, :3].expand(2, 3, 4), torch.arange(2))


def stage(name: Any, model: XNeMo | None = None, **config: Any) -> Stage:
    return build_stage(model or seeded(SMOKE, 0), name, StageConfig(**config))


def step(trained: Stage, batch: PairBatch | ClipBatch) -> dict[str, torch.Tensor]:
    result = trained.losses(batch, Draw(0, batch.ids))
    result["loss"].backward()
    return result


def names_with_gradient(trained: Stage) -> set[str]:
    """Parameters whose gradient exists, less the modules and layers that start at zero and hide what is behind."""
    return {n for n, p in trained.named_parameters() if p.grad is not None}


def unlock(model: XNeMo) -> XNeMo:
    """Give the zero-initialised output layers weights, so that gradients pass them."""
    with torch.no_grad():
        for name, param in model.named_parameters():
            if not param.any() and name.endswith("weight"):
                param.normal_(0, 0.1)
    return model


def wanted(trained: Stage) -> set[str]:
    """Names of everything in the stage's optimizer groups."""
    chosen = {id(p) for group in trained.groups() for p in group["params"]}
    return {n for n, p in trained.named_parameters() if id(p) in chosen}


@pytest.mark.parametrize(("name", "config", "parts"), [
    ("appearance", {}, {"denoiser", "reference_net"}),
    ("motion", {}, {"motion_encoder", "motion_modules", "gan_head"}),
    ("motion", {"backbone": "refnet"}, {"motion_encoder", "motion_modules", "gan_head", "reference_net"}),
    ("motion", {"backbone": "joint"}, {"motion_encoder", "motion_modules", "gan_head", "reference_net", "denoiser"}),
    ("temporal", {}, {"temporal_modules"}),
])  # fmt: skip
def test_each_stage_trains_exactly_its_parts(name: str, config: dict, parts: set[str]) -> None:
    trained = stage(name, unlock(seeded(SMOKE, 0)), **config)
    assert {group["name"] for group in trained.groups()} == parts
    batch = clips() if name == "temporal" else pairs()
    step(trained, batch)
    assert names_with_gradient(trained) == wanted(trained)
    silent = [n for n, p in trained.named_parameters() if p.grad is not None and not p.grad.any()]
    # Without an image encoder the context is zero, and so is the gradient of what multiplies it.
    assert [n for n in silent if "attn2.to_" not in n] == []


def test_the_gan_head_trains_the_encoder_but_not_what_follows_its_code() -> None:
    trained = stage("motion", warmup_samples=1000)
    step(trained, pairs())
    encoder = trained.model.motion_encoder
    assert encoder.model.fc.weight.grad.abs().sum() > 0
    assert not encoder.final_proj.weight.grad.any()


def test_the_discriminator_trains_apart_from_the_generator() -> None:
    trained = stage("motion")
    step(trained, pairs())
    assert trained.discriminator is not None
    assert all(p.grad is None for p in trained.discriminator.parameters())
    before = {n: p.grad.clone() for n, p in trained.named_parameters() if p.grad is not None}
    critic = trained.discriminator_losses()
    assert critic is not None
    critic["loss"].backward()
    assert all(p.grad is not None for p in trained.discriminator.parameters())
    assert all(torch.equal(p.grad, before[n]) for n, p in trained.named_parameters() if n in before)


def test_dropped_samples_get_the_null_reference_and_the_others_do_not_notice() -> None:
    trained = stage("appearance", reference_drop=0.5, masking=0.0).eval()
    model, draw = trained.model, Draw(0, torch.arange(6))
    latents, t = draw.normal("x", 48, 1, 8, 8), torch.full((6,), 500)
    bank = model.reference_net(draw.normal("reference", 48, 8, 8), model.null_context(6))
    dropped = torch.tensor([False, True, False, False, True, True])
    context = model.null_context(6)
    mixed = stages.predict(trained, latents, t, context, None, bank, None, dropped)
    read = model.denoiser(latents, t, context, None, bank, use_motion=False, use_temporal=False)
    null = model.denoiser(latents, t, context, None, None, use_motion=False, use_temporal=False)
    assert torch.allclose(mixed, torch.where(dropped[:, None, None, None, None], null, read), atol=1e-5)
    assert (read - null).abs().max() > 1e-3


def test_masking_keeps_seventy_percent_of_the_tokens_at_the_released_sizes() -> None:
    bank = {"a": torch.zeros(2, 4096, 1), "b": torch.zeros(2, 1024, 1), "c": torch.zeros(2, 256, 1),
            "d": torch.zeros(2, 64, 1)}  # fmt: skip
    draw = Draw(0, torch.arange(2))
    kept = kept_tokens(bank, StageConfig().masking, lambda name, n: draw.uniform(name, n))
    assert [ids.shape[1] for ids in kept.values()] == [2867, 716, 179, 44]
    assert not torch.equal(kept["d"][0].sort()[0], kept["d"][1].sort()[0])


@pytest.mark.parametrize(("name", "inserted"), [("motion", "motion"), ("temporal", "temporal")])
def test_new_modules_change_nothing_before_they_are_trained(name: str, inserted: str) -> None:
    model = seeded(SMOKE, 0).eval()
    latents, motion = torch.randn(2, 48, 3, 8, 8), torch.randn(2, 3, 32, 16)
    off = {"use_motion": False, "use_temporal": False}
    plain = model.denoiser(latents, 500, model.null_context(2), motion, **off)
    on = model.denoiser(latents, 500, model.null_context(2), motion, **(off | {f"use_{inserted}": True}))
    assert torch.equal(plain, on)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_every_prediction_kind_is_exact_for_a_perfect_denoiser(prediction: str) -> None:
    config = SMOKE.model_copy(update={"schedule": ScheduleConfig(prediction=prediction)})
    schedule = stage("appearance", seeded(config, 0)).schedule
    clean, noise, t = torch.randn(3, 48, 1, 8, 8), torch.randn(3, 48, 1, 8, 8), torch.tensor([10, 500, 950])
    target = schedule.target(clean, noise, t)
    assert losses.diffusion(target, target, torch.ones(3)) == 0
    x0, _ = schedule.to_x0_eps(target, schedule.add_noise(clean, noise, t), t)
    assert torch.allclose(x0, clean, atol=1e-2)


@pytest.mark.parametrize(("name", "config"), [
    ("appearance", {}),
    ("motion", {"backbone": "joint", "gan": GanLossConfig(lr_scale=1.0)}),
    ("temporal", {}),
])  # fmt: skip
def test_loss_falls_on_one_fixed_batch(name: str, config: dict) -> None:
    trained = stage(name, unlock(seeded(SMOKE, 0)), reference_drop=0.0, **config)
    batch = clips() if name == "temporal" else pairs()
    seen: list[float] = []
    plain_loop.train(
        trained,
        [batch] * 25,
        steps=25,
        lr=3e-3,
        ema=0.9,
        on_step=lambda _, found: seen.append(float(found.get("diffusion", found["loss"]).detach())),
    )
    assert seen[-1] < 0.9 * seen[0]


def test_the_loss_of_a_batch_is_the_mean_over_its_shares() -> None:
    trained = stage("motion", gan=GanLossConfig(weight=0.0), reference_drop=0.3).eval()
    batch = pairs()
    whole = trained.losses(batch, Draw(0, batch.ids))["loss"]
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        share = PairBatch(
            batch.reference[rows],
            batch.target[rows],
            batch.reference_box[rows],
            batch.target_box[rows],
            batch.ids[rows],
        )
        parts.append(trained.losses(share, Draw(0, share.ids))["loss"])
    assert torch.allclose(whole, torch.stack(parts).mean(), rtol=1e-4)


def test_more_noise_draws_change_the_noise_and_not_the_pair() -> None:
    one, two = (
        stage("appearance", noise_draws_per_pair=n).losses(pairs(), Draw(0, pairs().ids))["loss"] for n in (1, 2)
    )
    assert one != two
    assert torch.isclose(one, two, rtol=0.3)


def test_frozen_parts_stay_in_evaluation_mode() -> None:
    trained = stage("temporal")
    assert not trained.model.motion_encoder.training
    assert not trained.model.codec.training
    assert stage("motion").model.motion_encoder.latent_dropout.training
    assert all(m.training for n, m in trained.model.denoiser.named_modules() if n.endswith("temporal_modules.0"))


def test_a_stage_refuses_the_other_kind_of_batch() -> None:
    with pytest.raises(XNeMoError, match="ClipBatch"):
        stage("motion").losses(clips(), Draw(0, clips().ids))


DECODED = SMOKE.model_copy(update={
    "codec": CodecConfig(kind="conv", factor=4, channels=12, scaling=1.0, widths=(8, 8), linear_encoder=True),
    "unet": SMOKE.unet.model_copy(update={"in_channels": 12}),
})  # fmt: skip


def decoding(model: XNeMo | None = None, **config: Any) -> Stage:
    if model is None:
        model = unlock(seeded(DECODED, 0))
        model.codec.fit(to_unit(pictures(32), 32), steps=2)
    return stage("motion", model, decoded=2.0, backbone="joint", gan=GanLossConfig(weight=0.0), **config)


def test_decoded_predictions_train_the_decoder_and_what_predicts() -> None:
    trained = decoding(reference_drop=0.0)
    result = step(trained, pairs())
    torch.testing.assert_close(result["loss"], result["diffusion"] + 2.0 * result["decoded"])
    assert {"decoder", "denoiser"} <= {group["name"] for group in trained.groups()}
    moved = {n for n, p in trained.model.codec.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved
    assert all(name.startswith("up.") for name in moved)


def test_every_eighth_sample_decodes_its_true_latents() -> None:
    trained = decoding()
    batch = PairBatch(pictures(8), pictures(8, seed=1), BOXES.repeat(2, 1), BOXES.repeat(2, 1), torch.arange(8))
    true = trained.model.codec.encode(to_unit(batch.target, 32))
    wrong = torch.zeros_like(true, requires_grad=True)
    picture_losses.decoded_losses(trained, batch, wrong, true)["decoded"].backward()
    assert wrong.grad is not None
    assert wrong.grad[:7].flatten(1).any(1).all()
    assert not wrong.grad[7].any()


def test_before_its_samples_the_denoiser_gets_zero_gradients() -> None:
    trained = stage("motion", warmup_samples=1000)
    step(trained, pairs())
    for group in trained.groups():
        for param in group["params"]:
            assert param.grad is not None
            assert group["name"] in ("motion_encoder", "gan_head") or not param.grad.any()


def test_errors_in_the_face_count_more() -> None:
    boxes = torch.tensor([[1.0, 2.0, 3.0, 3.0]])
    found = picture_losses.inside(boxes, torch.zeros(1, 3, 4, 5))
    assert found.nonzero().tolist() == [[0, 0, 2, 1], [0, 0, 2, 2]]
    plain = decoding()
    weighted = decoding(plain.model, face=4.0)
    batch = pairs()
    far = PairBatch(batch.reference, batch.target, BOXES, torch.full((4, 4), -9.0), batch.ids)
    guess = torch.zeros_like(plain.model.codec.encode(to_unit(batch.target, 32)))
    found = [float(picture_losses.decoded_losses(each, which, guess, guess)["decoded"].detach())
             for each, which in ((plain, batch), (weighted, far), (weighted, batch))]  # fmt: skip
    assert found[0] == pytest.approx(found[1])
    assert found[0] < found[2] < 5 * found[0]


def test_the_discriminator_of_the_gan_head_judges_no_decoded_pictures() -> None:
    trained = stage("motion", decoding().model, decoded=2.0, backbone="joint", reference_drop=0.0)
    result = step(trained, pairs())
    assert trained.discriminator is not None
    assert "judged" not in result
    real, fake = trained.generated or (None, None)
    reference = to_unit(pairs().target, 32)
    assert real is not None
    assert real.shape == fake.shape
    assert not torch.equal(real, reference)  # faces, not whole pictures


def test_decoded_faces_are_held_to_the_features_of_the_true_ones() -> None:
    plain = decoding()
    strict = decoding(plain.model, face_features=1.0)
    batch = pairs()
    guess = torch.zeros_like(plain.model.codec.encode(to_unit(batch.target, 32)), requires_grad=True)
    less, more = (picture_losses.decoded_losses(each, batch, guess, guess)["decoded"] for each in (plain, strict))
    assert more > less
    assert torch.autograd.grad(more - less, guess)[0].any()
    assert not {id(p) for p in strict.features.parameters()} & {id(p) for p in strict.trained}


def test_decoded_faces_are_held_to_the_motion_of_the_true_ones() -> None:
    plain = decoding()
    strict = decoding(plain.model, decoded_motion=1.0)
    batch = pairs()
    true = plain.model.codec.encode(to_unit(batch.target, 32)).requires_grad_()
    guess = torch.zeros_like(true, requires_grad=True)
    found = picture_losses.decoded_losses(strict, batch, guess, guess)
    plainly = picture_losses.decoded_losses(plain, batch, guess, guess)["decoded"]
    torch.testing.assert_close(found["decoded"], plainly + found["motion"])
    assert torch.autograd.grad(found["motion"], guess)[0].any()
    near = picture_losses.decoded_losses(strict, batch, true, true)["motion"]
    assert near < found["motion"], "a face like the true one tells the same motion"


def test_the_encoder_does_not_learn_to_see_what_was_drawn() -> None:
    trained = decoding(decoded_motion=1.0)
    encoder = trained.model.motion_encoder
    before = {name: param.requires_grad for name, param in encoder.named_parameters()}
    assert before["model.fc.weight"]
    face = torch.zeros(1, 3, 32, 32, requires_grad=True)
    picture_losses.motion_error(trained, torch.ones_like(face), face, BOXES[:1]).backward()
    assert all(param.grad is None for param in encoder.parameters())
    assert {name: param.requires_grad for name, param in encoder.named_parameters()} == before
    assert face.grad is not None
    assert face.grad.any()


def test_the_turn_of_a_face_is_learnt_with_the_rest_and_told_of_the_reference_too() -> None:
    placed = SMOKE.model_copy(update={"unet": SMOKE.unet.model_copy(update={"token_places": "head"})})
    trained = stage("motion", seeded(placed, 0), backbone="joint", encoder="frozen", gan=GanLossConfig(weight=0.0))
    own = stages.at_rest(trained, pairs())
    assert own is not None
    assert own.shape == (4, *placed.motion_shape)
    step(trained, pairs())
    turn = trained.model.motion_encoder.turn
    assert turn is not None
    assert turn.weight.grad is not None
    assert turn.weight.grad.any()
    assert stages.at_rest(stage("motion"), pairs()) is None  # the released shape has no use for it
