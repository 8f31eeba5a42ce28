"""AED and APD: rotations that are known, invariance to place, size and person, and the blendshape layout."""

import numpy as np
import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.metrics import expression
from xnemo.metrics.expression import POINTS, POSITIONS, SUBSET, Blendshapes, aed, aed_mesh, angles, apd, upright


def _mesh(pitch=0.0, yaw=0.0, roll=0.0, scale=12.0, place=(100.0, 80.0)):
    """A face mesh in pixels: the canonical points turned, the others anywhere on the same rigid head."""
    head = np.random.default_rng(0).normal(size=(468, 3)) * 4
    head[POINTS] = POSITIONS
    p, y, r = np.radians([-pitch, yaw, -roll])
    about_x = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    about_y = np.array([[np.cos(y), 0, np.sin(y)], [0, 1, 0], [-np.sin(y), 0, np.cos(y)]])
    about_z = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    turned = scale * head @ (about_y @ about_x @ about_z).T
    return turned * [1, -1, -1] + [*place, 0], head


@pytest.mark.parametrize("pose", [(0, 0, 0), (20, 0, 0), (0, -35, 0), (0, 0, 15), (10, 25, -12)])
def test_a_known_rotation_is_found_and_the_head_laid_back(pose):
    mesh, head = _mesh(*pose)
    rotation, laid = upright(mesh)
    assert angles(rotation) == pytest.approx(pose, abs=1e-6)
    assert laid == pytest.approx(head, abs=1e-6)


def test_place_and_size_change_neither_pose_nor_shape():
    near, far = upright(_mesh(5, 10, 3)[0]), upright(_mesh(5, 10, 3, 30, (400, 7))[0])
    assert near[0] == pytest.approx(far[0])
    assert near[1] == pytest.approx(far[1])


def test_apd_is_the_mean_angle_the_shorter_way_round():
    assert apd(np.array([[10.0, 0, 179]]), np.array([[4.0, 3, -178]])).tolist() == pytest.approx([(6 + 3 + 3) / 3])
    assert apd(np.ones((4, 3)), np.ones((4, 3))).tolist() == [0] * 4


def test_aed_is_the_mean_difference_of_blendshapes():
    one = np.zeros((2, 51))
    two = one.copy()
    two[1, 7] = 0.51
    assert aed(one, two).tolist() == pytest.approx([0, 0.01])


def test_aed_mesh_knows_the_motion_and_not_the_person():
    rng = np.random.default_rng(1)
    person, other, moves = rng.normal(size=(468, 3)), rng.normal(size=(468, 3)), rng.normal(size=(9, 468, 3))
    assert aed_mesh(person + moves, other + moves) == pytest.approx(0, abs=1e-9)
    still = np.repeat(other[None], 9, 0)
    away = np.linalg.norm(moves - np.median(moves, 0), axis=2).mean(1)
    assert aed_mesh(person + moves, still) == pytest.approx(away)


def test_blendshapes_load_from_the_published_layout_and_ignore_place_and_size(tmp_path, monkeypatch):
    torch.manual_seed(0)
    network = Blendshapes().eval()
    assert {"mlpmixer_blocks.3.mlp_token_mixing.3.bias", "mlpmixer_blocks.0.norm1.weight", "extra_token"} <= set(
        network.state_dict()
    )
    assert len(SUBSET) == 146
    torch.save(network.state_dict(), tmp_path / "b.pth")
    from xnemo.metrics import weights

    loaded = weights.fill(Blendshapes(), weights.tensors(tmp_path / "b.pth"), "b.pth")
    points = torch.rand(2, 146, 2) * 100
    with torch.no_grad():
        found = loaded(points)
        assert found.shape == (2, 52)
        assert torch.allclose(found, network(points * 3 + 50), atol=1e-5)
        assert torch.allclose(found[:1], loaded(points[:1]), atol=1e-6)
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path / "empty"))
    with pytest.raises(weights.NotComputed, match="iris_landmark"):
        expression.load_blendshapes({"blendshapes": str(tmp_path / "b.pth")})


def test_weights_that_could_run_code_are_not_opened(tmp_path):
    from xnemo.metrics import weights

    torch.save({"a": print}, tmp_path / "bad.pth")
    with pytest.raises(XNeMoError):
        weights.tensors(tmp_path / "bad.pth")
