"""With keys required: who has none sees nothing, each sees his own, and none takes more than his share."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import Limits, ServeConfig
from pipelines.serve.routes import create
from xnemo_platform.access import Access
from xnemo_platform.jobstore import JobStore

LIMITS = Limits(portrait_mb=1, driving_mb=2, queue=9, seconds=5, unfinished=2, per_minute=4)

CALLS = [
    ("GET", "/v1/models"),
    ("POST", "/v1/animations"),
    ("POST", "/v1/motions/interpolate"),
    ("GET", f"/v1/animations/{'0' * 32}/video"),
    ("DELETE", f"/v1/motions/{'0' * 32}"),
]


@pytest.fixture(scope="module")
def closed(config: ServeConfig, tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    folder = str(tmp_path_factory.mktemp("closed"))
    return config.model_copy(update={"folder": folder, "require_key": True, "limits": LIMITS})


@pytest.fixture(scope="module")
def client(closed: ServeConfig) -> Iterator[TestClient]:
    with TestClient(create(closed), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def access(closed: ServeConfig, client: TestClient) -> Access:
    return Access(closed.store_url)


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def sent(portrait: Path, driving: Path) -> dict[str, Any]:
    return {"portrait": ("p.png", portrait.read_bytes()), "driving": ("d.mp4", driving.read_bytes())}


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer xnemo_0_0", "Basic eDp5", "Bearer \x00\xff"])
def test_without_a_valid_key_nothing_below_v1_answers(client: TestClient, access: Access, header: str) -> None:
    headers = [(b"authorization", header.encode("latin-1"))] if header else []
    for method, path in CALLS:
        answer = client.request(method, path, headers=headers, json={} if "inter" in path else None)
        assert answer.status_code == 401, (path, answer.text)
        assert answer.headers["www-authenticate"] == "Bearer"
    assert client.get("/healthz").status_code == client.get("/").status_code == 200


def test_a_key_in_the_address_is_no_key(client: TestClient, access: Access) -> None:
    token = access.make("in-address")
    assert client.get("/v1/models", params={"key": token, "access_token": token}).status_code == 401
    assert client.get("/v1/models", headers=bearer(token)).status_code == 200


def test_each_sees_his_own_jobs_only_and_the_log_names_both(
    client: TestClient, access: Access, closed: ServeConfig, portrait: Path, driving: Path
) -> None:
    ada, bob = bearer(access.make("ada")), bearer(access.make("bob"))
    again = {"Idempotency-Key": "one"}
    first = client.post("/v1/animations", files=sent(portrait, driving), headers=ada | again)
    other = client.post("/v1/animations", files=sent(portrait, driving), headers=bob | again)
    assert (first.status_code, other.status_code) == (202, 202)
    assert first.json()["id"] != other.json()["id"]
    mine = first.json()["links"]["self"]
    assert client.get(mine, headers=ada).status_code == 200
    for call in (client.get, client.delete):
        assert call(mine, headers=bob).status_code == 404
    assert client.get(mine + "/events", headers=bob).status_code == 404
    store = JobStore(closed.store_url)
    while job := store.claim("w"):
        store.finish(job, {"video": "nowhere"})
    assert [job["id"] for job in client.get("/v1/animations", headers=ada).json()] == [first.json()["id"]]
    names = {key.id: key.name for key in access.all_keys()}
    log = [
        (names[line["owner"]], line["action"], line["status"], line["job"]) for line in access.audit() if line["owner"]
    ]
    assert ("ada", "POST /v1/animations", 202, first.json()["id"]) in log
    assert ("bob", "DELETE /v1/animations/{id}", 404, None) in log
    [facts] = [line["facts"] for line in access.audit() if line["job"] == other.json()["id"]]
    assert facts.keys() == {"portrait", "driving"}


def test_one_key_can_have_so_many_unfinished_jobs_and_so_many_in_a_minute(
    client: TestClient, access: Access, portrait: Path, driving: Path
) -> None:
    eve = bearer(access.make("eve"))
    for _ in range(2):
        assert client.post("/v1/animations", files=sent(portrait, driving), headers=eve).status_code == 202
    full = client.post("/v1/animations", files=sent(portrait, driving), headers=eve)
    assert (full.status_code, "unfinished" in full.json()["detail"]) == (429, True)
    while (last := client.post("/v1/animations", data={"x": "1"}, headers=eve)).status_code != 429:
        assert last.status_code in (400, 415, 422)
    assert 0 < int(last.headers["retry-after"]) <= 60
    assert "as much as it may" in last.json()["detail"]
    assert client.get("/v1/models", headers=eve).status_code == 200  # looking is free


def test_a_revoked_key_stops_working_at_once(client: TestClient, access: Access) -> None:
    token = bearer(access.make("gone"))
    assert client.get("/v1/models", headers=token).status_code == 200
    access.revoke("gone")
    assert client.get("/v1/models", headers=token).status_code == 401
