"""The contact sheet shows what is in the shards, boxes where they are."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import shards
from pipelines.preview import sheet, write_sheet
from xnemo.media.images import encode_jpeg, read_image
from xnemo_platform import manifest
from xnemo_platform.errors import PlatformError


@pytest.fixture
def data(tmp_path: Path) -> str:
    grey = encode_jpeg(np.full((64, 64, 3), 128, np.uint8))
    rows = [
        {
            "clip_id": f"c{k}",
            "identity": f"i{k}",
            "split": "train",
            "n_frames": 4,
            "size": 64,
            "fps": 25.0,
            "source_span_s": [0.0, 1.0],
            "crop_box": [0.0, 0.0, 64.0, 64.0],
            "frames": [grey] * 4,
            "face_boxes": [[16.0, 16.0, 48.0, 48.0]] * 4,
            "quality": {"detection_rate": 1.0, "sharpness": 1.0, "min_face_px": 32.0, "max_jump": 0.0},
        }
        for k in range(5)
    ]
    uri = str(tmp_path / "data")
    manifest.append(uri, [{**facts, "unit": "u", "sources": []} for facts in shards.write(uri, rows)])
    return uri


def test_a_line_per_clip_and_a_cell_per_frame(data: str) -> None:
    picture = sheet(data, clips=3, frames=4, size=128)
    assert picture.shape == (3 * (128 + 16), 4 * 128, 3)


def test_boxes_are_drawn_where_the_faces_are(data: str) -> None:
    cell = sheet(data, clips=1, frames=1, size=128)[16:].astype(int)
    green = (cell[..., 1] > 200) & (cell[..., 0] < 150)
    rows, columns = np.nonzero(green)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (32, 96, 32, 96)


def test_a_sheet_is_written_as_a_picture(data: str, tmp_path: Path) -> None:
    path = write_sheet(data, tmp_path / "sheet.png", clips=2)
    np.testing.assert_array_equal(read_image(path), sheet(data, clips=2))


def test_a_split_without_clips_is_an_error(data: str) -> None:
    with pytest.raises(PlatformError, match="no clip of split test"):
        sheet(data, split="test")
