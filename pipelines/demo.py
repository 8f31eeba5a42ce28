"""The whole line once, on one machine: every step a user of a cluster would take, in their order.

Drawn heads become mp4 files, Ray Data makes shards of them, Ray Train and DeepSpeed train the stages and the two
motion models, MLflow registers the result, Ray Serve animates a portrait over HTTP, and the result is measured.
Ingest, training, evaluation and the service are submitted through Ray's job API. A step that was finished under
the same settings is kept, so a demo that was stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pipelines.evaluate import UNSEEN
from pipelines.models import BUNDLED, load
from pipelines.steps import Jobs, Line, Shown
from xnemo.client import Client
from xnemo.weights import model_digest
from xnemo_platform import cluster, registry
from xnemo_platform.config import Config, flatten
from xnemo_platform.errors import PlatformError
from xnemo_platform.settings import Settings

ALIAS = "demo"
OPTIONS = {"label": "false"}  # of every animation asked of the service
STAGES = ("appearance", "motion", "temporal")
TOTAL = 14
PORTRAIT_SEED, DRIVER_SEED = UNSEEN + 7, UNSEEN + 293  # neither is ever trained on, and the head stays in the picture
Array = NDArray[np.uint8]
INGEST = ("clips.min_face_px=30", "clips.min_frames=16", "clips.square=2.8", "clips.check_damage=false")
"""Drawn here: small, short and whole; and with room around the head, which training cuts anew for every pair."""
ROOM = 1.5


class DemoConfig(Config):
    """How much of everything. The defaults take about ten minutes on two cores."""

    identities: int = Field(default=128, ge=8)
    seconds: float = Field(default=1.28, gt=0.4)
    source_size: int = 192
    """Pixels of a drawn clip's side; ingest brings its face crop to 512."""
    configs: str = str(Path(__file__).resolve().parents[1] / "jobs" / "configs")
    """Folder with train-small-<stage>.yaml, tokenizer-small.yaml and generator-small.yaml."""
    overrides: dict[str, list[str]] = Field(default_factory=dict)
    """Per step, further `key=value` words for its job."""
    request_seconds: float = 2.4
    """Length of the driving clip that is sent to the service."""
    extend_seconds: float = 4.0
    evaluate_clips: int = 16
    port: int = 8000


