"""What the documents say to type does what they say."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import serve as job
from pipelines.serve.config import ServeConfig
from xnemo.media.video import probe
from xnemo_platform.access import Access

ROOT = Path(__file__).parents[3]
HERE = "http://127.0.0.1:8000"


@pytest.fixture
def folder(portrait: Path, driving: Path, tmp_path: Path) -> Path:
    shutil.copy(portrait, tmp_path / "p.png")
    shutil.copy(driving, tmp_path / "d.mp4")
    return tmp_path


def test_the_curl_lines_of_the_readme_make_a_video(served: str, folder: Path) -> None:
    if shutil.which("curl") is None:
        pytest.skip("no curl on this machine")
    [script] = [
        block for block in re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.S) if HERE in block
    ]
    command = ["bash", "-euc", script.replace(HERE, served).replace("python3", sys.executable)]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=True)
    assert '"state":"done"' in shown.stdout
    assert probe(folder / "out.mp4").frames == 10


def test_the_python_lines_of_the_docs_make_a_video(served: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text(), re.S)
    monkeypatch.chdir(folder)
    exec(code.replace(HERE, served), {})
    assert probe(folder / "out.mp4").frames == 10


def test_keys_are_made_listed_and_revoked_by_the_command(
    config: ServeConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"folder={tmp_path}"]
    assert job.main(["--add-key", "ada", *words]) == 0
    token = capsys.readouterr().out.strip()
    access = Access(config.model_copy(update={"folder": str(tmp_path)}).store_url)
    assert access.whose(token)
    job.main(["--keys", "--audit", *words])
    listed = capsys.readouterr().out
    assert '"name": "ada"' in listed
    assert token.split("_", 2)[2] not in listed
    job.main(["--revoke-key", "ada", *words])
    assert access.whose(token) is None
