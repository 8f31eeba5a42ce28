"""One motion module against its recorded output."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xnemo.motion_attention import MotionModule


def test_a_motion_module_matches_the_recorded_one(
    recorded: Callable[[str], dict[str, Tensor]], golden_fill: Callable[[nn.Module], nn.Module]
) -> None:
    golden = recorded("blocks")
    module = golden_fill(MotionModule(320, heads=8, groups=32, token_dim=16))
    told = [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in module.keys_values(golden["motion_attn_tokens"])]
    out = module(golden["motion_attn_in"].transpose(1, 2).flatten(0, 1), told)
    torch.testing.assert_close(
        out.unflatten(0, (2, 3)).transpose(1, 2), golden["motion_attn_out"], rtol=1e-4, atol=1e-5
    )


def test_each_frame_hears_its_own_tokens_only() -> None:
    torch.manual_seed(0)
    module = MotionModule(8, heads=2, groups=4, token_dim=4)
    nn.init.normal_(module.temporal_transformer.proj_out.weight)
    x, motion = torch.randn(2, 8, 4, 4), torch.randn(1, 2, 5, 4)
    changed = motion.clone()
    changed[:, 1] += 1

    def run(tokens: Tensor) -> Tensor:
        return module(x, [(k.flatten(0, 1), v.flatten(0, 1)) for k, v in module.keys_values(tokens)])

    assert torch.equal(run(motion)[0], run(changed)[0])
    assert not torch.allclose(run(motion)[1], run(changed)[1])
