"""Toy motion with structure: a few slow oscillations seen through a fixed mixing, as f_mot would show a head."""

from functools import cache

import torch
from torch import Tensor

from xnemo.tokens.generator import GeneratorConfig, MotionGenerator
from xnemo.tokens.vqvae import MotionTokenizer, TokenizerConfig

FEATURES = 24


def motion(clips: int, frames: int, seed: int) -> Tensor:
    """f_mot [clips,frames,FEATURES]: 4 oscillators of random phase, rate and strength, at 25 fps."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(4, FEATURES, generator=torch.Generator().manual_seed(9))
    rate, phase, strength = (torch.rand(clips, 1, 4, generator=generator) for _ in range(3))
    seconds = torch.arange(frames)[None, :, None] / 25
    waves = (0.3 + strength) * torch.sin(2 * torch.pi * ((0.3 + 1.5 * rate) * seconds + phase))
    return 3 + waves @ mixing + 0.02 * torch.randn(clips, frames, FEATURES, generator=generator)


def tokenizer_config(**changes: int) -> TokenizerConfig:
    return TokenizerConfig.small(FEATURES).model_copy(update={"width": 48, **changes})


@cache
def trained_tokenizer(steps: int = 120) -> MotionTokenizer:
    """A tokenizer after a short training on toy motion, in eval mode."""
    torch.manual_seed(0)
    tokenizer = MotionTokenizer(tokenizer_config())
    data = motion(128, 32, seed=0)
    flat = data.flatten(0, 1)
    tokenizer.set_statistics(flat.mean(0), flat.std(0))
    optimizer = torch.optim.AdamW(tokenizer.parameters(), lr=2e-3, betas=(0.9, 0.99))
    for step in range(steps):
        losses = tokenizer.losses(data[torch.randint(128, (32,), generator=torch.Generator().manual_seed(step))])
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    return tokenizer.eval()


@cache
def fresh_generator() -> MotionGenerator:
    torch.manual_seed(1)
    config = GeneratorConfig.small().model_copy(update={"layers": 2, "width": 32, "heads": 2})
    return MotionGenerator(config).eval()
