"""The moving average of weights."""

import pytest
import torch
from torch import nn

from xnemo.ema import Ema
from xnemo.errors import XNeMoError


def test_average_moves_towards_the_weights_and_swaps_in_and_out() -> None:
    layer = nn.Linear(3, 2)
    start = layer.weight.detach().clone()
    ema = Ema(layer.parameters(), decay=0.9)
    ema.updates = 1000  # past the warm-up of the decay
    with torch.no_grad():
        layer.weight += 1.0
    ema.update()
    with ema.swap():
        assert torch.allclose(layer.weight, start + 0.1)
    assert torch.allclose(layer.weight, start + 1.0)


def test_half_precision_weights_are_averaged_in_full_precision() -> None:
    layer = nn.Linear(1, 1).bfloat16()
    ema = Ema(layer.parameters(), decay=0.999)
    ema.updates = 10_000
    with torch.no_grad():
        layer.weight.fill_(1.0)
    before = ema.shadow[0].clone()
    ema.update()
    assert ema.shadow[0].dtype == torch.float32
    assert torch.allclose(ema.shadow[0], before + 0.001 * (1 - before))


def test_state_comes_back_and_refuses_other_parameters() -> None:
    ema = Ema(nn.Linear(3, 2).parameters(), decay=0.9)
    ema.update()
    again = Ema(nn.Linear(3, 2).parameters(), decay=0.9)
    again.load_state_dict(ema.state_dict())
    assert again.updates == 1
    assert all(torch.equal(a, b) for a, b in zip(again.shadow, ema.shadow, strict=True))
    with pytest.raises(XNeMoError, match="other parameters"):
        Ema(nn.Linear(4, 2).parameters(), decay=0.9).load_state_dict(ema.state_dict())
