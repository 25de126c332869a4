"""``--batch-size auto``: the largest power of two of images a process whose step fits into the device's memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.data.stream.loader import TrainStream
from semiseg.errors import UserError
from semiseg.methods import Batch, Method, Progress
from semiseg.training.build import make_method, make_optimizer, make_stream
from semiseg.training.decode_plan import make_reader
from semiseg.training.distributed.process_group import ProcessGroup

SHARE = 0.9  # of a GPU that a trial may take: a long run fragments its memory, and validation wants some too
LAST = Progress(step=999, total_steps=1000, steps_per_epoch=1000)  # at the end of a run every term of a loss is on


def require_gpu(device: torch.device) -> None:
    """Raise UserError where running out of memory is no error that can be caught, but swapping or a killed process."""
    if device.type != "cuda":
        raise UserError(
            f"--batch-size auto asks a GPU how much fits; on {device.type} memory ends by swapping: give a number"
        )


def find_batch_size(config: TrainConfig, options: Any, fabric: Fabric, group: ProcessGroup) -> tuple[TrainConfig, str]:
    """Return the configuration with the largest batch size that fits, and a note about it. All ranks must call it.

    Raises:
        UserError: not even one labeled and one unlabeled image fit.
    """
    found = largest_batch(config, options, fabric)
    problem = "auto: not even one image of each kind fits into the GPU's memory"
    fix = "use a smaller --crop-size or network, or --activation-checkpointing"
    group.require(found > 0, UserError(problem, option="--batch-size", fix=fix))
    return replace(config, batch_size=found), f"--batch-size auto: {found}"


def largest_batch(config: TrainConfig, options: Any, fabric: Fabric) -> int:
    """Return the largest batch, over all processes together, whose step fits on each of them; 0 where none does.

    A process tries 1, 2, 4, ... labeled (and as many unlabeled) images, copies of real ones, in two steps each, since
    the optimizer's moments are there from the second one on; no more than there are labeled images in all. With
    ``config.accumulate`` that is a part of its batch. Every process must call it; all get the same. No communication is
    part of a trial, so that none waits for one that failed.
    """
    dataset, world, parts = open_dataset(config.data), fabric.world_size, config.accumulate
    split = resolve_split(dataset, config.labeled, config.seed, config.unlabeled, config.existing_only)
    reader, _ = make_reader(config, dataset, split)
    stream = make_stream(replace(config, batch_size=world, accumulate=1), dataset, split, fabric, reader)
    method = fabric.to_device(make_method(config, options, dataset, weights="none"))
    trial = Trial(fabric, method, make_optimizer(method, config), stream, passes=min(parts, 2))
    with memory_capped(fabric.device):
        return world * parts * largest(trial.fits, max(1, len(split.labeled) // (world * parts)))


@contextmanager
def memory_capped(device: torch.device) -> Iterator[None]:
    """Inside the block, PyTorch runs out of memory at `SHARE` of a GPU's."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(SHARE, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the last of 1, 2, 4, ... up to ``limit`` before the first that does not fit; 0 where 1 does not."""
    best, size = 0, 1
    while size <= limit and fits(size):
        best, size = size, 2 * size
    return best


class Trial:
    """Steps of a method on batches of any size, to see whether they fit."""

    def __init__(
        self, fabric: Fabric, method: Method, optimizer: torch.optim.Optimizer, stream: TrainStream, passes: int
    ) -> None:
        self.fabric, self.method, self.optimizer, self.passes = fabric, method.train(), optimizer, passes
        self.one = stream[0].to(fabric.device)

    def fits(self, images: int) -> bool:
        """Whether two steps on ``images`` labeled and as many unlabeled ones fit on every process."""
        fitted = self._tried(images)
        self.method.zero_grad(set_to_none=True)  # not before the error, whose frames hold the tensors, is gone
        gc.collect()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(self.fabric.all_reduce(torch.tensor(float(fitted), device=self.fabric.device)) == 1)

    def _tried(self, images: int) -> bool:
        try:
            for _ in range(2):
                self.take_step(repeated(self.one, images))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def take_step(self, batch: Batch) -> None:
        """Take a step as a run does, but for what it costs no memory to leave out."""
        several = self.fabric.world_size > 1  # gradients are then averaged in buckets, as large as they are
        buckets = [torch.empty_like(p) for p in self.method.parameters() if p.requires_grad and several]
        for _ in range(self.passes):  # from the second part of a batch on, gradients lie beside what passes keep
            with self.fabric.autocast():
                output = self.method(batch, LAST)
            output.loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.method.parameters() if p.grad is not None], 1.0, foreach=True)
        del buckets
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(LAST)


def repeated(batch: Batch, images: int) -> Batch:
    """Return a batch of one image of each kind with ``images`` copies of it."""
    return Batch(**{name: tensor.repeat_interleave(images, dim=0) for name, tensor in vars(batch).items()})


def is_out_of_memory(error: RuntimeError) -> bool:
    """Tell PyTorch's own error from others; the libraries below it say it in their words."""
    said = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(words in str(error) for words in said)
