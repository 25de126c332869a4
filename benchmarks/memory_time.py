"""What the means to save memory cost, or save, in time: a step with each of them over a step without.

    python benchmarks/memory_time.py [--method dual-teacher --architecture deeplabv3plus --encoder resnet50]

The same step on the same batch, the kinds in turns in one process; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from typing import Any

from step_time import TOTAL, add_settings, device_name, made_loop, seconds, write_json

from semiseg.methods import METHODS, Progress

KINDS: dict[str, dict[str, Any]] = {
    "plain": {},
    "--accumulate 2": {"accumulate": 2},
    "--activation-checkpointing": {"activation_checkpointing": True},
    "--freeze-encoder": {"freeze_encoder": True},
    "--teacher-precision bf16": {"teacher_precision": "bf16"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=list(METHODS), default="dual-teacher")
    add_settings(parser)
    args = parser.parse_args()
    spent: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with ExitStack() as stack:
        loops = {kind: stack.enter_context(made_loop(args.method, args, **more)) for kind, more in KINDS.items()}
        for turn in range(args.rounds + 2):  # the first two set up kernels and memory
            for kind, loop in loops.items():
                loop.method.train()
                batch = loop.stream[TOTAL // 2].to(loop.fabric.device)
                progress = Progress(TOTAL // 2, TOTAL, loop.stream.steps_per_epoch)
                took = seconds(lambda loop=loop, batch=batch, at=progress: loop.step(batch, at), loop)  # type: ignore[misc]
                if turn >= 2:
                    spent[kind].append(took)
    ratios = {
        kind: statistics.median(x / y for x, y in zip(spent[kind], spent["plain"], strict=True)) for kind in KINDS
    }
    print(f"{args.method}, {args.architecture} over {args.encoder}, crops of {args.crop_size}, {device_name(args)}")
    for kind, ratio in ratios.items():
        print(f"{kind:<28}{ratio:>8.2f}")
    write_json(args, [{"kind": kind, "ratio": ratio} for kind, ratio in ratios.items()])


if __name__ == "__main__":
    main()
