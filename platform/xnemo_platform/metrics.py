"""A run's newest numbers for Prometheus, beside those Ray exports of itself: what the boards and alerts ask for.

MLflow keeps the curves; these say that a run lives, how fast, and on which cluster. Only the driver sets them.
"""

from collections.abc import Mapping
from typing import Any

STEP, VALUE = "xnemo_training_step", "xnemo_training"


class Gauges:
    """Gauges of one run. Before Ray is connected, and after it is gone, `show` does nothing."""

    def __init__(self, run: str):
        self.run = run
        self.step: Any = None

    def show(self, step: int, values: Mapping[str, float]) -> None:
        """The numbers of a step."""
        import ray

        if not ray.is_initialized():
            return
        if self.step is None:
            from ray.util.metrics import Gauge

            self.step = Gauge(STEP, "Steps a training has done", tag_keys=("run",))
            self.value = Gauge(VALUE, "Newest numbers of a training", tag_keys=("run", "metric"))
        self.step.set(step, {"run": self.run})
        for name, value in values.items():
            self.value.set(value, {"run": self.run, "metric": name})
