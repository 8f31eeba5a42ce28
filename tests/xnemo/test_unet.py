"""The skeleton: released names and sizes, resampling, which parameters are alive."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from xnemo.config import ModelConfig, UNetConfig
from xnemo.denoiser import Denoiser
from xnemo.reference_net import ReferenceNet
from xnemo.unet import Downsample2D, ResnetBlock2D, Upsample2D


def fold(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(0, 1)


def test_borrowed_blocks_match_the_recorded_ones(
    recorded: Callable[[str], dict[str, Tensor]], golden_fill: Callable[[nn.Module], nn.Module]
) -> None:
    blocks = recorded("blocks")
    x = fold(blocks["temporal_in"])
    temb = blocks["temb"].repeat_interleave(3, dim=0)
    resnet = ResnetBlock2D(in_channels=320, out_channels=640, temb_channels=1280, groups=32, eps=1e-5)
    torch.testing.assert_close(golden_fill(resnet)(x, temb), fold(blocks["resnet_out"]), rtol=1e-4, atol=1e-5)
    down, up = Downsample2D(320, use_conv=True, name="op"), Upsample2D(320, use_conv=True)
    torch.testing.assert_close(golden_fill(down)(x), fold(blocks["down_out"]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(golden_fill(up)(x), fold(blocks["up_out"]), rtol=1e-4, atol=1e-5)


SHAPES = [
    UNetConfig(channels=(8,), attention=(True,), layers_per_block=1, heads=2, norm_groups=4, context_dim=4),
    UNetConfig(channels=(8, 16), attention=(False, True), layers_per_block=2, heads=2, norm_groups=4, context_dim=4),
    UNetConfig(channels=(8, 16, 8), attention=(True, False, True), layers_per_block=1, heads=1, norm_groups=2),
    UNetConfig(channels=(8, 8), attention=(False, False), layers_per_block=1, heads=2, norm_groups=4, context_dim=4),
]


@pytest.mark.parametrize("unet", SHAPES, ids=lambda c: "-".join(map(str, c.channels)))
@pytest.mark.parametrize("size", [(8, 8), (6, 10), (7, 5)])
def test_any_shape_of_network_takes_any_size_of_latent(unet: UNetConfig, size: tuple[int, int]) -> None:
    config = ModelConfig(unet=unet, image_encoder=None)
    latents, context = torch.randn(1, 4, *size), torch.zeros(1, 1, unet.context_dim)
    bank = ReferenceNet(unet)(latents, context)
    out = Denoiser(config)(latents[:, :, None], 7, context, torch.randn(1, 1, 32, 16), bank)
    assert out.shape == (1, 4, 1, *size)


@pytest.mark.parametrize("unet", SHAPES, ids=lambda c: "-".join(map(str, c.channels)))
def test_exactly_the_parameters_called_unused_get_no_gradient(unet: UNetConfig) -> None:
    torch.manual_seed(0)
    net, denoiser = ReferenceNet(unet), Denoiser(ModelConfig(unet=unet, image_encoder=None))
    latents, context = torch.randn(1, 4, 8, 8), torch.randn(1, 1, unet.context_dim)
    out = denoiser(latents[:, :, None], 7, context, torch.randn(1, 1, 32, 16), net(latents, context))
    out.square().sum().backward()
    for module in (net, denoiser):
        assert {name for name, p in module.named_parameters() if p.grad is None} == module.unused()


@pytest.mark.parametrize("kinds", [{"positions"}, {"resnets", "attentions"}, {"motion_modules", "temporal_modules"}])
def test_checkpointing_changes_neither_output_nor_gradients(kinds: set[str]) -> None:
    torch.manual_seed(0)
    config = ModelConfig(unet=SHAPES[1], image_encoder=None)
    net, denoiser = ReferenceNet(config.unet), Denoiser(config)
    for parameter in denoiser.parameters():  # past the zero init, or the gradients of the inserted modules vanish
        nn.init.normal_(parameter, std=0.1)
    latents, motion, context = torch.randn(1, 4, 3, 8, 8), torch.randn(1, 3, 32, 16), torch.randn(1, 1, 4)

    def gradients() -> dict[str, Tensor]:
        net.zero_grad()
        denoiser.zero_grad()
        denoiser(latents, 7, context, motion, net(latents[:, :, 0], context)).square().sum().backward()
        return {n: p.grad for m in (net, denoiser) for n, p in m.named_parameters() if p.grad is not None}

    plain = {name: gradient.clone() for name, gradient in gradients().items()}
    net.checkpointing = denoiser.checkpointing = frozenset(kinds)
    torch.testing.assert_close(gradients(), plain)
