"""The HTTP interface without Ray: the app and an engine in this process, real networks, real files."""

import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from pipelines.serve.config import InterpolateOptions, OutpaintOptions, ServeConfig
from xnemo.animation import animate
from xnemo.media import provenance
from xnemo.media.video import probe, read_frames
from xnemo.model import XNeMo
from xnemo.tokens.motion_file import load_motion


def files(portrait: Path, driving: Path | None = None) -> dict[str, Any]:
    sent = {"portrait": ("../../etc/passwd", portrait.read_bytes(), "image/png")}
    return sent | ({"driving": ("d.mp4", driving.read_bytes(), "video/mp4")} if driving else {})


def wait(service: TestClient, url: str, state: str = "done", seconds: float = 60) -> dict[str, Any]:
    end = time.monotonic() + seconds
    while (job := service.get(url).json())["state"] not in ("done", "failed", "cancelled"):
        assert time.monotonic() < end, job
        time.sleep(0.05)
    assert job["state"] == state, job
    return job


def extracted(service: TestClient, driving: Path) -> dict[str, Any]:
    answer = service.post("/v1/motions", files={"driving": ("d", driving.read_bytes())})
    return wait(service, answer.headers["location"])


@pytest.fixture(scope="module")
def made(service: TestClient, portrait: Path, driving: Path) -> dict[str, Any]:
    """One finished animation."""
    answer = service.post("/v1/animations", files=files(portrait, driving), data={"steps": "3", "seed": "7"})
    assert answer.status_code == 202, answer.text
    assert answer.headers["location"] == answer.json()["links"]["self"]
    return wait(service, answer.headers["location"])


def test_an_animation_has_the_drivers_length_and_rate(
    made: dict[str, Any], service: TestClient, tmp_path: Path
) -> None:
    assert (made["frames"], made["fps"], made["progress"], made["eta_s"]) == (10, 25.0, 1.0, 0.0)
    path = tmp_path / "v.mp4"
    path.write_bytes(service.get(made["links"]["video"]).content)
    info = probe(path)
    assert (info.frames, info.fps, info.width) == (10, 25.0, 256)


def test_the_video_says_that_it_is_synthetic(made: dict[str, Any], service: TestClient, tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(service.get(made["links"]["video"]).content)
    marks = provenance.inspect(path)
    assert marks.label
    assert marks.watermark > provenance.THRESHOLD
    assert marks.note
    assert marks.note["model"] == made["model"]


def test_the_service_gives_what_a_direct_call_gives(
    service: TestClient, model: XNeMo, portrait: Path, driving: Path, tmp_path: Path
) -> None:
    answer = service.post(
        "/v1/animations", files=files(portrait, driving), data={"steps": "2", "seed": "3", "label": "false"}
    )
    job = wait(service, answer.headers["location"])
    served, direct = tmp_path / "served.mp4", tmp_path / "direct.mp4"
    served.write_bytes(service.get(job["links"]["video"]).content)
    animate(model, portrait, driving, steps=2, seed=3).save(direct)
    difference = abs(read_frames(served).astype(int) - read_frames(direct))
    assert difference.mean() < 0.5


def test_part_of_the_video_can_be_asked_for(made: dict[str, Any], service: TestClient) -> None:
    whole = service.get(made["links"]["video"])
    part = service.get(made["links"]["video"], headers={"Range": "bytes=10-19"})
    assert part.status_code == 206
    assert part.content == whole.content[10:20]
    assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
    assert service.get(made["links"]["video"], headers={"Range": "bytes=99999999-"}).status_code == 416
    head = service.head(made["links"]["video"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, str(len(whole.content)), b"")


def test_events_end_with_the_final_state(service: TestClient, portrait: Path, driving: Path) -> None:
    job = service.post("/v1/animations", files=files(portrait, driving), data={"steps": "2"}).json()
    with service.stream("GET", job["links"]["events"]) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        states = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
    assert states[-1]["state"] == "done"
    progress = [state["progress"] for state in states]
    assert progress == sorted(progress)


def test_a_motion_is_extracted_once_and_used_again(service: TestClient, portrait: Path, driving: Path) -> None:
    answer = service.post("/v1/motions", files={"driving": ("d.mp4", driving.read_bytes())})
    motion = wait(service, answer.headers["location"])
    assert len(load_motion(service.get(motion["links"]["file"]).content)) == 10
    made = service.post("/v1/animations", files=files(portrait), data={"motion": motion["id"], "steps": "1"})
    assert wait(service, made.headers["location"])["frames"] == 10


def test_expressions_are_blended(service: TestClient, driving: Path) -> None:
    motion = extracted(service, driving)
    keys = [{"motion": motion["id"], "seconds": 0.0}, {"motion": motion["id"], "seconds": 0.3}]
    blended = service.post("/v1/motions/interpolate", json={"keys": keys, "seconds": 1.0})
    assert wait(service, blended.headers["location"])["frames"] == 25


def test_outpainting_without_a_generator_says_so(service: TestClient, driving: Path) -> None:
    motion = extracted(service, driving)
    answer = service.post(f"/v1/motions/{motion['id']}/outpaint", json={"seconds": 3})
    assert answer.status_code == 409
    assert "no motion generator" in answer.json()["detail"]


def test_the_models_and_readiness_are_shown(service: TestClient) -> None:
    [model] = service.get("/v1/models").json()["models"]
    assert (model["model"], model["state"], model["image_size"]) == ("tiny", "ready", 32)
    assert service.get("/readyz").status_code == 200
    assert service.get("/healthz").json() == {"status": "alive"}


def test_without_a_face_the_job_fails_with_the_reason(service: TestClient, driving: Path) -> None:
    from PIL import Image

    blank = io.BytesIO()
    Image.new("RGB", (200, 200), (90, 120, 90)).save(blank, "PNG")
    sent = {"portrait": ("p.png", blank.getvalue()), "driving": ("d.mp4", driving.read_bytes())}
    job = service.post("/v1/animations", files=sent).json()
    failed = wait(service, job["links"]["self"], "failed")
    assert "no face was found in the portrait" in failed["error"]
    assert service.get(failed["links"]["self"] + "/video").status_code == 409


def test_a_removed_animation_is_gone_with_its_files(
    service: TestClient, config: ServeConfig, portrait: Path, driving: Path
) -> None:
    made = service.post("/v1/animations", files=files(portrait, driving), data={"steps": "1"}).json()
    wait(service, made["links"]["self"])
    assert service.delete(made["links"]["self"]).status_code == 204
    assert service.get(made["links"]["self"]).status_code == 404
    assert not Path(config.folder, "jobs", made["id"]).exists()


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_need_nothing_from_outside(service: TestClient, path: str) -> None:
    page = service.get(path)
    assert page.status_code == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert "http://" not in page.text.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in page.text


def test_openapi_has_examples_that_the_service_takes(service: TestClient) -> None:
    schemas = service.get("/openapi.json").json()["components"]["schemas"]
    for name, options in {"OutpaintOptions": OutpaintOptions, "InterpolateOptions": InterpolateOptions}.items():
        assert [options.model_validate(example) for example in schemas[name]["examples"]]
