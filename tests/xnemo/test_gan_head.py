"""The training-only head: shapes, conditioning, gradients, and the published trunk's names."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.gan_head import Discriminator, GanHead, ModulatedConv, ResNet50

SMALL = ModelConfig.small()


@pytest.fixture
def head() -> GanHead:
    torch.manual_seed(0)
    return GanHead(SMALL)


def batch(n: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    size, features = SMALL.gan.image_size, SMALL.motion_encoder.f_mot
    return torch.rand(n, 3, size, size, generator=generator) * 2 - 1, torch.randn(n, features, generator=generator)


def test_faces_depend_on_the_appearance_and_on_the_motion(head: GanHead) -> None:
    reference, f_mot = batch()
    faces = head(reference, f_mot)
    assert faces.shape == (2, 3, SMALL.gan.image_size, SMALL.gan.image_size)
    assert faces.abs().max() <= 1
    assert not torch.allclose(faces, head(reference.flip(0), f_mot))
    assert not torch.allclose(faces, head(reference, f_mot.flip(0)))


def test_every_parameter_and_the_motion_code_receive_gradient(head: GanHead) -> None:
    reference, f_mot = batch()
    head(reference, f_mot.requires_grad_()).square().sum().backward()
    assert [name for name, p in head.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert f_mot.grad is not None
    assert f_mot.grad.any(dim=1).all()


def test_modulating_activations_equals_modulating_weights() -> None:
    torch.manual_seed(0)
    conv, x, style = ModulatedConv(4, 5, style=3), torch.randn(2, 4, 6, 6), torch.randn(2, 3)
    for one, code, got in zip(x, style, conv(x, style), strict=True):
        weight = conv.weight * conv.scale(code)[None, :, None, None]
        weight = weight / weight.square().sum((1, 2, 3), keepdim=True).sqrt()
        torch.testing.assert_close(got, F.conv2d(one, weight, conv.bias, padding=1), rtol=1e-4, atol=1e-5)


def test_the_discriminator_gives_a_score_and_one_map_per_block() -> None:
    torch.manual_seed(0)
    gan = SMALL.gan.model_copy(update={"image_size": 64, "discriminator_channels": (32, 64, 96, 128)})
    score, features = Discriminator(SMALL.model_copy(update={"gan": gan}))(torch.randn(2, 3, 64, 64))
    assert score.shape == (2,)
    assert [tuple(f.shape[1:]) for f in features] == [(32, 32, 32), (64, 16, 16), (96, 8, 8), (128, 4, 4)]


def test_the_discriminators_convolutions_have_unit_spectral_norm() -> None:
    torch.manual_seed(0)
    net = Discriminator(SMALL).train()
    for _ in range(20):  # power iteration converges over forward passes
        net(batch()[0])
    weight = net.eval().blocks[1].conv1.weight.flatten(1)
    assert torch.linalg.matrix_norm(weight, ord=2).item() == pytest.approx(1, abs=0.05)


def test_the_full_shape_has_the_papers_sizes() -> None:
    config = ModelConfig.sd15()
    with torch.device("meta"):
        head, net = GanHead(config), Discriminator(config)
        faces = head(torch.empty(1, 3, 224, 224), torch.empty(1, 512))
        score, features = net(faces)
    assert faces.shape == (1, 3, 224, 224)
    assert score.shape == (1,)
    assert features[-1].shape == (1, 512, 7, 7)


def test_the_trunk_takes_published_imagenet_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = ResNet50().eval()
    published = {**source.state_dict(), "fc.weight": torch.zeros(1000, 2048), "fc.bias": torch.zeros(1000)}
    torch.save(published, tmp_path / "resnet50.pth")
    trunk = ResNet50().eval()
    trunk.load_imagenet(tmp_path / "resnet50.pth")
    assert len(trunk.state_dict()) == 318  # 320 published tensors less the classifier's two
    images = batch(1)[0]
    assert torch.equal(trunk(images), source(images))


def test_a_file_that_is_no_resnet_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(XNeMoError, match=r"other\.pth"):
        ResNet50().load_imagenet(tmp_path / "other.pth")
