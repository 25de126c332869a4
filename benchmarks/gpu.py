"""Every measurement that needs a GPU, in one run of under 8 minutes.

    python benchmarks/gpu.py --json gpu.json [--data CAMVID] [--encoder NAME] [--sections step memory ...]
    python benchmarks/gpu.py --json smoke.json --smoke    # a run of seconds on a CPU; its figures mean nothing

Each section runs in its own process with a time limit. Its rows are in the file as soon as they are measured, so an
error, a lost GPU or an interruption costs the rest of one section only. The sections:

- *step*: Dual Teacher with 8 + 8 images, with and without torch.compile: step / floor, images per second
- *release*: the habits of research code over our step, then single precision, no workers, and all of it (goal: 3)
- *memory*: peak of a step in fp32 and the memory counted for docs/scale.md
- *auto*: the result of --batch-size auto, and a step with it
- *wait*: the share of time that a step waits for JPEGs, by workers
- *determinism*: a step with --deterministic over a step without
- *camvid*: three methods side by side on the full resolution of the folder --data, for the rest of the time
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from step_time import TOTAL, add_settings, data_wait, device_name, make_trainer, seconds, timed

from semiseg.methods import METHODS, Progress
from semiseg.training.trainer import Trainer

Row = dict[str, Any]
METHOD = "dual-teacher"
SMOKE = {"encoder": "test_resnet", "batch_size": 2, "precision": "fp32", "rounds": 1, "accelerator": "cpu"}
RESERVE = 20  # seconds at the end, to stop and evaluate the runs on CamVid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings(parser, "crop-size", "json", "workers")
    parser.set_defaults(architecture="deeplabv3plus", encoder="resnet50", batch_size=8, precision="bf16")
    parser.add_argument("--crops", type=int, nargs="+", default=[321, 513])
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 8, 16], help="numbers of workers for *wait*")
    parser.add_argument("--data", type=Path, help="CamVid as a plain folder")
    parser.add_argument("--sections", nargs="+", choices=list(SECTIONS), default=list(SECTIONS))
    parser.add_argument("--minutes", type=float, default=7.5, help="time for all sections")
    parser.add_argument("--json", type=Path, required=True, help="file for the results")
    parser.add_argument("--smoke", action="store_true", help="use tiny networks and crops, in one process")
    parser.add_argument("--section", choices=list(SECTIONS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(SMOKE, crops=[32], workers=[0])
    if args.section:
        write(args.json, collect(SECTIONS[args.section](args), args.json))
    elif not run_sections(args, run_here if args.smoke else run_apart):
        sys.exit(1)


def run_sections(args: argparse.Namespace, run: Callable[[argparse.Namespace, str, float], Row]) -> bool:
    """Run the sections one after the other, write all results after each, and return whether all succeeded."""
    end = time.monotonic() + 60 * args.minutes
    settings = {name: value for name, value in vars(args).items() if name not in ("json", "section")}
    result: Row = {"settings": settings, "device": device_name(args), "torch": torch.__version__, "sections": {}}
    for name in args.sections:
        left = end - time.monotonic()
        limit = left if name == "camvid" else min(LIMITS[name], left)
        started = time.monotonic()
        section = run(args, name, limit) if left > 0 else {"rows": [], "error": "no time left"}
        result["sections"][name] = section | {"seconds": round(time.monotonic() - started, 1)}
        write(args.json, result)
        print(f"{name}: {len(section['rows'])} rows{', ' + section['error'] if section['error'] else ''}", flush=True)
        for row in section["rows"]:
            print("  " + ", ".join(f"{key} {value}" for key, value in row.items() if value is not None), flush=True)
    return not any(section["error"] for section in result["sections"].values())


def run_here(args: argparse.Namespace, name: str, limit: float) -> Row:
    """Run a section in this process."""
    return collect(SECTIONS[name](args), None)


def run_apart(args: argparse.Namespace, name: str, limit: float) -> Row:
    """Run a section in a process of its own, which is stopped after ``limit`` seconds."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "section.json")
        own = {"--json": str(file), "--section": name, "--minutes": str(limit / 60)}
        command = [sys.executable, *sys.argv, *(part for pair in own.items() for part in pair)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, encoding="utf-8")
        error: str | None = None
        try:
            _, messages = process.communicate(timeout=limit)
            error = None if process.returncode == 0 else " ".join(messages.split())[-300:]
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            process.communicate()
            error = f"stopped after {limit:.0f} s"
        section: Row = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"rows": [], "error": None}
    return section | {"error": section["error"] or error}


