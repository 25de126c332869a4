"""What makes Dual Teacher's step quicker, and what does not? Each means against the step as it is.

    python benchmarks/means.py [--rounds 10] [--json FILE]

One row a means: those that are built in, left out; those that are not, put in. The step as it is and the other take
turns; the figure is the median of the other's time over ours: above 1, ours is quicker. Compiling takes minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from release_way import Stepper, compare, patched
from step_time import add_settings, made_loop, write_json
from torch import Tensor

from semiseg.training.trainer import Loop


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--means", nargs="+", choices=list(MEANS), default=list(MEANS))
    add_settings(parser)
    args = parser.parse_args()
    rows = []
    with ExitStack() as stack:
        ours = Stepper(stack.enter_context(made_loop("dual-teacher", args)))
        for name in args.means:
            options, change = MEANS[name]
            patch = patched("soft_label", by_argmax) if name == "argmax in place of max" else None
            other = Stepper(stack.enter_context(made_loop("dual-teacher", args, **options)), patch=patch)
            change(other.loop)
            rows.append(compare(name, ours, other, args.rounds))
    write_json(args, rows)


def nothing(loop: Loop) -> None:
    """Leave the loop as it is."""


def not_fused(loop: Loop) -> None:
    """AdamW by one kernel for each arithmetic operation on all parameters, as PyTorch does by default."""
    for group in loop.optimizer.param_groups:
        group["fused"] = False


def planar(loop: Loop) -> None:
    """Channels first in memory."""
    loop.method.to(memory_format=torch.contiguous_format)


def compiled(loop: Loop) -> None:
    """Student and teachers by torch.compile."""
    for network in loop.method.predictors.values():
        network.compile()


def by_argmax(soft_label: Callable[[Tensor, float], Tensor]) -> Callable[[Tensor, float], Tensor]:
    """The decision by argmax."""
    return lambda logits, temperature: logits.argmax(dim=1) if temperature == 0 else soft_label(logits, temperature)


MEANS: dict[str, tuple[dict[str, Any], Callable[[Loop], None]]] = {
    "the same again (what chance does)": ({}, nothing),
    "channels first": ({}, planar),
    "optimizer not fused": ({}, not_fused),
    "argmax in place of max": ({}, nothing),
    "bf16": ({"precision": "bf16"}, nothing),
    "torch.compile": ({}, compiled),
    "torch.compile and bf16": ({"precision": "bf16"}, compiled),
}


if __name__ == "__main__":
    main()
