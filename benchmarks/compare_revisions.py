"""Compare the step time of two revisions of semiseg, whose processes take turns on the same machine.

    python benchmarks/compare_revisions.py OTHER/src [--methods NAME ...] [--rounds N] [--json FILE]

Each revision runs in its own process. In every round, each process takes a few training steps on the default network
and fixed random batches, while the other one waits. The ratio is the median over the rounds of this revision's CPU time
divided by the other's, so that load from other programs cancels out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve()
STEPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the src directory of the other revision")
    parser.add_argument("--methods", nargs="+", default=["dual-teacher", "mean-teacher", "fixmatch", "augseg"])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args.worker)
        return
    rows = [compare(name, args.other, args.rounds) for name in args.methods]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def compare(name: str, other: Path, rounds: int) -> dict[str, float | str]:
    """Time one method under both revisions, print its row and return it."""
    workers = [start(name, source) for source in (HERE.parents[1] / "src", other)]
    times: list[list[float]] = [[], []]
    for turn in range(rounds):
        order = (0, 1) if turn % 2 == 0 else (1, 0)
        for index in order:
            times[index].append(take_turn(workers[index]))
    for worker in workers:
        worker.communicate("stop\n")
    ratio = statistics.median(ours / theirs for ours, theirs in zip(*times, strict=True))
    step, other_step = (statistics.median(values) for values in times)
    print(f"{name:<28} {step:.4f} s, other {other_step:.4f} s, ratio {ratio:.3f}", flush=True)
    return {"method": name, "step_s": step, "other_step_s": other_step, "ratio": ratio}


def start(name: str, source: Path) -> subprocess.Popen[str]:
    """Start a process with the revision in ``source`` and wait for its warm-up."""
    command = [sys.executable, str(HERE), str(source), "--worker", name]
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    take_turn(worker)
    return worker


def take_turn(worker: subprocess.Popen[str]) -> float:
    """Let a process take its steps and return the CPU seconds per step."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


def work(name: str) -> None:
    """Take ``STEPS`` training steps for every line of input and print the CPU seconds per step."""
    import torch

    from semiseg.methods import METHODS, Batch, Progress
    from semiseg.networks import build

    torch.manual_seed(0)
    method = METHODS[name]
    trained = method(
        lambda: build("deeplabv3plus-separable", "tf_efficientnet_lite0", 11, "none"), 11, method.Options()
    ).train()
    images = torch.randint(0, 256, (8, 3, 128, 128), dtype=torch.uint8)
    valid = torch.ones(8, 128, 128, dtype=torch.bool)
    batch = Batch(images[:4], torch.randint(0, 11, (4, 128, 128)), valid[:4], images[4:], valid[4:])
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4)
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        start = time.process_time()
        for step in range(STEPS):
            progress = Progress(500 + step, 1000, 100)
            torch.manual_seed(step)
            trained(batch, progress).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trained.after_step(progress)
        print((time.process_time() - start) / STEPS, flush=True)


if __name__ == "__main__":
    main()
