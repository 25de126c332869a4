"""Compare the step time of two revisions of semiseg, whose processes take turns on the same machine.

    python benchmarks/compare_revisions.py OTHER/src [--methods NAME ...] [--preset small] [--rounds N] [--json FILE]

Each revision runs in its own process. In every round, each process takes a few training steps on the default network
and fixed random batches, while the other one waits. The speedup is the median over the rounds of the other revision's
CPU time divided by this one's, so that load from other programs cancels out. Both start from the same weights; the
losses of their last step are compared too (``--rounds 24``: after 50 steps).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
STEPS = 2
CLASSES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the src directory of the other revision")
    parser.add_argument("--methods", nargs="+", default=["dual-teacher", "supervised"])
    parser.add_argument("--preset", help="named options, e.g. small")
    parser.add_argument("--batch-size", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        work(args)
        return
    print("| method | step, this s | other s | speedup | loss, this | other |\n|---|---|---|---|---|---|")
    rows = [compare(name, args) for name in args.methods]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def compare(name: str, args: argparse.Namespace) -> dict[str, float | str]:
    """Time one method under both revisions, print its row and return it."""
    workers = [start(name, source, args) for source in (HERE.parents[1] / "src", args.other)]
    times: list[list[float]] = [[], []]
    losses = [0.0, 0.0]
    for turn in range(args.rounds):
        for index in (0, 1) if turn % 2 == 0 else (1, 0):
            seconds, losses[index] = take_turn(workers[index])
            times[index].append(seconds)
    for worker in workers:
        worker.communicate("stop\n")
    speedup = statistics.median(theirs / ours for ours, theirs in zip(*times, strict=True))
    step, other_step = (statistics.median(values) for values in times)
    print(f"| {name} | {step:.3f} | {other_step:.3f} | {speedup:.2f} | {losses[0]:.6f} | {losses[1]:.6f} |", flush=True)
    row = {"method": name, "step_s": step, "other_step_s": other_step, "speedup": speedup}
    return row | {"fastest_s": min(times[0]), "other_fastest_s": min(times[1]), "loss": losses[0], "other": losses[1]}


def start(name: str, source: Path, args: argparse.Namespace) -> subprocess.Popen[str]:
    """Start a process with the revision in ``source`` and wait for its warm-up."""
    command = [sys.executable, str(HERE), str(source), "--worker", "--methods", name, "--threads", str(args.threads)]
    command += ["--batch-size", str(args.batch_size), *(["--preset", args.preset] if args.preset else [])]
    environment = os.environ | {"PYTHONPATH": str(source.resolve())}
    worker = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    take_turn(worker)
    return worker


def take_turn(worker: subprocess.Popen[str]) -> tuple[float, float]:
    """Let a process take its steps; return the CPU seconds per step and the loss of the last step."""
    assert worker.stdin is not None and worker.stdout is not None
    worker.stdin.write("go\n")
    worker.stdin.flush()
    seconds, loss = worker.stdout.readline().split()
    return float(seconds), float(loss)


def work(args: argparse.Namespace) -> None:
    """Take ``STEPS`` training steps for every line of input and print the CPU seconds per step and the loss."""
    import torch

    from semiseg.methods import Batch, Progress

    fabric = "semiseg.training.distributed.fabric_setup"

    torch.set_num_threads(args.threads)
    if importlib.util.find_spec("semiseg.training.distributed"):  # not in version 0.1.0
        importlib.import_module(fabric).keep_freed_memory()
    torch.manual_seed(0)
    trained = make_method(args)
    count = args.batch_size
    images = torch.randint(0, 256, (2 * count, 3, 128, 128), dtype=torch.uint8)
    valid = torch.ones(2 * count, 128, 128, dtype=torch.bool)
    masks = torch.randint(0, CLASSES, (count, 16, 16)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    batch = Batch(images[:count], masks, valid[:count], images[count:], valid[count:])
    optimizer = torch.optim.AdamW([p for p in trained.parameters() if p.requires_grad], lr=1e-4, fused=True)
    step = 500  # of 1000: all terms of the loss are active
    for line in sys.stdin:
        if line.strip() == "stop":
            break
        start = time.process_time()
        for _ in range(STEPS):
            progress = Progress(step, 1000, 100)
            torch.manual_seed(step)
            loss = trained(batch, progress).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            trained.after_step(progress)
            step += 1
        print((time.process_time() - start) / STEPS, loss.item(), flush=True)


def make_method(args: argparse.Namespace) -> Any:
    """Return the method in training mode on the default network with random weights, in channels-last order."""
    import torch

    from semiseg.methods import METHODS
    from semiseg.networks import build
    from semiseg.presets import PRESETS

    (name,) = args.methods
    values = PRESETS[args.preset][name] if args.preset else {}

    def make_network() -> Any:
        network = build("deeplabv3plus-separable", "tf_efficientnet_lite0", CLASSES, "none")
        if values.get("batchnorm") == "frozen-encoder":
            network.freeze_encoder_batchnorm()
        return network

    known = METHODS[name].Options.__dataclass_fields__
    options = METHODS[name].Options(**{key: value for key, value in values.items() if key in known})
    return METHODS[name](make_network, CLASSES, options).to(memory_format=torch.channels_last).train()


if __name__ == "__main__":
    main()
