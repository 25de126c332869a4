"""The gradient of one step, which does not depend on how the batch is split among ranks and micro-batches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from semiseg.config import TrainConfig
from semiseg.methods import Batch, Progress, StepOutput
from semiseg.ops.global_batch import Shard, use_shard
from semiseg.seeding import derive_seed, generator

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def forward_backward(fabric: Fabric, wrapped: Any, config: TrainConfig, batch: Batch, progress: Progress) -> StepOutput:
    """Add the gradient of this rank's shard of the global batch.

    The batch is processed in ``config.accumulate`` micro-batches. DDP averages the gradients over the ranks once, in
    the last backward pass. Random numbers for a sample are seeded by the step and the sample's index in the global
    batch. Dropout is seeded by the step and the micro-batch.

    Args:
        fabric: Lightning Fabric, launched.
        wrapped: The method, set up by Fabric.
        config: Seed and ``accumulate``.
        batch: This rank's shard of the global batch.
        progress: The current step.

    Returns:
        Loss, detached, and scalars; with several micro-batches, their means.
    """
    count = config.accumulate
    outputs = []
    for index, micro_batch in enumerate(batch.split(count) if count > 1 else [batch]):
        number = fabric.global_rank * count + index
        torch.manual_seed(derive_seed(config.seed, "step", progress.step, number))
        random = generator(config.seed, "samples of step", progress.step)
        size = len(micro_batch.labeled_images)
        with (
            fabric.no_backward_sync(wrapped, enabled=index < count - 1),
            use_shard(Shard(number, fabric.world_size * count, size, fabric.world_size, random)),
        ):
            output = wrapped(micro_batch, progress)
            fabric.backward(output.loss / count)
        outputs.append(StepOutput(output.loss.detach(), output.scalars))
    return outputs[0] if count == 1 else _mean(outputs)


def _mean(outputs: list[StepOutput]) -> StepOutput:
    names = outputs[0].scalars
    scalars = {name: torch.stack([output.scalars[name] for output in outputs]).mean() for name in names}
    return StepOutput(torch.stack([output.loss for output in outputs]).mean(), scalars)


def mean_over_processes(fabric: Fabric, scalars: Mapping[str, float | Tensor]) -> dict[str, float]:
    """Return the scalars of a step as numbers, with tensors averaged over the ranks. All ranks must call it."""
    names = [name for name, value in scalars.items() if isinstance(value, Tensor)]
    means: Any = fabric.all_reduce(torch.stack([scalars[name].float() for name in names]), reduce_op="mean")  # type: ignore[union-attr]
    return {name: float(value) for name, value in scalars.items()} | dict(zip(names, means.tolist(), strict=True))
