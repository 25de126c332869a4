"""``--batch-size auto``: the largest power of two of images per rank with which a step fits into GPU memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from semiseg.config import TrainConfig
from semiseg.data.stream.loader import TrainStream
from semiseg.errors import UserError
from semiseg.methods import Batch, Method, Progress
from semiseg.training.build import make_method, make_optimizer, make_stream
from semiseg.training.decode_plan import make_reader
from semiseg.training.distributed.process_group import ProcessGroup
from semiseg.training.prepare_run import open_data

if TYPE_CHECKING:
    from lightning_fabric import Fabric

MEMORY_FRACTION = 0.9  # of a GPU for a trial step: a long run fragments memory, and validation needs some
LAST = Progress(step=999, total_steps=1000, steps_per_epoch=1000)  # every loss term is active at the end of a run


def require_gpu(device: torch.device) -> None:
    """Raise UserError unless ``device`` is a GPU. Elsewhere, running out of memory swaps or kills the process."""
    if device.type != "cuda":
        raise UserError(f"auto needs a GPU, not {device.type}", option="--batch-size", fix="give a number")


def find_batch_size(config: TrainConfig, options: Any, fabric: Fabric, group: ProcessGroup) -> tuple[TrainConfig, str]:
    """Return the configuration with the largest batch size that fits, and a note about it. All ranks must call it.

    Raises:
        UserError: Not even one labeled and one unlabeled image fit.
    """
    found = largest_batch(config, options, fabric)
    problem = "auto: not even one image of each kind fits into the GPU's memory"
    fix = "use a smaller --crop-size or network, or --activation-checkpointing"
    group.require(found > 0, UserError(problem, option="--batch-size", fix=fix))
    return replace(config, batch_size=found), f"--batch-size auto: {found}"


def largest_batch(config: TrainConfig, options: Any, fabric: Fabric) -> int:
    """Return the largest global batch size with which a step fits on every rank; 0 if none does.

    Each rank tries 1, 2, 4, ... labeled and as many unlabeled images, copies of real ones, up to the number of labeled
    images. It takes two steps each time, because the optimizer allocates its moments in the first one. With
    ``config.accumulate``, it tries micro-batches. All ranks must call this and get the same result. A trial step does
    not communicate, so that no rank waits for one that ran out of memory.
    """
    (dataset, split), world, parts = open_data(config), fabric.world_size, config.accumulate
    reader, _ = make_reader(config, dataset, split)
    stream = make_stream(replace(config, batch_size=world, accumulate=1), dataset, split, fabric, reader)
    method = fabric.to_device(make_method(config, options, dataset, weights="none"))
    trial = Trial(fabric, method, make_optimizer(method, config), stream, passes=min(parts, 2))
    with memory_capped(fabric.device):
        return world * parts * largest(trial.fits, max(1, len(split.labeled) // (world * parts)))


@contextmanager
def memory_capped(device: torch.device) -> Iterator[None]:
    """Limit PyTorch to `MEMORY_FRACTION` of the memory of a GPU inside the block."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_per_process_memory_fraction(MEMORY_FRACTION, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def largest(fits: Callable[[int], bool], limit: int) -> int:
    """Return the last of 1, 2, 4, ... up to ``limit`` before the first that does not fit; 0 if 1 does not fit."""
    best, size = 0, 1
    while size <= limit and fits(size):
        best, size = size, 2 * size
    return best


class Trial:
    """Trial steps of a method, which show whether a batch size fits into memory."""

    def __init__(
        self, fabric: Fabric, method: Method, optimizer: torch.optim.Optimizer, stream: TrainStream, passes: int
    ) -> None:
        self.fabric, self.method, self.optimizer, self.passes = fabric, method.train(), optimizer, passes
        self.one = stream[0].to(fabric.device)

    def fits(self, images: int) -> bool:
        """Return whether two steps with ``images`` labeled and as many unlabeled images fit on every rank."""
        fitted = self._try_steps(images)
        self.method.zero_grad(set_to_none=True)  # only here: the frames of the error keep its tensors alive
        gc.collect()
        if self.fabric.device.type == "cuda":
            torch.cuda.empty_cache()
        return bool(self.fabric.all_reduce(torch.tensor(float(fitted), device=self.fabric.device)) == 1)

    def _try_steps(self, images: int) -> bool:
        try:
            for _ in range(2):
                self.take_step(repeated(self.one, images))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def take_step(self, batch: Batch, progress: Progress = LAST) -> None:
        """Take a step like a training step, without what needs no memory."""
        several = self.fabric.world_size > 1  # DDP's buckets need as much memory as the gradients
        buckets = [torch.empty_like(p) for p in self.method.parameters() if p.requires_grad and several]
        for _ in range(self.passes):  # the second pass holds the gradients of the first
            with self.fabric.autocast():
                output = self.method(batch, progress)
            output.loss.backward()
        nn.utils.clip_grad_norm_([p for p in self.method.parameters() if p.grad is not None], 1.0, foreach=True)
        del buckets
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.method.after_step(progress)


def repeated(batch: Batch, images: int) -> Batch:
    """Return a batch with ``images`` copies of each image of ``batch``."""
    return Batch(**{name: tensor.repeat_interleave(images, dim=0) for name, tensor in vars(batch).items()})


def is_out_of_memory(error: RuntimeError) -> bool:
    """Return whether a CUDA device ran out of memory. cuBLAS and cuDNN report it in their own words."""
    messages = ("out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(message in str(error) for message in messages)
