"""The measuring networks read unseen people, at any size, as well as their file says."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from xnemo.errors import XNeMoError
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.measure import PLACED, READ, WEIGHTS, Measurement, accuracy, from_unit, measure, to_unit
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render

UNSEEN = 40_000_000


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, dict[str, np.ndarray]]:
    motion, placement = random_motion(UNSEEN, 160)
    truth = {name: motion[:, i].numpy() for i, name in enumerate(MOTION)}
    truth |= {"x": placement[:, 0].numpy(), "y": placement[:, 1].numpy(), "scale": placement[:, 2].exp().numpy()}
    return render(random_identities(range(UNSEEN, UNSEEN + 160)), motion, placement, 64), truth


@pytest.mark.parametrize("name", ["roll", "x", "y", "scale", "yaw", "pitch", "jaw"])
def test_unseen_people_are_read(scene: tuple[torch.Tensor, dict[str, np.ndarray]], name: str) -> None:
    pictures, truth = scene
    error = getattr(measure(pictures), name) - truth[name]
    assert 1 - error.var() / truth[name].var() > 0.85


def test_a_result_enlarged_is_read_like_the_small_one(scene: tuple[torch.Tensor, dict[str, np.ndarray]]) -> None:
    small = scene[0][:32]
    large = F.interpolate(small.float(), (256, 256), mode="bilinear").round().to(torch.uint8)
    a, b = measure(small), measure(large.permute(0, 2, 3, 1).numpy())
    assert np.abs(a.roll - b.roll).mean() < 1
    assert np.corrcoef(a.jaw, b.jaw)[0, 1] > 0.98


def test_the_file_tells_how_well_each_parameter_is_read() -> None:
    report = accuracy()
    assert set(report["clean"]) == set(report["degraded"]) == {*PLACED, *READ}
    assert min(report["clean"][name] for name in PLACED) > 0.9
    assert WEIGHTS.stat().st_size < 1_000_000


def test_every_parameter_of_the_renderer_is_measured() -> None:
    names = set(Measurement.__dataclass_fields__)
    assert names == {*MOTION, "x", "y", "scale"}


def test_unit_scaling_can_be_undone() -> None:
    values = random_motion(0, 5)[1]
    names = ("x", "y", "log_scale")
    assert torch.allclose(from_unit(to_unit(values, names), names), values, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 64, 32, 3), (64, 64, 3), (0, 64, 64, 3), (1, 64, 64, 4)])
def test_anything_but_square_colour_pictures_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(XNeMoError, match="square uint8"):
        measure(np.zeros(shape, np.uint8))
