"""Measure the seconds of a training step on this machine, without data."""

from __future__ import annotations

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from lightning_fabric import Fabric

from semiseg.config import TrainConfig
from semiseg.data.files.pixel_format import RGB
from semiseg.methods import Batch, Progress
from semiseg.training.auto_batch_size import is_out_of_memory
from semiseg.training.build import make_method, make_optimizer
from semiseg.training.distributed.fabric_setup import launched
from semiseg.training.find_method import find_method
from semiseg.training.gradient_step import forward_backward

CPU_CROP, CPU_IMAGES = 129, 2  # what a CPU measures; the result is scaled by the number of pixels
MEASURED = 2  # steps, after one that allocates memory and chooses kernels


def step_seconds(config: TrainConfig, options: Any, classes: int) -> float | None:
    """Return the seconds of a step of ``config`` on one device of this machine; None if not even two images fit.

    On a GPU, the step has its crop and as much of its batch as fits; on a CPU, a small crop and two images of each
    kind. The time is scaled by the number of pixels. Loading and validation come on top.

    Args:
        config: The options of the run.
        options: The options of its method.
        classes: Number of classes.
    """
    one = replace(config, devices="auto", nodes=1, accumulate=1, workers=0)
    with launched(one) as fabric:
        cpu = fabric.device.type == "cpu"
        crop = min(config.crop_size, CPU_CROP) if cpu else config.crop_size
        images = min(config.batch, CPU_IMAGES) if cpu else config.batch
        while images:
            try:
                seconds = _measure(replace(one, crop_size=crop, batch_size=images), options, classes, fabric)
                return seconds * (config.batch / images) * (config.crop_size / crop) ** 2
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            torch.cuda.empty_cache()
            images //= 2
    return None


def _measure(config: TrainConfig, options: Any, classes: int, fabric: Fabric) -> float:
    """Return the mean seconds of a few steps in the middle of a run."""
    dataset: Any = SimpleNamespace(classes=("",) * classes, pixel_format=RGB)
    method = make_method(config, options, dataset, weights="none").train()
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    batch = random_batch(config, classes).to(fabric.device)
    started = 0.0
    for step in range(MEASURED + 1):
        if step == 1:
            started = _now(fabric)
        progress = Progress(500 + step, 1000, 100)
        forward_backward(fabric, wrapped, config, batch, progress)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        method.after_step(progress)
    return (_now(fabric) - started) / MEASURED


def random_batch(config: TrainConfig, classes: int) -> Batch:
    """Return a batch of random images and masks."""
    n, side, random = config.batch, config.crop_size, torch.Generator().manual_seed(0)
    unlabeled = n if find_method(config.method).uses_unlabeled else 0
    images = torch.randint(0, 256, (n + unlabeled, 3, side, side), generator=random, dtype=torch.uint8)
    masks = torch.randint(0, classes, (n, side, side), generator=random)
    valid = torch.ones(n + unlabeled, side, side, dtype=torch.bool)
    return Batch(images[:n], masks, valid[:n], images[n:], valid[n:])


def _now(fabric: Fabric) -> float:
    if fabric.device.type == "cuda":
        torch.cuda.synchronize(fabric.device)
    return time.perf_counter()
