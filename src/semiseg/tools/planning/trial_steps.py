"""Time a few steps of a run, and the evaluation of an image, on this machine."""

from __future__ import annotations

import gc
import itertools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from semiseg.config import TrainConfig

WARM_UP, STEPS, LONGEST_S = 2, 4, 20.0  # steps before and during the measurement, which stops after LONGEST_S
IMAGES = 2


@dataclass(frozen=True)
class Speed:
    """Seconds that a run needs.

    Attributes:
        step_s: For a step with unlabeled images.
        burn_in_s: For a step of the burn-in; as ``step_s`` for methods without one.
        image_s: For the evaluation of a validation image by every network.
    """

    step_s: float
    burn_in_s: float
    image_s: float


StepTimer = Callable[[TrainConfig, Any, int], Speed | None]
"""Measure a configuration, the options of its method and a number of CPU threads; None if memory does not suffice."""


def time_steps(config: TrainConfig, options: Any, threads: int) -> Speed | None:
    """Take trial steps with real images, as the run would, and evaluate some validation images.

    Raises:
        UserError: The data, the method or the network cannot be used.
    """
    from semiseg.training.auto_batch_size import is_out_of_memory
    from semiseg.training.distributed.fabric_setup import launched

    print("planning: timing a few steps", file=sys.stderr)
    alone = replace(config, devices=1, nodes=1, val_limit=None)
    if isinstance(config.devices, int):
        alone = replace(alone, batch_size=max(1, config.batch // config.devices))
    with cpu_threads(threads), launched(alone) as fabric:
        try:
            return _time_steps(alone, options, fabric)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        finally:
            gc.collect()
            if fabric.device.type == "cuda":
                import torch

                torch.cuda.empty_cache()
    return None


def _time_steps(config: TrainConfig, options: Any, fabric: Any) -> Speed:
    from semiseg.inference.evaluation import evaluate_networks
    from semiseg.training.auto_batch_size import LAST, Trial
    from semiseg.training.build import make_method, make_optimizer, make_stream
    from semiseg.training.decode_plan import make_reader
    from semiseg.training.prepare_run import check_network, open_data
    from semiseg.training.resolve_config import complete

    config = complete(config)
    dataset, split = open_data(config)
    reader, _ = make_reader(config, dataset, split)
    check_network(replace(config, weights="none", init=None), options, dataset)
    method = fabric.to_device(make_method(config, options, dataset, weights="none"))
    stream = make_stream(config, dataset, split, fabric, reader)
    trial = Trial(fabric, method, make_optimizer(method, config), stream, passes=config.accumulate)
    batches = itertools.count()
    load_s = _median_time(lambda: stream[next(batches)], fabric.device)
    batch = stream[0].to(fabric.device)
    step_s = _median_time(lambda: trial.take_step(batch, LAST), fabric.device)
    burn_in_s = step_s
    if method.uses_unlabeled and getattr(options, "burn_in", 0) > 0:
        burn_in_s = _median_time(lambda: trial.take_step(batch, replace(LAST, step=0)), fabric.device)
    method.eval()

    def evaluate() -> None:
        networks, scale = method.predictors, config.image_scale
        evaluate_networks(networks, dataset, split.val, device=fabric.device, image_scale=scale, limit=IMAGES)

    evaluate()
    started = time.perf_counter()
    evaluate()
    image_s = (time.perf_counter() - started) / min(IMAGES, len(split.val))
    on_cpu = fabric.device.type == "cpu"
    step_s, burn_in_s = (with_loading(s, load_s, config.workers, on_cpu) for s in (step_s, burn_in_s))
    return Speed(step_s, burn_in_s, image_s)


def with_loading(step_s: float, load_s: float, workers: int, on_cpu: bool) -> float:
    """Return the seconds of a step with the loading of its batch.

    Workers load during the steps of a GPU. On a CPU they take their time from the cores that train.
    """
    if workers == 0:
        return step_s + load_s
    if on_cpu:
        import torch

        return step_s + load_s / max(1, torch.get_num_threads())
    return max(step_s, load_s / workers)


def _median_time(step: Callable[[], object], device: Any) -> float:
    """Return the median seconds of a step after the warm-up."""
    import torch

    times, begun = [], time.perf_counter()
    for number in range(WARM_UP + STEPS):
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if number >= WARM_UP:
            times.append(time.perf_counter() - started)
            if time.perf_counter() - begun > LONGEST_S:
                break
    return median(times)


@contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Let PyTorch use ``count`` CPU threads inside the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
