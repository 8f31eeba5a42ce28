"""The three training stages, one step each: appearance, motion, temporal (paper section 3.3).

A step turns a batch and its draws into losses. Devices, optimizers, logging and other workers belong to the loop
that calls it (`plain_loop.py`, or the platform's engine). Which parameters a stage trains is `Stage.groups`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor, nn

from xnemo import losses as loss
from xnemo.augment import AugmentConfig, driving_crop
from xnemo.batch import ClipBatch, PairBatch, to_unit
from xnemo.codec import ConvCodec
from xnemo.config import Strict
from xnemo.crops import faces
from xnemo.draw import Draw
from xnemo.errors import XNeMoError
from xnemo.gan_head import Discriminator, GanHead, ResNet50
from xnemo.model import XNeMo
from xnemo.motion_encoder import REST
from xnemo.picture_losses import decoded_losses, gan_losses
from xnemo.reference_attention import Bank, kept_tokens
from xnemo.schedule import Schedule
from xnemo.unet import UNet

StageName = Literal["appearance", "motion", "temporal"]


class GanLossConfig(Strict):
    """Weights of eq. 7. The paper's feature terms need the VGG files; a fixed random net stands in without."""

    weight: float = 1.0  # of the whole head against eq. 1; 0 leaves the head out (ablation "w/o GAN head")
    adversarial: float = 1.0  # 0 trains without a discriminator
    reconstruction: float = 1.0
    vgg: float = 3e-2
    vggface: float = 6e-3
    random: float = 0.1
    feature_matching: float = 10.0
    feature_matching_reduce: Literal["mean", "sum"] = "mean"
    vgg_weights: str | None = None  # Caffe-scaled VGG-19, see `losses.perceptual_features`
    vggface_weights: str | None = None
    appearance_weights: str | None = None  # ImageNet ResNet-50 for f_app
    lr_scale: float = 5.0  # against the stage's rate; Adam with β1 = 0, as for the discriminator
    betas: tuple[float, float] = (0.0, 0.999)
    discriminator_lr: float = 2e-4


class StageConfig(Strict):
    """One stage's choices. The defaults are eq. 1 and the paper's; small models need the shifts (see docs)."""

    reference_drop: float = 0.1  # samples that train the null reference (for guidance)
    masking: float = 0.3  # reference feature masking; the temporal stage uses none
    noise_offset: float = 0.05
    timestep_shift: float = 1.0
    snr_gamma: float = 0.0  # min-SNR weighting; 0 is eq. 1
    noise_draws_per_pair: int = 1  # noisy versions of a pair per step; encoder and reference net run once
    backbone: Literal["frozen", "refnet", "joint"] = "frozen"  # what the motion stage trains beside motion
    decoded: float = 0.0  # motion stage: weight of the error of decoded predictions; the "conv" codec's decoder learns
    face: float = 0.0  # of those errors, the ones inside the face's box count 1 + face times
    face_features: float = 0.0  # beside those errors, weight of the GAN head's perceptual terms for decoded faces
    decoded_motion: float = 0.0  # beside those errors, weight of how far decoded faces are from the true code
    decoded_adversarial: float = 0.0  # weight of a discriminator of decoded predictions, with its features matched
    encoder: Literal["trained", "frozen"] = "trained"  # frozen: f_mot stays, without a GAN head ("w/o e2e")
    warmup_samples: int = 0  # motion stage: samples for which the GAN head trains the encoder alone
    augment: AugmentConfig = AugmentConfig()
    gan: GanLossConfig = GanLossConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.encoder == "frozen" and self.gan.weight > 0:
            raise ValueError("with encoder=frozen the GAN head would train nothing that is used: set gan.weight=0")
        if self.decoded_adversarial > 0 and (self.decoded <= 0 or self.gan.weight > 0):
            raise ValueError("decoded_adversarial needs decoded > 0, and gan.weight=0: there is one discriminator")
        return self


