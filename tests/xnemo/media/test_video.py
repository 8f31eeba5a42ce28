"""Video files in and out: right frames at right times, whatever the container says, and refusal of the rest."""

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tests.xnemo.media.conftest import HEIGHT, WIDTH, number_of, picture, with_edit_list
from xnemo.errors import XNeMoError
from xnemo.media.limits import Limits, MediaError
from xnemo.media.video import check, pick, probe, read_frames, stream_frames, write_video

Make = Callable[..., Path]
STEADY = [k / 25 for k in range(10)]


def numbers(frames: np.ndarray) -> list[int]:
    return [int(number_of(frame)) for frame in frames]


def refused(path: Path, limits: Limits | None = None) -> str:
    with pytest.raises(MediaError) as caught:
        read_frames(path, limits=limits or Limits())
    return caught.value.code


def test_probe_tells_what_is_in_the_file(clip: Path) -> None:
    info = probe(clip)
    assert (info.width, info.height, info.frames, info.rotation, info.codec) == (WIDTH, HEIGHT, 50, 0, "h264")
    assert info.has_audio
    assert info.fps == pytest.approx(25)
    assert info.duration == pytest.approx(2)


def test_every_frame_comes_once_and_in_order(clip: Path) -> None:
    assert numbers(read_frames(clip)) == list(range(50))


def test_batches_of_a_stream_are_the_frames_of_the_whole(clip: Path) -> None:
    batches = list(stream_frames(clip))
    assert max(map(len, batches)) <= 32
    np.testing.assert_array_equal(np.concatenate(batches), read_frames(clip))


def test_frames_are_rgb(clip: Path) -> None:
    red = read_frames(clip, max_frames=1)[0][-10, 10].astype(int)
    assert red[0] > 180
    assert red[1] < 70
    assert red[2] < 70


def test_start_and_end_are_seconds(clip: Path) -> None:
    assert numbers(read_frames(clip, start=0.4, end=0.8)) == list(range(10, 20))


def test_a_faster_source_is_thinned_by_time(video: Make) -> None:
    path = video("fast.mp4", [k / 75 for k in range(90)])
    assert numbers(read_frames(path, fps=25)) == list(range(0, 90, 3))


def test_a_variable_rate_is_resampled_by_its_time_stamps(video: Make) -> None:
    path = video("vfr.mp4", [0, 0.04, 0.08, 0.30, 0.34, 0.60])
    # at 0, 0.1, ... 0.6 s the nearest frame is shown
    assert numbers(read_frames(path, fps=10)) == [0, 2, 3, 3, 4, 5]


def test_frames_are_resized_in_the_reader(clip: Path) -> None:
    assert read_frames(clip, size=(64, 48), max_frames=2).shape == (2, 48, 64, 3)
    assert read_frames(clip, max_side=64, max_frames=2).shape == (2, 48, 64, 3)


def test_a_picture_is_never_enlarged_by_max_side(clip: Path) -> None:
    assert read_frames(clip, max_side=4000, max_frames=1).shape == (1, HEIGHT, WIDTH, 3)


@pytest.mark.parametrize(("rotation", "corner"), [(90, (-8, -8)), (180, (8, -8)), (-90, (8, 8))])
def test_rotation_is_applied(video: Make, rotation: int, corner: tuple[int, int]) -> None:
    path = video("turned.mp4", STEADY, rotation=rotation)
    info, frames = probe(path), read_frames(path)
    assert frames.shape == (10, info.height, info.width, 3)
    assert (info.width < info.height) == (abs(rotation) == 90)
    assert frames[0][corner][0] > 180  # the red quarter is at the lower left of the unturned picture


def test_hidden_frames_of_an_edit_list_are_not_shown(clip: Path, tmp_path: Path) -> None:
    path = with_edit_list(clip, tmp_path / "edited.mp4", hidden=15)
    assert not probe(path).decord
    assert numbers(read_frames(path)) == list(range(15, 50))


