"""Every reader on a small layout as its data set lies on disk, with the traps that are known of it."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from pipelines.sources import READERS
from pipelines.sources.nersemble import frontal
from pipelines.sources.source import EVERYTHING, Source, SourceConfig, as_plain, from_plain
from xnemo.media.stills import Stills
from xnemo_platform.errors import PlatformError

CLIP = "Clip+a-b_C1d+P0+C2+F1500-1560"
META = "H 720\nW 1280\nFPS 29.97\nCROP 320 40 960 680\n"


def touch(path: Path, data: bytes | str = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def listed(reader: str, folder: Path, options: SourceConfig = EVERYTHING) -> list[Source]:
    return sorted(READERS[reader](str(folder), options), key=lambda source: (source.uri, source.start_s))


def codes(sources: list[Source]) -> list[str]:
    return [source.problem.partition(":")[0] for source in sources if source.problem]


@pytest.fixture
def hdtf(tmp_path: Path) -> Path:
    notes = tmp_path / "HDTF_dataset"
    touch(notes / "WDA_annotion_time.txt", "\ufeffAnnSmith1.mp4 00:10-01:05 02:00-02:30 \r\nGone.mp4 00:01-00:09\r\n")
    touch(notes / "WDA_crop_wh.txt", "AnnSmith1_0.mp4 100 512 50 512\n")  # the second span has no row
    touch(notes / "WDA_resolution.txt", "AnnSmith1.mp4 720\nGone.mp4 0\n")
    touch(tmp_path / "raw" / "AnnSmith1.mp4")
    touch(tmp_path / "cut" / "RD_Radio12_003.mp4")
    return tmp_path


def test_hdtf_gives_the_spans_of_whole_videos_and_the_cut_ones(hdtf: Path) -> None:
    found = listed("hdtf", hdtf)
    good = [source for source in found if not source.problem]
    assert [(Path(s.uri).name, s.identity, s.start_s, s.end_s) for s in good] == [
        ("RD_Radio12_003.mp4", "Radio12", 0.0, None),
        ("AnnSmith1.mp4", "AnnSmith", 10.0, 65.0),  # the byte order mark is no part of the name
        ("AnnSmith1.mp4", "AnnSmith", 120.0, 150.0),
    ]
    assert [s.region for s in good] == [None, (100.0, 50.0, 612.0, 562.0), None]
    assert good[1].region_of == (0.0, 720.0)
    assert codes(found) == ["missing"]


@pytest.mark.parametrize(("span", "height"), [("01:05-00:10", "720"), ("1:5", "720"), ("soon", "720")])
def test_a_damaged_hdtf_span_is_told(hdtf: Path, span: str, height: str) -> None:
    touch(hdtf / "HDTF_dataset" / "WDA_annotion_time.txt", f"AnnSmith1.mp4 {span}")
    assert codes(listed("hdtf", hdtf)) == ["annotation"]


def test_an_hdtf_crop_of_unknown_height_is_not_used(hdtf: Path) -> None:
    touch(hdtf / "HDTF_dataset" / "WDA_resolution.txt", "AnnSmith1.mp4 0")
    assert all(source.region is None for source in listed("hdtf", hdtf))


def test_hdtf_knows_a_person_by_any_of_the_names_a_clip_goes_by(hdtf: Path) -> None:
    touch(hdtf / "HDTF_dataset" / "WDA_annotion_time.txt", "AnnSmith1.mp4 00:10-01:05\nBobOwen0.mp4 00:01-00:09")
    for name in ("WDA_AnnSmith2_000", "WDA_BobOwen0_000", "WDA_BobOwen0_001", "RD_Radio1_000", "WRA_VickyHartzler_004"):
        touch(hdtf / "flat" / f"{name}.mp4", name)
    found = listed("hdtf", hdtf)
    assert codes(found) == []  # BobOwen0 is there in parts
    assert sorted((Path(s.uri).stem, s.identity) for s in found) == [
        ("AnnSmith1", "AnnSmith"),
        ("RD_Radio12_003", "Radio12"),
        ("RD_Radio1_000", "Radio1"),  # not the person of Radio12: speakers on the radio have only a number
        ("WDA_AnnSmith2_000", "AnnSmith"),
        ("WDA_BobOwen0_000", "BobOwen"),
        ("WDA_BobOwen0_001", "BobOwen"),
        ("WRA_VickyHartzler_004", "VickyHartzler"),
    ]


@pytest.mark.parametrize("name", ["Clip+x+P1+C0", "Clip+x+y+P1+C0+F0-9", "clip+x+P1+C0+F0-9"])
def test_vfhq_names_of_other_than_five_parts_are_no_clips(tmp_path: Path, name: str) -> None:
    touch(tmp_path / f"{name}.mp4")
    assert listed("vfhq", tmp_path) == []


def test_vfhq_frames_lie_in_folders_or_zips_at_the_rate_of_their_meta_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = "Clip+x+P1+C0+F0-9"
    for group in ("group1", "group2"):  # folders of the same name in two groups
        touch(tmp_path / group / CLIP / "00000000.png")
    touch(tmp_path / "meta_info" / f"{CLIP}.txt", META)
    with zipfile.ZipFile(tmp_path / "group3.zip", "w") as archive:
        archive.writestr(f"group3/{other}/00000000.png", b"x")
        archive.writestr("group3/notes.txt", b"x")
    touch(tmp_path / "group4.zip", b"no zip")
    found = listed("vfhq", tmp_path)
    assert [(Path(s.uri).relative_to(tmp_path).parts[0], s.identity, s.stills) for s in found] == [
        ("group1", "a-b_C1d+P0", Stills("*", 29.97)),
        ("group2", "a-b_C1d+P0", Stills("*", 29.97)),
        ("group3.zip", "x+P1", Stills(f"group3/{other}/*", 30.0)),
        ("group4.zip", "", None),
    ]
    assert codes(found) == ["format"]
    assert f"{other}: no meta file says its frame rate; 30 is assumed" in caplog.text


def test_a_vfhq_meta_file_names_a_span_of_a_whole_video(tmp_path: Path) -> None:
    touch(tmp_path / "meta_info" / f"{CLIP}.txt", META)
    assert codes(listed("vfhq", tmp_path)) == ["missing"]
    touch(tmp_path / "videos" / "a-b_C1d.mp4")
    (source,) = listed("vfhq", tmp_path)
    assert (source.start_s, source.end_s) == pytest.approx((1501 / 29.97, 1560 / 29.97))  # frames a + 1 to b - 1
    assert (source.region, source.region_of) == ((320.0, 40.0, 960.0, 680.0), (1280.0, 720.0))


@pytest.mark.parametrize("text", ["", "H 720\nW 1280\nFPS x\nCROP 1 2 3 4", META.replace("29.97", "0")])
def test_a_damaged_vfhq_meta_file_is_told(tmp_path: Path, text: str) -> None:
    touch(tmp_path / f"{CLIP}.txt", text)
    touch(tmp_path / "a-b_C1d.mp4")
    assert codes(listed("vfhq", tmp_path)) == ["annotation"]


def calibration(degrees: dict[str, float]) -> str:
    """Cameras on an arc of one metre round a face at the origin, looking at it."""
    poses = {}
    for serial, angle in degrees.items():
        place = np.array([np.sin(np.radians(angle)), 0, np.cos(np.radians(angle))])
        across = np.array([-place[2], 0, place[0]])
        rotation = np.stack([across, np.cross(-place, across), -place])
        poses[serial] = np.vstack([np.column_stack([rotation, -rotation @ place]), [0, 0, 0, 1]]).tolist()
    return json.dumps({"world_2_cam": poses})


ARC = {"221": -45.0, "222": -15.0, "223": 2.0, "224": 15.0, "225": 44.0}


def test_nersemble_takes_the_near_frontal_cameras(tmp_path: Path) -> None:
    touch(tmp_path / "017" / "calibration" / "camera_params.json", calibration(ARC))
    for serial in ARC:
        touch(tmp_path / "017" / "sequences" / "EMO-1-shout+laugh" / "images" / f"cam_{serial}.mp4")
    touch(tmp_path / "017" / "sequences" / "BACKGROUND" / "image_223.jpg")
    found = listed("nersemble", tmp_path)
    assert [(Path(s.uri).stem, s.identity) for s in found] == [(f"cam_{n}", "017") for n in (222, 223, 224)]
    found = listed("nersemble", tmp_path, SourceConfig(cameras=("221",)))
    assert [Path(s.uri).stem for s in found] == ["cam_221"]


def test_nersemble_v1_is_a_folder_per_frame(tmp_path: Path) -> None:
    touch(tmp_path / "018" / "camera_params.json", calibration(ARC))
    for frame in (0, 3, 6):
        for serial in ("221", "223"):
            folder = tmp_path / "018" / "sequences" / "FREE" / f"frame_{frame:05d}"
            touch(folder / "images-2x" / f"cam_{serial}.png")
            touch(folder / "alpha_map" / f"cam_{serial}.png")
    (source,) = listed("nersemble", tmp_path)
    assert source.uri.endswith("018/sequences/FREE")
    assert source.stills == Stills("frame_*/images-2x/cam_223.png", 73.0)


def test_nersemble_without_a_calibration_asks_for_cameras(tmp_path: Path) -> None:
    touch(tmp_path / "017" / "sequences" / "FREE" / "images" / "cam_222200037.mp4")
    with pytest.raises(PlatformError, match=r"reader_options\.cameras"):
        listed("nersemble", tmp_path)
    with pytest.raises(PlatformError, match="no world_2_cam"):
        frontal({}, 20.0, "x")


def celebv(box: dict[str, float], **more: object) -> dict:
    duration = more.pop("duration", {"start_sec": 3.0, "end_sec": 7.5})
    return {"ytb_id": "vid-1", "duration": duration, "bbox": box, "attributes": more}


SHARES = {"top": 0.1, "bottom": 0.9, "left": 0.2, "right": 0.6}
PIXELS = {"top": 72.0, "bottom": 648.0, "left": 256.0, "right": 768.0}


def test_celebvhq_boxes_are_shares_and_celebvtext_boxes_pixels(tmp_path: Path) -> None:
    emotion = {"sep_flag": False, "labels": "happy"}
    touch(
        tmp_path / "hq" / "celebvhq_info.json",
        json.dumps({"meta_info": {}, "clips": {"vid-1_0": celebv(SHARES, emotion=emotion)}}),
    )
    touch(
        tmp_path / "text" / "celebvtext_info.json",
        json.dumps({"vid-1_0": celebv(PIXELS, duration={"start_frame": 3, "end_frame": 7})}),
    )
    for folder in ("hq", "text"):
        touch(tmp_path / folder / "raw" / "vid-1.mp4")
    (high,), (text,) = listed("celebvhq", tmp_path / "hq"), listed("celebvtext", tmp_path / "text")
    assert (high.region, high.region_of, high.emotion) == ((0.2, 0.1, 0.6, 0.9), (1.0, 1.0), "happy")
    assert (text.region, text.region_of, text.emotion) == ((256.0, 72.0, 768.0, 648.0), (0.0, 0.0), None)
    assert [(s.identity, s.start_s, s.end_s) for s in (high, text)] == [("vid-1", 3.0, 7.5), ("vid-1", 3.0, 7.0)]


def test_a_celebv_clip_that_is_cut_already_is_used_as_it_is(tmp_path: Path) -> None:
    entries = {"vid-1_0": celebv(SHARES), "dead_4": celebv(SHARES) | {"ytb_id": "dead"}, "bad_1": {"ytb_id": "bad"}}
    touch(tmp_path / "celebvhq_info.json", json.dumps({"clips": entries}))
    touch(tmp_path / "processed" / "vid-1_0.mp4")
    found = listed("celebvhq", tmp_path)
    assert sorted(codes(found)) == ["annotation", "missing"]
    assert [(s.start_s, s.end_s) for s in found if not s.problem] == [(0.0, None)]


@pytest.mark.parametrize("text", ["", "[]", '{"clips": []}'])
def test_a_damaged_celebv_list_is_an_error(tmp_path: Path, text: str) -> None:
    touch(tmp_path / "celebvhq_info.json", text)
    with pytest.raises(PlatformError, match=r"celebvhq_info\.json"):
        listed("celebvhq", tmp_path)


def test_mead_brings_emotion_and_intensity_of_the_front_view(tmp_path: Path) -> None:
    for view in ("front", "left_30"):
        touch(tmp_path / "M003" / "video" / view / "angry" / "level_2" / "001.mp4")
    (source,) = listed("mead", tmp_path)
    assert (source.identity, source.emotion, source.intensity) == ("M003", "angry", 2)
    assert len(listed("mead", tmp_path, SourceConfig(cameras=("front", "left_30")))) == 2


def test_mead_lies_with_or_without_its_video_folder(tmp_path: Path) -> None:
    touch(tmp_path / "MEAD" / "W011" / "front" / "neutral" / "level_1" / "030.mp4")
    touch(tmp_path / "MEAD" / "W011" / "audio" / "neutral" / "level_1" / "030.m4a")
    touch(tmp_path / "MEAD" / "W011" / "video" / "top" / "happy" / "level_3" / "001.mp4")
    touch(tmp_path / "MEAD" / "W011" / "preview.mp4")
    (source,) = listed("mead", tmp_path)
    assert (source.identity, source.emotion, source.intensity) == ("W011", "neutral", 1)


def test_dfew_takes_the_larger_of_two_copies(tmp_path: Path) -> None:
    touch(tmp_path / "EmoLabel_DataSplit" / "train(single-labeled)" / "set_1.csv", "video_name,label\n00003,1\n")
    touch(tmp_path / "Annotation" / "annotation.csv", "1happy,2sad,order,label\n9,1,3,1\n")
    touch(tmp_path / "Clip" / "clip_224x224_avi" / "00003.avi")
    touch(tmp_path / "Clip" / "original" / "part_1" / "3.mp4")
    assert [(Path(s.uri).name, s.emotion) for s in listed("dfew", tmp_path)] == [("3.mp4", "happy")]


def test_dfew_brings_the_emotion_of_clips_with_one_label(tmp_path: Path) -> None:
    touch(tmp_path / "EmoLabel_DataSplit" / "set_1.csv", "\ufeffvideo_name,label\r\n7,3\r\n8.mp4,7\r\n9,0\r\n")
    for name in ("00007", "8", "9"):
        touch(tmp_path / "Clip" / f"{name}.mp4")
    assert [(s.identity, s.emotion) for s in listed("dfew", tmp_path)] == [
        ("00007", "neutral"),
        ("8", "fear"),
        ("9", None),
    ]


def test_a_linked_folder_is_told_and_not_followed(tmp_path: Path) -> None:
    touch(tmp_path / "a" / "v.mp4")
    (tmp_path / "a" / "round").symlink_to(tmp_path)
    found = listed("folder", tmp_path)
    assert ([Path(s.uri).name for s in found], codes(found)) == (["round", "v.mp4"], ["link"])


def test_sources_travel_as_text() -> None:
    source = Source(
        "u", "i", emotion="e", intensity=1, end_s=2.0, region=(0.0, 0.1, 0.2, 0.3), stills=Stills("*", 30.0)
    )
    assert from_plain(json.loads(json.dumps(as_plain(source)))) == source
