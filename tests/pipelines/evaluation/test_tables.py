"""Reports: the paper's columns beside ours, failures named, nothing averaged away."""

import json

import numpy as np
import pytest

from pipelines.evaluation import page, tables
from pipelines.evaluation.compare import compare
from pipelines.evaluation.rows import publish, read
from xnemo_platform.errors import PlatformError

BAD = {"id": "d", "status": "failed", "stage": "animate", "reason": "no face was found", "group": ""}


def _row(name, **figures):
    base = {"id": name, "group": "", "status": "ok", "stage": "", "reason": "", "frames_compared": 49}
    return base | {"frames_driving": 50, "fps_driving": 25.0, "frames_result": 50} | figures


ROWS = [_row("a", l1=0.1, ssim=0.8), _row("b", l1=0.2, ssim=0.6), _row("c", l1=0.6, ssim=float("nan")), BAD]


def test_the_paper_stands_beside_us_and_absent_weights_are_told():
    figures = tables.summarise(ROWS, "self")
    assert (figures["l1"].mean, figures["l1"].count) == (pytest.approx(0.3), 3)
    assert figures["ssim"].count == 2, "a figure that is absent is left out, never a zero"
    text = tables.table_1(figures, "self", {"lpips": "not computed: place X at Y"}, "ours").markdown()
    assert "| X-NeMo | 0.055 | 0.826 | 0.168 | 0.787 | 0.039 | 3.42 | 0.65 |" in text
    assert "| **ours** | 0.300 (" in text
    assert "| not computed |" in text
    absent = tables.not_computed({"lpips": "not computed: place X at Y"}, "self")[0].markdown()
    assert "| LPIPS ↓ | place X at Y |" in absent
    assert tables.not_computed({}, "self") == []


def test_the_ablation_columns_stand_beside_the_papers():
    text = tables.table_2({"mine": {"apd": tables.mean([3.0, 5.0])}}, {"id_sim": "not computed: x"}).markdown()
    assert "| w/o GAN | 0.789 | 0.045 | 4.64 | 0.43 |" in text
    assert "| **mine** | not computed | none: no face | 4.000 (3.000 to 5.000) | none: no face |" in text


def test_failed_and_shortened_pairs_are_named():
    short = _row("e", l1=0.1) | {"frames_compared": 10}
    text = tables.failures([*ROWS, short]).markdown()
    assert "| d | animate | no face was found |" in text
    assert "only 10 of 50 driving frames compared" in text
    assert "4 of 5 pairs have figures" in text
    blind = _row("f", l1=0.1, skipped_frames=25.0, detected_result=0.5, detected_driver=1.0)
    assert "no face in 25 of 49 frames (result)" in tables.failures([blind]).markdown()


def test_a_video_that_has_no_figure_counts_as_the_worst():
    order = page.ranked([_row("x"), _row("y", apd=9.0), _row("z", apd=1.0)], "apd")
    assert [row["id"] for row in order] == ["z", "y", "x"]


def test_a_summary_is_json_that_anybody_can_read(tmp_path):
    publish(tmp_path, summary={"a": {"b": float("nan"), "c": [1.5, float("inf")]}})
    text = (tmp_path / "summary.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == {"a": {"b": None, "c": [1.5, None]}}


def test_emotion_is_pooled_over_frames():
    series = np.random.default_rng(0).normal(size=(40, 2))
    cut = [
        _row(str(k), emotion_result=part.tolist(), emotion_driver=part.tolist())
        for k, part in enumerate(np.split(series, 4))
    ]
    found = tables.summarise(cut, "cross")["emo_sim"]
    assert (found.mean, found.count) == (pytest.approx(1), 4)


def test_best_median_and_worst_are_shown_and_text_is_escaped(tmp_path):
    chosen = page.choose([row for row in ROWS if row["status"] == "ok"], "l1", higher=False)
    assert [(place, row["id"]) for place, row in chosen] == [("best", "a"), ("median", "b"), ("worst", "c")]
    (tmp_path / "v.mp4").write_bytes(b"film")
    table = tables.Table("A & B", ("<x>",), (("<script>",),))
    page.write(
        tmp_path,
        "<title>",
        "`code` **bold**",
        [table],
        [("best", tmp_path / "v.mp4")],
        [page.strip("s", {"m": [1.0, 2]})],
    )
    text = (tmp_path / "report.html").read_text()
    assert "<script>" not in text
    assert "<code>code</code> <b>bold</b>" in text
    assert "data:video/mp4;base64,ZmlsbQ==" in text
    assert text.count("<circle") == 2
    assert "http" not in text.replace("http://www.w3.org", ""), "nothing is loaded from elsewhere"


def test_two_runs_are_compared_pair_by_pair(tmp_path):
    for name, shift in (("a", 0.0), ("b", 0.1)):
        rows = [_row(str(k), l1=0.1 * k + shift + (0.3 * shift if k == 7 else 0)) for k in range(10)]
        publish(tmp_path / name / "artifacts", rows=[*rows, BAD] if shift else rows)
    differences, extremes = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    row = next(row for row in differences.rows if row[0] == "l1")
    assert row[3].startswith("+0.103")
    assert row[3].endswith("*")
    assert row[4] == "10"
    assert extremes.rows[0][:2] == ("l1", "7")
    assert "1 in one only" in differences.note
    assert read(str(tmp_path / "b"))["d"]["l1"] is None


def test_the_same_name_for_other_files_is_no_pair(tmp_path):
    for name, digest in (("a", "1234"), ("b", "5678")):
        rows = [_row("x", l1=0.1, driving_sha256="ab"), _row("y", l1=0.1, driving_sha256=digest)]
        publish(tmp_path / name / "artifacts", rows=rows)
    differences, _ = compare(str(tmp_path / "a"), str(tmp_path / "b"))
    assert differences.rows[-1][-1] == "1"
    assert "1 pairs have the same id and other files (y)" in differences.note


def test_what_cannot_be_compared_is_told(tmp_path):
    with pytest.raises(PlatformError, match="no evaluation here"):
        compare(str(tmp_path), str(tmp_path))
    for name in ("a", "b"):
        publish(tmp_path / name / "artifacts", rows=[_row(name, l1=0.1)])
    with pytest.raises(PlatformError, match="share no video"):
        compare(str(tmp_path / "a"), str(tmp_path / "b"))
