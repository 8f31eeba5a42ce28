"""Initial weights for training at the released shape, from published checkpoints.

The UNets start from Stable Diffusion 1.5 or its image variations, the temporal modules from AnimateDiff, the motion
encoder's trunk from the landmark network 2DFAN-4 (what the released networks descend from). Motion attention has no
ancestor: it stays at its zero start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor, nn

from xnemo.config import ModelConfig, Strict
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo, seeded
from xnemo.official import open_pth, read_folder, released_vae
from xnemo.weights import Report, compare, locate, reason

FAN_TRUNK = ("conv1", "bn1", "conv2", "conv3", "conv4", "m0", "top_m_0", "conv_last0", "bn_end0", "l0")


class Pretrained(Strict):
    """Where initial weights come from: a folder, file or Hugging Face id each; None leaves the fresh weights."""

    backbone: str | None = None  # folder with unet/: lambdalabs/sd-image-variations-diffusers, or SD 1.5
    image_encoder: str | None = None  # folder with image_encoder/
    vae: str | None = None  # folder with vae/: stabilityai/stable-video-diffusion-img2vid-xt
    animatediff: str | None = None  # guoyww/animatediff/mm_sd_v15_v2.ckpt
    fan: str | None = None  # a state dict of 2DFAN-4, such as 2DFAN4-11f355bf06.pth.tar


class Start(Strict):
    """A model before training: its shape, and where its weights come from (`jobs/configs/sd15.yaml`)."""

    model: ModelConfig = ModelConfig()
    pretrained: Pretrained = Pretrained()
    seed: int = 0  # of the weights no source gives


def start(config: Start) -> tuple[XNeMo, list[Report]]:
    """The model to begin training with, and what was taken from where."""
    model = seeded(config.model, config.seed)
    return model, initialise(model, config.pretrained)


def initialise(model: XNeMo, sources: Pretrained) -> list[Report]:
    """Copy every given source into the model. Returns one report per network filled.

    Raises XNeMoError if a source lacks tensors or has another shape; the model is then left partly filled.
    """
    reports: list[Report] = []
    if sources.backbone:
        reports += from_backbone(model, sources.backbone)
    if sources.image_encoder:
        if model.image_encoder is None:
            raise XNeMoError("image_encoder is given, but the model's configuration has none: set one of the two")
        tensors = subfolder(sources.image_encoder, "image_encoder")
        reports.append(fill(model.image_encoder, tensors, sources.image_encoder))
    if sources.vae:
        reports.append(fill(released_vae(model), subfolder(sources.vae, "vae"), sources.vae))
    if sources.animatediff:
        reports.append(from_animatediff(model, sources.animatediff))
    if sources.fan:
        reports.append(from_fan(model, sources.fan))
    return reports


def from_backbone(model: XNeMo, name: str) -> list[Report]:
    """A Stable Diffusion UNet into the denoiser's spatial part and into the reference net."""
    unet = subfolder(name, "unet")
    inserted = ("motion_modules.", "temporal_modules.", "motion_map.")
    spatial = [n for n in model.denoiser.state_dict() if not any(part in n for part in inserted)]
    inner = {n: t for n, t in unet.items() if not n.startswith(("conv_norm_out.", "conv_out."))}
    return [
        fill(model.denoiser, unet, f"{name} for the denoiser", spatial),
        fill(model.reference_net, inner, f"{name} for the reference net"),
    ]


def from_animatediff(model: XNeMo, name: str) -> Report:
    """An AnimateDiff motion checkpoint into the temporal modules; version 1 has none for the middle block."""
    tensors = {
        key.removeprefix("module.").replace(".motion_modules.", ".temporal_modules."): t
        for key, t in state_dict(name).items()
    }
    given_middle = any(key.startswith("mid_block.") for key in tensors)
    wanted = [
        key
        for key in model.denoiser.state_dict()
        if ".temporal_modules." in key and (given_middle or not key.startswith("mid_block."))
    ]
    return fill(model.denoiser, tensors, name, wanted)


def from_fan(model: XNeMo, name: str) -> Report:
    """The first stack of 2DFAN-4 into the motion encoder's trunk; its further stacks and its output are not used."""
    if model.config.motion_encoder.kind != "fan":
        raise XNeMoError('fan needs motion_encoder.kind "fan": remove it from the configuration or change the kind')
    tensors = {f"model.{key}": t for key, t in state_dict(name).items() if in_trunk(key)}
    own = (key.removeprefix("model.") for key in model.motion_encoder.state_dict() if key.startswith("model."))
    wanted = [f"model.{key}" for key in own if in_trunk(key)]
    return fill(model.motion_encoder, tensors, name, wanted)


def in_trunk(name: str) -> bool:
    """Whether 2DFAN-4 and the motion encoder share this tensor; old files lack the batch counters."""
    return name.split(".")[0] in FAN_TRUNK and not name.endswith("num_batches_tracked")


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: str, wanted: Iterable[str] | None = None) -> Report:
    """Copy `tensors` into the network's `wanted` tensors (None: all); superfluous ones are reported, not copied."""
    own = network.state_dict()
    targets = own if wanted is None else {name: own[name] for name in wanted}
    report = compare(targets, tensors, source)
    if report.missing or report.misshapen:
        raise XNeMoError(f"these weights are of another architecture: {report}")
    network.load_state_dict({n: t for n, t in tensors.items() if n in targets and not n.endswith(".pe")}, strict=False)
    return report


def subfolder(name: str, part: str) -> Mapping[str, Tensor]:
    """The tensors of one part of a diffusers folder, or of that part's own folder."""
    folder = locate(name, (f"{part}/*",))
    return read_folder(folder / part if (folder / part).is_dir() else folder)[1]


def state_dict(name: str) -> Mapping[str, Tensor]:
    """The tensors of a `.pth` or `.ckpt` file, or of `owner/repository/file` on Hugging Face."""
    tensors = open_pth(locate_file(name))
    tensors = tensors.get("state_dict", tensors) if isinstance(tensors, Mapping) else None
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise XNeMoError(f"{name} is not a state dict")
    return tensors


def locate_file(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if str(name).startswith((".", "~", "/")) or str(name).count("/") < 2:
        raise XNeMoError(f"there is no file {path}")
    from huggingface_hub import hf_hub_download

    owner, repository, file = name.split("/", 2)
    try:
        return Path(hf_hub_download(f"{owner}/{repository}", file))
    except Exception as error:
        message = f"{name} is neither a file here nor one that can be fetched: {reason(error)}"
        raise XNeMoError(message) from None
