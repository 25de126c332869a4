"""What is measured of a run's speed: training alone, also where a validation lies between two readings."""

from __future__ import annotations

import pytest

from semiseg.training.logging import step_timer as module
from semiseg.training.logging.step_timer import Clock


def test_a_validation_between_two_readings_counts_neither_as_time_nor_as_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    clock = Clock(images_per_step=4)
    now[0] = 5.0
    assert clock.read(steps=10)["images_per_s"] == 8  # 10 steps of 4 images in 5 s
    now[0] = 8.0  # 6 more steps, and then a validation of 100 s
    clock.restart(steps=16)
    now[0] = 108.0
    clock.restart(steps=16)
    now[0] = 110.0
    assert clock.read(steps=20)["images_per_s"] == 8  # the 4 steps since, in 2 s
