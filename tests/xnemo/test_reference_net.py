"""The reference net leaves the recorded tokens behind, and nothing else."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from xnemo.config import ModelConfig
from xnemo.reference_net import ReferenceNet


def test_the_bank_matches_the_recorded_one(
    recorded: Callable[[str], dict[str, Tensor]],
    golden_fill: Callable[[nn.Module], nn.Module],
    tiny_config: ModelConfig,
) -> None:
    golden = recorded("unet_tiny")
    bank = golden_fill(ReferenceNet(tiny_config.unet))(golden["ref_lat"], golden["clip"])
    expected = {key.removeprefix("bank_cond/"): t[None] for key, t in golden.items() if key.startswith("bank_cond/")}
    torch.testing.assert_close(bank, {name: expected[name] for name in bank}, rtol=1e-4, atol=1e-5)
    assert bank.keys() == expected.keys()


def test_samples_of_a_batch_do_not_mix(tiny_config: ModelConfig) -> None:
    torch.manual_seed(0)
    net = ReferenceNet(tiny_config.unet)
    latents, context = torch.randn(2, 4, 8, 8), torch.randn(2, 1, 32)
    together, alone = net(latents, context), net(latents[1:], context[1:])
    torch.testing.assert_close({k: v[1:] for k, v in together.items()}, alone, rtol=1e-4, atol=1e-5)
