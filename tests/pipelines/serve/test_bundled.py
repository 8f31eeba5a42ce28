"""The model that comes with the code serves without any training, with its motion tokenizer and generator."""

from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import ServeConfig
from pipelines.serve.routes import create
from tests.pipelines.serve.conftest import working
from tests.pipelines.serve.test_api import extracted, wait


@pytest.mark.slow
def test_a_motion_is_extended_and_animates_a_portrait(
    config: ServeConfig, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    own = config.model_copy(update={"model": "bundled", "folder": str(tmp_path)})
    with working(own), TestClient(create(own)) as client:
        motion = extracted(client, driving)
        longer = client.post(f"/v1/motions/{motion['id']}/outpaint", json={"seconds": 1.2})
        assert wait(client, longer.headers["location"])["frames"] == 30
        sent, asked = {"portrait": portrait.read_bytes()}, {"motion": longer.json()["id"], "steps": "1"}
        made = client.post("/v1/animations", files=sent, data=asked)
        assert wait(client, made.headers["location"])["frames"] == 30
