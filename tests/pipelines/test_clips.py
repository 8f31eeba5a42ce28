"""From a video to clips: the right frames, boxes that follow the crop, shots told apart, bad input typed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from pipelines import clips
from pipelines.clips import ClipConfig, _reject, cut, examine, extract, shot_starts
from pipelines.tracks import Track
from tests.pipelines.drawn import SIZE, head, head_video, moving
from xnemo.errors import XNeMoError
from xnemo.media import faces, images
from xnemo.media.blazeface import overlap
from xnemo.media.images import decode_jpeg
from xnemo.media.limits import LIMITS
from xnemo.media.video import write_video
from xnemo_platform.sandbox import Limits, Sandbox

CONFIG = ClipConfig(size=128, min_face_px=40, min_frames=10, max_frames=60)


def clips_of(path: Path, config: ClipConfig = CONFIG) -> dict:
    info = examine(str(path), LIMITS)
    return extract(str(path), info, 0.0, info["duration"], config, LIMITS)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return clips_of(head_video(tmp_path_factory.mktemp("clips") / "a.mp4", seed=3))


def test_one_head_is_one_clip_of_all_frames(found: dict) -> None:
    assert [len(clip["frames"]) for clip in found["clips"]] == [40]
    assert (found["frames"], found["dropped"]) == (40, {})
    assert found["clips"][0]["span"] == [0.0, 1.6]


def test_frames_are_squares_of_the_asked_size(found: dict) -> None:
    assert decode_jpeg(found["clips"][0]["frames"][0]).shape == (128, 128, 3)


def test_boxes_follow_the_head_in_the_crop(found: dict) -> None:
    clip, (_, box) = found["clips"][0], head(3)
    left, top, right, _ = clip["crop_box"]
    for at in (0, 20, 39):
        moved = box + np.array([round(at * 0.5), 0, round(at * 0.5), 0])
        expected = (moved - [left, top, left, top]) * 128 / (right - left)
        assert overlap(clip["face_boxes"][at], expected[None])[0] > 0.5


def test_the_crop_is_the_source_inside_its_box(found: dict) -> None:
    clip = found["clips"][0]
    frame = decode_jpeg(clip["frames"][20]).astype(int)
    expected = cut(moving(3, 21)[20], np.array(clip["crop_box"]), 128)
    assert np.abs(frame - expected).mean() < 6


def test_the_head_is_half_as_wide_as_its_crop(found: dict) -> None:
    boxes = found["clips"][0]["face_boxes"]
    assert np.median(boxes[:, 2] - boxes[:, 0]) == pytest.approx(64, rel=0.1)


def test_faces_too_small_in_the_source_are_counted(tmp_path: Path) -> None:
    found = clips_of(head_video(tmp_path / "a.mp4", seed=3), CONFIG.model_copy(update={"min_face_px": 500.0}))
    assert found["clips"] == []
    assert found["dropped"] == {"small_face": 40}


def test_frames_are_resampled_by_time(tmp_path: Path) -> None:
    found = clips_of(head_video(tmp_path / "fast.mp4", seed=3, frames=80, fps=50))
    assert [len(clip["frames"]) for clip in found["clips"]] == [40]


def test_a_long_part_is_worked_on_in_even_windows(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"max_frames": 15})
    found = clips_of(head_video(tmp_path / "long.mp4", seed=3, frames=70), config)
    assert [clip["span"] for clip in found["clips"]] == [
        [0.0, 0.48],
        [0.48, 0.96],
        [0.96, 1.44],
        [1.44, 1.92],
        [1.92, 2.36],
        [2.36, 2.8],
    ]
    assert (found["frames"], found["dropped"]) == (70, {})


def test_a_change_of_scene_makes_two_clips(tmp_path: Path) -> None:
    frames = moving(3, 20) + moving(7, 20)
    found = clips_of(write_video(tmp_path / "cut.mp4", frames, 25))
    assert [len(clip["frames"]) for clip in found["clips"]] == [20, 20]
    assert found["clips"][1]["span"] == [0.8, 1.6]


def test_a_flash_is_no_new_shot_when_motion_is_as_fast() -> None:
    rng = np.random.default_rng(0)
    wild = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(12)]
    assert shot_starts(wild, 0.12) == {0}


def test_a_cut_between_still_shots_is_found() -> None:
    frames = [np.zeros((40, 40, 3), np.uint8)] * 5 + [np.full((40, 40, 3), 90, np.uint8)] * 5
    assert shot_starts(frames, 0.12) == {0, 5}


def test_a_picture_without_a_person_gives_no_clip(tmp_path: Path) -> None:
    frames = [np.full((SIZE, SIZE, 3), 90, np.uint8)] * 20
    assert clips_of(write_video(tmp_path / "wall.mp4", frames, 25))["dropped"] == {"no_face": 20}


def test_what_is_no_face_at_a_second_look_is_dropped() -> None:
    wall = [np.full((SIZE, SIZE, 3), 90, np.uint8)] * 12
    track = Track(0, np.tile([40.0, 40.0, 120.0, 120.0], (12, 1)), 0, 1.0, 0.0)
    assert _reject(wall, track, faces.detector(), CONFIG) == "not_a_face"
    assert _reject(moving(3, 12, 0), track, faces.detector(), CONFIG) is None


def test_a_blurred_face_is_dropped_when_sharpness_is_asked_for(tmp_path: Path) -> None:
    frames = [cv2.GaussianBlur(frame, (0, 0), 2) for frame in moving(3, 12)]
    path = write_video(tmp_path / "soft.mp4", frames, 25)
    sharp = clips_of(head_video(tmp_path / "a.mp4", 3, 12))["clips"][0]["quality"]["sharpness"]
    found = clips_of(path, CONFIG.model_copy(update={"min_sharpness": sharp / 2}))
    assert (found["clips"], found["dropped"]) == ([], {"blurred": 12})


def test_two_heads_are_counted_or_kept_as_asked(tmp_path: Path) -> None:
    pair = np.concatenate([head(3)[0], head(7)[0]], axis=1)
    path = write_video(tmp_path / "two.mp4", [pair] * 20, 25)
    assert clips_of(path)["clips"] == []
    assert "several_faces" in clips_of(path)["dropped"]
    each = clips_of(path, CONFIG.model_copy(update={"faces": "each"}))["clips"]
    assert sorted(clip["face"] for clip in each) == [0, 1]


def test_a_crop_beyond_the_border_is_black_there() -> None:
    crop = cut(np.full((10, 10, 3), 200, np.uint8), np.array([-10.0, 0.0, 10.0, 20.0]), 20)
    assert (crop[:10, 10:] == 200).all()
    assert (crop[:, :10] == 0).all()
    assert (crop[10:] == 0).all()


@pytest.mark.parametrize("window", [(-50, -50, -40, -40), (30, 30, 50, 50), (5.2, 5.2, 5.3, 5.3)])
def test_a_crop_anywhere_has_its_size(window: tuple[float, ...]) -> None:
    assert cut(np.zeros((10, 10, 3), np.uint8), np.array(window), 16).shape == (16, 16, 3)


def test_sound_comes_along_when_asked(tmp_path: Path) -> None:
    from tests.xnemo.media.conftest import write

    voiced = write(tmp_path / "voice.mp4", [k / 25 for k in range(25)], sound=True)
    path = write_video(tmp_path / "a.mp4", moving(3, 25), 25, audio_from=voiced)
    assert clips_of(path)["clips"][0]["audio"] is None
    assert clips_of(path, CONFIG.model_copy(update={"audio": True}))["clips"][0]["audio"][4:8] == b"ftyp"


@pytest.fixture(scope="module")
def placed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the published names and shapes: an SFD that sees one large face everywhere, and a FAN of random
    weights."""
    import torch
    from face_alignment.detection.sfd.net_s3fd import s3fd
    from face_alignment.models import FAN

    folder = tmp_path_factory.mktemp("face-models")
    sfd = {name: torch.zeros_like(tensor) for name, tensor in s3fd().state_dict().items()}
    for name, tensor in sfd.items():
        if name.endswith("mbox_conf.bias"):
            tensor[: -1 if name != "conv7_2_mbox_conf.bias" else 0] = 5  # no face, whatever is seen
    sfd["conv7_2_mbox_conf.bias"][1] = 5  # but in the coarsest layer
    torch.save(sfd, folder / faces.SFD_FILE)
    torch.manual_seed(0)
    torch.save(FAN(4).state_dict(), folder / faces.FAN_FILE)
    return folder