class Stage(nn.Module):
    """A model with what one stage adds to it. Calling it is calling `losses`."""

    def __init__(self, model: XNeMo, name: StageName, config: StageConfig) -> None:
        super().__init__()
        self.model, self.name, self.config = model, name, config
        self.schedule = Schedule(model.config.schedule)
        self.gan: GanHead | None = None
        self.discriminator: Discriminator | None = None
        self.features = nn.ModuleDict()
        if name == "motion" and config.gan.weight > 0:
            self._build_gan_head()
        if name == "motion" and config.decoded_adversarial > 0:
            self.discriminator = Discriminator(model.config)
        if self.gan is not None or (name == "motion" and config.face_features > 0):
            self._build_features()
        self.generated: tuple[Tensor, Tensor] | None = None  # the last step's real and detached fake faces
        self.requires_grad_(False)
        self.trained = [param for group in self.groups() for param in group["params"]]
        for param in self.trained:
            param.requires_grad_(True)
        if self.discriminator is not None:
            self.discriminator.requires_grad_(True)

    def groups(self) -> list[dict[str, Any]]:
        """Optimizer groups {"name", "params", "lr_scale", ...}: exactly what this stage trains, D apart."""
        denoiser, motion_encoder = self.model.denoiser, self.model.motion_encoder
        motion, temporal = ("motion_modules.", "motion_map."), "temporal_modules."
        backbone = _group("denoiser", denoiser, lambda n: not any(part in n for part in (*motion, temporal)))
        reference = _group("reference_net", self.model.reference_net)
        if self.name == "appearance":
            return [backbone, reference]
        if self.name == "temporal":
            return [_group("temporal_modules", denoiser, lambda n: temporal in n)]
        whole = self.config.encoder == "trained"
        groups = [
            _group("motion_encoder", motion_encoder, lambda n: whole or not n.startswith("model.")),
            _group("motion_modules", denoiser, lambda n: any(part in n for part in motion)),
        ]
        if self.gan is not None:
            gan = self.config.gan
            groups.append(_group("gan_head", self.gan) | {"lr_scale": gan.lr_scale, "betas": gan.betas})
        if self.config.backbone != "frozen":
            groups.append(reference)
        if self.config.backbone == "joint":
            groups.append(backbone)
        if self.config.decoded > 0 and isinstance(self.model.codec, ConvCodec):
            groups.append(_group("decoder", self.model.codec.up))
        return groups

    def losses(self, batch: PairBatch | ClipBatch, draw: Draw) -> dict[str, Tensor]:
        """Scalars; "loss" is the one to run backward from. Everything random comes from `draw`."""
        if isinstance(batch, ClipBatch) != (self.name == "temporal"):
            raise XNeMoError(f"the {self.name} stage cannot train on a {type(batch).__name__}")
        if isinstance(batch, ClipBatch):
            return temporal_step(self, batch, draw)
        return appearance_step(self, batch, draw) if self.name == "appearance" else motion_step(self, batch, draw)

    forward = losses

    def discriminator_losses(self) -> dict[str, Tensor] | None:
        """The discriminator's "loss" on the faces of the last `losses` call; None where there is none."""
        if self.discriminator is None or self.generated is None:
            return None
        real, fake = self.generated
        score_real, score_fake = self.discriminator(real)[0], self.discriminator(fake)[0]
        return {"loss": loss.hinge_discriminator(score_real, score_fake)}

    def train(self, mode: bool = True) -> Stage:
        """Frozen parts stay in evaluation mode: no dropout, no moving statistics."""
        super().train(mode)
        _rest(self)
        self.model.codec.eval()
        return self

    def _build_gan_head(self) -> None:
        gan = self.config.gan
        self.gan = GanHead(self.model.config)
        if gan.appearance_weights and isinstance(self.gan.appearance, ResNet50):
            self.gan.appearance.load_imagenet(gan.appearance_weights)
        if gan.adversarial > 0 or gan.feature_matching > 0:
            self.discriminator = Discriminator(self.model.config)

    def _build_features(self) -> None:
        gan = self.config.gan
        if gan.vgg_weights:
            self.features["vgg"] = loss.perceptual_features("vgg19", gan.vgg_weights)
        if gan.vggface_weights:
            self.features["vggface"] = loss.perceptual_features("vggface", gan.vggface_weights)
        if not self.features:
            self.features["random"] = loss.perceptual_features("random", None)


def build_stage(model: XNeMo, name: StageName, config: StageConfig) -> Stage:
    """The stage in training mode; parameters it does not train require no gradient."""
    return Stage(model, name, config).train()


