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
            patch = patched("soft_label", by_argmax) if name == "argmax instead of max" else None
            other = Stepper(stack.enter_context(make_trainer("dual-teacher", args, **options)), patch=patch)
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


VARIANTS: dict[str, tuple[dict[str, Any], Callable[[Trainer], None]]] = {
    "no change (noise)": ({}, nothing),
    "channels first": ({}, channels_first),
    "optimizer not fused": ({}, not_fused),
    "argmax instead of max": ({}, nothing),
    "bf16": ({"precision": "bf16"}, nothing),
    "torch.compile": ({}, compiled),
    "torch.compile and bf16": ({"precision": "bf16"}, compiled),
}


if __name__ == "__main__":
    main()
