"""The GPU benchmark's code, in a shape for a CPU."""

import pytest
import torch

from tests.benchmarks import gpu


def test_the_tiny_shape_runs_from_end_to_end_and_prints_every_figure(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--tiny", "--eager-only"]) == 0
    figures = capsys.readouterr().out.splitlines()[-1].split()
    assert figures[0] == "eager"
    assert all(float(figure) >= 0 for figure in figures[1:])


def test_frames_of_the_configured_size_come_out() -> None:
    work = gpu.tiny()
    device = torch.device("cpu")
    model = gpu.synthetic(work.config, device, work.dtype)
    frames = gpu.second_of_video(model, work, gpu.inputs(work, device))
    assert frames.shape == (work.frames, 3, work.config.image_size, work.config.image_size)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 0
    assert capsys.readouterr().out.strip() == gpu.NO_GPU
