"""What the HTTP interface refuses, and how: one sentence, the right status, nothing left behind."""

import os
import socket
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.serve import api, problems
from pipelines.serve.config import AnimationOptions, ServeConfig
from xnemo_platform.errors import PlatformError


@pytest.fixture(scope="module")
def good(portrait: Path, driving: Path) -> dict[str, Any]:
    return {"portrait": ("p.png", portrait.read_bytes()), "driving": ("d.mp4", driving.read_bytes())}


def refused(answer: Any, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert (body["status"], bool(body["title"])) == (status, True)
    assert words in body["detail"]
    assert "/" not in body["detail"].replace("multipart/form-data", "")  # no path of ours


def leftovers(desk: TestClient, tmp_path: Path) -> list[str]:
    """Jobs that have files, and uploads on their way."""
    folders = (tmp_path / "jobs", tmp_path / "scratch")
    return [name for folder in folders if folder.is_dir() for name in os.listdir(folder)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"steps": "0"}, "steps"),
        ({"steps": "101"}, "at most 100"),
        ({"steps": "many"}, "steps"),
        ({"guidance_scale": "nan"}, "guidance_scale"),
        ({"guidance_scale": "-1"}, "guidance_scale"),
        ({"seed": "-1"}, "seed"),
        ({"head_motion": "wild"}, "head_motion"),
        ({"start": "3", "end": "2"}, "end must be later"),
        ({"stepps": "3"}, "stepps"),
        ({"motion": "0" * 32}, "not both"),
    ],
)
def test_bad_options_are_named(
    desk: TestClient, tmp_path: Path, good: dict[str, Any], fields: dict[str, str], words: str
) -> None:
    refused(desk.post("/v1/animations", files=good, data=fields), 422, words)
    assert leftovers(desk, tmp_path) == []


@pytest.mark.parametrize(
    ("changed", "status", "words"),
    [
        ({"portrait": None}, 422, "portrait"),
        ({"driving": None}, 422, "driving"),
        ({"portrait": b""}, 415, "no known kind"),
        ({"portrait": b"GIF89a" + bytes(50)}, 415, "gif"),
        ({"portrait": bytes(4) + b"ftypheic" + bytes(50)}, 415, "heic"),
        ({"driving": b"FLV\x01" + bytes(200)}, 422, "driving"),
        ({"portrait": b"\x89PNG\r\n\x1a\n" + bytes(50)}, 422, "portrait"),
        ({"driving": b"ffconcat version 1.0\nfile /etc/passwd\n"}, 415, "no known kind"),
        ({"driving": b"#EXTM3U\nhttp://127.0.0.1/\n"}, 415, "no known kind"),
        ({"driving": bytes(4) + b"ftypisom" + bytes(200)}, 422, "driving"),
        ({"portrait": b"\xff\xd8\xff" + bytes((1 << 20) + 10)}, 413, "longer than 1 MiB"),
        ({"other": b"x"}, 400, "form"),
    ],
)
def test_bad_files_are_refused(
    desk: TestClient, tmp_path: Path, good: dict[str, Any], changed: dict[str, bytes | None], status: int, words: str
) -> None:
    sent = good | {role: (role, data) for role, data in changed.items() if data is not None}
    sent = {role: file for role, file in sent.items() if role not in changed or changed[role] is not None}
    refused(desk.post("/v1/animations", files=sent), status, words)
    assert leftovers(desk, tmp_path) == []


def test_a_picture_bomb_is_refused(desk: TestClient, good: dict[str, Any]) -> None:
    def chunk(body: bytes) -> bytes:
        return struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))

    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(header) + chunk(b"IDAT" + zlib.compress(bytes(1000)))
    refused(desk.post("/v1/animations", files=good | {"portrait": ("p", bomb)}), 422, "pixels")


def test_a_body_without_length_is_counted_while_it_comes(desk: TestClient) -> None:
    read = 0

    def endless() -> Any:
        nonlocal read
        yield b'--b\r\nContent-Disposition: form-data; name="driving"; filename="d"\r\n\r\n'
        while read < 100 << 20:
            read += 1 << 16
            yield bytes(1 << 16)

    answer = desk.post("/v1/animations", content=endless(), headers={"Content-Type": "multipart/form-data; boundary=b"})
    refused(answer, 413, "longer than")


def test_an_announced_length_is_refused_unread(desk: TestClient) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b", "Content-Length": str(1 << 40)}
    refused(desk.post("/v1/animations", content=b"", headers=headers), 413, "longer than")


def test_a_form_of_ten_thousand_parts_is_refused(desk: TestClient) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n1\r\n'
    answer = desk.post("/v1/animations", content=part * 10_000 + b"--b--\r\n",
                       headers={"Content-Type": "multipart/form-data; boundary=b"})  # fmt: skip
    refused(answer, 400, "form")


def test_something_else_than_a_form_is_refused(desk: TestClient) -> None:
    refused(desk.post("/v1/animations", json={"portrait": "file:///etc/passwd"}), 415, "multipart/form-data")


