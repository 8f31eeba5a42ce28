"""A changed alias: the new version takes over between two jobs; a broken one never does, and says why."""

import copy
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.routes import create
from tests.pipelines.serve.conftest import working
from xnemo import weights
from xnemo.model import XNeMo
from xnemo_platform import registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def registered(
    config: ServeConfig, model_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServeConfig]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XNEMO_HOME", str(tmp_path_factory.mktemp("home")))
        registry.publish(model_folder, "face", "live")
        folder = str(tmp_path_factory.mktemp("alias"))
        yield config.model_copy(update={"model": "models:/face@live", "folder": folder, "alias_s": 0.2})


@pytest.fixture(scope="module")
def client(registered: ServeConfig) -> Iterator[TestClient]:
    with working(registered), TestClient(create(registered)) as client:
        yield client


def shown(client: TestClient, **wanted: Any) -> dict[str, Any]:
    """The card of the one engine, once it says what is wanted."""
    end = time.monotonic() + 90
    while True:
        [card] = client.get("/v1/models").json()["models"]
        if all(
            (name in card) is value if isinstance(value, bool) else card[name] == value
            for name, value in wanted.items()
        ):
            return dict(card)
        assert time.monotonic() < end, card
        time.sleep(0.1)


def done(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    end = time.monotonic() + 90
    while (job := client.get(job["links"]["state"]).json())["state"] != "done":
        assert job["state"] != "failed", job
        assert time.monotonic() < end, job
        time.sleep(0.05)
    return job


def changed(model: XNeMo, factor: float) -> XNeMo:
    """Another version of the model: its last layer times a factor."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.denoiser.conv_out.weight.mul_(factor)
    return other


def test_versions_swap_under_work_and_broken_ones_are_refused(
    client: TestClient, registered: ServeConfig, model: XNeMo, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
    shown(client, version="1")
    long = client.post("/v1/animations", files=sent, data={"steps": "100"}).json()
    while client.get(long["links"]["self"]).json()["state"] == "queued":
        time.sleep(0.02)
    registry.publish(weights.save(changed(model, 1.01), tmp_path / "two"), "face", "live")
    card = shown(client, version="2")
    assert "refused" not in card
    short = done(client, client.post("/v1/animations", files=sent, data={"steps": "1"}).json())
    assert "version 2" in short["model"]
    assert "version 1" in done(client, long)["model"]  # ends with what it began with

    registry.publish(weights.save(changed(model, float("nan")), tmp_path / "three"), "face", "live")
    card = shown(client, refused=True)
    assert (card["version"], card["refused"]["version"]) == ("2", "3")
    assert "NaN" in card["refused"]["reason"]
    made = done(client, client.post("/v1/animations", files=sent, data={"steps": "1"}).json())
    assert "version 2" in made["model"]

    with working(registered.model_copy(update={"folder": str(tmp_path)})) as heir:  # started while the alias is broken
        assert heir.loaded.version == "2"


def test_the_reason_shows_no_path(client: TestClient, tmp_path: Path) -> None:
    (tmp_path / "four").mkdir()
    (tmp_path / "four" / "config.json").write_text("{}")
    registry.publish(tmp_path / "four", "face", "live")
    card = shown(client, version="2", refused=True)
    end = time.monotonic() + 60
    while card["refused"]["version"] != "4":
        assert time.monotonic() < end
        card = shown(client, refused=True)
    assert str(tmp_path.parts[1]) + "/" not in card["refused"]["reason"]


def test_while_mlflow_is_away_the_service_works_and_says_so(
    client: TestClient, portrait: Path, driving: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XNEMO_TRACKING_URI", "http://127.0.0.1:9")
    card = shown(client, version="2", alias_not_checked=True)
    assert "127.0.0.1" not in card["alias_not_checked"]
    sent = {"portrait": portrait.read_bytes(), "driving": driving.read_bytes()}
    done(client, client.post("/v1/animations", files=sent, data={"steps": "1"}).json())
