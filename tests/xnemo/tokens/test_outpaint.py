"""Outpainting keeps the truth, joins it without a jump, and costs no more memory however long it goes on."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import GeneratorConfig, MotionGenerator
from xnemo.tokens.motion_file import Motion
from xnemo.tokens.outpaint import outpaint, outpaint_motion, outpaint_stream

from . import toy


@pytest.mark.parametrize("frames", [4, 7, 32, 61])
def test_the_prefix_stays_bit_for_bit_and_the_length_is_met(frames: int) -> None:
    prefix = toy.motion(1, frames, seed=4)[0]
    result = outpaint(toy.trained_tokenizer(), toy.fresh_generator(), prefix, 203, seed=1)
    assert result.shape == (203, toy.FEATURES)
    assert torch.equal(result[:frames], prefix)


def test_no_jump_at_the_join() -> None:
    """The generator is untrained, so what follows is the worst case: any codes after any motion."""
    steps = toy.motion(64, 48, seed=5).diff(dim=1).norm(dim=-1)
    for seed in range(5):
        prefix = toy.motion(1, 48, seed=seed)[0]
        result = outpaint(toy.trained_tokenizer(), toy.fresh_generator(), prefix, 120, seed=seed)
        assert result.diff(dim=0).norm(dim=-1)[46:58].max() < steps.quantile(0.999)


def test_from_nothing_it_stays_within_the_data() -> None:
    result = outpaint(toy.trained_tokenizer(), toy.fresh_generator(), None, 150, seed=2)
    real = toy.motion(64, 48, seed=5).flatten(0, 1)
    assert result.shape == (150, toy.FEATURES)
    assert (result - real.mean(0)).norm(dim=-1).max() < 1.5 * (real - real.mean(0)).norm(dim=-1).max()


def test_chunks_equal_one_decoding_of_all_tokens() -> None:
    tokenizer, generator = toy.trained_tokenizer(), toy.fresh_generator()
    pieces = torch.cat(list(outpaint_stream(tokenizer, generator, None, 800, seed=0, sigma=0)))
    whole = tokenizer.decode(generator.generate(800, seed=0))[0]  # 200 steps of 4 groups
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=1e-5)


def test_seeds_repeat() -> None:
    def run(seed: int) -> torch.Tensor:
        return outpaint(toy.trained_tokenizer(), toy.fresh_generator(), None, 60, seed=seed)

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


class Largest(TorchDispatchMode):
    """The size of the largest tensor any operation made."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else [out]:
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_working_memory_does_not_grow_with_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xnemo.tokens.outpaint.CHUNK", 16)
    sizes = []
    for frames in (300, 500):
        with Largest() as seen:
            for _ in outpaint_stream(toy.trained_tokenizer(), toy.fresh_generator(), None, frames):
                pass
        sizes.append(seen.numel)
    assert sizes[0] == sizes[1]


def test_a_prefix_longer_than_the_context_uses_only_its_end() -> None:
    tokenizer, generator = toy.trained_tokenizer(), toy.fresh_generator()
    long = toy.motion(1, 1000, seed=6)[0]
    other = long.clone()
    other[:500] = 3.0
    ends = [torch.cat(list(outpaint_stream(tokenizer, generator, prefix, 80))) for prefix in (long, other)]
    assert torch.equal(*ends)


@pytest.mark.parametrize(("placement", "last"), [("constant", (0.2, -0.1, 1.3)), ("decay", (0.0, 0.0, 1.0))])
def test_the_head_stays_or_returns_within_a_second(placement: str, last: tuple[float, ...]) -> None:
    f_rts = torch.tensor([[0.2, -0.1, 1.3]]).repeat(32, 1).numpy()
    prefix = Motion(toy.motion(1, 32, seed=7)[0].numpy(), f_rts, fps=25, model="m")
    result = outpaint_motion(toy.trained_tokenizer(), toy.fresh_generator(), prefix, 90, placement=placement)
    assert (result.f_rts[:32] == f_rts).all()
    assert result.f_rts[57:] == pytest.approx(torch.tensor([last]).repeat(33, 1).numpy(), abs=1e-6)
    assert abs(result.f_rts[32] - f_rts[0]).max() < 0.02
    assert result.model == "m"


def test_what_cannot_be_continued_is_refused() -> None:
    tokenizer, generator = toy.trained_tokenizer(), toy.fresh_generator()
    prefix = toy.motion(1, 32, seed=0)[0]
    with pytest.raises(XNeMoError, match="at least 4 frames"):
        outpaint(tokenizer, generator, prefix[:3], 20)
    with pytest.raises(XNeMoError, match="longer than the prefix"):
        outpaint(tokenizer, generator, prefix, 32)
    with pytest.raises(XNeMoError, match="too long"):
        outpaint(tokenizer, generator, prefix, 10**10)
    with pytest.raises(XNeMoError, match="smoothing"):
        outpaint(tokenizer, generator, prefix, 64, sigma=float("nan"))
    with pytest.raises(XNeMoError, match="B,T,24"):
        outpaint(tokenizer, generator, prefix[:, :5], 64)
    with pytest.raises(XNeMoError, match="64 codes"):
        outpaint(tokenizer, MotionGenerator(GeneratorConfig.small().model_copy(update={"codes": 32})), prefix, 64)
