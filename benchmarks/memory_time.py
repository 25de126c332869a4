"""Time of a step with each memory-saving option over the time of a step without it.

    python benchmarks/memory_time.py [--method dual-teacher --architecture deeplabv3plus --encoder resnet50]

All variants take the same step on the same batch, alternating in one process; the ratio is the median.
"""

from __future__ import annotations

import argparse
import statistics
from contextlib import ExitStack
from typing import Any

from step_time import TOTAL, add_settings, device_name, make_trainer, seconds, write_json

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
        trainers = {kind: stack.enter_context(make_trainer(args.method, args, **more)) for kind, more in KINDS.items()}
        for turn in range(args.rounds + 2):  # the first two rounds are warm-up
            for kind, trainer in trainers.items():
                trainer.method.train()
                batch = trainer.stream[TOTAL // 2].to(trainer.fabric.device)
                progress = Progress(TOTAL // 2, TOTAL, trainer.stream.steps_per_epoch)
                took = seconds(lambda trainer=trainer, batch=batch, at=progress: trainer.step(batch, at), trainer)  # type: ignore[misc]
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
