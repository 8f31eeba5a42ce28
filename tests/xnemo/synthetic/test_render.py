"""The drawing: the same whatever the blocks, smooth at every size, faithful to its parameters, seen by a detector."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from xnemo.errors import XNeMoError
from xnemo.synthetic import render as module
from xnemo.synthetic.geometry import MOTION, RANGES, face_boxes
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render

REST = torch.zeros(1, 3)


def motion(**values: float) -> Tensor:
    return torch.tensor([[values.get(name, 0.0) for name in MOTION]])


def difference(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).abs()


def test_pictures_are_bytes_of_the_size_asked_for() -> None:
    pictures = render(random_identities([1]), *random_motion(0, 3), 40)
    assert (pictures.dtype, list(pictures.shape)) == (torch.uint8, [3, 3, 40, 40])


def test_a_frame_does_not_depend_on_its_company() -> None:
    who, (moved, placed) = random_identities(range(6)), random_motion(0, 6)
    together = render(who, moved, placed, 64)
    alone = torch.cat([render(who[i : i + 1], moved[i : i + 1], placed[i : i + 1], 64) for i in range(6)])
    assert difference(together, alone).max() <= 2


def test_drawing_in_bands_changes_nothing_to_see(monkeypatch: pytest.MonkeyPatch) -> None:
    who, (moved, placed) = random_identities(range(4)), random_motion(2, 4)
    whole = render(who, moved, placed, 96)
    monkeypatch.setattr(module, "BLOCK", 96 * 20)
    bands = difference(render(who, moved, placed, 96), whole)
    assert (bands > 2).float().mean() < 2e-3  # the edge of the hair is sampled from neighbours within a band


def test_the_window_holds_the_whole_head(monkeypatch: pytest.MonkeyPatch) -> None:
    who, (moved, placed) = random_identities(range(48)), random_motion(5, 48)
    windowed = render(who, moved, placed, 64)
    monkeypatch.setattr(module, "REACH", (9.0, 9.0))
    assert difference(windowed, render(who, moved, placed, 64)).max() <= 2


def test_a_small_picture_is_the_large_one_seen_from_afar() -> None:
    who, (moved, placed) = random_identities(range(8)), random_motion(1, 8)
    large = F.avg_pool2d(render(who, moved, placed, 256).float(), 4)
    assert difference(render(who, moved, placed, 64), large).mean() < 2.5


@pytest.mark.parametrize("name", [name for name in MOTION if name not in ("yaw", "pitch", "roll")])
def test_every_expression_shows_inside_the_face_and_nowhere_else(name: str) -> None:
    who = random_identities([20])
    changed = difference(render(who, motion(**{name: RANGES[name][1]}), REST, 64), render(who, motion(), REST, 64))[0]
    left, top, right, bottom = face_boxes(who, motion(jaw=1.0), REST, 64)[0].round().int().tolist()
    inside = changed[:, top - 8 : bottom + 3, left - 3 : right + 4]
    assert inside.amax(0).gt(20).sum() >= 5
    assert changed.sum() == inside.sum()


def test_left_and_right_are_the_pictures() -> None:
    changed = difference(
        render(random_identities([20]), motion(blink_left=1), REST, 64),
        render(random_identities([20]), motion(), REST, 64),
    )[0]
    assert changed[..., 32:].sum() == 0


def test_the_head_goes_where_it_is_placed() -> None:
    who = random_identities([20])
    still, moved = (render(who, motion(), torch.tensor([[x, 0.0, 0.0]]), 80).float() for x in (0.0, 0.1))
    face = (slice(None), slice(None), slice(30, 50), slice(32, 48))
    shifted = (face[0], face[1], face[2], slice(40, 56))
    assert difference(still[face], moved[shifted]).max() < 2


def test_one_person_can_be_given_for_many_frames() -> None:
    who, (moved, placed) = random_identities([3]), random_motion(0, 2)
    assert torch.equal(render(who, moved, placed, 32), render(who.expand(2, -1), moved, placed, 32))


@pytest.mark.parametrize("size", [8, 33])
def test_any_size_is_drawn(size: int) -> None:
    assert render(random_identities([1]), motion(), REST, size).float().std() > 10


def test_a_size_too_small_for_a_face_is_refused() -> None:
    with pytest.raises(XNeMoError, match="at least 8"):
        render(random_identities([1]), motion(), REST, 4)


def test_a_real_face_detector_finds_the_heads_where_their_boxes_are() -> None:
    from xnemo.media.faces import FaceDetector, detector

    try:
        finder: FaceDetector = detector("blazeface")
    except XNeMoError as error:
        pytest.skip(str(error))
    who, (moved, placed) = random_identities(range(60)), random_motion(9, 60)
    pictures = render(who, moved, placed, 192).permute(0, 2, 3, 1).contiguous().numpy()
    truth = face_boxes(who, moved, placed, 192)
    found = [finder.detect(picture, quick=True) for picture in pictures]
    assert sum(len(faces) == 1 for faces in found) >= 59
    boxes = torch.tensor([faces[0].box if faces else (torch.nan,) * 4 for faces in found])
    assert ((boxes - truth).abs().nanmean(0) < 0.06 * 192).all()
