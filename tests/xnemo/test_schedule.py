"""The noise schedule against the recorded one, and the identities every prediction type must keep."""

from pathlib import Path

import numpy as np
import pytest
import torch

from xnemo.config import ScheduleConfig
from xnemo.errors import XNeMoError
from xnemo.losses import shift_timesteps
from xnemo.schedule import Schedule


@pytest.fixture
def recorded(goldens: Path) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(array) for name, array in np.load(goldens / "scheduler.npz").items()}


def test_alphas_and_time_steps_equal_the_released_scheduler(recorded: dict[str, torch.Tensor]) -> None:
    schedule = Schedule(ScheduleConfig())
    torch.testing.assert_close(schedule.alphas_cumprod, recorded["alphas_cumprod"], rtol=1e-4, atol=0)
    for steps in (3, 25, 35):
        assert schedule.ddim_timesteps(steps) == recorded[f"timesteps_{steps}"].tolist()


def test_noising_and_ddim_steps_equal_the_released_scheduler(recorded: dict[str, torch.Tensor]) -> None:
    schedule = Schedule(ScheduleConfig())
    x, eps, times = recorded["x"], recorded["eps"], schedule.ddim_timesteps(35)
    noised = schedule.add_noise(x, eps, times[0])
    torch.testing.assert_close(noised, recorded["add_noise_t0"], rtol=1e-4, atol=1e-6)
    for i, (t, t_prev) in enumerate(zip(times, [*times[1:], -1], strict=True)):
        x = schedule.ddim_step(eps, t, t_prev, x)
        if i in (0, 34):
            torch.testing.assert_close(x, recorded[f"prev_{i}"], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_the_target_leads_back_to_sample_and_noise(prediction: str) -> None:
    schedule = Schedule(ScheduleConfig(prediction=prediction))
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 5, generator=generator), torch.randn(2, 3, 4, 5, generator=generator)
    t = torch.tensor([30, 800])
    x_t = schedule.add_noise(x0, noise, t)
    got_x0, got_noise = schedule.to_x0_eps(schedule.target(x0, noise, t), x_t, t)
    torch.testing.assert_close(got_x0, x0, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got_noise, noise, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_a_perfect_predictor_is_sampled_back_to_the_image(prediction: str) -> None:
    schedule = Schedule(ScheduleConfig(prediction=prediction))
    generator = torch.Generator().manual_seed(1)
    x0, noise = torch.randn(1, 4, 8, 8, generator=generator), torch.randn(1, 4, 8, 8, generator=generator)
    times = schedule.ddim_timesteps(5)
    x = schedule.add_noise(x0, noise, times[0])
    for t, t_prev in zip(times, [*times[1:], -1], strict=True):
        x = schedule.ddim_step(schedule.target(x0, noise, t), t, t_prev, x)
    torch.testing.assert_close(x, x0, rtol=1e-3, atol=1e-3)


def test_min_snr_weights_the_same_error_alike_in_every_prediction_space() -> None:
    t = torch.tensor([1, 200, 500, 999])
    by_prediction = {p: Schedule(ScheduleConfig(prediction=p)) for p in ("epsilon", "v", "sample")}
    weights = {p: schedule.min_snr_weight(t, gamma=5.0) for p, schedule in by_prediction.items()}
    snr = by_prediction["sample"].snr(t)
    torch.testing.assert_close(weights["sample"], snr.clamp(max=5.0))
    torch.testing.assert_close(weights["epsilon"] * snr, weights["sample"])
    torch.testing.assert_close(weights["v"] * (snr + 1), weights["sample"])


@pytest.mark.parametrize("steps", [0, 1000])
def test_an_impossible_number_of_steps_is_refused(steps: int) -> None:
    with pytest.raises(XNeMoError, match="steps"):
        Schedule(ScheduleConfig()).ddim_timesteps(steps)


def test_shifted_steps_are_as_noisy_as_shifted_training() -> None:
    shifted = Schedule(ScheduleConfig(sampling_shift=12.0))
    assert shifted.ddim_timesteps(1) == [999]
    assert shifted.ddim_timesteps(3) == [999, 959, 856]
    for steps in (2, 7, 25, 100):
        times = shifted.ddim_timesteps(steps)
        even = torch.arange(steps, 0, -1) / steps * 0.999
        assert times == sorted(set(times), reverse=True)
        assert (torch.tensor(times) - shift_timesteps(even, 12.0, 1000)).abs().max() <= 2
