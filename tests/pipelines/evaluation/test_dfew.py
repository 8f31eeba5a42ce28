"""The DFEW subset: votes, lengths and faces decide, quotas are told, and a copy that lacks something says what."""

import shutil

import pytest

from pipelines.evaluation import dfew, pairs
from xnemo.metrics.weights import NotComputed
from xnemo.synthetic.clips import write_clip
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Five clips of one class: fine, disputed, too short, without a clip, damaged."""
    root = tmp_path_factory.mktemp("dfew")
    labels, votes, clips = (
        root / "EmoLabel_DataSplit/test(single-labeled)",
        root / "Annotation",
        root / "Clip/original/p1",
    )
    for folder in (labels, votes, clips):
        folder.mkdir(parents=True)
    labels.joinpath("set_1.csv").write_text("video_name,label\n" + "".join(f"{k},1\n" for k in range(1, 6)))
    head = "order," + ",".join(f"{i}{name}" for i, name in enumerate(dfew.CLASSES, 1))
    votes.joinpath("annotation.csv").write_text(
        head + "\n" + "".join(f"{k},{9 if k != 2 else 5},0,0,0,0,0,0\n" for k in range(1, 6))
    )
    write_clip(clips / "1.mp4", 1, 1, 2.0, 160)
    write_clip(clips / "2.mp4", 2, 2, 2.0, 64)
    write_clip(clips / "3.mp4", 3, 3, 0.4, 64)
    clips.joinpath("5.mp4").write_bytes(b"no video")
    return root


def test_only_what_the_protocol_admits_is_taken(copy, monkeypatch):
    monkeypatch.setattr(dfew, "MIN_FACE", 40)  # drawn small, to be quick
    found, about = dfew.subset(copy, rank="seed")
    assert [(pair.id, pair.group) for pair in found] == [("dfew-00001", "happy")]
    assert about["dropped"] == {"annotators disagree": 1, "no clip": 1, "short": 1, "face": 0, "unreadable": 1}
    assert about["missing_of_quota"]["happy"] == 14
    assert about["rank"] == "seed"
    monkeypatch.setattr(dfew, "MIN_FACE", 150)
    assert dfew.subset(copy, rank="seed")[1]["dropped"]["face"] == 1


def test_two_people_with_the_same_copy_get_the_same_manifest(copy, monkeypatch, tmp_path):
    monkeypatch.setattr(dfew, "MIN_FACE", 40)
    texts = []
    for who in ("one", "two"):
        theirs = shutil.copytree(copy, tmp_path / who)
        found, about = dfew.subset(theirs, seed=3, rank="seed")
        pairs.write(theirs / "dfew.json", found, about | {"protocol": "self"})
        texts.append((theirs / "dfew.json").read_text())
    assert texts[0] == texts[1]
    assert "dfew-00001" in texts[0]
    assert dfew.subset(copy, seed=4, rank="seed")[1]["seed"] == 4


@pytest.mark.slow
def test_clips_are_ranked_by_how_much_emonet_sees_them_change(copy, monkeypatch, tmp_path):
    import torch

    from xnemo.metrics.emotion import EmoNet

    torch.manual_seed(0)
    torch.save(EmoNet().state_dict(), tmp_path / "emonet_8.pth")
    monkeypatch.setattr(dfew, "MIN_FACE", 40)
    found, about = dfew.subset(copy, weights={"emonet": str(tmp_path / "emonet_8.pth")})
    assert [pair.id for pair in found] == ["dfew-00001"]
    assert about["rank"] == "emonet"


def test_without_emonet_it_says_what_to_place(copy, monkeypatch, tmp_path):
    monkeypatch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path))
    with pytest.raises(NotComputed, match="place emonet_8"):
        dfew.subset(copy)


def test_a_copy_that_lacks_its_labels_is_told(tmp_path):
    with pytest.raises(PlatformError, match=r"set_1\.csv is missing"):
        dfew.subset(tmp_path, rank="seed")
