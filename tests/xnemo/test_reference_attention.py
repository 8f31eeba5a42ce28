"""Reading the reference, and dropping some of its tokens."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.reference_attention import SpatialTransformer, TransformerBlock, keep, kept_tokens


def test_a_spatial_transformer_matches_the_recorded_one(
    recorded: Callable[[str], dict[str, Tensor]], golden_fill: Callable[[nn.Module], nn.Module]
) -> None:
    golden = recorded("blocks")
    module = golden_fill(SpatialTransformer(320, heads=8, groups=32, context_dim=768))
    image = module.block.image_vector(golden["spatial_clip"]).repeat_interleave(3, dim=0)
    out, _ = module(golden["temporal_in"].transpose(1, 2).flatten(0, 1), image)
    torch.testing.assert_close(out.unflatten(0, (2, 3)).transpose(1, 2), golden["spatial_out"], rtol=1e-4, atol=1e-5)


def test_the_image_vector_is_cross_attention_over_one_token() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, context_dim=5)
    x, context = torch.randn(2, 6, 8), torch.randn(2, 1, 5)
    attended = block.attn2(block.norm2(x), block.attn2.keys_values(context))
    torch.testing.assert_close(block.image_vector(context).expand(2, 6, 8), attended)
    with pytest.raises(XNeMoError, match="one token"):
        block.image_vector(torch.randn(2, 3, 5))


def test_reading_is_self_attention_over_own_and_reference_tokens() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(8, heads=2, context_dim=5)
    x, reference, nothing = torch.randn(2, 6, 8), torch.randn(2, 4, 8), torch.zeros(2, 1, 8)
    out, own = block(x, nothing, block.attn1.keys_values(reference))
    both = block.attn1.keys_values(torch.cat([own, reference], dim=1))
    plain = x + block.attn1(own, both)
    torch.testing.assert_close(out, plain + block.ff(block.norm3(plain)))


@given(st.floats(0, 1), st.lists(st.integers(1, 40), min_size=1, max_size=3), st.integers(1, 3))
def test_masking_keeps_distinct_tokens_of_each_layer_and_sample(ratio: float, lengths: list[int], batch: int) -> None:
    bank = {f"block{i}": torch.arange(n).expand(batch, n)[..., None].float() for i, n in enumerate(lengths)}
    kept = kept_tokens(bank, ratio, lambda name, n: torch.rand(batch, n))
    for name, tokens in keep(bank, kept).items():
        assert tokens.shape == (batch, int(bank[name].shape[1] * (1 - ratio)), 1)
        assert all(len(row.unique()) == len(row) for row in tokens[..., 0])
        assert torch.equal(tokens[..., 0], kept[name].float())


def test_released_layers_keep_the_released_number_of_tokens() -> None:
    bank = {str(n): torch.zeros(1, n, 1) for n in (4096, 1024, 256, 64)}
    kept = kept_tokens(bank, 0.3, lambda name, n: torch.rand(1, n))
    assert [ids.shape[1] for ids in kept.values()] == [2867, 716, 179, 44]


def test_an_impossible_masking_ratio_is_refused() -> None:
    with pytest.raises(XNeMoError, match=r"masking ratio.*1\.5"):
        kept_tokens({}, 1.5, lambda name, n: torch.rand(1, n))
