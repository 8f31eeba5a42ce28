"""What comes too slowly, cut short or too large is refused while or right after it comes, and nothing of it is kept."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.routes import create
from tests.pipelines.serve.conftest import listening

PART = b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n'


def limited(config: ServeConfig, folder: Path, **limits: Any) -> ServeConfig:
    return config.model_copy(update={"folder": str(folder), "limits": config.limits.model_copy(update=limits)})


def kept(folder: Path) -> list[str]:
    return [name for part in ("jobs", "scratch") if (folder / part).is_dir() for name in os.listdir(folder / part)]


@pytest.mark.parametrize(
    ("path", "limits"),
    [("/v1/animations", {"idle_s": 0.3}), ("/v1/animations", {"idle_s": 9, "upload_s": 0.5}),
     ("/v1/motions/interpolate", {"idle_s": 0.3})],
)  # fmt: skip
def test_an_upload_that_drips_is_given_up(
    config: ServeConfig, tmp_path: Path, path: str, limits: dict[str, float]
) -> None:
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nContent-Type: "
    kind = "application/json" if path.endswith("interpolate") else "multipart/form-data; boundary=b"
    with listening(limited(config, tmp_path, **limits)) as url:
        with socket.create_connection(("127.0.0.1", int(url.rsplit(":", 1)[1])), timeout=0.05) as client:
            client.sendall(f"{head}{kind}\r\n\r\n".encode() + PART % b"portrait")
            answer = b""
            while not answer:
                if "upload_s" in limits:
                    client.sendall(b"x")
                try:
                    answer = client.recv(4096)
                except TimeoutError:
                    continue
        assert answer.startswith(b"HTTP/1.1 408"), answer
    assert kept(tmp_path) == []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("limits")


@pytest.fixture(scope="module")
def client(config: ServeConfig, folder: Path) -> Iterator[TestClient]:
    with TestClient(create(limited(config, folder)), raise_server_exceptions=False) as client:
        yield client


@pytest.mark.parametrize("share", [0.1, 0.5, 0.8])
def test_a_video_cut_short_is_refused(
    client: TestClient, folder: Path, portrait: Path, driving: Path, share: float
) -> None:
    data = driving.read_bytes()
    sent = {"portrait": ("p", portrait.read_bytes()), "driving": ("d", data[: int(share * len(data))])}
    answer = client.post("/v1/animations", files=sent)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert kept(folder) == []


def test_a_form_that_ends_in_the_middle_is_refused(client: TestClient, folder: Path, portrait: Path) -> None:
    whole = PART % b"portrait" + portrait.read_bytes() + b"\r\n" + PART % b"driving" + b"\0\0\0\x18ftypisom"
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for cut in (10, len(PART), 1000, len(whole)):
        answer = client.post("/v1/animations", content=whole[:cut], headers=headers)
        assert answer.status_code in (400, 415, 422), answer.text
    assert kept(folder) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"pixels": 150 * 150}, "pixels"), ({"seconds": 0.2}, "at most 0 s"), ({"frames": 5}, "more than 5")],
)
def test_a_video_beyond_the_limits_is_refused_before_it_is_decoded(
    config: ServeConfig, tmp_path: Path, driving: Path, limits: dict[str, Any], words: str
) -> None:
    with TestClient(create(limited(config, tmp_path, **limits)), raise_server_exceptions=False) as client:
        answer = client.post("/v1/motions", files={"driving": ("d", driving.read_bytes())})
        assert answer.status_code == 422
        assert words in answer.json()["detail"]
    assert kept(tmp_path) == []
