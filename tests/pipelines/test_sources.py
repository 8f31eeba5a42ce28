"""Readers list what is there; fingerprints know content, not names."""

import json
from pathlib import Path

import pytest

from pipelines.sources import READERS
from pipelines.sources.source import Source, fingerprinted
from xnemo_platform.errors import PlatformError


def touch(path: Path, data: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def test_a_folder_tells_people_apart_by_its_first_level(tmp_path: Path) -> None:
    for name in ("anna/day1/a.mp4", "anna/b.MOV", "bob/c.webm", "solo.mkv", "notes.txt", ".hidden/d.mp4"):
        touch(tmp_path / name)
    found = {Path(source.uri).name: source.identity for source in READERS["folder"](str(tmp_path))}
    assert found == {"a.mp4": "anna", "b.MOV": "anna", "c.webm": "bob", "solo.mkv": "solo"}


def test_drawn_clips_bring_their_emotion(tmp_path: Path) -> None:
    touch(tmp_path / "id7" / "happy-2.mp4")
    (tmp_path / "id7" / "happy-2.json").write_text(json.dumps({"identity_seed": 7, "emotion": "happy", "intensity": 2}))
    (source,) = READERS["synthetic"](str(tmp_path))
    assert (source.identity, source.emotion, source.intensity) == ("seed-7", "happy", 2)


@pytest.mark.parametrize("sidecar", [None, "no json", "[]", "{}"])
def test_a_drawn_clip_without_its_truth_is_an_error(tmp_path: Path, sidecar: str | None) -> None:
    touch(tmp_path / "a.mp4")
    if sidecar is not None:
        (tmp_path / "a.json").write_text(sidecar)
    with pytest.raises(PlatformError, match=r"a\.json"):
        list(READERS["synthetic"](str(tmp_path)))


def prints(*sources: Source) -> list[str]:
    return [source.fingerprint for source in fingerprinted(sources)]


def test_a_fingerprint_is_of_content_and_span(tmp_path: Path) -> None:
    one, copy = touch(tmp_path / "a.mp4", b"same"), touch(tmp_path / "b.mp4", b"same")
    other = touch(tmp_path / "c.mp4", b"else")
    first, second, third, part = prints(
        Source(str(one), "x"), Source(str(copy), "y"), Source(str(other), "x"), Source(str(one), "x", start_s=1.0)
    )
    assert first == second
    assert len({first, third, part}) == 3


def test_the_end_of_a_long_file_counts(tmp_path: Path) -> None:
    one = touch(tmp_path / "a.mp4", bytes(1 << 20) + b"1")
    other = touch(tmp_path / "b.mp4", bytes(1 << 20) + b"2")
    assert len(set(prints(Source(str(one), "x"), Source(str(other), "x")))) == 2
