"""L1, PSNR, SSIM and LPIPS: perfect values, analytic amounts, and agreement with scikit-image and torchmetrics."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from xnemo.errors import XNeMoError
from xnemo.metrics.self_reenactment import Lpips, fill_lpips, l1, load_lpips, psnr, ssim
from xnemo.metrics.weights import NotComputed, tensors

PICTURES = torch.from_numpy(np.random.default_rng(0).uniform(0, 1, (3, 3, 48, 40))).float()
OTHERS = (PICTURES + 0.2 * torch.from_numpy(np.random.default_rng(1).normal(size=(3, 3, 48, 40))).float()).clamp(0, 1)


def test_equal_pictures_are_perfect():
    assert l1(PICTURES, PICTURES).tolist() == [0, 0, 0]
    assert ssim(PICTURES, PICTURES).tolist() == pytest.approx([1, 1, 1])
    assert psnr(PICTURES, PICTURES).tolist() == [math.inf] * 3
    assert Lpips()(torch.rand(1, 3, 64, 64).repeat(2, 1, 1, 1)[:1], torch.zeros(1, 3, 64, 64)).shape == (1,)
    assert Lpips()(PICTURES, PICTURES).tolist() == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize("shift", [0.01, 0.1, 0.25])
def test_a_constant_shift_gives_the_analytic_amounts(shift):
    grey = torch.full((1, 3, 32, 32), 0.5)
    assert l1(grey + shift, grey).item() == pytest.approx(shift, abs=1e-6)
    assert psnr(grey + shift, grey).item() == pytest.approx(-20 * math.log10(shift), abs=1e-3)
    luminance = (2 * 0.5 * (0.5 + shift) + 1e-4) / (
        0.25 + (0.5 + shift) ** 2 + 1e-4
    )  # nothing varies: SSIM's first factor
    assert ssim(grey + shift, grey).item() == pytest.approx(luminance, abs=1e-5)


def test_more_noise_is_worse_in_every_figure():
    noise = torch.from_numpy(np.random.default_rng(2).normal(size=PICTURES.shape)).float()
    little, much = (PICTURES + 0.02 * noise).clamp(0, 1), (PICTURES + 0.2 * noise).clamp(0, 1)
    assert (l1(little, PICTURES) < l1(much, PICTURES)).all()
    assert (ssim(little, PICTURES) > ssim(much, PICTURES)).all()
    assert (psnr(little, PICTURES) > psnr(much, PICTURES)).all()


def test_the_figures_agree_with_scikit_image_and_torchmetrics():
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity
    from torchmetrics.functional import mean_absolute_error

    for mine, one, other in zip(ssim(PICTURES, OTHERS), PICTURES, OTHERS, strict=True):
        a, b = (x.permute(1, 2, 0).double().numpy() for x in (one, other))
        theirs = structural_similarity(a, b, channel_axis=2, data_range=1, gaussian_weights=True, sigma=1.5,
                                       use_sample_covariance=False)  # fmt: skip
        assert mine.item() == pytest.approx(theirs, abs=1e-4)
    for k in range(3):
        assert l1(PICTURES, OTHERS)[k].item() == pytest.approx(
            mean_absolute_error(PICTURES[k], OTHERS[k]).item(), abs=1e-4
        )
        theirs = peak_signal_noise_ratio(PICTURES[k].numpy(), OTHERS[k].numpy(), data_range=1)
        assert psnr(PICTURES, OTHERS)[k].item() == pytest.approx(theirs, abs=1e-4)


def test_lpips_agrees_with_torchmetrics_on_the_same_weights(monkeypatch, tmp_path):
    import torchmetrics.functional.image.lpips as reference

    torch.manual_seed(0)
    mine = Lpips("alexnet").eval()
    layers = nn.Sequential(*mine.features, nn.MaxPool2d(3, 2))  # torchvision's `features`, which it would download
    monkeypatch.setattr(reference, "_get_tv_model_features", lambda *_: layers)
    theirs = reference._LPIPS(pretrained=True, net="alex", use_dropout=True).eval()
    heads = {name: t for name, t in theirs.state_dict().items() if name.startswith("lin") and name[3].isdigit()}
    torch.save(heads, tmp_path / "alex.pth")
    trunk = {f"features.{name}": tensor for name, tensor in mine.features.state_dict().items()}
    torch.save(trunk | {"classifier.1.bias": torch.zeros(9)}, tmp_path / "alexnet.pth")
    fill_lpips(mine, tensors(tmp_path / "alexnet.pth"), tensors(tmp_path / "alex.pth"), "a file")
    a, b = torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert mine(a, b).tolist() == pytest.approx(theirs(a, b, normalize=True).flatten().tolist(), abs=1e-4)
        one_by_one = [mine(a[k : k + 1], b[k : k + 1]).item() for k in range(2)]
    assert mine(a, b).tolist() == pytest.approx(one_by_one, abs=1e-5)


def test_absent_weights_are_told_with_their_place(monkeypatch, tmp_path):
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path))
    with pytest.raises(NotComputed, match=rf"not computed: place alexnet-owt-7be5be79.pth .* at {tmp_path}"):
        load_lpips()


def test_a_file_that_is_not_the_published_one_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path))
    (tmp_path / "alexnet-owt-7be5be79.pth").write_bytes(b"something else")
    (tmp_path / "alex.pth").write_bytes(b"")
    with pytest.raises(XNeMoError, match="7be5be79"):
        load_lpips()


def test_neither_order_nor_batch_changes_a_figure():
    order = [2, 0, 1]
    for figure in (l1, psnr, ssim):
        assert figure(PICTURES, OTHERS)[order].tolist() == pytest.approx(
            figure(PICTURES[order], OTHERS[order]).tolist()
        )
        assert figure(PICTURES[:1], OTHERS[:1]).item() == pytest.approx(figure(PICTURES, OTHERS)[0].item(), rel=1e-6)


def test_pictures_of_different_sizes_are_refused():
    with pytest.raises(XNeMoError, match="cannot be compared"):
        l1(PICTURES, PICTURES[:, :, :10])
