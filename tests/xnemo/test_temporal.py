"""Temporal modules: the recorded outputs, the bound on a window, what may and may not mix."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xnemo.errors import XNeMoError
from xnemo.temporal import TemporalModule


@pytest.mark.parametrize(("name", "width"), [("temporal", 320), ("temporal24", 64)])
def test_a_temporal_module_matches_the_recorded_one(
    name: str,
    width: int,
    recorded: Callable[[str], dict[str, Tensor]],
    golden_fill: Callable[[nn.Module], nn.Module],
) -> None:
    golden = recorded("blocks")
    x = golden[f"{name}_in"]
    module = golden_fill(TemporalModule(width, heads=8, groups=32, max_len=32))
    out = module(x.transpose(1, 2).flatten(0, 1), x.shape[2])
    expected = golden[f"{name}_out"].transpose(1, 2).flatten(0, 1)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


def test_frames_mix_at_their_pixel_and_clips_do_not() -> None:
    torch.manual_seed(0)
    module = TemporalModule(8, heads=2, groups=8, max_len=4)  # one channel per group: per-frame norm
    nn.init.normal_(module.temporal_transformer.proj_out.weight)
    tokens = torch.randn(2, 3, 4, 8)  # two "pixels" of a clip are independent rows for the attention itself
    attention = module.temporal_transformer.attentions[0]
    changed = tokens.clone()
    changed[0] += 1
    attended, other = (attention.attend(t.flatten(0, 1)).view_as(tokens) for t in (tokens, changed))
    assert torch.equal(attended[1], other[1])

    clips = torch.randn(6, 8, 2, 2)  # two clips of three frames
    moved = clips.clone()
    moved[2] += torch.randn(8, 2, 2)
    before, after = module(clips, 3), module(moved, 3)
    assert torch.equal(before[3:], after[3:])
    assert not torch.allclose(before[0], after[0])


def test_the_order_of_frames_matters() -> None:
    torch.manual_seed(0)
    module = TemporalModule(8, heads=2, groups=4, max_len=4)
    nn.init.normal_(module.temporal_transformer.proj_out.weight)
    clip = torch.randn(3, 8, 2, 2)
    assert not torch.allclose(module(clip.flip(0), 3).flip(0), module(clip, 3), atol=1e-3)


def test_a_window_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(XNeMoError, match=r"5 frames in one window.*at most 4"):
        TemporalModule(8, heads=2, groups=4, max_len=4)(torch.randn(5, 8, 2, 2), 5)
