"""Bar charts of the self time of operators in Dual Teacher's step, by torch.profiler.

    python benchmarks/profiles.py [--out docs/images] [--steps 5] [--json FILE]

Writes profile-release-way.png (with the habits of research code, see `research_code.py`) and profile-step.png (our
step) with milliseconds per step, largest first. Profiling slows down small operators most.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from research_code import Stepper
from step_time import add_settings, make_trainer, write_json
from torch.profiler import ProfilerActivity, profile

SHOWN = 14  # operators; all others are one more bar
WAYS = {"profile-release-way": "all of these", "profile-step": ""}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--steps", type=int, default=5)
    add_settings(parser, "rounds")
    args = parser.parse_args()
    options = {"label_temperature": 0.0, "ema_reset": "shift"}
    times = {}
    for name, habit in WAYS.items():
        with make_trainer("dual-teacher", args, **options) as trainer:
            times[name] = profiled(Stepper(trainer, habit), args.steps)
    longest = max(max(each.values()) for each in times.values())
    for name, each in times.items():
        print(f"{name}: {sum(each.values()):.0f} ms per step")
        plot(each, longest).savefig(args.out / f"{name}.png", dpi=100)
    write_json(args, [{"way": name, "ms": each} for name, each in times.items()])


def profiled(stepper: Stepper, steps: int) -> dict[str, float]:
    """Return the self time of each operator in milliseconds per step."""
    on_gpu = stepper.trainer.fabric.device.type == "cuda"
    for _ in range(2):
        stepper()
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=kinds) as record:
        for _ in range(steps):
            stepper()
    times = {
        event.key: (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 1000 / steps
        for event in record.key_averages()
    }
    return dict(sorted(times.items(), key=lambda item: -item[1]))


def plot(times: dict[str, float], longest: float) -> Figure:
    """Plot the longest times as bars; both charts share the range of the axis."""
    names = list(times)[:SHOWN]
    rest = sum(times.values()) - sum(times[name] for name in names)
    shown = [*((name.removeprefix("aten::"), times[name]) for name in names), ("all others", rest)]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.barh([name for name, _ in shown][::-1], [value for _, value in shown][::-1], color="#3b6ea5")
    axes.set_xlim(0, 1.05 * max(longest, rest))
    axes.set_xlabel(f"self time in ms per step; total {sum(times.values()):.0f} ms ({torch.get_num_threads()} threads)")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


if __name__ == "__main__":
    main()
