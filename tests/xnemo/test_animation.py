"""`animate`, from files to frames, with real (small, untrained) networks and drawn heads."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import xnemo
from xnemo.animation import animate, decode, encode_driving, encode_portrait, noise
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import FaceDetector, detector
from xnemo.media.images import write_image
from xnemo.media.video import write_video
from xnemo.model import XNeMo, seeded
from xnemo.prepare import prepare_driving, prepare_portrait
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render


def heads(identity: int, frames: int, size: int = 160) -> np.ndarray:
    return render(random_identity(identity)[None], *sequence(2, frames), size).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def faces() -> FaceDetector:
    return detector()


@pytest.fixture(scope="module")
def model() -> XNeMo:
    model = seeded(ModelConfig.small(), 0).eval()
    model.codec.fit(torch.from_numpy(heads(1, 16, model.config.image_size)).permute(0, 3, 1, 2) / 127.5 - 1, steps=20)
    with torch.no_grad():  # zero-initialised layers would hide a mistake
        for parameter in model.denoiser.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("media")
    write_image(folder / "p.png", heads(5, 1)[0])
    return folder / "p.png", write_video(folder / "d.mp4", heads(9, 8), 25)


@pytest.fixture(scope="module")
def made(model: XNeMo, media: tuple[Path, Path], faces: FaceDetector) -> np.ndarray:
    return animate(model, *media, steps=2, seed=3, detector=faces).frames


def test_the_result_has_the_drivers_length_and_rate(
    model: XNeMo, media: tuple[Path, Path], faces: FaceDetector
) -> None:
    stages: list[tuple[str, int, int]] = []
    clip = animate(model, *media, steps=2, detector=faces, progress=lambda *at: stages.append(at))
    assert clip.frames.shape == (8, model.config.image_size, model.config.image_size, 3)
    assert (clip.frames.dtype, clip.fps, clip.audio) == (np.uint8, 25.0, None)
    ends = [(stage, done) for stage, done, total in stages if done == total]
    assert ends == [("faces", 8), ("steps", 2), ("frames", 8)]


def test_the_same_seed_gives_the_same_frames(
    model: XNeMo, media: tuple[Path, Path], faces: FaceDetector, made: np.ndarray
) -> None:
    again = animate(model, media[0].read_bytes(), str(media[1]), steps=2, seed=3, detector=faces).frames
    np.testing.assert_array_equal(again, made)
    other = animate(model, *media, steps=2, seed=4, detector=faces).frames
    assert (other != made).any()


def test_a_motion_taken_before_gives_the_same_frames(
    model: XNeMo, media: tuple[Path, Path], faces: FaceDetector, made: np.ndarray
) -> None:
    motion = encode_driving(model, prepare_driving(media[1], faces))
    clip = animate(model, media[0], motion, steps=2, seed=3, detector=faces)
    np.testing.assert_array_equal(clip.frames, made)
    assert len(animate(model, media[0], motion, steps=1, max_frames=3, detector=faces).frames) == 3


def test_the_driver_matters(model: XNeMo, media: tuple[Path, Path], faces: FaceDetector, made: np.ndarray) -> None:
    still = animate(model, *media, steps=2, seed=3, head_motion="still", detector=faces).frames
    assert (still != made).any()


def test_xnemo_animate_is_this_function(
    model: XNeMo, media: tuple[Path, Path], faces: FaceDetector, made: np.ndarray
) -> None:
    clip = xnemo.animate(model, portrait=media[0], driving=media[1], steps=2, seed=3, detector=faces)
    np.testing.assert_array_equal(clip.frames, made)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"steps": 1000}, "steps is 1000"),
        ({"guidance_scale": math.nan}, "guidance_scale is nan"),
        ({"guidance_scale": -1.0}, "guidance_scale is -1"),
        ({"head_motion": "wild"}, "head_motion is 'wild'"),
        ({"start": 5.0}, "no frames"),
        ({"face": 3}, "face 3"),
    ],
)
def test_bad_options_are_refused_before_any_network_runs(
    model: XNeMo, media: tuple[Path, Path], faces: FaceDetector, options: dict[str, Any], words: str
) -> None:
    ran = model.motion_encoder.register_forward_hook(lambda *_: pytest.fail("a network ran"))
    with pytest.raises(XNeMoError, match=words):
        animate(model, *media, detector=faces, **options)
    ran.remove()


@pytest.mark.parametrize("driving", ["", "a text", "\x00" * 100])
def test_what_is_no_video_is_refused(model: XNeMo, media: tuple[Path, Path], tmp_path: Path, driving: str) -> None:
    (tmp_path / "d.mp4").write_text(driving)
    with pytest.raises(XNeMoError, match=r"d\.mp4"):
        animate(model, media[0], tmp_path / "d.mp4")


def test_a_motion_of_another_model_is_refused(model: XNeMo, media: tuple[Path, Path], faces: FaceDetector) -> None:
    from xnemo.tokens.motion_file import Motion, still_rts

    with pytest.raises(XNeMoError, match="width 7"):
        animate(model, media[0], Motion(np.zeros((4, 7)), still_rts(4), 25.0), detector=faces)


def test_a_model_in_training_is_left_in_training(model: XNeMo, media: tuple[Path, Path], faces: FaceDetector) -> None:
    who = prepare_portrait(media[0], model.config, faces)
    quiet = encode_portrait(model, who).null_motion
    model.train()
    torch.testing.assert_close(encode_portrait(model, who).null_motion, quiet)
    assert model.training
    model.eval()


def test_the_python_of_the_page_runs(media: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(xnemo.__file__).parents[1]
    for path in (*media, root / "xnemo"):
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (root / "docs" / "animate.md").read_text(), re.DOTALL):
        exec(block, names)
    assert len(names["clip"].frames) == 8
    assert (tmp_path / "out.mp4").exists()


def test_nan_is_an_error_not_a_black_picture(model: XNeMo) -> None:
    size = model.config.latent_size
    latents = torch.full((1, model.config.codec.channels, 2, size, size), math.nan)
    with pytest.raises(XNeMoError, match="NaN"):
        list(decode(model, latents))


def test_a_longer_clip_begins_with_the_same_noise(model: XNeMo) -> None:
    torch.testing.assert_close(noise(model, 9, 5)[:, :, :4], noise(model, 4, 5))


@pytest.mark.real_media
def test_a_real_pair_keeps_sound_and_rate(model: XNeMo, samples: Path, faces: FaceDetector, tmp_path: Path) -> None:
    from xnemo.media.video import probe

    clip = animate(model, samples / "portraits" / "s9.jpg", samples / "driving" / "d10.mp4", steps=1, start=2.0,
                   max_frames=12, detector=faces)  # fmt: skip
    info = probe(clip.save(tmp_path / "v.mp4"))
    assert (info.frames, round(info.fps), info.has_audio) == (12, 30, True)
