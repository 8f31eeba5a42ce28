"""What is seen of drawn heads: pose that agrees with the truth, frames without a face, memory of pixels."""

import numpy as np
import pytest
import torch

from xnemo.metrics.faces import cross_figures, frame_figures, load_networks, observe
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
    figures = cross_figures(seen, whole, whole.first(1))
    assert figures["skipped_frames"] >= 12
    assert figures["detected_result"] <= 0.5
    assert figures["apd"] == pytest.approx(0, abs=1e-5), "the frames that are left are the same ones"


def test_a_video_against_itself_is_perfect_and_nothing_is_computed_without_weights(networks, heads):
    seen = observe(iter(heads[1][:6]), networks)
    figures = cross_figures(seen, seen, seen.first(1))
    assert figures["apd"] == figures["aed_mesh"] == 0
    assert not {"id_sim", "id_leak", "aed", "emo_sim"} & set(figures)
    assert set(networks.missing) == {"id_sim", "emo_sim", "aed", "lpips", "lpips_vgg"}
    assert all(text.startswith("not computed: place ") for text in networks.missing.values())


def test_frame_figures_do_not_depend_on_the_batch(networks, heads):
    a, b = heads[1][:4], heads[1][4:8]
    together = frame_figures(a, b, networks)
    for k in range(4):
        alone = frame_figures(a[k : k + 1], b[k : k + 1], networks)
        assert {name: values[k] for name, values in together.items()} == pytest.approx(
            {n: v[0] for n, v in alone.items()}
        )