@pytest.mark.parametrize("name", ["turned.mp4", "av1.mp4", "edited.mp4", "vp9.webm"])
def test_the_other_decoder_begins_where_it_is_asked_to(video: Make, clip: Path, tmp_path: Path, name: str) -> None:
    times, first = [k / 25 for k in range(40)], 0
    if name == "edited.mp4":
        path, first = with_edit_list(clip, tmp_path / name, hidden=10), 10
    else:
        codec = {"av1.mp4": "libsvtav1", "vp9.webm": "libvpx-vp9"}.get(name, "libx264")
        path = video(name, times, codec=codec, rotation=180 if name == "turned.mp4" else 0)
    info = replace(probe(path), decord=False)
    found = np.concatenate(list(stream_frames(path, info=info, start=1.0, end=1.4, refuse_damage=True)))
    found = found[:, ::-1, ::-1] if name == "turned.mp4" else found
    assert numbers(found) == list(range(first + 25, first + 35))


def test_the_other_decoder_is_not_stopped_by_damage_it_need_not_read(video: Make) -> None:
    path = video("turned.mp4", [k / 25 for k in range(60)], rotation=90)
    whole = probe(path)
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size, p.is_keyframe) for p in container.demux(video=0) if p.size]
    (at, size, _), data = [packet for packet in packets if packet[2]][1], bytearray(path.read_bytes())
    data[at + 8 : at + size] = bytes(size - 8)  # the picture of the second key frame, frame 12
    path.write_bytes(data)

    def asked(start: float, end: float) -> int:
        return sum(map(len, stream_frames(path, info=whole, start=start, end=end, refuse_damage=True)))

    assert (asked(0.0, 0.4), asked(2.0, 2.4)) == (10, 10)
    with pytest.raises(MediaError, match="is damaged"):
        asked(0.4, 0.8)


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "libsvtav1"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264")])
def test_other_codecs_and_containers_are_read(video: Make, name: str, codec: str) -> None:
    assert numbers(read_frames(video(name, STEADY, codec=codec))) == list(range(10))


def test_one_frame_is_a_video(video: Make) -> None:
    assert numbers(read_frames(video("one.mp4", [0.0]), fps=25)) == [0]


def test_a_file_cut_short_is_refused(clip: Path, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "fast-start.mp4", read_frames(clip), 25).read_bytes()
    half = tmp_path / "half.mp4"
    half.write_bytes(whole[: len(whole) * 6 // 10])
    assert refused(half) == "truncated"


@pytest.mark.parametrize(("name", "codec"), [("v.mkv", "libx264"), ("v.webm", "libvpx-vp9"), ("v.avi", "mpeg4")])
def test_a_file_that_says_its_own_length_is_refused_when_it_is_cut(
    video: Make, tmp_path: Path, name: str, codec: str
) -> None:
    whole = video(name, STEADY, codec=codec).read_bytes()
    half = tmp_path / f"half-{name}"
    half.write_bytes(whole[: len(whole) * 6 // 10])
    assert refused(half) == "truncated"


def test_a_file_without_its_header_is_refused(clip: Path, tmp_path: Path) -> None:
    half = tmp_path / "half.mp4"
    half.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    assert refused(half) == "unreadable"


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", bytes(range(256)) * 40, b"\xff\xd8\xff" * 90])
def test_what_is_no_video_is_refused_by_its_first_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "fake.mp4"
    path.write_bytes(content)
    assert refused(path) == "format"


def test_a_play_list_of_local_files_is_refused(clip: Path, tmp_path: Path) -> None:
    path = tmp_path / "list.mp4"
    path.write_text(f"ffconcat version 1.0\nfile {clip}\n")
    assert refused(path) == "format"


def test_a_play_list_of_addresses_is_never_followed(tmp_path: Path) -> None:
    called = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.5)

        def listen() -> None:
            try:
                server.accept()
                called.set()
            except TimeoutError:
                pass

        listener = threading.Thread(target=listen)
        listener.start()
        path = tmp_path / "stream.mp4"
        path.write_text(f"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{server.getsockname()[1]}/a.ts\n")
        assert refused(path) == "format"
        listener.join()
    assert not called.is_set()


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "voice.m4a"
    with av.open(str(path), "w", format="mp4") as out:
        stream = out.add_stream("aac", rate=16_000, layout="mono")
        block = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), format="fltp", layout="mono")
        block.sample_rate = 16_000
        out.mux(stream.encode(block))
        out.mux(stream.encode(None))
    assert refused(path) == "no_video"


def test_a_missing_file_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r"nowhere\.mp4"):
        probe(tmp_path / "nowhere.mp4")


