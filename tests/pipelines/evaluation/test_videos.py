"""Protocols on video files: measuring in this process, and whole runs on a private Ray."""

import json
import shutil

import numpy as np
import pytest

from pipelines.evaluate import EvaluateConfig, evaluate
from pipelines.evaluation.pairs import load
from pipelines.evaluation.rows import read
from pipelines.evaluation.videos import Meter, frames
from xnemo.media.images import write_image
from xnemo.media.video import write_video
from xnemo.synthetic.clips import portrait, write_clip
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """One driver, results in which it is copied, cut short, faster, larger, faceless, damaged and missing."""
    root = tmp_path_factory.mktemp("media")
    (root / "driving").mkdir()
    (root / "results").mkdir()
    portrait(root / "p.png", 5, 192)
    source = write_clip(root / "driving/source.mp4", 7, 7, 0.64, 192)
    shown = np.stack(list(frames(source, None)))
    blind = shown.copy()
    blind[::2] = 80
    results = {
        "copy": (shown, 25),
        "short": (shown[:6], 25),
        "fast": (np.repeat(shown, 2, 0), 50),
        "blind": (blind, 25),
        "large": (shown.repeat(2, 1).repeat(2, 2), 25),
    }
    rows = []
    for name in (*results, "damaged", "missing"):
        rows.append({"id": name, "portrait": "p.png", "driving": "driving/source.mp4"})
        if name in results:
            write_video(root / f"results/{name}.mp4", iter(results[name][0]), results[name][1], crf=4)
    (root / "results/damaged.mp4").write_bytes((root / "results/copy.mp4").read_bytes()[:900])
    (root / "pairs.json").write_text(json.dumps({"pairs": rows}))
    write_image(root / "driving/still.png", shown[0])
    return root


def _rows(media, protocol, tmp_path):
    config = EvaluateConfig(protocol=protocol, output=str(tmp_path), data=str(media / "pairs.json"),
                            results=str(media / "results"))  # fmt: skip
    meter = Meter(config)
    return {pair.id: meter.do(pair) for pair in load(config.data, protocol, 0)}


def test_cross_rows_tell_what_is_wrong_with_a_result(media, tmp_path):
    rows = _rows(media, "cross", tmp_path)
    assert rows["copy"]["apd"] < 2
    assert rows["copy"]["detected_result"] > 0.9
    assert rows["blind"]["skipped_frames"] >= 8
    assert rows["blind"]["detected_result"] <= 0.5
    assert rows["blind"]["apd"] < 3, "the frames that are left still agree"
    assert rows["short"]["frames_compared"] == 6
    assert rows["short"]["frames_driving"] == 16
    assert rows["fast"]["fps_result"] == 50
    assert rows["fast"]["frames_compared"] == 16
    assert rows["fast"]["apd"] < 2
    assert rows["large"]["apd"] < 3
    assert rows["large"]["size_result"] == "384x384"
    for name, reason in (("damaged", "damaged.mp4"), ("missing", "missing.mp4 is missing")):
        assert rows[name]["status"] == "failed"
        assert reason in rows[name]["reason"]


def test_temporal_rows_see_the_flicker(media, tmp_path):
    rows = _rows(media, "temporal", tmp_path)
    assert rows["blind"]["flicker"] > 5 * rows["copy"]["flicker"]
    assert rows["copy"]["flicker_driver"] == pytest.approx(rows["blind"]["flicker_driver"])


def test_self_rows_are_perfect_for_the_drivers_own_crop(media, tmp_path):
    from pipelines.evaluation import videos

    config = EvaluateConfig(protocol="self", output=str(tmp_path), data=str(media / "driving"), results=str(tmp_path))
    meter, pair = Meter(config), load(str(media / "driving"), "self", 0)[0]
    shutil.copy(media / "results/copy.mp4", tmp_path / "source.mp4")
    true = [cut for _, cut in meter.lockstep(tmp_path / "source.mp4", pair)]
    write_video(tmp_path / "source.mp4", iter(true), videos.FPS, crf=1)
    row = meter.do(pair)
    assert row["frames_compared"] == 15, "all but the reference"
    assert row["l1"] < 0.02
    assert row["ssim"] > 0.97
    worse = [np.clip(frame.astype(int) + 51, 0, 255).astype(np.uint8) for frame in true]
    write_video(tmp_path / "source.mp4", iter(worse), videos.FPS, crf=1)
    assert 0.1 < meter.do(pair)["l1"] < 0.25, "about 0.2, less where it was white already"


@pytest.mark.slow
def test_a_run_on_ray_is_reported_recorded_and_gone_on_with(media, tmp_path, monkeypatch):
    import ray

    from pipelines.models import BUNDLED

    monkeypatch.setenv("XNEMO_HOME", str(tmp_path / "home"))
    data = tmp_path / "videos"
    data.mkdir()
    shutil.copy(media / "driving/source.mp4", data / "good.mp4")
    (data / "bad.mp4").write_bytes(b"not a video")
    config = EvaluateConfig(
        protocol="self", model="bundled", output=str(tmp_path / "run"), data=str(data), steps=2, workers=1
    )
    ray.init(address="local", num_cpus=2, include_dashboard=False, logging_level="ERROR")
    try:
        summary = evaluate(config, BUNDLED)
        assert summary["pairs"] == {"all": 2, "measured": 1}
        assert 0 < summary["l1"]["mean"] < 1
        made = (tmp_path / "run/results/good.mp4").stat().st_mtime_ns
        again = evaluate(config, BUNDLED)
        assert again == summary
        assert (tmp_path / "run/results/good.mp4").stat().st_mtime_ns == made, "not animated again"
        shutil.copy(data / "bad.mp4", data / "good.mp4")
        with pytest.raises(PlatformError, match="none of the 2 pairs"):
            evaluate(config, BUNDLED)
    finally:
        ray.shutdown()
    assert read(str(tmp_path / "run"))["bad"].get("l1") is None
    page = (tmp_path / "run/artifacts/report.html").read_text()
    assert "data:video/mp4" in page
    assert "bad" in page
    assert (tmp_path / "run/run_id").exists()
