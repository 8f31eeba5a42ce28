"""The generator learns a language of codes, obeys labels, and samples repeatably at a flat cost."""

from functools import cache

import pytest
import torch
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.tokens.generator import UNKNOWN, GeneratorConfig, MotionGenerator, TokenBatch, pick

from . import toy


class Keyed:
    """Uniform draws for a test: one generator for all."""

    def __init__(self, seed: int, rows: int) -> None:
        self.generator, self.rows = torch.Generator().manual_seed(seed), rows

    def uniform(self, name: str, *shape: int) -> Tensor:
        return torch.rand(self.rows, *shape, generator=self.generator)


def batch_of(ids: Tensor, emotions: list[int] | None = None) -> TokenBatch:
    rows, n = ids.shape
    return TokenBatch(
        ids,
        torch.full((rows,), n),
        torch.zeros(rows, dtype=torch.bool),
        torch.tensor(emotions or [UNKNOWN] * rows),
        torch.full((rows,), UNKNOWN),
    )


@cache
def trained_on_labels() -> MotionGenerator:
    """Emotion 1 counts up through the codes, emotion 2 counts down."""
    torch.manual_seed(0)
    config = GeneratorConfig(
        codes=16, layers=2, width=32, heads=2, positions=24, max_tokens=16, context_tokens=12, keep=0.9, dropout=0.0
    )
    model = MotionGenerator(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for step in range(150):
        start = torch.randint(16, (32, 1), generator=torch.Generator().manual_seed(step))
        labels = torch.arange(32) % 2
        ids = (start + torch.where(labels == 0, 1, -1)[:, None] * torch.arange(16)) % 16
        loss = model.losses(batch_of(ids, (labels + 1).tolist()), Keyed(step, 32))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def test_generated_sequences_follow_the_language_of_the_asked_label() -> None:
    model = trained_on_labels()
    for emotion, direction in (("angry", 1), ("contempt", 15)):
        ids = model.generate(40, batch=8, seed=0, emotion=emotion)  # beyond the context of 16
        right = (ids.diff(dim=1) % 16 == direction).float().mean()
        assert right > 0.75  # chance is 1/16


def test_published_size_and_vocabulary() -> None:
    config = GeneratorConfig.paper()
    with torch.device("meta"):
        model = MotionGenerator(config)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6) == 89
    assert config.vocabulary == 4096 + 3 + 8 + 3 + 1


def test_every_special_token_has_its_own_id() -> None:
    c = GeneratorConfig.small()
    ids = [c.bos, c.eos, c.pad, c.null_label, *map(c.emotion_token, range(8)), *map(c.intensity_token, (1, 2, 3))]
    assert sorted(ids) == list(range(c.codes, c.vocabulary))


def test_the_same_seed_repeats_and_another_differs() -> None:
    model = toy.fresh_generator()
    assert torch.equal(model.generate(24, seed=3), model.generate(24, seed=3))
    assert not torch.equal(model.generate(24, seed=3), model.generate(24, seed=4))


def test_a_row_does_not_depend_on_its_batch() -> None:
    model = toy.fresh_generator()
    assert torch.equal(model.generate(24, batch=3, seed=5)[1], model.generate(24, seed=6)[0])


@pytest.mark.parametrize("emotion", [None, "happy"])
def test_the_cache_changes_nothing_even_when_the_context_slides(emotion: str | None) -> None:
    model = toy.fresh_generator()
    prefix = torch.arange(8)[None]
    fast = model.generate(80, prefix=prefix, seed=0, emotion=emotion)
    assert torch.equal(fast, model.generate(80, prefix=prefix, seed=0, emotion=emotion, cache=False))


def test_contexts_never_outgrow_what_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    model = toy.fresh_generator()
    lengths, forward = [], model.gpt.forward
    monkeypatch.setattr(model.gpt, "forward", lambda ids, **kw: (lengths.append(ids.shape[1]), forward(ids, **kw))[1])
    model.generate(100, prefix=torch.zeros(1, 400, dtype=torch.long), cache=False)
    assert max(lengths) < model.config.max_tokens + 3
    assert all((n - 3) % model.config.groups == i % model.config.groups for i, n in enumerate(lengths))


def test_guidance_of_zero_is_plain_sampling_and_more_leaves_it() -> None:
    model = trained_on_labels()
    weak, strong = (
        model.generate(30, batch=16, seed=0, emotion="angry", temperature=3.0, top_p=1.0, guidance=g)
        for g in (0.0, 3.0)
    )
    follows = [(ids.diff(dim=1) % 16 == 1).float().mean() for ids in (weak, strong)]
    assert follows[1] > follows[0] + 0.05


def test_loss_counts_the_end_only_where_a_clip_ends_and_no_padding() -> None:
    model = toy.fresh_generator()
    ids = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    short = TokenBatch(
        ids, torch.tensor([8, 8]), torch.tensor([False, False]), torch.tensor([0, 0]), torch.tensor([1, 1])
    )
    garbage = TokenBatch(
        ids.clone().index_fill_(1, torch.arange(8, 16), 5), short.lengths, short.ends, short.emotions, short.intensities
    )
    ended = TokenBatch(ids, short.lengths, torch.tensor([True, True]), short.emotions, short.intensities)
    base = model.losses(short)["loss"]
    torch.testing.assert_close(base, model.losses(garbage)["loss"])
    assert not torch.isclose(base, model.losses(ended)["loss"])


def test_corruption_harms_prediction_and_validation_has_none() -> None:
    model = trained_on_labels()
    ids = torch.arange(16)[None].repeat(8, 1)
    clean = model.losses(batch_of(ids, [1] * 8))["loss"]
    assert model.losses(batch_of(ids, [1] * 8), Keyed(0, 8))["loss"] > clean


def test_nucleus_keeps_only_the_likeliest_codes() -> None:
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().repeat(1000, 1)
    draws = torch.linspace(0, 1, 1001)[:-1]
    ids = pick(logits, 0.8, draws)
    assert set(ids.tolist()) == {0, 1}
    assert abs((ids == 0).float().mean() - 0.625) < 0.01
    assert set(pick(logits, 1.0, draws).tolist()) == {0, 1, 2, 3}
    assert set(pick(logits, 1e-6, draws).tolist()) == {0}


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"emotion": "bored"}, "bored"),
        ({"intensity": 4}, "intensity"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"guidance": -1.0}, "guidance"),
        ({"prefix": torch.full((1, 4), 99)}, "64"),
        ({"prefix": torch.zeros(1, 3, dtype=torch.long)}, "multiple of 4"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict, word: str) -> None:
    with pytest.raises(XNeMoError, match=word):
        toy.fresh_generator().generate(4, **options)
