"""The motion encoder: the small one's behaviour, and the released one against recorded outputs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from xnemo.config import ModelConfig
from xnemo.motion_encoder import ConvBlock, MotionEncoder, grid_positions

SMALL = ModelConfig.small()


@pytest.fixture
def small() -> MotionEncoder:
    torch.manual_seed(0)
    return MotionEncoder(SMALL).eval()


def faces(n: int) -> Tensor:
    size = SMALL.motion_encoder.image_size
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_the_code_sees_the_face_alone_and_the_tokens_see_the_placement_too(small: MotionEncoder) -> None:
    still, moved = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, -0.1, 1.3]])
    code = small.encode(faces(1))
    assert code.shape == (1, SMALL.motion_encoder.f_mot)
    tokens = small(faces(1), still)
    assert tokens.shape == (1, *SMALL.motion_shape)
    assert torch.equal(tokens, small.fuse(code, still))
    assert not torch.allclose(tokens[:, :-1], small.fuse(code, moved)[:, :-1])


def test_frames_are_encoded_independently(small: MotionEncoder) -> None:
    images = faces(3)
    torch.testing.assert_close(small.encode(images)[1:2], small.encode(images[1:2]), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_the_encoder_learns(small: MotionEncoder) -> None:
    torch.nn.init.normal_(small.model.attention.proj_out.weight)  # its zero start hides the attention from step 1
    torch.nn.init.normal_(small.turn.weight)  # and squares are flat at zero
    small(faces(2), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    without = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_papers_code_reaches_the_denoiser_as_one_token() -> None:
    unet = SMALL.unet.model_copy(update={"token_places": "none"})
    config = SMALL.model_copy(update={"motion_tokens": 1, "motion_token_dim": 512, "unet": unet})
    assert MotionEncoder(config)(faces(2), torch.zeros(2, 3)).shape == (2, 1, 512)


def test_latent_dropout_acts_in_training_only() -> None:
    encoder = SMALL.motion_encoder.model_copy(update={"latent_dropout": 0.5})
    model = MotionEncoder(SMALL.model_copy(update={"motion_encoder": encoder}))
    assert (model.train().encode(faces(2)) == 0).any()
    assert not (model.eval().encode(faces(2)) == 0).any()


@pytest.fixture(scope="module")
def released(golden_fill: Callable[[nn.Module], nn.Module]) -> MotionEncoder:
    return golden_fill(MotionEncoder(ModelConfig.sd15()))


def test_the_released_weights_fit_by_name_and_shape(goldens: Path) -> None:
    listing = goldens.parent / "reference/statedict/motion_encoder.json"
    if not listing.exists():
        pytest.skip(f"no listing of the released motion encoder at {listing}")
    expected = json.loads(listing.read_text())["state_dict"]
    with torch.device("meta"):
        names = MotionEncoder(ModelConfig.sd15()).state_dict()
    assert {name: list(tensor.shape) for name, tensor in names.items()} == {n: e["shape"] for n, e in expected.items()}


def test_the_released_encoder_equals_the_recorded_one(
    released: MotionEncoder, recorded: Callable[[str], dict[str, Tensor]]
) -> None:
    golden = recorded("motion_encoder")
    seen: dict[str, Tensor] = {}
    stages = {"att_1": "att_1", "m0": "hourglass", "bn_end0": "bn_end", "att_3": "att_3", "conv6": "conv6"}
    for name, key in stages.items():  # the hooks only look
        module = released.model.get_submodule(name)
        module.register_forward_hook(lambda _module, _args, out, key=key: seen.__setitem__(key, out))
    with torch.no_grad():
        f_mot = released.encode(golden["x"][:1].float())
        tokens = released.fuse(f_mot, golden["emb"][:1])
    for key, value in {**seen, "face_mot": f_mot, "tokens": tokens}.items():
        expected = golden[key][:1]
        if value.ndim == 4:  # recorded on every k-th pixel
            value = value[:, :, :: value.shape[-1] // expected.shape[-1], :: value.shape[-1] // expected.shape[-1]]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4, msg=lambda text, key=key: f"{key}: {text}")
    torch.testing.assert_close(released.pe, golden["pe"])


def test_fans_convolution_block_equals_the_recorded_one(
    golden_fill: Callable[[nn.Module], nn.Module], recorded: Callable[[str], dict[str, Tensor]]
) -> None:
    golden = recorded("blocks")
    block = golden_fill(ConvBlock(64, 128))
    torch.testing.assert_close(block(golden["convblock_in"]), golden["convblock_out"], rtol=1e-4, atol=1e-5)


def test_patch_positions_equal_the_recorded_ones(recorded: Callable[[str], dict[str, Tensor]]) -> None:
    golden = recorded("blocks")["fan_att1_posembed"]
    torch.testing.assert_close(grid_positions(28, 1024)[:, ::13], golden, rtol=1e-4, atol=1e-5)