def appearance_step(stage: Stage, batch: PairBatch, draw: Draw) -> dict[str, Tensor]:
    """Stage 1: redraw the target from the reference alone; motion and temporal modules are bypassed."""
    return {"loss": diffusion_loss(stage, *latents(stage, batch), at_rest(stage, batch), None, draw)[0]}


def motion_step(stage: Stage, batch: PairBatch, draw: Draw) -> dict[str, Tensor]:
    """Stage 2: the motion code of an augmented crop steers the denoiser and, beside it, the GAN head."""
    model, config = stage.model, stage.config
    size = model.config.motion_encoder.image_size
    f_mot = model.motion_encoder.encode(
        driving_crop(to_unit(batch.target), batch.target_box, size, draw, config.augment)
    )
    result: dict[str, Tensor] = {}
    total = f_mot.new_zeros(())
    if stage.gan is not None:
        result |= gan_losses(stage, batch, f_mot)
        total = total + config.gan.weight * result["gan"]
    if int(batch.ids.max()) >= config.warmup_samples:
        encoded = latents(stage, batch)
        result["diffusion"], guessed = motion_loss(stage, batch, f_mot, draw, encoded)
        total = total + result["diffusion"]
        if config.decoded > 0:
            result |= decoded_losses(stage, batch, guessed[:, :, 0], encoded[0][:, :, 0])
            total = total + config.decoded * result["decoded"]
            if config.decoded_adversarial > 0:
                total = total + config.decoded_adversarial * result["judged"]
    else:  # a worker's parameters without a gradient would stall the others
        total = total + untouched(stage)
    return {"loss": total, **result}


def temporal_step(stage: Stage, batch: ClipBatch, draw: Draw) -> dict[str, Tensor]:
    """Stage 3: consecutive frames of one clip, with everything but the temporal modules frozen."""
    model = stage.model
    clip, frames = batch.frames.shape[:2]
    images = to_unit(batch.frames.flatten(0, 1))
    with torch.no_grad():
        crops = faces(images, batch.boxes.flatten(0, 1), model.config.motion_encoder.image_size)
        motion = model.motion_encoder(crops, batch.placement.flatten(0, 1)).unflatten(0, (clip, frames))
    return {"loss": diffusion_loss(stage, *latents(stage, batch), at_rest(stage, batch), motion, draw)[0]}


