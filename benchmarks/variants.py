"""Time of variants of Dual Teacher's step over the time of our step.

    python benchmarks/variants.py [--rounds 10] [--json FILE]

Each row removes an optimization that is built in, or adds one that is not. Both steps alternate; the ratio is the
median. Above 1, our step is faster. Compiling takes minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from research_code import Stepper, compare, patched
from step_time import add_settings, make_trainer, write_json
from torch import Tensor
from torch.nn import functional as F

from semiseg.networks import depthwise, fast_layers, segmentation_network
from semiseg.ops import bilinear
from semiseg.training.distributed import fabric_setup
from semiseg.training.trainer import Trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    add_settings(parser)
    args = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        ours = Stepper(stack.enter_context(make_trainer("dual-teacher", args)))
        for name in args.variants:
            options, change = VARIANTS[name]
            other = Stepper(stack.enter_context(make_trainer("dual-teacher", args, **options)), patch=PATCHES.get(name))
            change(other.trainer)
            rows.append(compare(name, ours, other, args.rounds))
    write_json(args, rows)


def nothing(trainer: Trainer) -> None:
    """Change nothing."""


def not_fused(trainer: Trainer) -> None:
    """Use PyTorch's default AdamW, which launches one kernel per arithmetic operation."""
    for group in trainer.optimizer.param_groups:
        group["fused"] = False


def channels_first(trainer: Trainer) -> None:
    """Use the memory format channels first."""
    trainer.method.to(memory_format=torch.contiguous_format)


def compiled(trainer: Trainer) -> None:
    """Compile student and teachers."""
    for network in trainer.method.predictors.values():
        network.compile()


def by_argmax(soft_label: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """Choose classes by argmax."""
    return lambda logits, temperature: logits.argmax(dim=1) if temperature == 0 else soft_label(logits, temperature)


def never(condition: Any) -> Callable[..., bool]:
    """Return a condition that never holds."""
    return lambda *args: False


def by_interpolate(bilinear: Any) -> Callable[..., Tensor]:
    """Interpolate by PyTorch's function."""

    def resize(x: Tensor, size: Any, align_corners: bool = False) -> Tensor:
        return F.interpolate(x, size, mode="bilinear", align_corners=align_corners)

    return resize


def upsampled_by_pytorch() -> Any:
    """Interpolate features and logits by PyTorch's function."""
    stack = ExitStack()
    for owner in (fast_layers, segmentation_network):
        stack.enter_context(patched("bilinear", by_interpolate, owner)())
    return stack


def by_tap(weight_gradient: Any) -> Callable[..., Tensor]:
    """Compute the weights' gradient of depthwise convolutions by PyTorch, of dilated ones tap by tap."""

    def gradient(x: Tensor, grad: Tensor, weight: Tensor, padding: Any, dilation: Any) -> Tensor:
        method = depthwise.sum_of_each_tap if max(dilation) > 1 else depthwise.native
        return method(x, grad, weight, padding, dilation)

    return gradient


def freed_memory_returned() -> Any:
    """Set the thresholds that glibc reaches by itself, for the duration of a step."""
    stack = ExitStack()
    stack.callback(fabric_setup.keep_freed_memory)
    fabric_setup.set_malloc_thresholds(mmap=32 << 20, trim=64 << 20)
    return stack


PATCHES = {
    "freed memory returned": freed_memory_returned,
    "argmax instead of max": patched("soft_label", by_argmax),
    "PyTorch's layers": bilinear.plain_layers,
    "BatchNorm not folded": patched("is_fixed", never, fast_layers),
    "PyTorch's interpolation": upsampled_by_pytorch,
    "PyTorch's depthwise gradients": patched("weight_gradient", by_tap, fast_layers),
    "1x1 gradients as convolutions": patched("is_matrix_product", never, fast_layers),
}

VARIANTS: dict[str, tuple[dict[str, Any], Callable[[Trainer], None]]] = {
    "no change (noise)": ({}, nothing),
    "PyTorch's layers": ({}, nothing),
    "BatchNorm not folded": ({}, nothing),
    "PyTorch's interpolation": ({}, nothing),
    "PyTorch's depthwise gradients": ({}, nothing),
    "1x1 gradients as convolutions": ({}, nothing),
    "freed memory returned": ({}, nothing),
    "channels first": ({}, channels_first),
    "optimizer not fused": ({}, not_fused),
    "argmax instead of max": ({}, nothing),
    "bf16": ({"precision": "bf16"}, nothing),
    "torch.compile": ({}, compiled),
    "torch.compile and bf16": ({"precision": "bf16"}, compiled),
}


if __name__ == "__main__":
    main()
