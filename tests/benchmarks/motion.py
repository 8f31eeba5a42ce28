"""Motion generation on this machine: a minute of it, with and without the key-value cache, and its cost in time.

`python -m tests.benchmarks.motion [minutes]`. Processor time of one thread; printed, never asserted. A minute at 25
frames/s is 375 time steps of the tokenizer, each of `groups` tokens.
"""

import itertools
import sys
import time
from collections.abc import Iterator

import torch

from pipelines.models import locate
from xnemo.tokens.generator import GeneratorConfig, MotionGenerator
from xnemo.tokens.outpaint import FPS, outpaint_stream
from xnemo.tokens.vqvae import MotionTokenizer, TokenizerConfig
from xnemo.tokens.weights import load_generator, load_tokenizer


def main(minutes: float = 1.0) -> None:
    torch.set_num_threads(1)
    bundled = load_tokenizer(locate("bundled", "tokenizer")), load_generator(locate("bundled", "generator"))
    small = MotionTokenizer(TokenizerConfig.small(128)).eval(), MotionGenerator(GeneratorConfig.small()).eval()
    for name, (tokenizer, generator) in (("bundled", bundled), ("small, fresh weights", small)):
        print(f"{name}: {generator.config.groups} tokens a step, contexts of {generator.config.max_tokens}")
        outpainting(tokenizer, generator, minutes)
        per_token(generator, minutes)


def outpainting(tokenizer: MotionTokenizer, generator: MotionGenerator, minutes: float) -> None:
    """From nothing to f_mot, decoded and smoothed; and with an emotion, which doubles the rows."""
    frames = round(60 * minutes * FPS)
    for what, options in (("", {}), (", of an emotion", {"emotion": "happy"})):
        began = time.process_time()
        for _ in outpaint_stream(tokenizer, generator, None, frames, **options):
            pass
        print(f"  {minutes:g} min of motion{what}: {time.process_time() - began:.2f} s")


def per_token(generator: MotionGenerator, minutes: float) -> None:
    """Milliseconds a token in successive tenths of the sequence, and without the cache for a few contexts."""
    tokens = round(60 * minutes * FPS / 4) * generator.config.groups
    block = max(tokens // 10, 1)
    costs = [_milliseconds(stream, block) for stream in [generator.stream()] for _ in range(10)]
    print(f"  ms a token, by tenths: {' '.join(f'{cost:.2f}' for cost in costs)}")
    print(f"  last tenth against the second: {costs[-1] / costs[1]:.2f}")
    few = min(tokens, 2 * generator.config.max_tokens)
    plain, cached = (_milliseconds(generator.stream(cache=cache), few) for cache in (False, True))
    print(f"  without the cache {plain:.2f}, with it {cached:.2f} (×{plain / cached:.1f})")


def _milliseconds(stream: Iterator[torch.Tensor], tokens: int) -> float:
    began = time.process_time()
    for _ in itertools.islice(stream, tokens):
        pass
    return (time.process_time() - began) / tokens * 1000


if __name__ == "__main__":
    main(*map(float, sys.argv[1:]))
