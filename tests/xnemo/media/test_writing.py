"""Every format is read back with its frames, rate, sound and marks; what cannot be written leaves nothing behind."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.xnemo.media.conftest import number_of, picture
from xnemo.clip import Clip
from xnemo.errors import XNeMoError
from xnemo.media import provenance
from xnemo.media.images import read_image
from xnemo.media.sound import read_sound
from xnemo.media.video import probe, read_frames, stream_frames
from xnemo.media.writing import check_output, format_of, write_video

RATE = 44_100


def clicks(path: Path, seconds: float, at: float = 0.0, delay: float = 0.0) -> Path:
    """A film of black frames with a click every second from `at` on; its sound begins `delay` seconds late."""
    import av

    wave = np.zeros(round(seconds * RATE), np.float32)
    for second in np.arange(at, seconds, 1.0):
        wave[round(second * RATE) : round(second * RATE) + 200] = 0.9
    with av.open(str(path), "w", format="matroska") as out:
        film = out.add_stream("libx264", rate=25)
        film.width, film.height, film.pix_fmt = 64, 64, "yuv420p"
        voice = out.add_stream("pcm_s16le", rate=RATE, layout="mono")
        for number in range(round((seconds + delay) * 25)):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
            frame.pts = number
            out.mux(film.encode(frame))
        out.mux(film.encode(None))
        for first in range(0, len(wave), 1000):
            samples = (wave[None, first : first + 1000] * 32767).astype(np.int16)
            block = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            block.sample_rate, block.pts = RATE, first + round(delay * RATE)
            out.mux(voice.encode(block))
        out.mux(voice.encode(None))
    return path


def heard(path: Path, seconds: float) -> np.ndarray:
    """When the clicks of a file are heard."""
    sound = np.concatenate(list(read_sound(path, 0, seconds, rate=48_000, layout="mono")), axis=1)[0]
    loud = np.flatnonzero(np.abs(sound) > 0.25)
    return loud[np.diff(loud, prepend=-48_000) > 24_000] / 48_000


@pytest.mark.parametrize("ending", ["mp4", "webm"])
@pytest.mark.parametrize(("start", "delay"), [(0.0, 0.0), (0.6, 0.0), (0.0, 0.3), (0.7, 0.3)])
def test_sound_is_where_it_was_to_the_frame(tmp_path: Path, ending: str, start: float, delay: float) -> None:
    source = clicks(tmp_path / "s.mkv", 5, 0.9, delay)
    film = (np.zeros((32, 32, 3), np.uint8) for _ in range(75))
    saved = write_video(tmp_path / f"v.{ending}", film, 25, audio_from=source, audio_start=start)
    expected = [at for at in np.arange(0.9, 5, 1.0) + delay - start if 0 <= at < 3]
    np.testing.assert_allclose(heard(saved, 3), expected, atol=0.01)
    assert abs(sum(block.shape[1] for block in read_sound(saved, 0, 9, rate=48_000)) / 48_000 - 3) < 0.06


def test_sound_lies_between_the_pictures(tmp_path: Path) -> None:
    import av

    source = clicks(tmp_path / "s.mkv", 8)
    saved = write_video(tmp_path / "v.mp4", (np.zeros((32, 32, 3), np.uint8) for _ in range(200)), 25, source)
    with av.open(str(saved)) as container:
        packets = [(packet.pos, packet.stream.type) for packet in container.demux() if packet.size]
    kinds = [kind for _, kind in sorted(packets)]
    assert kinds.index("audio") < kinds.index("video") + 150
    assert sum(a != b for a, b in pairwise(kinds)) > 6


@pytest.mark.parametrize("name", ["v.webm", "v.gif", "frames"])
def test_every_format_holds_the_frames_and_the_marks(tmp_path: Path, name: str) -> None:
    frames = np.stack([picture(number, 256, 256) for number in range(6)])
    saved = Clip(frames, 25.0, model="m").save(tmp_path / name)
    found = provenance.inspect(saved)
    assert found.note is not None
    assert found.note["model"] == "m"
    assert found.watermark > provenance.THRESHOLD
    if name == "frames":
        shown = np.stack([read_image(saved / f"{number:06}.png") for number in range(6)])
        assert json.loads((saved / "sequence.json").read_text()) == {"fps": 25.0, "frames": 6}
    else:
        shown = read_frames(saved)
        assert probe(saved).fps == pytest.approx(25, rel=0.01)
    assert [number_of(frame) for frame in shown] == list(range(6))


def test_a_picture_holds_one_frame(tmp_path: Path) -> None:
    frame = picture(3, 256, 256)
    for name in ("p.png", "p.jpg", "p.webp"):
        saved = Clip(frame[None], 25.0, model="m").save(tmp_path / name)
        assert number_of(read_image(saved)) == 3
        assert provenance.inspect(saved).note is not None
    with pytest.raises(XNeMoError, match="one frame"):
        Clip(np.stack([frame, frame]), 25.0).save(tmp_path / "two.png")
    assert not (tmp_path / "two.png").exists()


def test_odd_sides_are_padded(tmp_path: Path) -> None:
    saved = write_video(tmp_path / "v.webm", iter(np.zeros((3, 65, 33, 3), np.uint8)), 24.975)
    assert next(stream_frames(saved)).shape[1:] == (66, 34, 3)


@pytest.mark.parametrize("name", ["v.avi", "v.txt"])
def test_an_unknown_ending_is_refused(name: str) -> None:
    with pytest.raises(XNeMoError, match=r"\.mp4, \.webm or \.gif"):
        format_of(name)


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(XNeMoError, match="cannot be written"):
        check_output(tmp_path / "file" / "v.mp4")
    check_output(tmp_path / "new" / "folder" / "v.mp4")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("")
    with pytest.raises(XNeMoError, match="empty folder"):
        check_output(tmp_path / "full")


@pytest.mark.parametrize("name", ["v.mp4", "v.gif", "v"])
def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    code = """
import sys, resource, signal
import numpy as np
from xnemo.errors import XNeMoError
from xnemo.media.writing import write_video
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
noise = np.random.default_rng(0)
try:
    write_video(sys.argv[1], (noise.integers(0, 256, (96, 96, 3), dtype=np.uint8) for _ in range(40)), 25)
except XNeMoError as error:
    sys.exit(str(error))
"""
    ran = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "cannot be written" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_writes_is_not(tmp_path):
    dead, alive = tmp_path / ".out.mp4.99999999.part", tmp_path / ".out.mp4.1.part"
    for path in (dead, alive):
        path.write_bytes(b"half")
    write_video(tmp_path / "out.mp4", iter(np.zeros((3, 64, 64, 3), np.uint8)), 25)
    assert (dead.exists(), alive.exists()) == (False, True)
