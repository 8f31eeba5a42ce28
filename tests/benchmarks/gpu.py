"""`make bench-gpu`: one second of video at the released shape on one GPU, with synthetic weights.

    python -m tests.benchmarks.gpu            # 512 px, bf16, 25 guided steps, 25 frames; needs a CUDA device
    python -m tests.benchmarks.gpu --tiny     # the same code in a shape that a CPU runs in seconds

Counted are the portrait's encoding, the reference net, the motion encoder, sampling and decoding, as in an animation
whose crops lie ready. Needs torch, diffusers, transformers and safetensors only. FLOPs: one multiplication and one
addition each, of convolutions, products and attention, from one counted run of the same work on shapes alone.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from xnemo.animate import sample
from xnemo.config import CodecConfig, ImageEncoderConfig, ModelConfig, MotionEncoderConfig, UNetConfig
from xnemo.denoiser import Conditions
from xnemo.model import XNeMo
from xnemo.windows import OVERLAP

NO_GPU = "no CUDA device is here, so nothing was measured: run this where torch.cuda.is_available() is true"


@dataclass(frozen=True)
class Work:
    """What is animated: `frames` of `size` px in `steps` guided steps, all in one window."""

    config: ModelConfig
    frames: int = 25
    steps: int = 25
    scale: float = 3.5
    dtype: torch.dtype = torch.bfloat16


def tiny() -> Work:
    """A shape for the code, not for its speed."""
    config = ModelConfig(
        image_size=64,
        codec=CodecConfig(widths=(32, 32, 32, 32), layers_per_block=1),
        unet=UNetConfig(channels=(32, 64), attention=(True, False), layers_per_block=1, context_dim=32),
        motion_encoder=MotionEncoderConfig(kind="small", image_size=32, widths=(8, 16, 32), maps=4, attention_dim=32),
        image_encoder=ImageEncoderConfig(
            image_size=32, patch_size=16, width=32, layers=1, heads=4, feed_forward=64, projection_dim=32
        ),
    )
    return Work(config, frames=3, steps=2, dtype=torch.float32)


def synthetic(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> XNeMo:
    """A model of small random weights: every activation stays finite."""
    with device:
        model = XNeMo(config).to(device, dtype).eval()
    for network in (model.reference_net, model.denoiser):
        network.to(memory_format=torch.channels_last)  # what a GPU's convolutions take without turning them over
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point():
            tensor.zero_()
        elif tensor.ndim > 1:
            tensor.normal_(0, 0.5 / tensor[0].numel() ** 0.5)
        else:
            tensor.fill_(0.0 if name.endswith(("bias", "running_mean")) else 1.0)
    return model


def inputs(work: Work, device: torch.device) -> dict[str, Tensor]:
    """Pictures and noise in the shapes of an animation."""
    config, side = work.config, work.config.motion_encoder.image_size
    shapes = {
        "portrait": (1, 3, config.image_size, config.image_size),
        "faces": (work.frames + 1, 3, side, side),  # the driver's, and the portrait's own
        "noise": (1, config.codec.channels, work.frames, config.latent_size, config.latent_size),
    }
    return {name: torch.randn(shape, device=device).to(work.dtype) for name, shape in shapes.items()}


@torch.no_grad()
def second_of_video(model: XNeMo, work: Work, given: dict[str, Tensor]) -> Tensor:
    """Everything after the crops: frames [F,3,H,W]."""
    faces = given["faces"]
    still = faces.new_tensor([[0.0, 0.0, 1.0]]).expand(len(faces), 3)
    tokens = model.motion_encoder(faces, still)[None]
    latents = sample(
        model, model.codec.encode(given["portrait"]), model.context(given["portrait"]), tokens[:, 1:], tokens[:, :1],
        steps=work.steps, guidance_scale=work.scale, noise=given["noise"], window_size=max(work.frames, OVERLAP + 1),
    )  # fmt: skip
    return torch.cat(list(model.codec.decode_clip(latents[0].transpose(0, 1))))


def counted(work: Work) -> float:
    """TFLOP of `second_of_video`, counted without computing."""
    meta = torch.device("meta")
    with meta:
        model = XNeMo(work.config).to(meta).eval()  # .to: a few tensors of the VAE ignore the block
        given = inputs(work, meta)
    given = {name: tensor.float() for name, tensor in given.items()}
    with FlopCounterMode(display=False) as counter:
        second_of_video(model, work, given)
    return counter.get_total_flops() / 1e12


def compile_denoiser(model: XNeMo, device: torch.device) -> None:
    """The time step becomes a tensor: as a number, each of its values would be compiled anew."""
    compiled = torch.compile(model.denoiser.denoise)

    def denoise(latents: Tensor, timestep: int, conditions: Conditions) -> Tensor:
        return compiled(latents, torch.tensor(timestep, device=device), conditions)

    model.denoiser.denoise = denoise


def measure(run: Callable[[], Tensor], device: torch.device, repeats: int = 3) -> tuple[float, float, float]:
    """Seconds of the first run, least seconds of the following, and peak memory in GB (0 on a CPU)."""
    cuda = device.type == "cuda"

    def once() -> float:
        began = time.perf_counter()
        frames = run()
        if cuda:
            torch.cuda.synchronize(device)
        assert frames.isfinite().all(), "the synthetic weights gave infinite frames"
        return time.perf_counter() - began

    first = once()
    if cuda:
        torch.cuda.reset_peak_memory_stats(device)
    best = min(once() for _ in range(repeats))
    return first, best, torch.cuda.max_memory_allocated(device) / 1e9 if cuda else 0.0


def main(argv: list[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--tiny", action="store_true", help="a tiny shape, also on a CPU")
    options.add_argument("--eager-only", action="store_true", help="leave out torch.compile")
    arguments = options.parse_args(argv)
    if not (torch.cuda.is_available() or arguments.tiny):
        print(NO_GPU)
        return 0
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = tiny() if arguments.tiny else Work(ModelConfig.sd15())
    total = counted(work)
    model, given = synthetic(work.config, device, work.dtype), inputs(work, device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{name}, {work.config.image_size} px, {work.dtype}, {work.frames} frames, {work.steps} guided steps")
    print(f"{'':<10}{'first s':>10}{'best s':>10}{'TFLOP/s':>10}{'peak GB':>10}   ({total:.1f} TFLOP)")
    for mode in ("eager",) if arguments.eager_only else ("eager", "compiled"):
        if mode == "compiled":
            compile_denoiser(model, device)
        first, best, peak = measure(lambda: second_of_video(model, work, given), device)
        print(f"{mode:<10}{first:>10.2f}{best:>10.2f}{total / best:>10.1f}{peak:>10.2f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
