"""Boxes, squares and f_rts, against the worked table and the recorded released arithmetic."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from xnemo import crops
from xnemo.errors import XNeMoError

TABLE = [  # reference box, driving box, (Δy, Δx, s)
    ((128, 128, 384, 384), (160, 120, 416, 376), (-0.03125, 0.12500, 1.0)),
    ((100, 80, 300, 320), (130, 70, 370, 370), (0.08333, 0.20833, 1.25)),
    ((128, 128, 384, 384), (100, 140, 292, 332), (-0.07812, -0.23438, 0.75)),
    ((217, 151, 617, 631), (277, 131, 757, 731), (0.08333, 0.20833, 1.25)),  # row 2 after ×2 + (17, -9)
    ((128, 128, 384, 384), (96, 120, 352, 376), (-0.03125, -0.12500, 1.0)),  # row 1 mirrored on width 512
    ((300, 200, 500, 400), (320, 180, 540, 400), (-0.05, 0.15, 1.10)),
]


@pytest.fixture(scope="module")
def recorded(goldens: Path) -> list[dict]:
    return json.loads((goldens / "crop_functions.json").read_text())


@pytest.mark.parametrize(("reference", "driving", "expected"), TABLE)
def test_f_rts_is_in_the_released_order(reference: tuple, driving: tuple, expected: tuple) -> None:
    for make in (np.array, torch.tensor):
        got = crops.f_rts(make([driving]), make([reference]))
        assert np.allclose(np.asarray(got)[0], expected, atol=6e-6)


@given(
    st.floats(-50, 50),
    st.floats(-50, 50),
    st.floats(0.2, 5.0),
    st.lists(st.floats(1, 200), min_size=4, max_size=4),
)
def test_f_rts_is_unchanged_by_a_common_shift_and_scale(dx: float, dy: float, scale: float, v: list) -> None:
    reference = np.array([10.0, 20.0, 10.0 + v[0], 20.0 + v[1]])
    driving = np.array([30.0, 5.0, 30.0 + v[2], 5.0 + v[3]])
    move = np.array([dx, dy, dx, dy])
    moved = crops.f_rts(driving * scale + move, reference * scale + move)
    assert np.allclose(moved, crops.f_rts(driving, reference), atol=1e-6)


def test_f_rts_matches_the_released_arithmetic(recorded: list[dict]) -> None:
    driving = np.array([row["bbox"] for row in recorded], dtype=float)
    expected = np.array([row["param"] for row in recorded])
    assert np.allclose(crops.f_rts(driving, np.array([0.0, 20.0, 120.0, 140.0])), expected)


def test_motion_squares_match_the_released_arithmetic(recorded: list[dict]) -> None:
    for row in recorded:
        got = crops.released_motion_square(row["bbox"], row["H"], row["W"])
        assert np.allclose(got, row["scale_bb_1p1"]), row


def test_reference_squares_match_the_released_arithmetic(recorded: list[dict]) -> None:
    for row in recorded:
        padded, got = crops.released_reference_square(row["bbox"], row["H"], row["W"])
        assert [padded, *got] == row["get_bbox_oob_ltrb"], row


def test_clamped_head_motion_stays_in_range() -> None:
    assert crops.clamp_f_rts(np.array([-0.9, 0.2, 3.0])).tolist() == [-0.5, 0.2, 1.4]


def test_clip_square_holds_every_box_and_twice_the_median() -> None:
    still = np.tile([100.0, 100.0, 180.0, 200.0], (9, 1))
    assert crops.clip_square(still).tolist() == [40.0, 50.0, 240.0, 250.0]
    moving = still + np.linspace(0, 300, 9)[:, None] * np.array([1, 0, 1, 0])
    got = crops.clip_square(moving)
    assert got[0] <= 100
    assert got[2] >= 480
    assert got[2] - got[0] == pytest.approx(1.1 * 380)


def test_clip_square_refuses_an_empty_clip() -> None:
    with pytest.raises(XNeMoError, match="at least one"):
        crops.clip_square(np.zeros((0, 4)))


def test_smoothing_keeps_a_still_box_and_calms_a_shaking_one() -> None:
    still = np.tile([10.0, 20.0, 50.0, 80.0], (12, 1))
    assert np.allclose(crops.smooth_boxes(still), still)
    shaking = still + np.random.default_rng(0).normal(0, 2, (12, 1))
    assert crops.smooth_boxes(shaking).std(axis=0).max() < 0.5 * shaking.std(axis=0).max()


def test_smoothing_works_on_clips_shorter_than_its_kernel() -> None:
    one = np.array([[0.0, 0.0, 10.0, 10.0]])
    assert np.allclose(crops.smooth_boxes(one), one)


def test_face_crop_of_whole_pixels_is_a_slice() -> None:
    images = torch.rand(2, 3, 16, 20)
    squares = torch.tensor([[4.0, 2.0, 12.0, 10.0], [0.0, 0.0, 8.0, 8.0]])
    got = crops.face_crop(images, squares, 8)
    assert torch.allclose(got[0], images[0, :, 2:10, 4:12], atol=1e-5)
    assert torch.allclose(got[1], images[1, :, :8, :8], atol=1e-5)


def test_supersampled_crop_averages_what_it_shrinks() -> None:
    images = torch.rand(1, 3, 32, 32)
    got = crops.face_crop(images, torch.tensor([[0.0, 0.0, 32.0, 32.0]]), 16, supersample=2)
    assert torch.allclose(got, torch.nn.functional.avg_pool2d(images, 2), atol=1e-5)
