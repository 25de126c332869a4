"""The gradient of one step: the same however the batch is shared out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.methods import Batch, Progress, StepOutput
from semiseg.ops.global_batch import Shard, use_shard
from semiseg.seeding import derive_seed, generator


def forward_backward(fabric: Fabric, wrapped: Any, config: TrainConfig, batch: Batch, progress: Progress) -> StepOutput:
    """Add the gradient of this process's part of a global batch; return loss and scalars, detached.

    The part is taken in ``config.accumulate`` parts, one after the other; loss and scalars are their means. Gradients
    are averaged over the processes once, in the last backward pass. Draws for samples come from the step and their
    place in the global batch; what a network draws by itself (dropout), from the step and the part.
    """
    times = config.accumulate
    outputs = []
    for turn, part in enumerate(batch.split(times) if times > 1 else [batch]):
        number = fabric.global_rank * times + turn
        torch.manual_seed(derive_seed(config.seed, "step", progress.step, number))
        draws = generator(config.seed, "samples of step", progress.step)
        size = len(part.labeled_images)
        with (
            fabric.no_backward_sync(wrapped, enabled=turn < times - 1),
            use_shard(Shard(number, fabric.world_size * times, size, fabric.world_size, draws)),
        ):
            output = wrapped(part, progress)
            fabric.backward(output.loss / times)
        outputs.append(StepOutput(output.loss.detach(), output.scalars))
    return outputs[0] if times == 1 else _mean(outputs)


def _mean(outputs: list[StepOutput]) -> StepOutput:
    names = outputs[0].scalars
    scalars = {name: torch.stack([output.scalars[name] for output in outputs]).mean() for name in names}
    return StepOutput(torch.stack([output.loss for output in outputs]).mean(), scalars)


def mean_over_processes(fabric: Fabric, scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Return the scalars of a step as numbers, tensors averaged over the processes; every process has to ask."""
    names = [name for name, value in scalars.items() if isinstance(value, Tensor)]
    means: Any = fabric.all_reduce(torch.stack([scalars[name].float() for name in names]), reduce_op="mean")  # type: ignore[union-attr]
    return {name: float(value) for name, value in scalars.items()} | dict(zip(names, means.tolist(), strict=True))
