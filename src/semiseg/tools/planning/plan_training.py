"""Plan a run on this machine: read the data, find the device, time steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from semiseg.config import TrainConfig
from semiseg.tools.planning.device_facts import Device, find_device
from semiseg.tools.planning.fingerprint import read_fingerprint
from semiseg.tools.planning.make_plan import Plan, make_plan
from semiseg.tools.planning.trial_steps import StepTimer, time_steps
from semiseg.training.prepare_run import open_data


def plan_training(
    given: Mapping[str, Any],
    time_s: float | None = None,
    device: Device | None = None,
    timer: StepTimer | None = None,
    jobs: int = 1,
) -> Plan:
    """Plan a run with the given options.

    Args:
        given: The given options, which win over the plan, with ``data``.
        time_s: The time budget in seconds. Default: 20 minutes on a CPU, an hour on a GPU.
        device: The device. Default: that of this machine.
        timer: Measures steps. Default: `time_steps`.
        jobs: Number of runs at a time, which share the cores.

    Raises:
        UserError: The data or an option is invalid.
    """
    config = TrainConfig(**{f.name: given[f.name] for f in fields(TrainConfig) if f.name in given})
    dataset, split = open_data(replace(config, method="supervised"))  # also without unlabeled images
    data = read_fingerprint(dataset, split)
    if device is None:
        count = (1 if config.devices == "auto" else config.devices) * config.nodes
        device = find_device(config.accelerator, count, jobs)
    return make_plan(given, data, device, time_s, timer or time_steps)
