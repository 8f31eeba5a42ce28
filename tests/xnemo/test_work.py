"""A stopped run goes on to the same bytes; a folder of another run, or one in use, is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xnemo.animation import stream
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import FaceDetector, detector
from xnemo.model import XNeMo, seeded
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo.tokens.motion_file import Motion, still_rts
from xnemo.work import Work

FRAMES = 32
OPTIONS: dict[str, Any] = {"steps": 2, "window_size": 8, "overlap": 2, "scheduler": "dpm++", "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def faces() -> FaceDetector:
    return detector()


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    return render(random_identity(5)[None], *sequence(2, 1), 160).permute(0, 2, 3, 1).numpy()[0]


@pytest.fixture(scope="module")
def model() -> XNeMo:
    config = ModelConfig.small()
    unet = config.unet.model_copy(update={"channels": (16,)})
    model = seeded(config.model_copy(update={"unet": unet}), 0).eval()
    with torch.no_grad():
        model.codec.basis.normal_(generator=torch.Generator().manual_seed(0))
        for parameter in model.denoiser.parameters():  # zero-initialised layers would hide a mistake
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


def motion(model: XNeMo) -> Motion:
    codes = np.random.default_rng(0).normal(size=(FRAMES, model.config.motion_encoder.f_mot))
    return Motion(codes.astype(np.float32), still_rts(FRAMES), 25.0)


def frames(model: XNeMo, portrait: np.ndarray, faces: FaceDetector, work: Work | None, stop: int | None = None):
    """All frames, or none where the run is stopped when it is about to show frame `stop`."""
    made, shown = stream(model, portrait, motion(model), detector=faces, work=work, **OPTIONS), []
    for number, frame in enumerate(made.frames):
        if number == stop:
            return None
        shown.append(frame)
    return np.stack(shown)


@pytest.mark.parametrize("codec_chunk", [64, 5])
def test_a_stopped_run_goes_on_to_the_same_frames(
    model: XNeMo, portrait: np.ndarray, faces: FaceDetector, tmp_path: Path, codec_chunk: int, monkeypatch: Any
) -> None:
    monkeypatch.setattr(model.codec, "chunk", codec_chunk)
    whole = frames(model, portrait, faces, None)
    for stop in (0, 20):
        work = Work(tmp_path / "work", {"a": "1"}, resume=stop > 0)
        assert frames(model, portrait, faces, work, stop) is None
        assert work.started()
        work.close(keep=True)
    calls: list[int] = []
    hook = model.denoiser.conv_in.register_forward_hook(lambda *_: calls.append(1))
    work = Work(tmp_path / "work", {"a": "1"}, resume=True)
    np.testing.assert_array_equal(frames(model, portrait, faces, work), whole)
    hook.remove()
    assert len(calls) < 2 * 2 * 6 / 2  # branches × steps × windows: less than half was left to do
    work.close(keep=False)
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_after_the_last_state_is_forgotten(
    model: XNeMo, portrait: np.ndarray, faces: FaceDetector, tmp_path: Path
) -> None:
    work = Work(tmp_path / "work", {}, resume=False)
    frames(model, portrait, faces, work, 20)
    work.close(keep=True)
    with (tmp_path / "work" / "face-0" / "latents.f32").open("ab") as file:
        file.write(b"\x01" * 5000)  # killed between a window and its state
    work = Work(tmp_path / "work", {}, resume=True)
    np.testing.assert_array_equal(frames(model, portrait, faces, work), frames(model, portrait, faces, None))


def test_another_runs_folder_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    Work(tmp_path / "w", {"seed": "0", "steps": "2"}, resume=False).close(keep=True)
    with pytest.raises(XNeMoError, match="differs in steps"):
        Work(tmp_path / "w", {"seed": "0", "steps": "3"}, resume=True)
    Work(tmp_path / "w", {"seed": "0", "steps": "3"}, resume=False).close(keep=False)
    assert not (tmp_path / "w").exists()


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    first = Work(tmp_path / "w", {}, resume=False)
    with pytest.raises(XNeMoError, match="in use"):
        Work(tmp_path / "w", {}, resume=True)
    first.close(keep=True)
    Work(tmp_path / "w", {}, resume=True).close(keep=False)


def test_a_damaged_state_is_told(model: XNeMo, portrait: np.ndarray, faces: FaceDetector, tmp_path: Path) -> None:
    work = Work(tmp_path / "work", {}, resume=False)
    frames(model, portrait, faces, work, 0)
    (tmp_path / "work" / "face-0" / "state.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(XNeMoError, match="damaged"):
        frames(model, portrait, faces, work)