@pytest.mark.slow
def test_placed_networks_bring_their_boxes_and_68_landmarks(
    placed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XNEMO_FACE_MODELS", str(placed))
    path = str(head_video(tmp_path / "a.mp4", seed=3, frames=2))
    config = CONFIG.model_copy(update={"detector": "sfd", "min_frames": 2, "faces": "largest"})
    with Sandbox(Limits(seconds=600)) as box:  # a process that has found no network yet, as in an ingestion
        outcome = box.call(extract, path, examine(path, LIMITS), 0.0, 1.0, config, LIMITS)
    assert outcome.kind == "ok", outcome
    (clip,) = outcome.value["clips"]
    assert clip["detector"] == "sfd"
    assert (clip["landmarks"].shape, clip["landmarks"].dtype) == ((2, 136), np.float32)
    boxes, points = clip["face_boxes"][:, None], clip["landmarks"].reshape(2, 68, 2)
    centre, side = (boxes[..., :2] + boxes[..., 2:]) / 2, boxes[..., 2:] - boxes[..., :2]
    assert (np.abs(points - centre) < 1.2 * side).all()  # inside what the network was shown of the picture
    assert len(np.unique(points.round().reshape(-1, 2), axis=0)) > 20


@pytest.mark.slow
@pytest.mark.parametrize(("name", "network"), [(faces.SFD_FILE, "S3FD"), (faces.FAN_FILE, "2DFAN4")])
@pytest.mark.parametrize("content", [b"", b"no weights", "other"])
def test_a_wrong_weights_file_stops_a_run_with_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, network: str, content: bytes | str
) -> None:
    import torch

    monkeypatch.setenv("XNEMO_FACE_MODELS", str(tmp_path))
    monkeypatch.setattr(clips, "_detector", faces.detector)  # not one that was found before
    monkeypatch.setattr(clips, "_landmark_net", faces.landmarks68)
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    else:
        torch.save({"weight": torch.zeros(2)}, tmp_path / name)
    detector = "sfd" if name == faces.SFD_FILE else "haar"
    with pytest.raises(XNeMoError, match=f"{name} holds no weights of {network} .*fetch it again"):
        clips.check_networks(CONFIG.model_copy(update={"detector": detector}))


