"""Time of a training step over the time of the passes it cannot avoid, for every method.

    python benchmarks/step_time.py [--methods dual-teacher ...] [--json FILE]

Floor: the passes of the networks on the same number of images, in the same process and precision: one forward pass
without gradients for pseudo-labels, one forward and backward pass for training. For Dual Teacher: B images by the
teacher, 3 B by the student (labeled, mixed, sub-models). Floor and step alternate; the ratio is the median.

Roof: the time of the multiplications of all convolutions at the speed of a large matrix product, measured in the same
process between the steps. No other operation is counted. The other columns are shares of a step, measured in the
functions that it calls. The rest of a step is passes and losses.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.data.stream.loader import make_loader
from semiseg.methods import METHODS, Batch, Progress
from semiseg.networks import SegmentationNetwork
from semiseg.ops import ema, injection, intensity, mixing, photometric, strong_view
from semiseg.presets import PRESETS
from semiseg.training.build import make_method, make_optimizer, make_stream
from semiseg.training.distributed.fabric_setup import launched
from semiseg.training.logging.console import Console
from semiseg.training.logging.step_timer import StepTimer
from semiseg.training.resolve_config import resolve
from semiseg.training.signals import SignalHandler
from semiseg.training.trainer import Trainer

PARTS = {
    "augmentation": (photometric, intensity, strong_view),
    "mixing": (mixing, injection),
    "EMA": (ema,),
}
TOTAL = 1000  # steps of the schedules; timed steps are in the middle, where all loss terms are active


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add_settings(parser)
    args = parser.parse_args()
    print(
        f"{'method':<28}{'labels':>7}{'learns':>7}{'step/floor':>11}{'step/roof':>10}{'images/s':>10}{'memory':>9}",
        end="",
    )
    print("".join(f"{name:>14}" for name in (*PARTS, "optimizer", "data wait")))
    write_json(args, [measure(name, args) for name in args.methods])


SETTINGS: dict[str, dict[str, Any]] = {
    "architecture": {"default": "deeplabv3plus-separable"},
    "encoder": {"default": "tf_efficientnet_lite0"},
    "crop-size": {"type": int, "default": 128},
    "batch-size": {"type": int, "default": 4},
    "accelerator": {"default": "auto"},
    "precision": {"default": "fp32", "choices": ["fp32", "bf16"]},
    "preset": {"choices": list(PRESETS), "help": "named options"},
    "workers": {"type": int, "default": 1},
    "rounds": {"type": int, "default": 10, "help": "number of measurements"},
    "json": {"type": Path, "help": "file for the results"},
}


def add_settings(parser: argparse.ArgumentParser, *without: str) -> None:
    """Add the shared options, except those in ``without``."""
    for name, about in SETTINGS.items():
        if name not in without:
            parser.add_argument(f"--{name}", **about)


def write_json(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write results, settings and device to ``--json``, if given."""
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "methods")}
        about = {"settings": settings, "device": device_name(args), "torch": torch.__version__}
        args.json.write_text(json.dumps(about | {"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one method, print its line and return it."""
    with make_trainer(name, args) as trainer:
        row = {"method": name} | timed(trainer, args.rounds)
    shares = "".join(f"{row[part]:>14.1%}" for part in (*PARTS, "optimizer", "data_wait"))
    memory = "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f} MB"
    print(f"{name:<28}{row['labels']:>7}{row['learns']:>7}{row['step_over_floor']:>11.3f}", end="")
    print(f"{row['step_over_roof']:>10.2f}{row['images_per_s']:>10.1f}{memory:>9}{shares}", flush=True)
    return row


@contextmanager
def make_trainer(name: str, args: argparse.Namespace, **options: Any) -> Iterator[Trainer]:
    """Yield the trainer of a method on generated images, without a run directory."""
    values = {
        "data": f"shapes:images=64,val=2,test=2,size={round(1.5 * args.crop_size)}",
        "labeled": "16",
        "method": name,
        "weights": "none",
        **{key: getattr(args, key) for key in ("architecture", "encoder", "crop_size", "batch_size", "accelerator")},
        **{key: getattr(args, key) for key in ("precision", "workers")},
        **options,
    }
    config, method_options = resolve(values, preset=args.preset)
    config = replace(config, steps=TOTAL)
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed)
    with launched(config) as fabric:
        method = make_method(config, method_options, dataset)
        wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
        stream = make_stream(config, dataset, split, fabric)
        unused: Any = None  # nothing is written or validated
        yield Trainer(
            fabric=fabric,
            config=config,
            run=unused,
            method=method,
            wrapped=wrapped,
            optimizer=optimizer,
            stream=stream,
            samples=unused,
            console=Console(Path(), enabled=False),
            signals=SignalHandler(Path()),
            total_steps=TOTAL,
        )


def timed(trainer: Trainer, rounds: int) -> dict[str, Any]:
    """Return the figures of one method's step."""
    step = TOTAL // 2
    batch = trainer.stream[step].to(trainer.fabric.device)
    progress = Progress(step, TOTAL, trainer.stream.steps_per_epoch)
    trainer.method.train()
    passes = record_passes(trainer, lambda: trainer.step(batch, progress))
    bare = partial(floor, trainer, passes, torch.cat([batch.labeled_images, batch.unlabeled_images]).float() / 255)
    for _ in range(2):  # warm-up
        bare()
        trainer.step(batch, progress)
    if trainer.fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    flops = convolution_flops(trainer, lambda: trainer.step(batch, progress))
    rounds_s = [
        (seconds(bare, trainer), seconds(lambda: trainer.step(batch, progress), trainer), seconds_per_flop(trainer))
        for _ in range(rounds)
    ]
    pairs = [(least, ours) for least, ours, _ in rounds_s]
    peak = torch.cuda.max_memory_allocated() / 1e6 if trainer.fabric.device.type == "cuda" else None
    shown = sum(len(images) for images in (batch.labeled_images, batch.unlabeled_images))
    return {
        "labels": sum(entry["labels"][0] for entry in passes.values()),
        "learns": sum(entry["learns"][0] for entry in passes.values()),
        "step_over_floor": statistics.median(ours / least for least, ours in pairs),
        "step_over_roof": statistics.median(ours / (flops * per_flop) for _, ours, per_flop in rounds_s),
        "convolution_gflop": flops / 1e9,
        "gemm_gflop_per_s": 1e-9 / statistics.median(per_flop for *_, per_flop in rounds_s),
        "floor_s": statistics.median(least for least, _ in pairs),
        "step_s": statistics.median(ours for _, ours in pairs),
        "images_per_s": shown / statistics.median(ours for _, ours in pairs),
        "peak_memory_mb": peak,
        **shares(trainer, batch, progress, rounds),
        "data_wait": data_wait(trainer, 2 * rounds),
    }


def record_passes(trainer: Trainer, take: Callable[[], Any]) -> dict[str, dict[str, list[int]]]:
    """Count the images that encoder and head of each network process for labels and for learning."""
    seen: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"labels": [0, 0], "learns": [0, 0]})

    def count(name: str, place: int, module: nn.Module, args: Any, output: Any) -> None:
        seen[name]["learns" if torch.is_grad_enabled() else "labels"][place] += len(args[0] if place == 0 else output)

    with ExitStack() as stack:
        for name, network in trainer.method.named_modules():
            if isinstance(network, SegmentationNetwork):
                for place, module in enumerate((network.encoder, network.head)):
                    stack.callback(module.register_forward_hook(partial(count, name, place)).remove)
        take()
    return dict(seen)


