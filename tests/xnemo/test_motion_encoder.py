"""The motion encoder: the small one's behaviour, and the released one against recorded outputs."""

import pytest
import torch

from xnemo.config import ModelConfig
from xnemo.motion_encoder import MotionEncoder


@pytest.fixture
def small() -> MotionEncoder:
    torch.manual_seed(0)
    return MotionEncoder(ModelConfig.small()).eval()


def faces(n: int) -> torch.Tensor:
    return torch.rand(n, 3, 64, 64, generator=torch.Generator().manual_seed(n)) * 2 - 1


def test_the_code_sees_the_face_alone_and_the_tokens_see_the_placement_too(small: MotionEncoder) -> None:
    still, moved = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, -0.1, 1.3]])
    code = small.encode(faces(1))
    assert code.shape == (1, 128)
    tokens = small(faces(1), still)
    assert tokens.shape == (1, 32, 16)
    assert torch.equal(tokens, small.fuse(code, still))
    assert not torch.allclose(tokens, small.fuse(code, moved))


def test_frames_are_encoded_independently(small: MotionEncoder) -> None:
    images = faces(3)
    torch.testing.assert_close(small.encode(images)[1:2], small.encode(images[1:2]), rtol=1e-4, atol=1e-5)


def test_every_parameter_of_the_encoder_learns(small: MotionEncoder) -> None:
    torch.nn.init.normal_(small.model.attention.proj_out.weight)  # its zero start hides the attention from step 1
    small(faces(2), torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).square().sum().backward()
    without = [name for name, p in small.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_the_papers_code_reaches_the_denoiser_as_one_token() -> None:
    config = ModelConfig.small().model_copy(update={"motion_tokens": 1, "motion_token_dim": 512})
    assert MotionEncoder(config)(faces(2), torch.zeros(2, 3)).shape == (2, 1, 512)


def test_latent_dropout_acts_in_training_only() -> None:
    config = ModelConfig.small()
    encoder = config.motion_encoder.model_copy(update={"latent_dropout": 0.5})
    model = MotionEncoder(config.model_copy(update={"motion_encoder": encoder}))
    assert (model.train().encode(faces(2)) == 0).any()
    assert not (model.eval().encode(faces(2)) == 0).any()