def run(config: DemoConfig, places: Settings, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Run, or go on with, the demo; returns what was made. The cluster is left running with the service on it."""
    folder = places.home / "demo"
    line = Line(folder, TOTAL, say)
    say(f"everything is written below {folder}")
    first = line.step("first", "the bundled model animates a drawn portrait", lambda: preview(config, folder),
                      model_digest(BUNDLED), flatten(config))  # fmt: skip
    say(f"    {first['first']}")
    head = cluster.start(folder / "cluster", places.cpus, places.env())
    jobs = Jobs(line, head.dashboard, places.env(), config.overrides)

    clips = line.step("draw", f"draw {config.identities} talking heads to mp4 files", lambda: draw(config, folder, say),
                      config.identities, config.seconds, config.source_size)  # fmt: skip
    words = ["data", "ingest", "--dataset", "folder", "--source", clips["folder"], *INGEST]
    shards = jobs.step("ingest", "Ray Data: videos to shards", folder / "shards", words, clips)
    trained = train(jobs, config, folder, shards)
    versions = line.step("register", f"MLflow: register the models under @{ALIAS}", lambda: register(trained), trained)
    url = serve(jobs, config, folder, versions)
    shown = line.step("animate", "Ray Serve: a portrait and a driving clip in, an mp4 out",
                      lambda: animate(config, folder, url), versions, flatten(config))  # fmt: skip
    longer = line.step("extend", "motion generator: the motion goes on where the driver stops",
                       lambda: extend(config, folder, url), versions, flatten(config))  # fmt: skip
    report = jobs.step("evaluate", "measure motion transfer on unseen identities", folder / "report",
                       ["evaluate", "--model", f"models:/xnemo@{ALIAS}", f"clips={config.evaluate_clips}",
                        "pairs=0"], versions)  # fmt: skip
    return {"first": first["first"], "url": url, "dashboard": head.dashboard,
            "model": trained["xnemo"]["folder"], "shards": shards["folder"],
            "report": f"{report['folder']}/artifacts/report.md", **shown, "longer": longer["video"]}  # fmt: skip


def preview(config: DemoConfig, folder: Path) -> dict[str, Any]:
    """Something to look at before anything is trained: portrait, driver and result of the bundled model."""
    from xnemo.animation import animate
    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image
    from xnemo.media.video import read_frames, write_video

    portrait, driving = _request_media(config, folder)
    clip = animate(load(BUNDLED), portrait, driving, seed=0)
    path = folder / "first.mp4"
    write_video(path, side_by_side(read_image(portrait), read_frames(driving), clip.frames), fps=clip.fps)
    return {"first": str(path), "keeps": [str(path)]}


def draw(config: DemoConfig, folder: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Render the training clips; each is an ordinary mp4 (its sidecar with the truth is read by no training)."""
    from xnemo.synthetic.clips import write_dataset

    tell = Shown(say).count("clips")
    videos, size = folder / "videos", config.source_size
    made = write_dataset(videos, config.identities, config.seconds, size, progress=tell, room=ROOM)
    return {"folder": str(videos), "clips": len(made), "keeps": [str(videos)]}


def train(jobs: Jobs, config: DemoConfig, folder: Path, shards: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The three stages, each from the one before, then the motion models on the codes of the result."""
    made: dict[str, Any] = shards
    for stage in STAGES:
        start = ["--model", made["export"]] if made is not shards else []
        words = ["train", stage, "--config", f"{config.configs}/train-small-{stage}.yaml", *start]
        made = jobs.step(stage, f"Ray Train + DeepSpeed: stage {stage}", folder / "runs" / stage,
                         [*words, "--dataset", shards["folder"]], made)  # fmt: skip
    words = ["motion", "extract", "--model", made["export"], "--dataset", shards["folder"]]
    motions = jobs.step("motions", "Ray Data: the motion codes of every clip", folder / "motions", words, made)
    tokenizer = jobs.step("tokenizer", "Ray Train + DeepSpeed: motion tokenizer", folder / "runs" / "tokenizer",
                          ["train", "tokenizer", "--config", f"{config.configs}/tokenizer-small.yaml",
                           "--dataset", motions["folder"]], motions)  # fmt: skip
    generator = jobs.step("generator", "Ray Train + DeepSpeed: motion generator", folder / "runs" / "generator",
                          ["train", "generator", "--config", f"{config.configs}/generator-small.yaml",
                           "--dataset", motions["folder"], "--tokenizer", tokenizer["export"]], tokenizer)  # fmt: skip
    found = {"xnemo": made, "xnemo-tokenizer": tokenizer, "xnemo-generator": generator}
    return {name: {"folder": run["export"], "run_id": run["run_id"]} for name, run in found.items()}


def register(models: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Every model as a new version under its alias; the very files that are there already change nothing."""
    return {name: registry.publish(each["folder"], name, ALIAS, run_id=each["run_id"]) for name, each in models.items()}


def serve(jobs: Jobs, config: DemoConfig, folder: Path, versions: dict[str, Any]) -> str:
    """The URL of the service, deployed by a job; one that runs with these versions is kept."""
    place = folder / "serve.json"
    known = json.loads(place.read_text()) if place.exists() else {}
    if known.get("versions") == versions and _answers(known["url"]):
        jobs.line.note(f"Ray Serve: running at {known['url']}")
        return str(known["url"])
    port = 0 if _taken(config.port) else config.port
    words = ["serve", "--model", f"models:/xnemo@{ALIAS}", "--port", str(port), f"folder={folder / 'served'}",
             f"tokenizer=models:/xnemo-tokenizer@{ALIAS}", f"generator=models:/xnemo-generator@{ALIAS}"]  # fmt: skip
    lines = jobs.run("serve", "Ray Serve: load the models by their alias", words)
    found = [text for text in lines if text.startswith("page: ")]
    if not found:
        raise PlatformError("the service told no address; see `xnemo jobs logs`.")
    url = found[-1].split()[1].rstrip("/")
    place.write_text(json.dumps({"url": url, "versions": versions}))
    return url


def animate(config: DemoConfig, folder: Path, url: str) -> dict[str, Any]:
    """Send an unseen portrait and an unseen driver; fetch the mp4; lay them side by side."""
    from xnemo.clip import side_by_side
    from xnemo.media.images import read_image, write_image
    from xnemo.media.video import read_frames, write_video

    portrait, driving = _request_media(config, folder)
    client = Client(url)
    job = client.finish(client.post("/v1/animations", {"portrait": portrait, "driving": driving}, OPTIONS))
    result = client.download(job["links"]["video"], folder / "result.mp4")
    frames = read_frames(result)
    driver = read_frames(driving)[: len(frames)]
    beside = list(side_by_side(read_image(portrait), driver, frames))
    write_video(folder / "side-by-side.mp4", iter(beside), fps=25)
    moments = np.linspace(0, len(beside) - 1, 6).round().astype(int)
    write_image(folder / "result.png", _strip(read_image(portrait), driver[moments], frames[moments]))
    return {"result": str(result), "side_by_side": str(folder / "side-by-side.mp4"),
            "picture": str(folder / "result.png"), "keeps": [str(result)]}  # fmt: skip


def extend(config: DemoConfig, folder: Path, url: str) -> dict[str, Any]:
    """The driver's motion, continued by the generator, on the same portrait."""
    portrait, driving = _request_media(config, folder)
    client = Client(url)
    motion = client.finish(client.post("/v1/motions", {"driving": driving}, {}))
    words = {"seconds": config.extend_seconds, "seed": 1}
    longer = client.finish(client.post(f"/v1/motions/{motion['id']}/outpaint", {}, words))
    client.download(longer["links"]["file"], folder / "extended.safetensors")
    job = client.finish(client.post("/v1/animations", {"portrait": portrait}, OPTIONS | {"motion": longer["id"]}))
    video = client.download(job["links"]["video"], folder / "extended.mp4")
    return {"video": str(video), "motion": str(folder / "extended.safetensors"), "keeps": [str(video)]}


def _request_media(config: DemoConfig, folder: Path) -> tuple[Path, Path]:
    from xnemo.synthetic import clips

    portrait, driving = folder / "portrait.png", folder / "driving.mp4"
    if not portrait.exists():
        clips.portrait(portrait, PORTRAIT_SEED, 512)
    if not driving.exists():
        clips.write_clip(driving, DRIVER_SEED, DRIVER_SEED, config.request_seconds, 256)
    return portrait, driving


def _strip(portrait: Array, driver: Array, result: Array) -> Array:
    """Two rows of moments, driver over result, with the portrait large at the left."""
    from xnemo.media.images import resize

    side = 192
    rows = [np.concatenate([resize(frame, side, side) for frame in row], axis=1) for row in (driver, result)]
    return np.concatenate([resize(portrait, 2 * side, 2 * side), np.concatenate(rows)], axis=1)


def _answers(url: str) -> bool:
    import requests

    with contextlib.suppress(requests.RequestException):
        return bool(requests.get(f"{url}/readyz", timeout=5).ok)
    return False


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
