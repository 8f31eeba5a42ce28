"""A tiny model with random weights, drawn heads, and a service in this process: everything real but small."""

import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from fastapi.testclient import TestClient

from pipelines.serve.config import Limits, ServeConfig
from pipelines.serve.engine import Engine
from pipelines.serve.routes import create
from xnemo import weights
from xnemo.config import CodecConfig, ModelConfig, UNetConfig
from xnemo.media.images import write_image
from xnemo.media.video import write_video
from xnemo.model import XNeMo, seeded
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render


def tiny() -> ModelConfig:
    small = ModelConfig.small()
    return small.model_copy(update={
        "image_size": 32,
        "codec": CodecConfig(kind="patches", factor=4, channels=8, scaling=1.0),
        "unet": UNetConfig(in_channels=8, channels=(16, 16), layers_per_block=1, attention=(True, True), heads=2,
                           norm_groups=8, context_dim=8),
    })  # fmt: skip


@pytest.fixture(scope="session")
def model() -> XNeMo:
    model = seeded(tiny(), 3).eval()
    pictures = torch.from_numpy(heads(1, 1, 16, 32)).permute(0, 3, 1, 2)
    model.codec.fit(pictures / 127.5 - 1)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():  # zero-initialised layers would hide a mistake
        for parameter in model.denoiser.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return model


@pytest.fixture(scope="session")
def model_folder(model: XNeMo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights.save(model, tmp_path_factory.mktemp("model") / "tiny")


def heads(identity: int, motion: int, frames: int, size: int = 160) -> np.ndarray:
    """A drawn head that talks, uint8 [F,H,W,3]."""
    pictures = render(random_identity(identity)[None], *sequence(motion, frames), size)
    return pictures.permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="session")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("media") / "portrait.png"
    write_image(path, heads(5, 1, 1)[0])
    return path


@pytest.fixture(scope="session")
def driving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("media") / "driving.mp4", heads(9, 2, 10), 25)


@pytest.fixture(scope="session")
def samples_folder(portrait: Path, driving: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page offers to try."""
    folder = tmp_path_factory.mktemp("samples")
    for kind, path in {"portraits": portrait, "driving": driving}.items():
        (folder / kind).mkdir()
        shutil.copy(path, folder / kind)
    return folder


@pytest.fixture(scope="session")
def config(model_folder: Path, samples_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ServeConfig:
    return ServeConfig(
        model=str(model_folder), folder=str(tmp_path_factory.mktemp("serve")), samples=str(samples_folder),
        media_workers=1, device="cpu", windows_per_batch=4,
        limits=Limits(portrait_mb=1, driving_mb=2, queue=4, seconds=5),
    )  # fmt: skip


@contextmanager
def working(config: ServeConfig) -> Iterator[Engine]:
    """An engine at work."""
    engine = Engine(config)
    engine.start()
    yield engine
    engine.stop()


@pytest.fixture(scope="session")
def engine(config: ServeConfig) -> Iterator[Engine]:
    with working(config) as engine:
        yield engine


@pytest.fixture(scope="session")
def service(config: ServeConfig, engine: Engine) -> Iterator[TestClient]:
    """The HTTP interface with an engine at work."""
    with TestClient(create(config), raise_server_exceptions=False) as client:
        yield client


@contextmanager
def listening(config: ServeConfig) -> Iterator[str]:
    """The HTTP interface on a port, for clients that are programs of their own; its URL."""
    server = uvicorn.Server(uvicorn.Config(create(config), port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = server.force_exit = True
    thread.join()


@pytest.fixture(scope="session")
def served(config: ServeConfig, engine: Engine) -> Iterator[str]:
    """URL of a service with an engine at work."""
    with listening(config) as url:
        yield url


@pytest.fixture
def desk(config: ServeConfig, tmp_path: Path) -> Iterator[TestClient]:
    """The HTTP interface alone: jobs stay queued."""
    with TestClient(
        create(config.model_copy(update={"folder": str(tmp_path)})), raise_server_exceptions=False
    ) as client:
        yield client
