"""Faces are found where they are; animals and empty pictures have none; missing models are told."""

from pathlib import Path

import numpy as np
import pytest

from xnemo.errors import XNeMoError
from xnemo.media import faces, images, video
from xnemo.media.blazeface import overlap


@pytest.fixture(scope="module")
def blaze() -> faces.FaceDetector:
    if not (faces.models_folder() / faces.BLAZE_FILE).is_file():
        pytest.skip("no face models: run python -m xnemo.media.face_models")
    return faces.detector("blazeface")


@pytest.fixture(scope="module")
def head() -> tuple[np.ndarray, np.ndarray]:
    """A drawn head [256, 256, 3] and its true box."""
    import torch

    from xnemo.synthetic.geometry import MOTION
    from xnemo.synthetic.identity import random_identity
    from xnemo.synthetic.render import face_boxes, render

    who, how, where = random_identity(3)[None], torch.zeros(1, len(MOTION)), torch.zeros(1, 3)
    return render(who, how, where, 256)[0].permute(1, 2, 0).numpy(), face_boxes(who, how, where, 256)[0].numpy()


def test_a_drawn_head_is_found_where_it_was_drawn(blaze: faces.FaceDetector, head: tuple) -> None:
    image, box = head
    found = blaze.detect(image)
    assert len(found) == 1
    assert overlap(np.array(found[0].box), box[None])[0] > 0.5
    assert found[0].landmarks is not None
    assert found[0].landmarks.shape == (468, 2)


def test_the_box_moves_and_grows_with_the_picture(blaze: faces.FaceDetector, head: tuple) -> None:
    image, _ = head
    small = np.array(blaze.detect(image)[0].box)
    canvas = np.full((512, 700, 3), image[0, 0], np.uint8)
    canvas[:, 150:662] = images.resize(image, 512, 512)
    large = np.array(blaze.detect(canvas)[0].box)
    np.testing.assert_allclose(large, small * 2 + [150, 0, 150, 0], atol=20)


def test_two_heads_are_two_faces(blaze: faces.FaceDetector, head: tuple) -> None:
    assert len(blaze.detect(np.concatenate([head[0], head[0]], axis=1))) == 2


def test_a_small_head_in_a_wide_picture_is_found_in_a_part(blaze: faces.FaceDetector, head: tuple) -> None:
    canvas = np.full((256, 2048, 3), head[0][0, 0], np.uint8)
    canvas[:, 1700:1956] = head[0]
    assert blaze.detect(canvas, quick=True) == []
    found = blaze.detect(canvas)
    assert len(found) == 1
    assert found[0].box[0] > 1700


@pytest.mark.parametrize("level", [0, 128, 255])
def test_an_empty_picture_has_no_face(blaze: faces.FaceDetector, level: int) -> None:
    assert blaze.detect(np.full((240, 320, 3), level, np.uint8)) == []


def test_noise_has_no_face(blaze: faces.FaceDetector) -> None:
    assert blaze.detect(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)) == []


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (700, 2, 3)])
def test_odd_shapes_are_no_error(blaze: faces.FaceDetector, shape: tuple[int, int, int]) -> None:
    assert blaze.detect(np.zeros(shape, np.uint8)) == []


def test_a_missing_model_names_the_command_that_fetches_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XNEMO_FACE_MODELS", str(tmp_path))
    with pytest.raises(XNeMoError, match=r"xnemo\.media\.face_models"):
        faces.detector("blazeface")


def test_without_models_the_last_resort_warns(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XNEMO_FACE_MODELS", str(tmp_path))
    with pytest.warns(UserWarning, match="Haar"):
        assert faces.detector().name == "haar"


def test_an_unknown_detector_is_an_error() -> None:
    with pytest.raises(XNeMoError, match="haar"):
        faces.detector("magic")


@pytest.mark.real_media
def test_every_real_driving_frame_shows_one_face(blaze: faces.FaceDetector, samples: Path) -> None:
    counts = []
    for path in sorted((samples / "driving").glob("*.mp4")):
        for batch in video.stream_frames(path, fps=25, end=2.0, max_side=640):
            counts += [len(blaze.detect(frame, quick=True)) for frame in batch]
    assert len(counts) > 500
    assert counts.count(1) / len(counts) > 0.995


@pytest.mark.real_media
def test_every_person_has_one_face(blaze: faces.FaceDetector, samples: Path) -> None:
    animals = {"s38.jpg"}  # an alpaca among the portraits
    for path in sorted((samples / "portraits").iterdir()):
        if path.name not in animals:
            assert len(blaze.detect(images.read_image(path))) == 1, path.name


@pytest.mark.real_media
def test_animals_have_no_face(blaze: faces.FaceDetector, samples: Path) -> None:
    for path in [*sorted((samples / "negative").iterdir()), samples / "portraits" / "s38.jpg"]:
        assert blaze.detect(images.read_image(path)) == [], path.name


@pytest.mark.real_media
def test_the_last_resort_finds_people_too(samples: Path) -> None:
    found = faces.detector("haar").detect(images.read_image(samples / "portraits" / "s9.jpg"))
    assert found[0].box[0] == pytest.approx(250, abs=60)
