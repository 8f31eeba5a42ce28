"""How much memory an animation takes, and options that keep it under a bound.

Two calls decide: the denoiser's on a window, and the codec's on a few frames. Both are tried with little first and more
after, on the device itself, until the next size would go over the bound.
"""

from __future__ import annotations

import gc
import resource
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from xnemo.encode import evaluating
from xnemo.errors import XNeMoError
from xnemo.motion_encoder import REST
from xnemo.options import Options

if TYPE_CHECKING:
    from xnemo.model import XNeMo

SMALLEST_WINDOW = 4


def peak(device: torch.device) -> int:
    """The most bytes used so far: of the GPU, reserved by this process; of the host, resident."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def fit(model: XNeMo, options: Options, limit: int) -> Options:
    """The options with a window short enough, and the model's codec set to chunks small enough, to stay under `limit`
    bytes on the model's device (GPU memory there, else resident memory). Raises XNeMoError if nothing is."""
    config, weight = model.config, model.denoiser.conv_in.weight
    side, channels, device = config.latent_size, config.codec.channels, weight.device
    still = weight.new_tensor(REST).expand(options.window_size, -1)
    code = weight.new_zeros(options.window_size, config.motion_encoder.f_mot)
    with torch.no_grad():
        tokens = model.motion_encoder.fuse(code, still)[None]
    latents = weight.new_zeros(1, channels, options.window_size, side, side)

    @torch.no_grad()
    def denoise(frames: int) -> None:
        bank = model.reference_net(latents[:, :, 0], model.null_context(1), tokens[:, 0])
        cond = model.denoiser.prepare(model.null_context(1), tokens[:, :frames], bank)
        model.denoiser.denoise(latents[:, :, :frames], 1, cond)

    @torch.no_grad()
    def decode(frames: int) -> None:
        model.codec.chunk = frames
        for _ in model.codec.decode_clip(latents[0].transpose(0, 1)[:frames]):
            pass

    with evaluating(model):
        chunk = _most(decode, model.codec.overlap + 1, min(model.codec.chunk, options.window_size), limit, device)
        window = _most(denoise, min(SMALLEST_WINDOW, options.window_size), options.window_size, limit, device)
    model.codec.chunk = chunk
    return replace(options, window_size=window, overlap=min(options.overlap, window - 1))


def _most(call: Callable[[int], None], least: int, most: int, limit: int, device: torch.device) -> int:
    """The largest size from `least` to `most`, doubling, at which the call stays under the limit."""
    fits, size = 0, least
    while fits < most:
        try:
            call(size)
        except torch.OutOfMemoryError:
            break
        finally:
            gc.collect()
        if peak(device) > limit:
            break
        fits, size = size, min(2 * size, most)
    if not fits:
        raise XNeMoError(
            f"{limit / 2**30:.1f} GiB are too little: {peak(device) / 2**30:.1f} GiB are in use at the smallest step; "
            "give more with --max-memory, or a lower precision"
        )
    return fits
