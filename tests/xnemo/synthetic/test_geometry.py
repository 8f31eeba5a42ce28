"""Pose conventions, ray casting and the face box."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xnemo.errors import XNeMoError
from xnemo.synthetic.geometry import MOTION, Egg, cast, face_boxes, pose
from xnemo.synthetic.identity import random_identity, traits
from xnemo.synthetic.motion import random_motion

NOBODY = random_identity(0)[None]


def motion(**values: float) -> torch.Tensor:
    return torch.tensor([[values.get(name, 0.0) for name in MOTION]])


def box(x: float = 0, y: float = 0, log_scale: float = 0, **values: float) -> torch.Tensor:
    return face_boxes(NOBODY, motion(**values), torch.tensor([[x, y, log_scale]]), 100)[0]


@pytest.mark.parametrize(("turn", "axis", "sign"), [("yaw", 0, 1), ("pitch", 1, -1)])
def test_positive_yaw_turns_right_and_positive_pitch_looks_up(turn: str, axis: int, sign: int) -> None:
    nose = pose(motion(**{turn: 20}), torch.zeros(1, 3)).project(0.0, 0.0, 1.0)
    assert sign * nose[axis].item() == pytest.approx(0.342, abs=1e-3)


def test_positive_roll_tilts_clockwise() -> None:
    how = pose(motion(roll=20), torch.zeros(1, 3))
    top_x, _ = how.to_frame(torch.zeros(1, 1, 1), torch.full((1, 1, 1), -1.0))
    assert top_x.item() > 0.2


def test_the_box_follows_the_placement_to_the_pixel() -> None:
    moved = box(x=0.05, y=-0.03)
    assert torch.allclose(moved - box(), torch.tensor([5.0, -3.0, 5.0, -3.0]), atol=1e-3)


def test_the_box_grows_with_the_scale() -> None:
    small, large = box(log_scale=-0.25), box(log_scale=0.25)
    growth = (large[2:] - large[:2]) / (small[2:] - small[:2])
    assert torch.allclose(growth, torch.full((2,), 0.5).exp(), rtol=1e-4)


def test_an_open_jaw_lengthens_the_box_downwards_only() -> None:
    change = box(jaw=1.0) - box()
    assert change[3] > 2
    assert change[:3].abs().max() < 0.5


@given(u=st.floats(-0.5, 0.5), v=st.floats(-0.6, 0.7), taper=st.floats(0.1, 0.4), drop=st.floats(0, 0.3))
@settings(max_examples=60, deadline=None)
def test_straightening_undoes_bending(u: float, v: float, taper: float, drop: float) -> None:
    egg = Egg(*(torch.tensor(value, dtype=torch.float64) for value in (0.07, 0.53, taper, 0.05, drop)))
    point = torch.tensor(u, dtype=torch.float64), torch.tensor(v, dtype=torch.float64)
    again = egg.straighten(*egg.bend(*point))
    assert torch.allclose(torch.stack(again), torch.stack(point), atol=1e-9)


def test_a_ray_meets_the_ellipsoid_on_its_surface_and_faces_the_viewer() -> None:
    turned, placement = random_motion(0, 8)
    axes = (torch.tensor(0.45), torch.tensor(0.6), torch.tensor(0.5))
    u, v = (torch.rand(8, 5, 5) * 0.5 - 0.25 for _ in range(2))
    hit = cast(pose(turned, placement), tuple(axis.view(1, 1, 1) for axis in axes), u, v)  # type: ignore[arg-type]
    level = (hit.x / axes[0]) ** 2 + (hit.y / axes[1]) ** 2 + (hit.z / axes[2]) ** 2
    assert torch.allclose(level, torch.ones_like(level), atol=1e-4)
    assert bool((hit.edge < 0).all())
    assert bool((hit.normal[2] > 0).all())


def test_the_rim_is_where_the_edge_distance_is_zero() -> None:
    how = pose(motion(), torch.zeros(1, 3))
    axes = tuple(torch.full((1, 1, 1), value) for value in (0.45, 0.6, 0.5))
    hit = cast(how, axes, torch.tensor([[[0.40, 0.45, 0.50]]]), torch.zeros(1, 1, 3))  # type: ignore[arg-type]
    assert hit.edge.flatten().tolist() == pytest.approx([-0.05, 0, 0.05], abs=0.01)


def test_every_box_is_upright_and_mostly_inside_the_frame() -> None:
    turned, placement = random_motion(3, 300)
    boxes = face_boxes(torch.stack([random_identity(i) for i in range(300)]), turned, placement, 1)
    assert bool((boxes[:, 2:] - boxes[:, :2] > 0.2).all())
    assert bool(((boxes > -0.05) & (boxes < 1.05)).all())


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(XNeMoError, match="motion must be"):
        pose(torch.zeros(2, 5), torch.zeros(2, 3))
    with pytest.raises(XNeMoError, match="placement must be"):
        pose(motion(), torch.zeros(2, 3))


def test_traits_and_poses_can_be_cut_alike() -> None:
    turned, placement = random_motion(1, 4)
    who = traits(torch.stack([random_identity(i) for i in range(4)]))
    assert torch.equal(who.part(slice(1, 3)).width, who.width[1:3])
    cut, whole = pose(turned, placement).part(slice(1, 3)), pose(turned[1:3], placement[1:3])
    assert torch.equal(cut.rotation, whole.rotation)
    assert torch.equal(cut.blink[1], whole.blink[1])
