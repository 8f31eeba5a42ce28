"""Each solver ends at the same picture when the network's answer is known, and says what it cannot do."""

import pytest
import torch

from xnemo.config import ScheduleConfig
from xnemo.errors import XNeMoError
from xnemo.schedule import Schedule
from xnemo.solvers import SCHEDULERS, SchedulerName, solver


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
@pytest.mark.parametrize("steps", [1, 4, 25])
def test_a_perfect_network_is_followed_to_its_picture(name: SchedulerName, prediction: str, steps: int) -> None:
    config = ScheduleConfig(prediction=prediction)
    schedule, made = Schedule(config), solver(config, name, steps).fresh()
    image, noise = torch.randn(2, 1, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    latents = schedule.add_noise(image, noise, made.times[0])
    for i, t in enumerate(made.times):
        seen = schedule.add_noise(image, noise, t)
        torch.testing.assert_close(latents, seen, atol=2e-3, rtol=1e-3)
        latents = made.step(schedule.target(image, noise, t), i, latents)
    assert len(made.times) == steps
    torch.testing.assert_close(latents, image, atol=2e-3, rtol=1e-3)


@pytest.mark.parametrize("name", ["euler", ""])
def test_an_unknown_scheduler_is_refused_with_the_choice(name: SchedulerName) -> None:
    with pytest.raises(XNeMoError, match=r"give ddim, dpm\+\+ or unipc"):
        solver(ScheduleConfig(), name, 4)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_more_steps_than_the_schedule_has_are_refused(name: SchedulerName) -> None:
    with pytest.raises(XNeMoError, match="steps"):
        solver(ScheduleConfig(), name, 5000)