@torch.no_grad()
def latents(stage: Stage, batch: PairBatch | ClipBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(targets [B,C,F,h,w], reference [B,C,h,w], image token [B,1,d]), as known or encoded now."""
    model, known = stage.model, batch.known
    if known is not None:
        dtype = model.denoiser.conv_in.weight.dtype
        return known.targets.transpose(1, 2).contiguous().to(dtype), known.reference.to(dtype), known.context.to(dtype)
    frames = batch.frames if isinstance(batch, ClipBatch) else batch.target[:, None]
    size = model.config.image_size
    reference, targets = to_unit(batch.reference, size), to_unit(frames.flatten(0, 1), size)
    # contiguous: the backward of a frozen GroupNorm crashes on channels-last tensors (torch 2.13, CPU)
    clean = model.codec.encode(targets).unflatten(0, frames.shape[:2]).transpose(1, 2).contiguous()
    return clean, model.codec.encode(reference).contiguous(), model.context(reference)


def motion_loss(
    stage: Stage, batch: PairBatch, f_mot: Tensor, draw: Draw, encoded: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Eq. 1 with the motion of f_mot [B,D], placed as the batch says, and the latents guessed [B,C,1,h,w]; `encoded` is
    what `latents` made of the batch."""
    motion = stage.model.motion_encoder.fuse(f_mot, batch.placement)
    return diffusion_loss(stage, *encoded, at_rest(stage, batch), motion[:, None], draw)


def at_rest(stage: Stage, batch: PairBatch | ClipBatch) -> Tensor | None:
    """The motion tokens [B,L,c] of the references' own faces at rest, where the reference net wants them."""
    encoder, size = stage.model.motion_encoder, stage.model.config.motion_encoder.image_size
    if encoder.turn is None:
        return None
    with torch.no_grad():
        f_mot = encoder.encode(faces(to_unit(batch.reference), batch.reference_box, size))
    return encoder.fuse(f_mot, f_mot.new_tensor(REST).expand(len(f_mot), -1))


def diffusion_loss(
    stage: Stage,
    clean: Tensor,
    reference_latents: Tensor,
    context: Tensor,
    own: Tensor | None,
    motion: Tensor | None,
    draw: Draw,
) -> tuple[Tensor, Tensor]:
    """Eq. 1 for latents [B,C,F,h,w] given those of the reference [B,C,h,w], its image token [B,1,d], its own motion at
    rest and motion tokens [B,F,L,c] or None; with the clean latents that the (last) prediction implies."""
    model, config = stage.model, stage.config
    schedule, shape = stage.schedule, clean.shape[1:]
    bank = model.reference_net(reference_latents, context, own)
    dropped = draw.uniform("reference drop") < config.reference_drop
    kept = None
    if stage.name != "temporal" and config.masking > 0:
        kept = kept_tokens(bank, config.masking, lambda name, tokens: draw.uniform(f"masking.{name}", tokens))
    total = clean.new_zeros(())
    for repeat in range(config.noise_draws_per_pair):
        noise = draw.normal(f"noise.{repeat}", *shape)
        noise = noise + config.noise_offset * draw.normal(f"noise offset.{repeat}", shape[0], 1, 1, 1)
        u = draw.uniform(f"timestep.{repeat}")
        t = loss.shift_timesteps(u, config.timestep_shift, schedule.config.train_steps)
        noisy, target = schedule.add_noise(clean, noise, t), schedule.target(clean, noise, t)
        weight = schedule.min_snr_weight(t, config.snr_gamma).to(clean)
        predicted = predict(stage, noisy, t, context, motion, bank, kept, dropped)
        total = total + loss.diffusion(predicted, target, weight)
    guessed, _ = schedule.to_x0_eps(predicted, noisy, t)
    if dropped.all():
        total = total + sum(0.0 * tokens.sum() for tokens in bank.values())
    return total / config.noise_draws_per_pair, guessed


def predict(
    stage: Stage,
    noisy: Tensor,
    t: Tensor,
    context: Tensor,
    motion: Tensor | None,
    bank: Bank,
    kept: dict[str, Tensor] | None,
    dropped: Tensor,
) -> Tensor:
    """The denoiser's answer [B,C,F,h,w], with the null reference for the samples that are `dropped` [B].

    The null reference is no reference tokens at all, so those samples run apart from the others.
    """
    model = stage.model
    flags = {"use_motion": motion is not None, "use_temporal": stage.name == "temporal"}

    def part(rows: Tensor, null: bool) -> Tensor:
        image = model.null_context(len(rows)).to(context) if null else context[rows]
        return model.denoiser(
            noisy[rows],
            t[rows],
            image,
            None if motion is None else motion[rows],
            reference=None if null else {name: tokens[rows] for name, tokens in bank.items()},
            kept=None if null or kept is None else {name: ids[rows] for name, ids in kept.items()},
            **flags,
        )

    order = [torch.nonzero(~dropped).flatten(), torch.nonzero(dropped).flatten()]
    parts = [part(rows, null) for rows, null in zip(order, (False, True), strict=True) if len(rows)]
    return torch.cat(parts)[torch.cat(order).argsort()]


def untouched(stage: Stage) -> Tensor:
    """Zero, with a (zero) gradient for every trained parameter."""
    return torch.cat([p.flatten() for p in stage.trained])[:0].sum()


def _rest(part: nn.Module) -> tuple[bool, bool]:
    """Put what has parameters and trains none into evaluation mode; (has it any, does it train any), in one walk."""
    own = list(part.parameters(recurse=False))
    inside = [_rest(child) for child in part.children()]
    has = bool(own) or any(has for has, _ in inside)
    trains = any(p.requires_grad for p in own) or any(trains for _, trains in inside)
    if has and not trains:
        part.eval()  # and what is inside it, parameters or not
    return has, trains


def _group(name: str, module: nn.Module, choose: Callable[[str], bool] = lambda _: True) -> dict[str, Any]:
    """The module's chosen parameters, less those no gradient ever reaches (`UNet.unused`)."""
    dead = module.unused() if isinstance(module, UNet) else set()
    params = [p for n, p in module.named_parameters() if n not in dead and choose(n)]
    return {"name": name, "params": params, "lr_scale": 1.0}
