"""A thousand malformed and hostile requests: every one is answered, none with a server error, none tells where things
lie; and what is accepted under ten times too much load is done."""

import json
import random
import re
import resource
import string
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import Limits, ServeConfig
from pipelines.serve.routes import create
from tests.pipelines.serve.conftest import working

LEAK = re.compile(rb"Traceback|File \"|site-packages|/tmp/|/home/|/usr/|sqlite3?:|\.py\b|sqlalchemy", re.IGNORECASE)
NASTY = ["", "0", "-1", "1e999", "NaN", "true", "null", "[]", "{}", "../../etc/passwd", "%2e%2e%2f", "/etc/passwd",
         "\0", "a\0b", "😀" * 50, "A" * 5000, "' OR 1=1 --", "${jndi:x}", "{{7*7}}", "<script>",
         "file:///etc/passwd", "http://169.254.169.254/", "0x10", "1_000", "9" * 400,
         "\r\nSet-Cookie: a=b"]  # fmt: skip


@pytest.fixture(scope="module")
def app(config: ServeConfig, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = str(tmp_path_factory.mktemp("hostile"))
    with TestClient(create(config.model_copy(update={"folder": folder})), raise_server_exceptions=False) as client:
        yield client


def junk(draw: random.Random) -> Any:
    """A JSON value of any shape."""
    kind = draw.randrange(8)
    if kind < 3:
        return draw.choice(NASTY)
    if kind == 3:
        return draw.choice([0, -1, 10**30, 1e308, -0.0, True, None])
    if kind == 4:
        return [junk(draw) for _ in range(draw.randrange(4))]
    if kind == 5:
        return {
            draw.choice([*NASTY, "seconds", "keys", "motion", "seed"]): junk(draw) for _ in range(draw.randrange(4))
        }
    return "".join(draw.choices(string.printable, k=draw.randrange(40)))


def body_for(draw: random.Random, schema: dict[str, Any]) -> dict[str, Any]:
    """What goes along: a form or JSON near to what is asked for, or something else."""
    kind = draw.randrange(6)
    if kind == 0:
        return {"content": draw.randbytes(draw.randrange(3000)), "headers": {"Content-Type": draw.choice(
            ["multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=x; charset=\"",
             "application/json", "text/xml", "application/x-www-form-urlencoded", "", "*"])}}  # fmt: skip
    if kind == 1:
        return {"content": json.dumps(junk(draw)).encode()[: draw.randrange(1, 400)],
                "headers": {"Content-Type": "application/json"}}  # fmt: skip
    names = [*schema.get("properties", {}), "extra"]
    fields = {name: draw.choice(NASTY) for name in draw.sample(names, min(len(names), draw.randrange(5)))}
    if kind in (2, 3):
        heads = [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"RIFF....AVI ",
            b"\0\0\0\x18ftypisom",
            b"\x1aE\xdf\xa3",
            b"PK\3\4",
        ]
        files = {name: (draw.choice(NASTY[:20]) or "f", draw.choice(heads) + draw.randbytes(draw.randrange(2000)))
                 for name in draw.sample(["portrait", "driving", "motion", "x"], draw.randrange(1, 4))}  # fmt: skip
        return {"files": files, "data": {name: text.replace("\0", "") for name, text in fields.items()}}
    return {"json": fields if kind == 4 else {name: junk(draw) for name in fields}}


def test_a_thousand_hostile_requests_make_no_server_error_and_leak_nothing(app: TestClient) -> None:
    schema = app.get("/openapi.json").json()
    calls = [(path, method, operation) for path, item in schema["paths"].items() for method, operation in item.items()]
    draw, seen = random.Random(7), Counter[int]()
    for number in range(1000):
        path, method, operation = draw.choice(calls)
        path = re.sub(r"\{\w+\}", lambda _: draw.choice([*NASTY[1:], "0" * 32, "f" * 31]).replace("\0", "%00"), path)
        path = draw.choice([path, path, path, path + "/..", path + "//", path + "?" + "x" * draw.randrange(200)])
        content = operation.get("requestBody", {}).get("content", {})
        form = content.get("multipart/form-data", {}).get("schema", {})
        extra = body_for(draw, form) if method == "post" or draw.random() < 0.1 else {}
        headers = extra.pop("headers", {}) | draw.choice([{}, {"Idempotency-Key": "k" * draw.randrange(300)},
            {"Authorization": "Bearer " + "x" * draw.randrange(99)}, {"Range": "bytes=-1,5-,x"},
            {"Content-Length": "-5"} if not extra else {}])  # fmt: skip
        method = draw.choice([method] * 9 + ["PATCH"])
        try:
            answer = app.request(method.upper(), path.encode("utf-8", "replace").decode(), headers=headers, **extra)
        except (httpx2.InvalidURL, httpx2.LocalProtocolError, UnicodeError):  # the client itself cannot send it
            continue
        seen[answer.status_code] += 1
        where = (number, method, path, answer.status_code, answer.text[:300])
        assert answer.status_code < 500 or (path.startswith("/readyz") and answer.status_code == 503), where
        if answer.status_code >= 400:
            assert not LEAK.search(answer.content), where
    assert sum(seen.values()) > 900
    assert len(seen) >= 5


@pytest.mark.parametrize("charset", ["undefined", "idna", "unicode_escape", "utf-7", "zlib", "\u00b2"])
def test_a_form_in_a_charset_of_the_clients_choice_is_no_server_error(app: TestClient, charset: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="motion\\ud800"\r\n\r\n\\ud800\r\n--b--\r\n'
    for name in (b"motion\\ud800", b"motion", b"xn--\xff"):
        head = f"multipart/form-data; boundary=b; charset={charset}".encode("latin-1")
        content = part.replace(b"motion\\ud800", name)
        answer = app.post("/v1/animations", content=content, headers=[(b"content-type", head)])
        assert answer.status_code in (400, 415, 422), answer.text


def test_half_a_character_in_json_is_quoted_safely(app: TestClient) -> None:
    for text in (b'{"\\ud800": 1}', b'{"keys": [{"motion": "\\ud800"}], "\\udfff": {}}'):
        answer = app.post("/v1/motions/interpolate", content=text, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, answer.text


def test_long_json_is_refused_before_it_is_read(app: TestClient) -> None:
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        yield b'{"keys": ["'
        while read < 64 << 20:
            read += 1 << 16
            yield b"x" * (1 << 16)

    answer = app.post("/v1/motions/interpolate", content=endless(), headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_a_disk_that_is_full_refuses_and_keeps_nothing(app: TestClient, portrait: Path, driving: Path) -> None:
    bounds = resource.getrlimit(resource.RLIMIT_FSIZE)
    big = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes() + bytes(1 << 20)}
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, bounds[1]))  # the job store fits, the video does not
        answer = app.post("/v1/animations", files=big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, bounds)
    assert (answer.status_code, answer.headers["content-type"]) == (507, "application/problem+json")
    assert not LEAK.search(answer.content)
    assert app.get("/healthz").status_code == 200


@pytest.mark.slow
@pytest.mark.fault
def test_under_ten_times_too_much_load_what_is_accepted_is_done_and_the_rest_told_to_wait(
    config: ServeConfig, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    limits = Limits(portrait_mb=1, driving_mb=2, queue=4, seconds=5)
    own = config.model_copy(update={"folder": str(tmp_path), "limits": limits, "active": 2})
    sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
    with working(own), TestClient(create(own)) as client:
        with ThreadPoolExecutor(8) as pool:
            ask = [pool.submit(client.post, "/v1/animations", files=sent, data={"steps": "3"}) for _ in range(60)]
            answers = [each.result() for each in ask]
        counts = Counter(answer.status_code for answer in answers)
        assert counts.keys() == {202, 429}
        assert counts[202] >= 6
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers if answer.status_code == 429)
        jobs = [answer.json()["links"]["self"] for answer in answers if answer.status_code == 202]
        end = time.monotonic() + 120
        while {client.get(job).json()["state"] for job in jobs} != {"done"}:
            assert time.monotonic() < end, [client.get(job).json() for job in jobs]
            time.sleep(0.1)
