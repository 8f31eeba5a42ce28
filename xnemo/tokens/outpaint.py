"""Motion of any length from a driving prefix, or from nothing (paper: appendix D).

The prefix's tokens start the generator, whose tokens are decoded in overlapping chunks. The prefix itself is
kept as it is; the decoded motion is shifted onto its last frame and released over 8 frames, then smoothed.
Everything streams: memory does not grow with the length. P prefix frames, D features, R steps of overlap.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import MotionGenerator
from xnemo.tokens.motion_file import Motion, check_size, still_rts
from xnemo.tokens.vqvae import MotionTokenizer

FPS = 25.0  # of all training motion
BLEND_FRAMES = 8
SIGMA = 0.5  # frames, of the smoothing of generated motion: 1, as in other work, takes a sixth of its speed
MAX_SIGMA = 100.0  # frames
CHUNK = 64  # time steps decoded at once, besides the overlap


def outpaint(
    tokenizer: MotionTokenizer,
    generator: MotionGenerator,
    prefix: Tensor | None,
    length: int,
    seed: int = 0,
    **options: Any,
) -> Tensor:
    """f_mot [P,D] or None → f_mot [length,D] whose first P frames are the prefix, bit for bit.

    Options: emotion, intensity, temperature, top_p, guidance (see MotionGenerator.stream), sigma.
    """
    done = 0 if prefix is None else len(prefix)
    frames = length - done
    if frames <= 0:
        raise XNeMoError(f"the whole must be longer than the prefix of {done} frames, not {length} frames")
    check_size(length, tokenizer.config.features)
    new = list(outpaint_stream(tokenizer, generator, prefix, frames, seed, **options))
    return torch.cat(new if prefix is None else [prefix.float(), *new])


def outpaint_motion(
    tokenizer: MotionTokenizer,
    generator: MotionGenerator,
    prefix: Motion | None,
    length: int,
    seed: int = 0,
    *,
    placement: Literal["constant", "decay"] = "constant",
    **options: Any,
) -> Motion:
    """As `outpaint`, for motion files. New frames keep the prefix's last f_rts, or decay to (0,0,1) in a second."""
    if prefix is not None and abs(prefix.fps - FPS) > 0.5:
        raise XNeMoError(
            f"the prefix has {prefix.fps:g} frames per second, motion models know {FPS:g}: "
            "extract it again at that rate"
        )
    if prefix is not None and prefix.model and tokenizer.belongs_to and prefix.model != tokenizer.belongs_to:
        raise XNeMoError(
            f"the prefix was extracted with model {prefix.model[:12]}, the tokenizer belongs to "
            f"{tokenizer.belongs_to[:12]}: use the tokenizer trained for that model"
        )
    start = None if prefix is None else torch.from_numpy(prefix.f_mot)
    f_mot = outpaint(tokenizer, generator, start, length, seed, **options).numpy()
    if prefix is None:
        return Motion(f_mot, still_rts(length), FPS, tokenizer.belongs_to)
    rest = length - len(prefix)
    weight = np.ones(rest) if placement == "constant" else np.clip(1 - np.arange(1, rest + 1) / prefix.fps, 0, 1)
    still = still_rts(rest)
    new = still + weight[:, None].astype(np.float32) * (prefix.f_rts[-1] - still)
    return Motion(f_mot, np.concatenate([prefix.f_rts, new]), prefix.fps, prefix.model)


