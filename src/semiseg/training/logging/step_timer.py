"""Speed of training and share of time spent waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator

from semiseg.methods import Batch


class StepTimer:
    """Measures images per second, and the share of time spent waiting for data, since the last reading."""

    def __init__(self, images_per_step: int) -> None:
        self.images_per_step = images_per_step
        self.restart(0)

    def restart(self, steps: int) -> None:
        """Restart after ``steps`` steps of this process, e.g. to exclude the time of a validation."""
        self.steps_read, self.waited, self.since = steps, 0.0, time.perf_counter()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield ``batches`` and measure the time that each takes to arrive."""
        while True:
            start = time.perf_counter()
            batch = next(batches, None)
            self.waited += time.perf_counter() - start
            if batch is None:
                return
            yield batch

    def read(self, steps: int) -> dict[str, float]:
        """Return the rates since the last reading and restart, after ``steps`` steps of this process."""
        seconds = max(time.perf_counter() - self.since, 1e-9)
        rates = {
            "images_per_s": round((steps - self.steps_read) * self.images_per_step / seconds, 3),
            "data_wait_fraction": round(min(1.0, self.waited / seconds), 4),
        }
        self.restart(steps)
        return rates