def convolution_flops(trainer: Trainer, take: Callable[[], Any]) -> int:
    """Return the multiplications and additions of all convolutions in a step, backward passes included."""
    total = 0

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal total
        assert isinstance(module, nn.Conv2d)
        passes = 1 + (2 if args[0].requires_grad else 1) * torch.is_grad_enabled()
        total += passes * 2 * output.numel() * module.weight[0].numel()

    with ExitStack() as stack:
        for module in trainer.method.modules():
            if isinstance(module, nn.Conv2d):
                stack.callback(module.register_forward_hook(count).remove)
        take()
    return total


def seconds_per_flop(trainer: Trainer, side: int = 1024) -> float:
    """Return the fastest of three products of square matrices, in seconds per multiplication or addition."""
    a, b = torch.rand(2, side, side, device=trainer.fabric.device)
    with trainer.fabric.autocast():
        return min(seconds(lambda: a @ b, trainer) for _ in range(3)) / (2 * side**3)


def floor(trainer: Trainer, passes: dict[str, dict[str, list[int]]], images: Tensor) -> None:
    """Run the passes once, in one batch per kind."""
    for name, counts in passes.items():
        network: Any = trainer.method.get_submodule(name)
        for kind, (encoded, decoded) in counts.items():
            if not encoded:
                continue
            x = images[torch.arange(encoded, device=images.device) % len(images)]
            with torch.set_grad_enabled(kind == "learns"), trainer.fabric.autocast():
                features = network.encode(x)
                if decoded > encoded:  # some features pass the decoder twice
                    features = [torch.cat([f, f[: decoded - encoded]]) for f in features]
                logits = network.resize(network.decode(features), x.shape[-2:])
            if kind == "learns":
                logits.backward(torch.ones_like(logits))
    for parameter in trainer.method.parameters():
        parameter.grad = None


