"""The released X-NeMo checkpoint, in and out: four `.pth` state dicts beside a CLIP and a VAE folder.

    pretrained_weights/
      xnemo_denoising_unet.pth  xnemo_temporal_module.pth  xnemo_reference_unet.pth  xnemo_motion_encoder.pth
      sd-image-variations-diffusers/image_encoder/   stable-video-diffusion-img2vid-xt/vae/

The networks' shape is read off the tensors. Only tensors are ever read from a file, no pickled objects.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Callable, Mapping
from itertools import count, takewhile
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from xnemo.config import CodecConfig, ImageEncoderConfig, ModelConfig, MotionEncoderConfig, UNetConfig
from xnemo.errors import XNeMoError
from xnemo.model import XNeMo
from xnemo.weights import Report, cast_to, compare, hand_over, read_safetensors, ready, reason, replaced, without_values

DENOISER, TEMPORAL = "xnemo_denoising_unet.pth", "xnemo_temporal_module.pth"
REFERENCE, MOTION = "xnemo_reference_unet.pth", "xnemo_motion_encoder.pth"
IMAGE_ENCODER, VAE = "sd-image-variations-diffusers/image_encoder", "stable-video-diffusion-img2vid-xt/vae"

Tensors = dict[str, Tensor]
logger = logging.getLogger(__name__)


def load_official(folder: str | Path, device: str | torch.device = "cpu", dtype: torch.dtype | None = None) -> XNeMo:
    """The released model, ready for inference; `dtype` None keeps the files' own.

    Raises XNeMoError naming every tensor that is missing or misshapen, or the file that is absent, damaged, swapped
    or holds more than tensors. Superfluous tensors are only logged.
    """
    folder = Path(folder)
    files = {name: read_released(folder / name) for name in (DENOISER, TEMPORAL, REFERENCE, MOTION)}
    check_precision(folder, files, dtype)
    # Both denoiser files are read into one, the temporal one winning, as the released code does.
    denoiser = files.pop(DENOISER) | files.pop(TEMPORAL)
    reference, motion = files[REFERENCE], files[MOTION]
    vae_config, vae = read_folder(part(folder, VAE))
    clip_config, clip = read_folder(part(folder, IMAGE_ENCODER))
    try:
        config = released_config(denoiser, motion, vae_config, clip_config)
    except KeyError as error:
        raise XNeMoError(f"{folder}: {error} is missing, so the networks' shape cannot be told") from None
    except (ValueError, TypeError, IndexError) as error:
        raise XNeMoError(f"{folder}: the files do not belong together: {reason(error)}") from None
    with without_values():
        model = XNeMo(config)
    networks: list[tuple[nn.Module, Tensors, str]] = [
        (model.denoiser, denoiser, f"{DENOISER} and {TEMPORAL}"),
        (model.reference_net, reference, REFERENCE),
        (model.motion_encoder, motion, MOTION),
        (released_vae(model), vae, VAE),
    ]
    if model.image_encoder is not None:
        networks.append((model.image_encoder, clip, IMAGE_ENCODER))
    settle(folder, [compare(network.state_dict(), tensors, source) for network, tensors, source in networks])
    for network, tensors, _ in networks:
        own = network.state_dict()
        hand_over(network, {name: cast_to(t, dtype).to(device) for name, t in tensors.items() if name in own})
    return ready(model, device, dtype)


def settle(folder: Path, reports: list[Report]) -> None:
    """Refuse if anything is missing or misshapen; log what is merely superfluous."""
    text = "\n".join(f"  {report}" for report in reports if report)
    if any(report.missing or report.misshapen for report in reports):
        raise XNeMoError(f"{folder} does not hold the whole released model; download the named files again\n{text}")
    if text:
        logger.warning("%s: these tensors are not used\n%s", folder, text)


def check_precision(folder: Path, files: dict[str, Tensors], dtype: torch.dtype | None) -> None:
    """Refuse files of several precisions unless one was asked for; say where less is held than was asked for."""
    held = {n: {t.dtype for t in tensors.values() if t.is_floating_point()} for n, tensors in files.items()}
    words = {n: " and ".join(sorted(str(d).removeprefix("torch.") for d in found)) for n, found in held.items()}
    if dtype is None and len(set().union(*held.values())) > 1:
        told = ", ".join(f"{name} {word}" for name, word in words.items())
        raise XNeMoError(f"{folder}: the files are of several precisions ({told}): give the one to load as dtype")
    for name, found in held.items():
        if dtype is not None and any(torch.finfo(d).bits < torch.finfo(dtype).bits for d in found):
            wanted = str(dtype).removeprefix("torch.")
            logger.warning("%s holds %s, not the %s asked for: it is widened", folder / name, words[name], wanted)


def read_released(path: Path) -> Tensors:
    """One of the four `.pth` files, after checking that it is the one its name says."""
    tensors = read_pth(path)
    kind = DENOISER if path.name == TEMPORAL and any(".temporal_modules." in name for name in tensors) else None
    found = recognise(tensors)
    if found not in (path.name, kind):
        what = f"the tensors of {found}: are the files swapped?" if found else "none of the released networks"
        raise XNeMoError(f"{path} holds {what}")
    return tensors


def recognise(tensors: Tensors) -> str | None:
    """Which released file holds tensors of these names."""
    if "final_proj.weight" in tensors:
        return MOTION
    if "conv_in.weight" in tensors:
        later = any(".motion_modules." in name for name in tensors)
        return DENOISER if later or "conv_out.weight" in tensors else REFERENCE
    return TEMPORAL if any(".temporal_modules." in name for name in tensors) else None


def read_pth(path: Path) -> Tensors:
    """A plain dict of tensors saved by torch."""
    tensors = open_pth(path)
    if not isinstance(tensors, Mapping) or not all(isinstance(t, Tensor) for t in tensors.values()):
        raise XNeMoError(f"{path} is not a plain dict of tensors: save the network's state_dict() alone")
    return dict(tensors)


def open_pth(path: Path) -> Any:
    """What torch saved, mapped into memory where the format allows; containers of tensors only, nothing executed."""
    if not path.is_file():
        raise XNeMoError(f"{path} is missing")
    try:
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap can only be used" not in str(error):
                raise
            return torch.load(path, map_location="cpu", weights_only=True)  # torch's format before 1.6
    except Exception as error:
        text = str(error)
        if "TorchScript" in text:
            raise XNeMoError(f"{path} is a TorchScript program and was not opened: use a file of tensors") from None
        if isinstance(error, pickle.UnpicklingError) and "Unsupported" in text:
            raise XNeMoError(
                f"{path} holds objects that could run code and was not opened: use a file of tensors"
            ) from None
        raise XNeMoError(f"{path} is cut short or damaged: download it again") from None


def part(folder: Path, relative: str) -> Path:
    """A diffusers or transformers folder: at its released place, or directly in `folder`."""
    for place in (folder / relative, folder / Path(relative).name):
        if (place / "config.json").is_file():
            return place
    raise XNeMoError(f"{folder / relative}/config.json is missing: download {relative.split('/')[0]} into {folder}")


def read_folder(folder: Path) -> tuple[dict, Tensors]:
    """The configuration and tensors of a diffusers or transformers folder."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise XNeMoError(f"{folder / 'config.json'} cannot be read: {error}") from None
    if not isinstance(config, dict):
        raise XNeMoError(f"{folder / 'config.json'} is not a configuration: download it again")
    for stem in ("model", "diffusion_pytorch_model", "model.fp16", "diffusion_pytorch_model.fp16"):
        if (path := folder / f"{stem}.safetensors").is_file():
            return config, todays_names(read_safetensors(path))
    for name in ("pytorch_model.bin", "diffusion_pytorch_model.bin"):
        if (path := folder / name).is_file():
            return config, todays_names(read_pth(path))
    raise XNeMoError(f"{folder} holds no weights: neither model.safetensors nor diffusion_pytorch_model.safetensors")


