"""What the losses of a stage say on held-out pairs, so that the training loss is not the only thing to look at.

The gaps are the cheap signal of transfer (recipe I6): how much worse the denoiser guesses with another pair's motion,
or with another's portrait, than with the true one. Above zero means that it uses what it was given.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pipelines.redraw import motion_tokens
from xnemo.augment import driving_crop
from xnemo.batch import ClipBatch, PairBatch, to_unit
from xnemo.draw import Draw
from xnemo.picture_losses import gan_losses
from xnemo.stages import Stage, at_rest, diffusion_loss, latents, motion_loss, predict

if TYPE_CHECKING:
    from xnemo.synthetic.cross_pairs import CrossPairs

TIMES = (300, 600, 900)  # thousandths of the noise schedule: head motion is decided at the noisy end


def times_of(stage: Stage) -> dict[int, int]:
    """TIMES, and the timestep of the stage's schedule that each one means."""
    return {name: name * stage.schedule.config.train_steps // 1000 for name in TIMES}


@torch.no_grad()
def losses(stage: Stage, batch: PairBatch | ClipBatch, seed: int) -> dict[str, float]:
    """Eq. 1 on a fixed batch with fixed noise, and how much worse it is with another sample's motion."""
    encoded, motion, draw = latents(stage, batch), motion_tokens(stage, batch), Draw(seed, batch.ids)
    own = at_rest(stage, batch)
    found = {"loss": float(diffusion_loss(stage, *encoded, own, motion, draw)[0])}
    if motion is not None and len(motion) > 1:
        strange = float(diffusion_loss(stage, *encoded, own, _other(motion), draw)[0])
        found["motion_gain"] = strange - found["loss"]
    return found


@torch.no_grad()
def gaps(stage: Stage, batch: PairBatch | ClipBatch, seed: int) -> dict[str, float]:
    """ "gap_motion_<time>" and "gap_identity_<time>" of the batch, in thousandths of the schedule; {} for one alone."""
    if len(batch.ids) < 2:
        return {}
    clean, reference, context = latents(stage, batch)
    motion = motion_tokens(stage, batch)
    bank = stage.model.reference_net(reference, context, at_rest(stage, batch))
    noise = Draw(seed, batch.ids).normal("gaps", *clean.shape[1:])
    whole = torch.zeros(len(clean), dtype=torch.bool, device=clean.device)
    strangers = {name: _other(tokens) for name, tokens in bank.items()}

    def loss(t: int, image: Tensor, told: Tensor | None, tokens: dict[str, Tensor]) -> float:
        noisy, target = stage.schedule.add_noise(clean, noise, t), stage.schedule.target(clean, noise, t)
        at = torch.full((len(clean),), t, device=clean.device)
        return float((predict(stage, noisy, at, image, told, tokens, None, whole) - target).square().mean())

    found = {}
    for name, t in times_of(stage).items():
        true = loss(t, context, motion, bank)
        found[f"gap_identity_{name}"] = loss(t, _other(context), motion, strangers) - true
        if motion is not None:
            found[f"gap_motion_{name}"] = loss(t, context, _other(motion), bank) - true
    return found


def drawn_gaps(stage: Stage, pairs: "CrossPairs") -> dict[str, float]:
    """The same on drawn strangers, of whom the truth is known; "gap_drawn_swap_<time>" is the same motion taken from
    another person, which should make no difference."""
    from xnemo.synthetic.cross_pairs import loss_gaps

    times = times_of(stage)
    found = loss_gaps(stage.model, pairs, tuple(times.values()))
    return {
        f"gap_drawn_{name}_{time}": float(gap[:, i].mean())
        for name, gap in found.items()
        for i, time in enumerate(times)
    }


def gradient_ratio(stage: Stage, batch: PairBatch, seed: int) -> dict[str, float]:
    """How strongly each head pulls at f_mot, and the GAN head's pull as a multiple of the diffusion's (recipe C: keep
    it between 1 and 30); {} where there is only one head."""
    if stage.gan is None:
        return {}
    draw, size = Draw(seed, batch.ids), stage.model.config.motion_encoder.image_size
    with torch.no_grad():
        faces = driving_crop(to_unit(batch.target), batch.target_box, size, draw, stage.config.augment)
        f_mot = stage.model.motion_encoder.encode(faces)
    with torch.enable_grad():
        f_mot.requires_grad_()
        gan = stage.config.gan.weight * gan_losses(stage, batch, f_mot)["gan"]
        pulls = {"gan": gan, "diffusion": motion_loss(stage, batch, f_mot, draw, latents(stage, batch))[0]}
        norms = {name: float(torch.autograd.grad(term, f_mot)[0].norm()) for name, term in pulls.items()}
    found = {f"f_mot_grad_{name}": norm for name, norm in norms.items()}
    return found | ({"f_mot_grad_ratio": norms["gan"] / norms["diffusion"]} if norms["diffusion"] > 0 else {})


def _other(values: Tensor) -> Tensor:
    """The same values, each with a sample it does not belong to."""
    return values.roll(len(values) // 2, 0)