def test_what_is_meant_is_said_plainly(desk: TestClient, good: dict[str, Any]) -> None:
    written = desk.post("/v1/animations", files={"driving": good["driving"]}, data={"portrait": "http:me"})
    refused(written, 422, "portrait: send a file")
    torn = desk.post("/v1/motions/interpolate", content=b'{"keys": [', headers={"Content-Type": "application/json"})
    refused(torn, 422, "the body is no JSON")
    assert "/docs" in desk.get("/v1/nothing").json()["detail"]
    assert "/docs" in desk.put("/v1/animations").json()["detail"]


@pytest.mark.parametrize("name", ["..%2f..%2fetc%2fpasswd", "%00", "a" * 32 + "b", "A" * 32, "0" * 31])
def test_an_id_that_is_none_is_refused(desk: TestClient, name: str) -> None:
    for url in (f"/v1/animations/{name}", f"/v1/animations/{name}/video", f"/v1/motions/{name}/file"):
        assert desk.get(url).status_code in (404, 422)


def test_an_unknown_job_is_404(desk: TestClient) -> None:
    for url in ("/v1/animations/", "/v1/motions/"):
        refused(desk.get(url + "0" * 32), 404, "0" * 32)
        refused(desk.delete(url + "0" * 32), 404, "0" * 32)


def test_the_same_key_twenty_times_is_one_job(desk: TestClient, tmp_path: Path, good: dict[str, Any]) -> None:
    def post(_: int) -> Any:
        return desk.post("/v1/animations", files=good, headers={"Idempotency-Key": "k"})

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(post, range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert leftovers(desk, tmp_path) == [answers[0].json()["id"]]


def test_a_key_of_another_request_is_a_conflict(desk: TestClient, good: dict[str, Any]) -> None:
    desk.post("/v1/animations", files=good, headers={"Idempotency-Key": "k"})
    answer = desk.post("/v1/animations", files=good, data={"seed": "9"}, headers={"Idempotency-Key": "k"})
    refused(answer, 409, "different request")


def test_a_full_queue_answers_429_with_a_time(desk: TestClient, tmp_path: Path, good: dict[str, Any]) -> None:
    first = desk.post("/v1/animations", files=good, headers={"Idempotency-Key": "first"})
    for _ in range(3):
        assert desk.post("/v1/animations", files=good).status_code == 202
    answer = desk.post("/v1/animations", files=good)
    refused(answer, 429, "queue is full")
    assert int(answer.headers["retry-after"]) > 0
    again = desk.post("/v1/animations", files=good, headers={"Idempotency-Key": "first"})
    assert again.json()["id"] == first.json()["id"]
    assert len(leftovers(desk, tmp_path)) == 4


def test_a_queued_job_is_cancelled(desk: TestClient, good: dict[str, Any]) -> None:
    job = desk.post("/v1/animations", files=good).json()
    assert desk.delete(job["links"]["self"]).json()["state"] == "cancelled"
    assert desk.get(job["links"]["self"]).json()["state"] == "cancelled"


def test_without_an_engine_it_is_alive_but_not_ready(desk: TestClient) -> None:
    assert desk.get("/healthz").status_code == 200
    refused(desk.get("/readyz"), 503, "no engine")


def test_only_listed_samples_are_served(config: ServeConfig, tmp_path: Path) -> None:
    samples = tmp_path / "samples"
    (samples / "portraits").mkdir(parents=True)
    (samples / "portraits" / "a.png").write_bytes(b"a")
    (samples / "secret.png").write_bytes(b"s")
    changed = config.model_copy(update={"folder": str(tmp_path / "serve"), "samples": str(samples)})
    with TestClient(api.create(changed), raise_server_exceptions=False) as client:
        assert client.get("/samples").json() == {"portraits": ["a.png"], "driving": []}
        assert client.get("/samples/portraits/a.png").content == b"a"
        for name in ("portraits/..%2Fsecret.png", "portraits/secret.png", "secrets/a.png"):
            assert client.get(f"/samples/{name}").status_code == 404


def test_options_of_the_page_and_of_the_command_have_one_default() -> None:
    assert AnimationOptions().model_dump() == {
        "steps": None, "guidance_scale": None, "seed": 0, "head_motion": "relative", "face": None, "start": 0.0,
        "end": None, "label": True,
    }  # fmt: skip


def test_a_busy_port_is_one_sentence(config: ServeConfig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PlatformError, match=f"port {port} .* port=0"):
            api.start(config.model_copy(update={"port": port}))


def test_a_missing_model_is_one_sentence(config: ServeConfig) -> None:
    with pytest.raises(PlatformError, match="no model folder"):
        api.start(config.model_copy(update={"model": "nowhere"}))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/srv/data/x.mp4: damaged", "x.mp4: damaged"),
        ("s3://bucket/jobs/1/x.mp4 cannot be reached", "x.mp4 cannot be reached"),
        ("file:///srv/x.mp4: gone", "x.mp4: gone"),
        ("models:/xnemo@demo: no such alias", "models:/xnemo@demo: no such alias"),
        ("send multipart/form-data", "send multipart/form-data"),
    ],
)
def test_sentences_lose_their_paths(text: str, shown: str) -> None:
    assert problems.without_paths(text) == shown