def seconds(work: Callable[[], Any], trainer: Trainer) -> float:
    """Return the seconds that ``work`` takes on the device; on a CPU those of this process, whatever else runs."""
    clock = time.perf_counter if trainer.fabric.device.type == "cuda" else time.process_time
    synchronize(trainer)
    start = clock()
    work()
    synchronize(trainer)
    return clock() - start


def synchronize(trainer: Trainer) -> None:
    if trainer.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def shares(trainer: Trainer, batch: Batch, progress: Progress, rounds: int) -> dict[str, float]:
    """Return the share of a step in each part. These steps are separate, because timing parts makes a GPU wait."""
    spent: Counter[str] = Counter()
    with ExitStack() as stack:
        for part, modules in PARTS.items():
            stack.enter_context(watched(spent, part, modules, trainer))
        for name, owner in (("step", trainer.optimizer), ("zero_grad", trainer.optimizer)):
            stack.enter_context(
                mock.patch.object(owner, name, clocked(getattr(owner, name), spent, "optimizer", trainer))
            )
        clip = clocked(nn.utils.clip_grad_norm_, spent, "optimizer", trainer)
        stack.enter_context(mock.patch.object(nn.utils, "clip_grad_norm_", clip))
        whole = sum(seconds(lambda: trainer.step(batch, progress), trainer) for _ in range(rounds))
    return {part: spent[part] / whole for part in (*PARTS, "optimizer")}


@contextmanager
def watched(spent: Counter[str], part: str, modules: tuple[Any, ...], trainer: Trainer) -> Iterator[None]:
    """Time the functions of ``modules`` inside the block, wherever a method imported them."""
    ours = {module.__name__ for module in modules}
    with ExitStack() as stack:
        for name in [name for name in sys.modules if name.startswith("semiseg.methods.")]:
            for key, value in list(vars(sys.modules[name]).items()):
                if getattr(value, "__module__", None) in ours and callable(value) and not isinstance(value, type):
                    wrapped = clocked(value, spent, part, trainer)
                    stack.enter_context(mock.patch.object(sys.modules[name], key, wrapped))
        if mixing in modules:
            regions = {key: clocked(value, spent, part, trainer) for key, value in mixing.REGIONS.items()}
            stack.enter_context(mock.patch.dict(mixing.REGIONS, regions))
        yield


def clocked(function: Callable[..., Any], spent: Counter[str], part: str, trainer: Trainer) -> Callable[..., Any]:
    """Return ``function`` with its time added to ``spent[part]``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        synchronize(trainer)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            synchronize(trainer)
            spent[part] += time.perf_counter() - start

    return run


def data_wait(trainer: Trainer, steps: int) -> float:
    """Return the share of time spent waiting for batches over ``steps`` steps, after two steps of warm-up."""
    clock = StepTimer(1)
    for done, batch in enumerate(clock.timed(batches(trainer, steps + 2)), start=1):
        trainer.step(batch, Progress(TOTAL // 2, TOTAL, trainer.stream.steps_per_epoch))
        if done == 2:
            clock.restart(done)
    return clock.read(steps + 2)["data_wait_fraction"]


def batches(trainer: Trainer, steps: int) -> Iterator[Batch]:
    """Return ``steps`` batches, loaded like in a run."""
    pin = trainer.fabric.device.type == "cuda"
    return trainer.on_device(make_loader(trainer.stream, 0, steps, trainer.config.workers, pin))


def device_name(args: argparse.Namespace) -> str:
    cuda = args.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name() if cuda else "CPU"


if __name__ == "__main__":
    main()
