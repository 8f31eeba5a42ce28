"""Provenance marks: found where they were put, not found where they were not, through H.264 and resizing."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from xnemo.media import provenance
from xnemo.media.video import read_frames, write_video


def clip(seed: int, size: tuple[int, int] = (256, 256), frames: int = 8) -> np.ndarray:
    """Smooth moving blobs, edges and a little grain [F,H,W,3]: a picture-like spectrum."""
    rng = np.random.default_rng(seed)
    height, width = size
    coarse = rng.uniform(0, 255, (frames + 8, 9, 9, 3)).astype(np.float32)
    out = []
    for f in range(frames):
        base = cv2.resize(coarse[f : f + 8].mean(0), (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.circle(base, (width // 2 + f, height // 2), height // 4, (200, 160, 140), -1, cv2.LINE_AA)
        cv2.rectangle(base, (width // 3, height // 3 + f), (width // 2, height // 2), (40, 30, 30), -1)
        out.append(base + rng.normal(0, 2, base.shape))
    return np.clip(out, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("crf", [18, 23])
@pytest.mark.parametrize("size", [(256, 256), (512, 512), (480, 270)])
def test_watermark_survives_h264(tmp_path: Path, crf: int, size: tuple[int, int]) -> None:
    path = write_video(tmp_path / "v.mp4", provenance.mark(clip(1, size)), 25, crf=crf)
    assert provenance.watermark_score(read_frames(path)) > provenance.THRESHOLD + 1


def test_watermark_survives_resizing() -> None:
    marked = [cv2.resize(frame, (180, 180), interpolation=cv2.INTER_AREA) for frame in provenance.mark(clip(2))]
    assert provenance.watermark_score(marked) > provenance.THRESHOLD


def test_unmarked_pictures_stay_far_below_the_threshold() -> None:
    scores = [provenance.watermark_score(clip(seed, frames=1)) for seed in range(60)]
    assert max(scores) < provenance.THRESHOLD - 1


def test_watermark_is_invisible() -> None:
    plain = clip(3)[0]
    error = provenance.watermark(plain).astype(float) - plain
    assert 10 * np.log10(255**2 / (error**2).mean()) > 40
    assert np.abs(error).max() <= 16


def test_label_is_found_after_h264_and_only_where_it_is(tmp_path: Path) -> None:
    frames = clip(4)
    path = write_video(tmp_path / "v.mp4", provenance.mark(frames, visible=True), 25, crf=23)
    assert provenance.has_label(read_frames(path))
    assert not any(provenance.has_label(clip(seed, frames=1)) for seed in range(40))


def test_a_flat_frame_has_no_mark() -> None:
    flat = np.full((1, 256, 256, 3), 90, np.uint8)
    assert not provenance.has_label(flat)
    assert provenance.watermark_score(flat) < provenance.THRESHOLD


def test_inspect_reports_all_three_marks(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "v.mp4",
        provenance.mark(clip(5), visible=True),
        25,
        metadata=provenance.note("demo@3", seed=7),
    )
    marks = provenance.inspect(path)
    assert marks.synthetic
    assert marks.label
    assert marks.watermark > provenance.THRESHOLD
    assert marks.note
    assert (marks.note["synthetic"], marks.note["model"], marks.note["seed"]) == (True, "demo@3", 7)


def test_inspect_of_an_ordinary_video_finds_nothing(tmp_path: Path) -> None:
    marks = provenance.inspect(write_video(tmp_path / "v.mp4", clip(6), 25))
    assert not marks.synthetic
    assert marks.note is None


@pytest.mark.real_media
def test_real_clips_carry_the_mark_and_have_none_before(samples: Path, tmp_path: Path) -> None:
    for name in ("d0", "d10", "xnemo_demo"):
        frames = read_frames(samples / "driving" / f"{name}.mp4", max_frames=16)
        assert provenance.watermark_score(frames) < 4
        path = write_video(tmp_path / f"{name}.mp4", provenance.mark(frames), 25, crf=23)
        assert provenance.watermark_score(read_frames(path)) > 8