@pytest.mark.parametrize(
    ("limits", "code"),
    [
        (Limits(pixels=WIDTH * HEIGHT - 1), "too_large"),
        (Limits(frames=49), "too_long"),
        (Limits(seconds=1.9), "too_long"),
        (Limits(total_pixels=WIDTH * HEIGHT * 49), "too_long"),
        (Limits(bytes=1000), "too_large"),
    ],
)
def test_every_limit_is_checked_before_decoding(clip: Path, limits: Limits, code: str) -> None:
    with pytest.raises(MediaError) as caught:
        probe(clip, limits)
    assert caught.value.code == code


def test_flipped_bytes_end_in_frames_or_a_typed_error(clip: Path, tmp_path: Path) -> None:
    data = clip.read_bytes()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        damaged = bytearray(data)
        for at in rng.integers(16, len(data), 40):
            damaged[at] ^= int(rng.integers(1, 256))
        path = tmp_path / f"{seed}.mp4"
        path.write_bytes(damaged)
        with contextlib.suppress(MediaError):  # any other error, or none of the two, fails the test
            assert numbers(read_frames(path))


def test_damage_that_players_paint_over_is_noticed_by_the_check(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = write_video(tmp_path / "a.mp4", rng.integers(0, 256, (20, 64, 64, 3), dtype=np.uint8), 25)
    check(path)
    damaged = bytearray(path.read_bytes())
    for at in rng.integers(len(damaged) // 2, len(damaged), 5):
        damaged[at] ^= 255
    path.write_bytes(damaged)
    with pytest.raises(MediaError, match="is damaged a"):
        check(path)
    check(path, end=0.2)


def test_a_written_video_is_read_back_alike(tmp_path: Path) -> None:
    frames = np.stack([picture(k) for k in range(12)])
    path = write_video(tmp_path / "out.mp4", iter(frames), 25)
    back = read_frames(path)
    assert numbers(back) == list(range(12))
    assert np.abs(back.astype(int) - frames).mean() < 4


def test_a_written_video_starts_fast_and_has_even_sides(tmp_path: Path) -> None:
    path = write_video(tmp_path / "odd.mp4", [picture(1, 77, 51)] * 3, 30)
    data = path.read_bytes()
    assert 0 < data.find(b"moov") < data.find(b"mdat")
    assert (probe(path).width, probe(path).height) == (78, 52)


def test_sound_is_cut_to_the_length_of_the_picture(clip: Path, tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", [picture(k) for k in range(20)], 25, audio_from=clip)
    with av.open(str(path)) as container:
        assert float(container.streams.audio[0].duration * container.streams.audio[0].time_base) == pytest.approx(
            0.8, abs=0.1
        )


def test_metadata_is_written(tmp_path: Path) -> None:
    path = write_video(tmp_path / "out.mp4", [picture(1)], 25, metadata={"comment": "made by a machine"})
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == "made by a machine"


def test_a_failing_source_of_frames_leaves_no_file(tmp_path: Path) -> None:
    def frames():  # type: ignore[no-untyped-def]
        yield picture(0)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError, match="the model failed"):
        write_video(tmp_path / "out.mp4", frames(), 25)
    assert list(tmp_path.iterdir()) == []


def test_no_frames_are_an_error_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(XNeMoError, match="no frames"):
        write_video(tmp_path / "out.mp4", [], 25)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fps", [25.0, 29.97, 23.976, 50.0])
def test_picking_at_the_sources_own_rate_takes_every_frame_once(fps: float) -> None:
    times = np.arange(200) / fps
    np.testing.assert_array_equal(pick(times, 200 / fps, fps), np.arange(200))


@pytest.mark.real_media
def test_real_clips_are_read_whole(samples: Path) -> None:
    for path in sorted((samples / "driving").glob("*.mp4")):
        info = probe(path)
        count = sum(len(batch) for batch in stream_frames(path, max_side=64))
        assert count == info.frames, path.name