def todays_names(tensors: Tensors) -> Tensors:
    """Attention of VAEs published before 2023 under its present names; without CLIP's former position buffer."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    return {
        ".".join(renamed.get(part, part) for part in name.split(".")): t
        for name, t in tensors.items()
        if not name.endswith("position_ids")
    }


def released_config(denoiser: Tensors, motion: Tensors, vae: dict, clip: dict) -> ModelConfig:
    """The configuration read off the tensors. What they do not show (heads, groups, schedule) is the release's."""
    _, tokens, token_dim = motion["pe"].shape
    tables = [t.shape[1] for name, t in denoiser.items() if name.endswith("pos_encoder.pe")]
    return ModelConfig(
        codec=codec_config(vae),
        unet=unet_config(denoiser),
        motion_tokens=tokens,
        motion_token_dim=token_dim,
        temporal_max_len=min(tables, default=ModelConfig().temporal_max_len),
        motion_encoder=MotionEncoderConfig(
            f_mot=len(motion["model.fc.weight"]), rts_hidden=len(motion["bbox_proj.0.weight"])
        ),
        image_encoder=image_encoder_config(clip),
    )


def codec_config(vae: dict) -> CodecConfig:
    """From the `config.json` of a diffusers VAE."""
    return CodecConfig(
        kind="svd" if "TemporalDecoder" in vae.get("_class_name", "") else "sd",
        factor=2 ** (len(vae["block_out_channels"]) - 1),
        channels=vae["latent_channels"],
        scaling=vae.get("scaling_factor", CodecConfig().scaling),
        widths=vae["block_out_channels"],
        layers_per_block=vae["layers_per_block"],
    )


