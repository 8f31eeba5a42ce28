"""Pictures at a rate are a video: in order, in time, and as hostile as any file."""

import zipfile
from pathlib import Path

import numpy as np
import pytest

from xnemo.media.images import write_image
from xnemo.media.limits import Limits, MediaError
from xnemo.media.stills import Stills, probe_stills, stream_stills


def grey(level: int, size: tuple[int, int] = (24, 32)) -> np.ndarray:
    return np.full((*size, 3), level, np.uint8)


def frames(path: Path, stills: Stills, fps: float, **limits: int) -> list[int]:
    info = probe_stills(path, stills, Limits(**limits))
    batches = stream_stills(path, stills, info, fps=fps, max_side=None, start=0.0, end=info.duration)
    return [int(frame[0, 0, 0]) for batch in batches for frame in batch]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (9, 10, 11, 14):  # two are missing; "10" sorts before "9" as text
        write_image(tmp_path / f"{number}.png", grey(number * 10))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_pictures_come_in_the_order_of_their_numbers_and_a_gap_stays_one(folder: Path) -> None:
    assert frames(folder, Stills("*", 10.0), 10.0) == [90, 100, 110, 110, 140, 140]


def test_they_are_resampled_by_time(folder: Path) -> None:
    assert frames(folder, Stills("*", 10.0), 5.0) == [90, 110, 140]


def test_a_folder_per_frame_and_a_zip_file_are_read_alike(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number in range(3):
            path = tmp_path / "s" / f"frame_{number:05d}" / "images" / "cam_7.png"
            path.parent.mkdir(parents=True)
            write_image(path, grey(number * 10))
            archive.write(path, f"group/Clip/{number:08d}.png")
        archive.writestr("../../evil.png", b"x")
    assert frames(tmp_path / "s", Stills("frame_*/images/cam_7.png", 25.0), 25.0) == [0, 10, 20]
    assert frames(tmp_path / "a.zip", Stills("group/Clip/*", 25.0), 25.0) == [0, 10, 20]


def test_an_empty_folder_a_bomb_and_a_picture_of_another_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match="holds no pictures"):
        probe_stills(tmp_path, Stills("*", 25.0))
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("c/0.png", bytes(5_000_000))
    with pytest.raises(MediaError, match="unfolds"):
        probe_stills(tmp_path / "bomb.zip", Stills("c/*", 25.0), Limits(pixels=10_000))
    write_image(tmp_path / "0.png", grey(1))
    write_image(tmp_path / "1.png", grey(1, (30, 30)))
    with pytest.raises(MediaError, match="another size"):
        frames(tmp_path, Stills("*", 25.0), 25.0)
    with pytest.raises(MediaError, match="more than 1"):
        probe_stills(tmp_path, Stills("*", 25.0), Limits(frames=1))


def test_a_text_file_is_no_zip(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_text("no zip")
    with pytest.raises(MediaError, match="no readable folder or zip"):
        probe_stills(tmp_path / "a.zip", Stills("*", 25.0))
