"""Who is driven by whom: several faces, video portraits, pictures and motions as drivers; and how much they move."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xnemo.animation import animate, stream
from xnemo.config import ModelConfig
from xnemo.errors import XNeMoError
from xnemo.media.faces import FaceDetector, detector
from xnemo.media.images import write_image
from xnemo.media.video import write_video
from xnemo.model import XNeMo, seeded
from xnemo.synthetic.identity import random_identity
from xnemo.synthetic.motion import sequence
from xnemo.synthetic.render import render
from xnemo.tokens.motion_file import Motion, still_rts


def heads(identity: int, frames: int, size: int = 160, seed: int = 2) -> np.ndarray:
    return render(random_identity(identity)[None], *sequence(seed, frames), size).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def faces() -> FaceDetector:
    return detector()


@pytest.fixture(scope="module")
def model() -> XNeMo:
    config = ModelConfig.small()
    unet = config.unet.model_copy(update={"channels": (16,)})
    model = seeded(config.model_copy(update={"unet": unet}), 0).eval()
    model.codec.fit(torch.from_numpy(heads(1, 8, config.image_size)).permute(0, 3, 1, 2) / 127.5 - 1, steps=2)
    with torch.no_grad():
        for parameter in model.denoiser.parameters():  # zero-initialised layers would hide a mistake
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """one.png, two.png (the left face is the larger one), a.mp4 (6 frames), b.mp4 (4), both.mp4 (two people, 5)."""
    folder = tmp_path_factory.mktemp("scene")
    wide = np.full((200, 400, 3), 180, np.uint8)
    wide[:, :200], wide[20:180, 220:380] = heads(5, 1, 200)[0], heads(11, 1)[0]
    write_image(folder / "one.png", heads(5, 1)[0])
    write_image(folder / "two.png", wide)
    write_video(folder / "a.mp4", heads(9, 6), 25)
    write_video(folder / "b.mp4", heads(14, 4, seed=7), 25)
    write_video(folder / "both.mp4", np.concatenate([heads(9, 5, 200), heads(14, 5, 200, 7)], axis=2), 25)
    return folder


def made(model: XNeMo, portrait: Any, driving: Any, faces: FaceDetector, **options: Any) -> np.ndarray:
    return animate(model, portrait, driving, detector=faces, **{"steps": 1, **options}).frames.astype(int)


def test_each_face_has_its_own_driver_and_the_shortest_gives_the_length(
    model: XNeMo, folder: Path, faces: FaceDetector
) -> None:
    drivers = {0: folder / "a.mp4", 1: folder / "b.mp4"}
    both = made(model, folder / "two.png", drivers, faces)
    assert both.shape == (4, 200, 400, 3)
    codes = np.ones((4, model.config.motion_encoder.f_mot), np.float32)
    left = made(model, folder / "two.png", {0: folder / "a.mp4", 1: Motion(codes, still_rts(4), 25.0)}, faces)
    np.testing.assert_array_equal(both[:, :, :190], left[:, :, :190])
    assert (both[:, :, 230:] != left[:, :, 230:]).any()


def test_pasted_back_only_the_chosen_face_changes(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    from xnemo.media.images import read_image

    frames = made(model, folder / "two.png", folder / "b.mp4", faces, face=1, paste_back=True)
    picture = read_image(folder / "two.png")
    assert frames.shape == (4, 200, 400, 3)
    np.testing.assert_array_equal(frames[:, :, :150], np.broadcast_to(picture[:, :150], (4, 200, 150, 3)))
    assert (frames[:, 60:140, 260:340] != picture[60:140, 260:340]).any(axis=(1, 2, 3)).all()


def test_in_a_video_portrait_the_face_is_replaced_where_it_is(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    frames = made(model, folder / "both.mp4", folder / "a.mp4", faces, driving_face=0)
    assert frames.shape == (5, 200, 400, 3)
    other = made(model, folder / "both.mp4", folder / "a.mp4", faces, face=1)
    halves = [np.abs(frames - other)[:, :, half].mean() for half in (slice(0, 200), slice(200, 400))]
    assert min(halves) > 1  # each run replaced another face and left the rest alone


def test_another_face_of_the_driver_moves_differently(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    first, second = (made(model, folder / "one.png", folder / "both.mp4", faces, driving_face=n) for n in (0, 1))
    assert (first != second).any()
    with pytest.raises(XNeMoError, match=r"face 2 was asked for, but both\.mp4, .* shows 2: give 0"):
        made(model, folder / "one.png", folder / "both.mp4", faces, driving_face=2)


def test_a_picture_drives_one_frame(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    clip = animate(model, folder / "one.png", folder / "two.png", steps=1, detector=faces)
    assert (len(clip.frames), clip.fps, clip.audio) == (1, 25.0, None)


def test_strength_goes_from_the_portraits_own_look_to_the_drivers(
    model: XNeMo, folder: Path, faces: FaceDetector
) -> None:
    still, weak, full = (
        made(model, folder / "one.png", folder / "a.mp4", faces, strength=s, max_frames=4) for s in (0.0, 0.5, 1.0)
    )
    other = made(model, folder / "one.png", folder / "b.mp4", faces, strength=0.0)
    np.testing.assert_array_equal(still, other)  # at 0 the driver does not matter
    assert 0 < np.abs(weak - still).mean() < np.abs(full - still).mean()


def test_expression_and_head_can_be_driven_alone(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    codes = np.random.default_rng(0).normal(size=(3, model.config.motion_encoder.f_mot)).astype(np.float32)
    moving = Motion(codes, np.array([[0, 0, 1], [0.2, 0.1, 1.1], [0.3, -0.2, 0.9]]), 25.0)
    unmoved = Motion(codes, still_rts(3), 25.0)
    calm = Motion(np.zeros_like(codes), moving.f_rts, 25.0)
    one = folder / "one.png"
    expression = made(model, one, moving, faces, move="expression")
    np.testing.assert_array_equal(expression, made(model, one, unmoved, faces))
    head = made(model, one, moving, faces, move="head")
    np.testing.assert_array_equal(head, made(model, one, calm, faces, move="head"))
    assert (head != expression).any()


def test_a_motion_can_be_cut_and_resampled(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    codes = np.random.default_rng(0).normal(size=(20, model.config.motion_encoder.f_mot)).astype(np.float32)
    motion = Motion(codes, still_rts(20), 20.0)
    np.testing.assert_array_equal(motion.span(0.25, 0.5).f_mot, codes[5:10])
    doubled = motion.span(0.25, 0.5, fps=40.0)
    np.testing.assert_allclose(doubled.f_mot[::2], codes[5:10], atol=1e-6)
    assert (len(doubled), doubled.fps) == (10, 40.0)
    clip = animate(model, folder / "one.png", motion, steps=1, detector=faces, start=0.25, end=0.5, fps=40.0)
    assert (len(clip.frames), clip.fps) == (10, 40.0)
    with pytest.raises(XNeMoError, match="no frames"):
        motion.span(1.0, None)


def test_the_callbacks_follow_the_windows(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    windows: list[tuple[int, int, int]] = []
    steps: list[tuple[int, int]] = []
    animate(
        model, folder / "one.png", folder / "a.mp4", steps=2, detector=faces, window_size=3, overlap=1,
        on_window=lambda done, total, latents: windows.append((done, total, latents.shape[2])),
        on_step=lambda window, step, latents: steps.append((window, step)),
    )  # fmt: skip
    assert windows == [(1, 3, 2), (2, 3, 1), (3, 3, 3)]
    assert sorted(steps) == [(window, step) for window in range(3) for step in range(2)]


def test_nothing_is_denoised_before_a_frame_is_asked_for(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    ran: list[int] = []
    hook = model.denoiser.conv_in.register_forward_hook(lambda *_: ran.append(1))
    waiting = stream(model, folder / "one.png", folder / "a.mp4", detector=faces, steps=1)
    assert (waiting.count, waiting.fps, ran) == (6, 25.0, [])
    next(waiting.frames)
    hook.remove()
    assert ran


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scheduler": "euler"}, "scheduler is 'euler'"),
        ({"scheduler": "unipc", "windows": "released"}, "goes with scheduler"),
        ({"strength": float("nan")}, "strength is nan"),
        ({"window_size": 33}, "window_size is 33"),
        ({"overlap": 24}, "overlap is 24"),
        ({"max_frames": 0}, "max_frames is 0"),
        ({"fps": 0.0}, "fps is 0.0"),
        ({"move": "mouth"}, "move is 'mouth'"),
        ({"start": 2.0, "end": 2.0}, "0 <= start < end"),
    ],
)
def test_options_without_sense_are_refused(
    model: XNeMo, folder: Path, faces: FaceDetector, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(XNeMoError, match=words):
        made(model, folder / "one.png", folder / "a.mp4", faces, **options)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
def test_every_scheduler_animates(model: XNeMo, folder: Path, faces: FaceDetector, scheduler: str) -> None:
    frames = made(model, folder / "one.png", folder / "b.mp4", faces, scheduler=scheduler, steps=3, guidance_scale=2.0)
    assert frames.std() > 1


def test_the_released_windows_are_repeatable(model: XNeMo, folder: Path, faces: FaceDetector) -> None:
    one, again, other = (
        made(
            model, folder / "one.png", folder / "a.mp4", faces, windows="released", window_size=3, overlap=1, seed=seed
        )
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()
