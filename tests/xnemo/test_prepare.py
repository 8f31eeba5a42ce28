"""What an animation takes from its pictures: the right face, its crops, and how the head moves."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import Face, FaceDetector, detector
from xnemo.media.limits import MediaError
from xnemo.media.video import write_video
from xnemo.prepare import Follower, bridge, cut, prepare_driving, prepare_portrait
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render

SMALL = ModelConfig.small()


def heads(frames: int, size: int = 160) -> np.ndarray:
    pictures = render(random_identity(9)[None], *sequence(2, frames), size)
    return pictures.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def faces() -> FaceDetector:
    return detector()


@pytest.fixture(scope="module")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("prepare") / "d.mp4", heads(50), 25)


def face(x: float, y: float, side: float) -> Face:
    return Face((x - side / 2, y - side / 2, x + side / 2, y + side / 2), 0.9)


def follow(seen: list[list[Face]], which: int = 0) -> np.ndarray:
    follower = Follower(which)
    for faces in seen:
        follower.see(faces)
    return follower.boxes()


def test_the_largest_face_is_followed_past_a_larger_one() -> None:
    mine = [face(100 + 2 * n, 100, 60) for n in range(4)]
    others = [[face(300, 100, 40)], [face(300, 100, 90)], [], [face(300, 100, 90)]]
    boxes = follow([[other, own] for own, [*rest] in zip(mine, others, strict=True) for other in rest or [own]])
    np.testing.assert_array_equal(boxes, [own.box for own in mine])


def test_a_face_that_jumps_away_is_lost_and_found_again() -> None:
    boxes = follow([[face(100, 100, 60)], [face(300, 100, 60)], [], [face(104, 100, 60)]])
    assert np.isnan(boxes[:, 0]).tolist() == [False, True, True, False]


def test_a_second_face_is_followed_from_where_two_are_seen_first() -> None:
    large, small = face(100, 100, 60), face(300, 100, 40)
    boxes = follow([[large], [large, small], [large], [small, large]], 1)
    np.testing.assert_array_equal(boxes[[1, 3]], [small.box, small.box])
    assert np.isnan(boxes[[0, 2], 0]).all()
    with pytest.raises(MediaError, match="shows 2: give 0"):
        follow([[large], [large, small]], 2)


def test_a_small_face_beside_a_large_one_is_found_again_where_it_was(faces: FaceDetector) -> None:
    picture = np.full((480, 1200, 3), 128, np.uint8)
    picture[:, :480], picture[300:396, 1000:1096] = heads(1, 480)[0], heads(1, 96)[0]
    beside = faces.around(picture, np.array([1024.0, 330, 1072, 380]))
    assert len(faces.detect(picture)) == len(beside) == 1
    left, top, right, bottom = beside[0].box
    assert 1000 < left < right < 1096
    assert 300 < top < bottom < 396


def test_short_gaps_are_bridged_in_a_straight_line() -> None:
    boxes = np.array([[0.0, 0, 10, 10], [np.nan] * 4, [np.nan] * 4, [6, 0, 16, 10]])
    np.testing.assert_allclose(bridge(boxes, 25, "d.mp4")[:, 0], [0, 2, 4, 6])


@pytest.mark.parametrize(("lost", "times"), [(slice(0, 20), "0.0 s to 0.8 s"), (slice(10, 40), "0.4 s to 1.6 s"),
                                             (slice(60, 100), "2.4 s to 4.0 s")])  # fmt: skip
def test_a_face_lost_for_long_is_refused_with_the_time(lost: slice, times: str) -> None:
    boxes = np.tile([0.0, 0, 10, 10], (100, 1))
    boxes[lost] = np.nan
    with pytest.raises(MediaError, match=rf"d\.mp4 shows no face from {times}") as error:
        bridge(boxes, 25, "d.mp4")
    assert error.value.code == "face_lost"


def test_a_cut_without_scaling_is_the_pixels_themselves() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    out = cut(frames, np.array([[3.0, 5, 19, 21], [10, 0, 26, 16]]), 16)
    np.testing.assert_array_equal(out, [frames[0, 5:21, 3:19], frames[1, 0:16, 10:26]])


def test_outside_the_picture_a_cut_is_black() -> None:
    white = np.full((1, 20, 20, 3), 255, np.uint8)
    out = cut(white, np.array([[-10.0, -10, 10, 10]]), 20)[0]
    assert (out[:9, :9] == 0).all()
    assert (out[11:, 11:] == 255).all()


def test_a_shrinking_cut_does_not_alias() -> None:
    stripes = np.zeros((1, 128, 128, 3), np.uint8)
    stripes[:, :, ::2] = 255
    out = cut(stripes, np.array([[0.0, 0, 128, 128]]), 16)
    assert abs(out[0, 2:-2, 2:-2].astype(int) - 127).max() <= 2


def middle(picture: np.ndarray, share: float) -> np.ndarray:
    """The mean colour of the centred square whose side is `share` of the picture's."""
    start, end = (round(len(picture) * (1 + sign * share) / 2) for sign in (-1, 1))
    return picture[start:end, start:end].mean((0, 1))