@torch.no_grad()
def outpaint_stream(
    tokenizer: MotionTokenizer,
    generator: MotionGenerator,
    prefix: Tensor | None,
    frames: int,
    seed: int = 0,
    *,
    sigma: float = SIGMA,
    **options: Any,
) -> Iterator[Tensor]:
    """The `frames` frames that follow the prefix, as pieces [n,D] in order."""
    _check_pair(tokenizer, generator)
    if not 0 <= sigma <= MAX_SIGMA:
        raise XNeMoError(f"the smoothing must lie between 0 and {MAX_SIGMA:g} frames, not {sigma:g}")
    config = tokenizer.config
    steps = -(-frames // config.factor)
    if prefix is None:
        decoded = _decoded(tokenizer, _empty(), generator.stream(seed=seed, **options), steps)
        pieces = _trimmed(decoded, frames)
        yield from _smoothed(pieces, None, sigma)
        return
    prefix = prefix.float()
    ids = _prefix_tokens(tokenizer, prefix, generator.config.context_tokens)
    new = generator.stream(prefix=ids[None], seed=seed, **options)
    # The last step of the prefix is decoded once more: the shift between it and the truth is what must fade.
    left, last = ids[: -config.groups], ids[-config.groups :]
    decoded = _decoded(tokenizer, left, chain(last.split(1), new), steps + 1)
    pieces = _trimmed(_joined(decoded, prefix[-1], config.factor), frames)
    yield from _smoothed(pieces, prefix, sigma)


def _check_pair(tokenizer: MotionTokenizer, generator: MotionGenerator) -> None:
    a, b = tokenizer.config, generator.config
    if (a.codes, a.groups) != (b.codes, b.groups):
        raise XNeMoError(
            f"the tokenizer has {a.codes} codes in {a.groups} groups, the generator {b.codes} in "
            f"{b.groups}: use the tokenizer the generator was trained with"
        )
    if generator.belongs_to and tokenizer.digest and generator.belongs_to != tokenizer.digest:
        raise XNeMoError(
            f"the generator was trained on tokenizer {generator.belongs_to[:12]}, this one is "
            f"{tokenizer.digest[:12]}: use the tokenizer the generator was trained with"
        )


def _empty() -> Tensor:
    return torch.empty(0, dtype=torch.long)


def _prefix_tokens(tokenizer: MotionTokenizer, prefix: Tensor, tokens: int) -> Tensor:
    """The last `tokens` ids at most of the prefix [P,D]; steps are aligned to its end, so P % 4 frames go unused.

    Only as much of the prefix is encoded as these ids depend on.
    """
    config = tokenizer.config
    if prefix.ndim != 2 or len(prefix) < config.factor:
        raise XNeMoError(f"a prefix must be [P,D] of at least {config.factor} frames, not {tuple(prefix.shape)}")
    wanted = (tokens // config.groups + tokenizer.receptive_steps()) * config.factor
    usable = min(wanted, len(prefix) - len(prefix) % config.factor)
    return tokenizer.encode(prefix[None, -usable:].to(tokenizer.mean.device))[0, -tokens:].cpu()


def _decoded(tokenizer: MotionTokenizer, left: Tensor, ids: Iterator[Tensor], steps: int) -> Iterator[Tensor]:
    """Decode the next `steps` time steps of `ids`, after the context `left`, chunk by chunk: pieces [n,D].

    Every chunk is decoded with R steps on either side, so the pieces equal one decoding of the whole.
    """
    config, overlap = tokenizer.config, tokenizer.receptive_steps()
    held = left[-overlap * config.groups :]
    before, done = len(held) // config.groups, 0
    while done < steps:
        take = min(CHUNK, steps - done)
        wanted = before + min(take + overlap, steps - done)
        fresh = [next(ids) for _ in range(wanted * config.groups - len(held))]
        held = torch.cat([held, *fresh])
        frames = tokenizer.decode(held[None].to(tokenizer.mean.device))[0].cpu()
        yield frames[before * config.factor : (before + take) * config.factor]
        done += take
        drop = max(before + take - overlap, 0)
        held, before = held[drop * config.groups :], before + take - drop


def _joined(pieces: Iterator[Tensor], last_true: Tensor, factor: int) -> Iterator[Tensor]:
    """Drop the first `factor` frames (the prefix's last step) and fade the shift to its true last frame."""
    first = next(pieces)
    shift = last_true - first[factor - 1]
    place = torch.arange(1, BLEND_FRAMES + 1) / (BLEND_FRAMES + 1)
    weight = (0.5 * (1 + torch.cos(torch.pi * place)))[: len(first) - factor, None]
    first = first[factor:]
    yield torch.cat([first[:BLEND_FRAMES] + weight * shift, first[BLEND_FRAMES:]])
    yield from pieces


def _trimmed(pieces: Iterator[Tensor], frames: int) -> Iterator[Tensor]:
    for piece in pieces:
        yield piece[:frames]
        frames -= len(piece)


def _smoothed(pieces: Iterator[Tensor], prefix: Tensor | None, sigma: float) -> Iterator[Tensor]:
    """Gaussian over time; the true frames before and a repeated frame at open ends fill the kernel."""
    if sigma == 0:
        yield from pieces
        return
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    held: Tensor | None = None if prefix is None else _padded(prefix[-radius:], radius)
    for piece in pieces:
        held = torch.cat([_padded(piece[:1], radius) if held is None else held, piece])
        if len(held) > 2 * radius:
            yield F.conv1d(held.T[:, None], kernel)[:, 0].T
            held = held[-2 * radius :]
    assert held is not None  # at least one frame was asked for
    yield F.conv1d(torch.cat([held, held[-1:].expand(radius, -1)]).T[:, None], kernel)[:, 0].T


def _padded(frames: Tensor, count: int) -> Tensor:
    """The first frame repeated until there are `count`."""
    return torch.cat([frames[:1].expand(count - len(frames), -1), frames])