def test_a_detector_without_its_weights_is_told_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XNEMO_FACE_MODELS", str(tmp_path))
    monkeypatch.setattr(clips, "_detector", faces.detector)
    with pytest.raises(XNeMoError, match=f"{faces.SFD_FILE} is missing"):
        clips.check_networks(CONFIG.model_copy(update={"detector": "sfd"}))


@pytest.mark.real_media
def test_an_animal_is_no_clip(samples: Path, tmp_path: Path) -> None:
    for picture in [*sorted((samples / "negative").iterdir()), samples / "portraits" / "s38.jpg"]:
        frames = [images.resize(images.read_image(picture), 320, 320)] * 12
        path = write_video(tmp_path / f"{picture.stem}.mp4", frames, 25)
        assert clips_of(path)["clips"] == [], picture.name


@pytest.mark.real_media
def test_real_clips_are_kept_nearly_whole(samples: Path) -> None:
    config = ClipConfig(size=128, min_face_px=100)
    for name in ("d0", "d13", "landscape_s32"):
        path = str(samples / "driving" / f"{name}.mp4")
        found = extract(path, examine(path, LIMITS), 0.0, 2.0, config, LIMITS)
        assert sum(len(clip["frames"]) for clip in found["clips"]) > 0.95 * found["frames"], name
