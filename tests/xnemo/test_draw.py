"""Random numbers addressed by (seed, sample id, name)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xnemo.draw import Draw


@given(st.lists(st.integers(0, 2**40), min_size=1, max_size=6, unique=True), st.integers(0, 2**31))
def test_a_sample_draws_the_same_alone_or_in_any_batch(ids: list[int], seed: int) -> None:
    together = Draw(seed, torch.tensor(ids))
    for kind in ("normal", "uniform"):
        values = getattr(together, kind)("noise", 3, 5)
        for row, sample in enumerate(ids):
            alone = getattr(Draw(seed, torch.tensor([sample])), kind)("noise", 3, 5)
            assert torch.equal(values[row], alone[0])


def test_seed_id_and_name_each_change_the_values() -> None:
    base = Draw(0, torch.tensor([1])).normal("a", 8)
    for other in (
        Draw(1, torch.tensor([1])).normal("a", 8),
        Draw(0, torch.tensor([2])).normal("a", 8),
        Draw(0, torch.tensor([1])).normal("b", 8),
    ):
        assert not torch.equal(base, other)


def test_normals_are_standard_and_uncorrelated_between_neighbouring_samples() -> None:
    values = Draw(3, torch.arange(64)).normal("noise", 4095)
    assert values.shape == (64, 4095)
    assert abs(values.mean()) < 0.01
    assert values.std() == pytest.approx(1.0, abs=0.01)
    assert ((values**4).mean() / 3).item() == pytest.approx(1.0, abs=0.03)
    correlation = (values[:-1] * values[1:]).mean(dim=1)
    assert correlation.abs().max() < 0.08
    assert (values[:, :-1] * values[:, 1:]).mean().abs() < 0.01


def test_uniforms_fill_their_range_evenly() -> None:
    values = Draw(0, torch.arange(1000)).uniform("u", 50)
    assert values.min() >= 0
    assert values.max() < 1
    assert torch.histc(values, 10, 0, 1).sub(5000).abs().max() < 350


def test_integers_stay_in_range_and_reach_both_ends() -> None:
    values = Draw(0, torch.arange(500)).integers("t", 5, 9)
    assert sorted(values.unique().tolist()) == [5, 6, 7, 8]
