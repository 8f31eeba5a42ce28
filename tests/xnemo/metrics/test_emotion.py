"""EMO-SIM: CCC and PCC by hand and against torchmetrics, pooling, and the published layout of EmoNet."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xnemo.metrics.emotion import EmoNet, ccc, emo_sim, lively, load_emonet, pcc, pooled, pooled_draws

A, B = np.array([1.0, 2, 3, 4]), np.array([2.0, 4, 6, 8])


def test_by_hand():
    # means 2.5 and 5, variances 1.25 and 5, covariance 2.5
    assert pcc(A, B) == pytest.approx(1)
    assert ccc(A, B) == pytest.approx(2 * 2.5 / (1.25 + 5 + 6.25))
    assert ccc(A, A + 1) == pytest.approx(2 * 1.25 / (2.5 + 1))
    assert ccc(A, A) == 1
    assert ccc(A, -A + 5) == pytest.approx(-1)


def test_a_series_that_does_not_move_has_no_correlation():
    assert np.isnan(pcc(A, np.ones(4)))
    assert ccc(A, np.ones(4)) == 0
    assert ccc(np.ones(4), np.ones(4)) == 1
    assert not lively(np.zeros((10, 2)))


def test_agreement_with_torchmetrics():
    from torchmetrics.functional import concordance_corrcoef, pearson_corrcoef

    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500))
    b = 0.6 * a + b
    assert ccc(a, b) == pytest.approx(concordance_corrcoef(torch.tensor(a), torch.tensor(b)).item(), abs=1e-4)
    assert pcc(a, b) == pytest.approx(pearson_corrcoef(torch.tensor(a), torch.tensor(b)).item(), abs=1e-4)


@given(st.permutations(range(6)))
def test_pooling_does_not_depend_on_the_order_of_videos(order):
    rng = np.random.default_rng(1)
    pairs = [(rng.normal(size=(7, 2)), rng.normal(size=(7, 2))) for _ in range(6)]
    assert pooled([pairs[k] for k in order]) == pytest.approx(pooled(pairs))


def test_the_bootstrap_of_the_pool_is_the_pool_of_the_drawn_videos():
    from xnemo.metrics.intervals import resamples

    rng = np.random.default_rng(3)
    pairs = [(rng.normal(size=(n, 2)), rng.normal(size=(n, 2)) + n) for n in (4, 9, 6)]
    counts = resamples(3, 5)
    for value, each in zip(pooled_draws(pairs, counts), counts.astype(int), strict=True):
        drawn = [pair for pair, count in zip(pairs, each, strict=True) for _ in range(count)]
        assert value == pytest.approx(pooled(drawn), abs=1e-9)


def test_a_result_that_feels_the_same_scores_one():
    series = np.random.default_rng(2).normal(size=(30, 2))
    assert emo_sim(series, series) == pytest.approx(1)


def test_a_file_of_the_published_layout_loads(tmp_path):
    torch.manual_seed(0)
    network = EmoNet().eval()
    names = set(network.state_dict())
    published = ("m0.b1_4.conv1.weight", "m1.b2_plus_1.bn1.weight", "emo_net_2.6.conv3.weight", "emo_fc_2.3.weight")
    assert {*published, "al0.bias", "conv1x1_input_emo_2.weight", "conv2.downsample.2.weight"} <= names
    torch.save({f"module.{name}": tensor for name, tensor in network.state_dict().items()}, tmp_path / "emonet_8.pth")
    found = load_emonet({"emonet": str(tmp_path / "emonet_8.pth")})
    faces = np.random.default_rng(0).integers(0, 255, (1, 256, 256, 3), dtype=np.uint8)
    read = found.read(faces)
    assert read.shape == (1, 2)
    assert read == pytest.approx(network.read(faces), abs=1e-5)
