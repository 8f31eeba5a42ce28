"""ID-SIM: cosines by hand, alignment onto the template, and the published layout of ArcFace."""

import numpy as np
import pytest
import torch

from xnemo.errors import XNeMoError
from xnemo.metrics.identity import TEMPLATE, ArcFace, align, cosines, id_sim, load_arcface, similarity


def test_cosines_by_hand():
    found = id_sim(np.array([[1.0, 0], [0, 2], [-3, 0], [1, 1]]), np.array([5.0, 0]))
    assert found.tolist() == pytest.approx([1, 0, -1, 2**-0.5])
    rows = cosines(np.array([[1.0, 0], [1, 1]]), np.array([[2.0, 0], [1, -1]]))
    assert rows.tolist() == pytest.approx([1, 0])


def test_the_similarity_of_five_points_is_found_exactly():
    angle = np.radians(17)
    turn = 2.3 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = TEMPLATE @ turn.T + [40, -9]
    found = similarity(points, TEMPLATE)
    assert points @ found[:, :2].T + found[:, 2] == pytest.approx(TEMPLATE)


def test_an_aligned_face_has_its_points_where_arcface_wants_them():
    points = TEMPLATE * 2 + 30
    image = np.zeros((300, 300, 3), np.uint8)
    for x, y in points.round().astype(int):
        image[y - 2 : y + 3, x - 2 : x + 3] = 255
    face = align(image, points)
    for x, y in TEMPLATE.round().astype(int):
        assert face[y - 1 : y + 2, x - 1 : x + 2].mean() > 100


def test_points_that_coincide_are_no_face():
    with pytest.raises(XNeMoError, match="coincide"):
        similarity(np.ones((5, 2)), TEMPLATE)


def test_a_file_of_the_published_layout_tells_its_depth(tmp_path):
    torch.manual_seed(0)
    small = ArcFace((1, 2, 1, 1)).eval()
    path = tmp_path / "backbone.pth"
    torch.save({f"module.{name}": tensor for name, tensor in small.state_dict().items()}, path)
    found = load_arcface({"arcface": str(path)})
    faces = np.random.default_rng(0).integers(0, 255, (3, 112, 112, 3), dtype=np.uint8)
    assert found.embed(faces).shape == (3, 512)
    assert found.embed(faces) == pytest.approx(small.embed(faces), abs=1e-5)
    assert found.embed(faces[1:2]) == pytest.approx(found.embed(faces)[1:2], abs=1e-4)
    names = set(small.state_dict())
    assert {"layer1.0.downsample.0.weight", "layer2.1.prelu.weight", "fc.weight", "features.running_mean"} <= names


def test_weights_of_something_else_are_refused(tmp_path):
    torch.save({"layer1.0.conv1.weight": torch.zeros(1)}, tmp_path / "x.pth")
    with pytest.raises(XNeMoError, match="lacks layer2"):
        load_arcface({"arcface": str(tmp_path / "x.pth")})