def collect(rows: Iterator[Row], file: Path | None) -> Row:
    """Return the rows of a section and the error that ended it, and write them to ``file`` as they come."""
    section: Row = {"rows": [], "error": None}
    try:
        for row in rows:
            section["rows"].append(rounded(row))
            if file:
                write(file, section)
    except Exception as error:
        section["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    return section


def rounded(row: Row) -> Row:
    return {key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in row.items()}


def write(file: Path, content: Row) -> None:
    file.write_text(json.dumps(content, indent=1, default=str) + "\n", encoding="utf-8")


def with_options(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    """Return the settings of `step_time` with changes."""
    first = {"crop_size": args.crops[0], "workers": args.workers[-1]}
    return argparse.Namespace(**vars(args) | first | changes)


# Sections.


def step(args: argparse.Namespace) -> Iterator[Row]:
    for crop in args.crops:
        for compiled in (False,) if args.smoke else (False, True):
            with make_trainer(METHOD, with_options(args, crop_size=crop)) as trainer:
                started = time.perf_counter()
                if compiled:
                    for network in trainer.method.predictors.values():
                        network.compile()
                figures = timed(trainer, args.rounds)
            yield {"crop": crop, "compiled": compiled, **figures, "section_s": time.perf_counter() - started}


def release(args: argparse.Namespace) -> Iterator[Row]:
    from research_code import Stepper, compare

    options: Row = {"label_temperature": 0.0, "ema_reset": "shift"}
    ways: dict[str, tuple[str, Row]] = {
        "habits": ("all of these", {}),
        "fp32": ("", {"precision": "fp32"}),
        "no workers": ("", {"workers": 0}),
        "habits, fp32, no workers": ("all of these", {"precision": "fp32", "workers": 0}),
    }
    for name, (habit, changes) in ways.items():
        with ExitStack() as stack:
            ours = stack.enter_context(make_trainer(METHOD, with_options(args), **options))
            theirs = stack.enter_context(make_trainer(METHOD, with_options(args), **options | changes))
            yield compare(name, Stepper(ours), Stepper(theirs, habit), args.rounds)


def memory(args: argparse.Namespace) -> Iterator[Row]:
    from memory import costs_of, row

    plain = with_options(args, precision="fp32", workers=0)
    costs = {kind: costs_of(kind, plain) for kind in ("plain", "recomputed", "frozen")}
    for name in [METHOD] if args.smoke else METHODS:
        counted = row(name, costs, plain)["sum_mb"]["plain"]
        with make_trainer(name, plain) as trainer:
            peak = peak_memory(trainer)
        yield {"method": name, "counted_mb": counted, "peak_mb": peak, "ratio": peak / counted if peak else None}


def peak_memory(trainer: Trainer) -> float | None:
    """Return the peak of two steps in MB, because the optimizer allocates its moments in the first; None on a CPU."""
    on_gpu = trainer.fabric.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        take_step(trainer)
    return torch.cuda.max_memory_allocated() / 1e6 if on_gpu else None


def take_step(trainer: Trainer) -> None:
    batch = trainer.stream[TOTAL // 2].to(trainer.fabric.device)
    trainer.method.train()
    trainer.step(batch, Progress(TOTAL // 2, TOTAL, trainer.stream.steps_per_epoch))


def auto(args: argparse.Namespace) -> Iterator[Row]:
    from semiseg.training.auto_batch_size import largest_batch

    images = 8 if args.smoke else 1024
    data: Row = {"data": f"shapes:images={2 * images},val=2,test=2,size={max(48, args.crops[0])}"}
    data["labeled"] = str(images)
    for precision in dict.fromkeys([args.precision, "fp32"]):
        options = with_options(args, precision=precision, workers=0)
        with make_trainer(METHOD, options, **data) as trainer:
            started = time.perf_counter()
            found = largest_batch(trainer.config, trainer.method.options, trainer.fabric)
            search_s = time.perf_counter() - started
        with make_trainer(METHOD, options, **data | {"batch_size": found}) as trainer:
            peak = peak_memory(trainer)
        yield {"precision": precision, "batch_size": found, "search_s": search_s, "peak_mb": peak}


def wait(args: argparse.Namespace) -> Iterator[Row]:
    from loader import generate

    steps = 2 if args.smoke else 30
    with tempfile.TemporaryDirectory() as scratch:
        folder = generate(Path(scratch, "data"), "96x72" if args.smoke else "500x375", 64)
        for workers in args.workers:
            data: Row = {"data": str(folder), "labeled": "32"}
            with make_trainer(METHOD, with_options(args, workers=workers), **data) as trainer:
                yield {"workers": workers, "data_wait": data_wait(trainer, steps)}


def determinism(args: argparse.Namespace) -> Iterator[Row]:
    times = []
    for deterministic in (False, True):
        with make_trainer(METHOD, with_options(args, workers=0), deterministic=deterministic) as trainer:
            for _ in range(2):
                take_step(trainer)
            times.append(statistics.median(seconds(lambda: take_step(trainer), trainer) for _ in range(args.rounds)))
    yield {"step_s": times[0], "deterministic_s": times[1], "ratio": times[1] / times[0]}


def camvid(args: argparse.Namespace) -> Iterator[Row]:
    """Train three methods at the same time until the time is over, then evaluate them."""
    if args.data is None:
        return
    end = time.monotonic() + 60 * args.minutes - RESERVE
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        runs = {name: Path(scratch, name) for name in ("supervised", "mean-teacher", METHOD)}
        trainings = []
        for name, run in runs.items():
            command = ["train", "--data", str(args.data), "--method", name, "--labeled", "1/8", "--out", str(run)]
            command += ["--architecture", args.architecture, "--encoder", args.encoder, "--weights", "none"]
            command += [
                "--crop-size",
                str(args.crops[0] if args.smoke else 512),
                "--steps",
                "1000000",
                "--batchnorm",
                "train",
                "--val-every",
                "never",
            ]
            log = stack.enter_context(run.with_suffix(".log").open("w", encoding="utf-8"))
            training = subprocess.Popen([sys.executable, "-m", "semiseg", *command], stdout=log, stderr=log)
            stack.callback(training.kill)
            trainings.append(training)
        time.sleep(max(0, end - time.monotonic()))
        for training in trainings:
            training.send_signal(signal.SIGTERM)  # the run saves its last checkpoint
        for training in trainings:
            training.wait(timeout=60)
        for name, run in runs.items():
            if not (run / "checkpoints" / "last.pt").exists():
                raise RuntimeError(f"train {name}: {run.with_suffix('.log').read_text(encoding='utf-8')[-200:]}")
            command = ["evaluate", str(run), "--checkpoint", "last", "--json"]
            done = subprocess.run([sys.executable, "-m", "semiseg", *command], capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"evaluate {name}: {done.stderr[-200:]}")
            figures = json.loads(done.stdout)
            yield {"method": name, "miou": figures["miou"], "step": figures.get("step")}


SECTIONS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "step": step,
    "release": release,
    "memory": memory,
    "auto": auto,
    "wait": wait,
    "determinism": determinism,
    "camvid": camvid,
}
LIMITS = {"step": 150, "release": 60, "memory": 60, "auto": 45, "wait": 45, "determinism": 30}
"""Seconds of each section; *camvid* has the rest."""


if __name__ == "__main__":
    main()
