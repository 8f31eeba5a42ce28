"""Products that take a faster way on a CPU give what the plain ones give, and gradients where they are wanted."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from xnemo.attention import SHORT, dot_product_attention
from xnemo.linear import FEW, FeedForward, Linear, inference_on_cpu, linear
from xnemo.reference_attention import pointwise


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (2, 3, 5, 24)])
def test_inference_gives_the_product_that_training_sees(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer, x = Linear(24, 40, bias=bias), torch.randn(shape)
    plain = F.linear(x, layer.weight, layer.bias)
    assert layer(x).grad_fn is not None
    with torch.no_grad():
        torch.testing.assert_close(layer(x), plain, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(layer(x.transpose(0, -2)), plain.transpose(0, -2), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_stay_what_they_are(dtype: torch.dtype) -> None:
    layer, x = Linear(8, 4).to(dtype), torch.randn(3, 8).to(dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


def test_gradients_are_those_of_the_plain_layer() -> None:
    torch.manual_seed(0)
    x, weight, bias = (torch.randn(*shape, requires_grad=True) for shape in ((5, 8), (4, 8), (4,)))
    ours = torch.autograd.grad(linear(x, weight, bias).square().sum(), (x, weight, bias))
    plain = torch.autograd.grad(F.linear(x, weight, bias).square().sum(), (x, weight, bias))
    assert all(torch.equal(a, b) for a, b in zip(ours, plain, strict=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "weight"])
def test_gradients_of_a_large_product_are_those_of_the_plain_layer(bias: bool, frozen: str) -> None:
    torch.manual_seed(0)
    parts = {"x": torch.randn(6, 80, 48), "weight": torch.randn(96, 48)} | ({"bias": torch.randn(96)} if bias else {})
    assert parts["x"].numel() >= FEW
    for name, part in parts.items():
        part.requires_grad_(name != frozen)
    wanted = [part for part in parts.values() if part.requires_grad]
    ours = torch.autograd.grad(linear(*parts.values()).square().sum(), wanted)
    plain = torch.autograd.grad(F.linear(*parts.values()).square().sum(), wanted)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-2)


def test_autocast_decides_the_precision() -> None:
    layer, x = Linear(48, 96), torch.randn(6, 80, 48)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        with torch.no_grad():
            assert layer(x).dtype == torch.bfloat16


def test_a_pointwise_convolution_is_a_product_of_tokens() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(12, 20, 1), torch.randn(2, 12, 3, 5)
    plain = conv(x).flatten(2).transpose(1, 2)
    torch.testing.assert_close(pointwise(conv, x.flatten(2).transpose(1, 2)), plain, rtol=1e-5, atol=1e-5)


def heads(*shape: int) -> Tensor:
    return torch.randn(shape).transpose(1, 2)


@pytest.mark.parametrize(("queries", "keys"), [(SHORT, SHORT), (24, 24), (1, 3), (SHORT + 1, 5), (5, SHORT + 1)])
def test_attention_over_few_tokens_is_the_fused_kernels(queries: int, keys: int) -> None:
    torch.manual_seed(0)
    q, k, v = heads(3, queries, 4, 8), heads(3, keys, 4, 8), heads(3, keys, 4, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            dot_product_attention(q, k, v), F.scaled_dot_product_attention(q, k, v), rtol=1e-5, atol=1e-5
        )


def test_only_forgotten_fp32_numbers_on_a_cpu_take_the_other_way() -> None:
    x = torch.zeros(1)
    assert not inference_on_cpu(x)
    with torch.no_grad():
        assert inference_on_cpu(x)
        assert not inference_on_cpu(x.half())
        assert not inference_on_cpu(x.to("meta"))


def test_the_feed_forward_is_one_half_times_the_gelu_of_the_other() -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(6), torch.randn(2, 6)
    value, gate = layer.get_submodule("net.0.proj")(x).chunk(2, dim=-1)
    torch.testing.assert_close(layer(x), layer.get_submodule("net.2")(value * F.gelu(gate)))
    assert set(layer.state_dict()) == {f"net.{part}.{kind}" for part in ("0.proj", "2") for kind in ("weight", "bias")}


@pytest.mark.parametrize("frozen", [False, True])
def test_the_gate_written_in_one_place_has_the_plain_gradients(frozen: bool) -> None:
    torch.manual_seed(0)
    layer, x = FeedForward(12), torch.randn(2, 5, 12, requires_grad=True)
    layer.requires_grad_(not frozen)
    wanted = [x, *(p for p in layer.parameters() if p.requires_grad)]

    def plain(x: Tensor) -> Tensor:
        gated, _, out = layer.net
        value, gate = F.linear(x, gated.proj.weight, gated.proj.bias).chunk(2, dim=-1)
        return F.linear(value * F.gelu(gate), out.weight, out.bias)

    ours = torch.autograd.grad(layer(x).square().sum(), wanted)
    theirs = torch.autograd.grad(plain(x).square().sum(), wanted)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_only_what_needs_a_gradient_goes_through_the_recorded_gate() -> None:
    layer, x = FeedForward(12), torch.randn(2, 5, 12)
    assert layer(x).requires_grad  # of the weights
    torch.testing.assert_close(layer(x), layer(x.requires_grad_()), rtol=0, atol=0)


@pytest.mark.slow
def test_a_compiler_is_given_the_plain_products() -> None:
    """Its own ones are chosen when it compiles; of the products here it knows no gradient."""
    torch.manual_seed(0)
    layer, x = FeedForward(48), torch.randn(6, 80, 48, requires_grad=True)
    assert x.numel() >= FEW
    wanted = [x, *layer.parameters()]
    compiled = torch.compile(layer, fullgraph=True)
    ours = torch.autograd.grad(compiled(x).square().sum(), wanted)
    plain = torch.autograd.grad(layer(x).square().sum(), wanted)
    for a, b in zip(ours, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)