def test_the_portrait_is_cut_around_its_face(faces: FaceDetector) -> None:
    picture = heads(1)[0]
    who = prepare_portrait(picture, SMALL, faces)
    side, face_side = SMALL.image_size, SMALL.motion_encoder.image_size
    assert (who.reference.shape, who.face.shape) == ((side, side, 3), (face_side, face_side, 3))
    assert who.size == (160, 160)
    centre = np.abs(middle(who.reference, 1 / 4) - middle(who.face, 3 / 8))
    assert centre.max() < 40  # both show the same face in their middle


def test_a_face_that_is_not_there_is_refused(faces: FaceDetector) -> None:
    with pytest.raises(MediaError, match="face 1 was asked for, but the portrait shows 1") as error:
        prepare_portrait(heads(1)[0], SMALL, faces, face=1)
    assert error.value.code == "no_such_face"


def test_a_portrait_without_a_face_is_refused(faces: FaceDetector) -> None:
    with pytest.raises(MediaError, match="no face was found in the portrait"):
        prepare_portrait(np.full((200, 200, 3), 120, np.uint8), SMALL, faces)


def test_head_motion_relative_starts_at_rest_and_stays_in_range(driving: Path, faces: FaceDetector) -> None:
    f_rts = prepare_driving(driving, faces).f_rts
    assert f_rts.shape == (50, 3)
    np.testing.assert_allclose(f_rts[0], [0, 0, 1], atol=1e-6)
    assert np.abs(f_rts[:, :2]).max() <= 0.5
    assert 0.7 <= f_rts[:, 2].min() <= f_rts[:, 2].max() <= 1.4
    assert np.ptp(f_rts[:, 0]) > 0.005  # and it does move


def test_head_motion_still_stays_at_rest(driving: Path, faces: FaceDetector) -> None:
    assert (prepare_driving(driving, faces, head_motion="still").f_rts == [0, 0, 1]).all()


def test_head_motion_absolute_is_against_the_portrait(driving: Path, faces: FaceDetector) -> None:
    own = prepare_portrait(heads(50)[0], SMALL, faces)
    first = prepare_driving(driving, faces, head_motion="absolute", portrait=own, max_frames=1).f_rts[0]
    np.testing.assert_allclose(first, [0, 0, 1], atol=0.05)
    wide = prepare_portrait(np.pad(heads(50)[0], ((0, 0), (40, 40), (0, 0))), SMALL, faces)
    with pytest.raises(XNeMoError, match="frame of the driving video"):
        prepare_driving(driving, faces, head_motion="absolute", portrait=wide)


def test_the_span_and_the_rate_can_be_chosen(driving: Path, faces: FaceDetector) -> None:
    part = prepare_driving(driving, faces, start=0.4, end=1.2)
    assert (len(part), part.fps) == (20, 25.0)
    assert len(prepare_driving(driving, faces, fps=12.5)) == 25
    assert sum(len(batch) for batch in part.faces(32)) == 20


def test_the_face_crops_are_those_of_the_chosen_span(driving: Path, faces: FaceDetector) -> None:
    whole = np.concatenate(list(prepare_driving(driving, faces).faces(32)))
    part = np.concatenate(list(prepare_driving(driving, faces, start=0.4, end=1.2).faces(32)))
    middle = slice(8, 12)  # away from the ends, where smoothing sees other neighbours
    assert np.abs(part[middle].astype(int) - whole[10:][middle]).mean() < 4


@pytest.mark.parametrize(("start", "end"), [(-1.0, None), (2.0, 1.0), (float("nan"), None), (1.0, 1.0), (60.0, None)])
def test_a_span_that_is_none_is_refused(driving: Path, faces: FaceDetector, start: float, end: float | None) -> None:
    with pytest.raises(XNeMoError):
        prepare_driving(driving, faces, start=start, end=end)


def test_a_video_without_a_face_is_refused(tmp_path: Path, faces: FaceDetector) -> None:
    path = write_video(tmp_path / "wall.mp4", np.full((10, 160, 160, 3), 120, np.uint8), 25)
    with pytest.raises(MediaError, match=r"no face was found in wall\.mp4"):
        prepare_driving(path, faces)


@pytest.mark.real_media
@pytest.mark.parametrize("name", ["d13", "landscape_s32"])
def test_real_clips_are_followed(samples: Path, faces: FaceDetector, name: str) -> None:
    driving = prepare_driving(samples / "driving" / f"{name}.mp4", faces, max_frames=24)
    crops = np.concatenate(list(driving.faces(128)))
    found = sum(bool(faces.detect(crop)) for crop in crops[::6])
    assert found == 4
    assert torch.from_numpy(driving.f_rts).isfinite().all()


@pytest.mark.real_media
def test_animals_are_refused(samples: Path, faces: FaceDetector) -> None:
    for path in sorted((samples / "negative").iterdir()):
        with pytest.raises(MediaError, match="no face"):
            prepare_portrait(path, SMALL, faces)