def image_encoder_config(clip: dict) -> ImageEncoderConfig:
    """From the `config.json` of a transformers CLIP image tower."""
    from transformers import CLIPVisionConfig

    full = CLIPVisionConfig.from_dict(clip)  # fills in what older files leave out
    return ImageEncoderConfig(
        image_size=full.image_size,
        patch_size=full.patch_size,
        width=full.hidden_size,
        layers=full.num_hidden_layers,
        heads=full.num_attention_heads,
        feed_forward=full.intermediate_size,
        activation=full.hidden_act,
        projection_dim=full.projection_dim,
    )


def unet_config(tensors: Tensors) -> UNetConfig:
    def present(pattern: str) -> list[int]:
        return list(takewhile(lambda i: pattern.format(i) in tensors, count()))

    levels = present("down_blocks.{}.resnets.0.conv1.weight")
    return UNetConfig(
        in_channels=tensors["conv_in.weight"].shape[1],
        channels=tuple(len(tensors[f"down_blocks.{i}.resnets.0.conv1.weight"]) for i in levels),
        layers_per_block=len(present("down_blocks.0.resnets.{}.conv1.weight")),
        attention=tuple(f"down_blocks.{i}.attentions.0.norm.weight" in tensors for i in levels),
        context_dim=tensors["mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"].shape[1],
    )


def released_vae(model: XNeMo) -> Any:
    """The diffusers VAE inside the codec."""
    vae = getattr(model.codec, "vae", None)
    if vae is None:
        raise XNeMoError(f'the released layout has no place for a "{model.config.codec.kind}" codec')
    return vae


def export_official(model: XNeMo, folder: str | Path) -> Path:
    """Write the model in the released layout, every tensor as it is. Returns the folder.

    Raises XNeMoError for a model that is not of the released kind.
    """
    vae, clip = released_vae(model), cast(Any, model.image_encoder)
    release, config = ModelConfig.sd15(), model.config
    for name, ours, theirs in (
        ("motion_encoder.kind", config.motion_encoder.kind, "fan"),
        ("motion_positions", config.motion_positions, release.motion_positions),
        ("unet.heads", config.unet.heads, release.unet.heads),
        ("unet.norm_groups", config.unet.norm_groups, release.unet.norm_groups),
        ("schedule", config.schedule, release.schedule),
        ("image_encoder", clip is None, False),
    ):
        if ours != theirs:
            raise XNeMoError(f"the released layout cannot express this model: {name} is not the released one")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    denoiser = model.denoiser.state_dict()
    temporal = {name: t for name, t in denoiser.items() if ".temporal_modules." in name}
    write_pth({name: t for name, t in denoiser.items() if name not in temporal}, folder / DENOISER)
    write_pth(temporal, folder / TEMPORAL)
    write_pth(model.reference_net.state_dict(), folder / REFERENCE)
    write_pth(model.motion_encoder.state_dict(), folder / MOTION)
    write_folder(vae, vae.save_config, folder / VAE / "diffusion_pytorch_model.safetensors")
    write_folder(clip, clip.config.save_pretrained, folder / IMAGE_ENCODER / "model.safetensors")
    return folder


def write_pth(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Cloned one by one: tensors mapped from one file share its storage, all of which torch.save would write.
    own = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    with replaced(path) as temporary:
        torch.save(own, temporary)


def write_folder(network: nn.Module, save_config: Callable[[Path], object], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_config(path.parent)
    with replaced(path) as temporary:
        save_file({name: t.contiguous() for name, t in network.state_dict().items()}, temporary, {"format": "pt"})
