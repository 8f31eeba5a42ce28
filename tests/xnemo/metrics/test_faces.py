"""What is seen of drawn heads: pose that agrees with the truth, frames without a face, memory of pixels."""

import weakref

import numpy as np
import pytest
import torch

from xnemo.metrics import cross, faces
from xnemo.metrics.cross import CrossFigures
from xnemo.metrics.faces import Faces, frame_figures, load_networks
from xnemo.synthetic.geometry import MOTION
from xnemo.synthetic.identity import random_identities
from xnemo.synthetic.motion import random_motion
from xnemo.synthetic.render import render


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XNEMO_METRIC_WEIGHTS", str(tmp_path_factory.mktemp("none")))
        return load_networks()


@pytest.fixture(scope="module")
def heads():
    motion, _ = random_motion(3, 24)
    people = random_identities(range(24))
    frames = render(people, motion, torch.zeros(24, 3), 192).permute(0, 2, 3, 1).contiguous().numpy()
    return motion.numpy(), frames


def observe(frames, networks):
    """All parts of a video as one."""
    parts = list(faces.observe(frames, networks))
    names = ("found", "angles", "shape")
    return Faces(*(np.concatenate([getattr(part, name) for part in parts]) for name in names), None, None, None)


def cross_figures(result, driver):
    figures = CrossFigures()
    figures.add(result, driver)
    return figures.figures()


def test_pose_of_drawn_heads_follows_the_truth(networks, heads):
    motion, frames = heads
    seen = observe(frames, networks)
    assert seen.found.mean() > 0.9
    for column, name in enumerate(("pitch", "yaw", "roll")):
        truth = motion[seen.found, MOTION.index(name)]
        slope = np.polyfit(truth, seen.angles[seen.found, column], 1)[0]
        assert 0.6 < slope < 1.4, name
        assert np.corrcoef(truth, seen.angles[seen.found, column])[0, 1] > 0.8, name


def test_frames_without_a_face_are_skipped_and_counted(networks, heads):
    frames = heads[1].copy()
    frames[::2] = 90
    seen, whole = observe(frames, networks), observe(heads[1], networks)
    assert not seen.found[::2].any()
    assert np.isnan(seen.angles[::2]).all()
    figures = cross_figures(seen, whole)
    assert figures["skipped_frames"] >= 12
    assert figures["detected_result"] <= 0.5
    assert figures["apd"] == pytest.approx(0, abs=1e-5), "the frames that are left are the same ones"


def test_a_video_against_itself_is_perfect_and_nothing_is_computed_without_weights(networks, heads):
    seen = observe(iter(heads[1][:6]), networks)
    figures = cross_figures(seen, seen)
    assert figures["apd"] == figures["aed_mesh"] == 0
    assert not {"id_sim", "id_leak", "aed", "emo_sim"} & set(figures)
    assert set(networks.missing) == {"id_sim", "emo_sim", "aed", "lpips", "lpips_vgg"}
    assert all(text.startswith("not computed: place ") for text in networks.missing.values())


def _random(count, seed, blind=()):
    rng = np.random.default_rng(seed)
    found = np.ones(count, bool)
    found[list(blind)] = False
    parts = [rng.normal(size=(count, *size)) for size in ((3,), (468, 3), (51,), (2,), (512,))]
    for part in parts[:4]:
        part[~found] = np.nan
    return Faces(found, *parts)


def _part(seen, first, last):
    return Faces(*(each[first:last] for each in vars(seen).values()))


def test_the_size_of_the_parts_a_video_comes_in_changes_no_figure(monkeypatch):
    result, driver, person = _random(50, 0, [3, 20]), _random(50, 1, [4]), np.random.default_rng(2).normal(size=512)
    found = []
    for step in (50, 16, 7):
        figures = CrossFigures(person)
        for first in range(0, 50, step):
            figures.add(_part(result, first, first + step), _part(driver, first, first + step))
        found.append(figures.figures())
    assert set(found[0]) == {"detected_result", "detected_driver", "skipped_frames", "id_sim", "id_leak", "id_between",
                             "apd", "aed", "aed_mesh", "emo_sim"}  # fmt: skip
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
    assert found[0]["skipped_frames"] == 3
    assert found[0]["apd"] == pytest.approx(
        np.mean([np.abs(a - b).mean() for k, (a, b) in enumerate(zip(result.angles, driver.angles, strict=True))
                 if k not in (3, 4, 20)])
    )  # fmt: skip


def test_no_more_than_a_batch_of_frames_is_held_however_long_the_video(networks):
    alive: set[int] = set()
    most = 0

    def video():
        nonlocal most
        for k in range(5 * faces.BATCH):
            frame = np.full((64, 64, 3), k % 251, np.uint8)
            alive.add(k)
            weakref.finalize(frame, alive.discard, k)
            most = max(most, len(alive))
            yield frame

    count = sum(len(part) for part in faces.observe(video(), networks))
    assert count == 5 * faces.BATCH
    assert most <= 2 * faces.BATCH + 1


def test_of_a_long_video_a_bounded_number_of_meshes_is_kept(monkeypatch):
    monkeypatch.setattr(cross, "SHAPES", 8)
    figures = CrossFigures()
    for k in range(10):
        figures.add(_random(10, k), _random(10, 100 + k))
        assert len(figures.shapes) <= 8
    assert (figures.frames, figures.both, figures.stride) == (100, 100, 16)
    assert figures.figures()["aed_mesh"] > 0


def test_a_video_without_any_face_has_no_figure_and_is_no_crash():
    nobody, driver = _random(6, 0, range(6)), _random(6, 1)
    found = cross_figures(nobody, driver)
    assert found == {"detected_result": 0, "detected_driver": 1, "skipped_frames": 6}


def test_frame_figures_do_not_depend_on_the_batch(networks, heads):
    a, b = heads[1][:4], heads[1][4:8]
    together = frame_figures(a, b, networks)
    for k in range(4):
        alone = frame_figures(a[k : k + 1], b[k : k + 1], networks)
        assert {name: values[k] for name, values in together.items()} == pytest.approx(
            {n: v[0] for n, v in alone.items()}
        )
