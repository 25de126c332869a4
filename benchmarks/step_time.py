"""How close is a training step to the passes it cannot avoid? One table, for every method.

    python benchmarks/step_time.py [--methods dual-teacher ...] [--json FILE]

Floor: the bare passes of the networks, on as many images as the step asks of them, in the same process, at the same
precision: one forward pass without gradients over what is labeled, one forward and backward pass over what is learned
from. For Dual Teacher: B images by the teacher, 3 B by the student (labeled, mixed, sub-models). Floor and step take
turns; the ratio is the median over the pairs. Where the time goes is told by the functions that a step calls, as
shares of it; what is not listed is the rest: losses, and what PyTorch does between them.
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
from semiseg.training.build import make_method, make_stream
from semiseg.training.distributed.fabric_setup import launched
from semiseg.training.logging.console import Console
from semiseg.training.logging.step_timer import Clock
from semiseg.training.optimizer import make_optimizer
from semiseg.training.resolve_config import resolve
from semiseg.training.signals import SignalHandler
from semiseg.training.trainer import Loop

PARTS = {
    "augmentation": (photometric, intensity, strong_view),
    "mixing": (mixing, injection),
    "EMA": (ema,),
}
TOTAL = 1000  # steps the schedules are told of; those timed lie at their middle, where all terms are on


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS))
    add_settings(parser)
    args = parser.parse_args()
    print(f"{'method':<28}{'labels':>7}{'learns':>7}{'step/floor':>11}{'images/s':>10}{'memory':>9}", end="")
    print("".join(f"{name:>14}" for name in (*PARTS, "optimizer", "data wait")))
    write_json(args, [measure(name, args) for name in args.methods])


SETTINGS: dict[str, dict[str, Any]] = {
    "architecture": {"default": "deeplabv3plus-separable"},
    "encoder": {"default": "tf_efficientnet_lite0"},
    "crop-size": {"type": int, "default": 128},
    "batch-size": {"type": int, "default": 4},
    "accelerator": {"default": "auto"},
    "precision": {"default": "fp32", "choices": ["fp32", "bf16"]},
    "workers": {"type": int, "default": 1},
    "rounds": {"type": int, "default": 10, "help": "how often each is timed, in turns"},
    "json": {"type": Path, "help": "file to write the figures to"},
}


def add_settings(parser: argparse.ArgumentParser, *without: str) -> None:
    """Add what a benchmark of a step may be asked, ``without`` what has no meaning to it."""
    for name, about in SETTINGS.items():
        if name not in without:
            parser.add_argument(f"--{name}", **about)


def write_json(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    """Write the figures, and on what they were measured, where that was asked for."""
    if args.json:
        settings = {key: value for key, value in vars(args).items() if key not in ("json", "methods")}
        about = {"settings": settings, "device": device_name(args), "torch": torch.__version__}
        args.json.write_text(json.dumps(about | {"threads": torch.get_num_threads(), "rows": rows}, indent=1) + "\n")


def measure(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Time one method, print its line and return it."""
    with made_loop(name, args) as loop:
        row = {"method": name} | timed(loop, args.rounds)
    shares = "".join(f"{row[part]:>14.1%}" for part in (*PARTS, "optimizer", "data_wait"))
    memory = "-" if row["peak_memory_mb"] is None else f"{row['peak_memory_mb']:.0f} MB"
    print(f"{name:<28}{row['labels']:>7}{row['learns']:>7}{row['step_over_floor']:>11.3f}", end="")
    print(f"{row['images_per_s']:>10.1f}{memory:>9}{shares}", flush=True)
    return row


@contextmanager
def made_loop(name: str, args: argparse.Namespace, **options: Any) -> Iterator[Loop]:
    """Yield the trainer's loop of a method on generated images, without a run to write to."""
    values = {
        "data": f"shapes:images=64,val=2,test=2,size={round(1.5 * args.crop_size)}",
        "labeled": "16",
        "method": name,
        "weights": "none",
        **{key: getattr(args, key) for key in ("architecture", "encoder", "crop_size", "batch_size", "accelerator")},
        **{key: getattr(args, key) for key in ("precision", "workers")},
        **options,
    }
    config, method_options = resolve(values)
    config = replace(config, steps=TOTAL)
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed)
    with launched(config) as fabric:
        method = make_method(config, method_options, dataset)
        wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
        stream = make_stream(config, dataset, split, fabric)
        nothing: Any = None  # no run is written and nothing is validated
        tools = (stream, nothing, nothing, Console(Path(), enabled=False), SignalHandler(Path()))
        yield Loop(fabric, config, nothing, method, wrapped, optimizer, *tools, TOTAL)


def timed(loop: Loop, rounds: int) -> dict[str, Any]:
    """Return the figures of one method's step."""
    step = TOTAL // 2
    batch = loop.stream[step].to(loop.fabric.device)
    progress = Progress(step, TOTAL, loop.stream.steps_per_epoch)
    loop.method.train()
    passes = record_passes(loop, lambda: loop.step(batch, progress))
    bare = partial(floor, loop, passes, torch.cat([batch.labeled_images, batch.unlabeled_images]).float() / 255)
    for _ in range(2):  # the first of each sets up kernels and memory
        bare()
        loop.step(batch, progress)
    if loop.fabric.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    pairs = [(seconds(bare, loop), seconds(lambda: loop.step(batch, progress), loop)) for _ in range(rounds)]
    peak = torch.cuda.max_memory_allocated() / 1e6 if loop.fabric.device.type == "cuda" else None
    shown = sum(len(images) for images in (batch.labeled_images, batch.unlabeled_images))
    return {
        "labels": sum(entry["labels"][0] for entry in passes.values()),
        "learns": sum(entry["learns"][0] for entry in passes.values()),
        "step_over_floor": statistics.median(ours / least for least, ours in pairs),
        "floor_s": statistics.median(least for least, _ in pairs),
        "step_s": statistics.median(ours for _, ours in pairs),
        "images_per_s": shown / statistics.median(ours for _, ours in pairs),
        "peak_memory_mb": peak,
        **shares(loop, batch, progress, rounds),
        "data_wait": data_wait(loop, 2 * rounds),
    }


def record_passes(loop: Loop, take: Callable[[], Any]) -> dict[str, dict[str, list[int]]]:
    """Return, by the name of each network, how many images its encoder and its head labeled and learned from."""
    seen: dict[str, dict[str, list[int]]] = defaultdict(lambda: {"labels": [0, 0], "learns": [0, 0]})

    def count(name: str, place: int, module: nn.Module, args: Any, output: Any) -> None:
        seen[name]["learns" if torch.is_grad_enabled() else "labels"][place] += len(args[0] if place == 0 else output)

    with ExitStack() as stack:
        for name, network in loop.method.named_modules():
            if isinstance(network, SegmentationNetwork):
                for place, module in enumerate((network.encoder, network.head)):
                    stack.callback(module.register_forward_hook(partial(count, name, place)).remove)
        take()
    return dict(seen)


def floor(loop: Loop, passes: dict[str, dict[str, list[int]]], images: Tensor) -> None:
    """Take the passes once, all images of a kind at once."""
    for name, counts in passes.items():
        network: Any = loop.method.get_submodule(name)
        for kind, (encoded, decoded) in counts.items():
            if not encoded:
                continue
            x = images[torch.arange(encoded, device=images.device) % len(images)]
            with torch.set_grad_enabled(kind == "learns"), loop.fabric.autocast():
                features = network.encode(x)
                if decoded > encoded:  # some features go through the decoder twice
                    features = [torch.cat([f, f[: decoded - encoded]]) for f in features]
                logits = network.resize(network.decode(features), x.shape[-2:])
            if kind == "learns":
                logits.backward(torch.ones_like(logits))
    for parameter in loop.method.parameters():
        parameter.grad = None


def seconds(work: Callable[[], Any], loop: Loop) -> float:
    """Return how long ``work`` takes, until the device has done it."""
    synchronize(loop)
    start = time.perf_counter()
    work()
    synchronize(loop)
    return time.perf_counter() - start


def synchronize(loop: Loop) -> None:
    if loop.fabric.device.type == "cuda":
        torch.cuda.synchronize()


def shares(loop: Loop, batch: Batch, progress: Progress, rounds: int) -> dict[str, float]:
    """Return the share of a step in each part; timing makes a GPU wait, so these steps are not those timed as whole."""
    spent: Counter[str] = Counter()
    with ExitStack() as stack:
        for part, modules in PARTS.items():
            stack.enter_context(watched(spent, part, modules, loop))
        for name, owner in (("step", loop.optimizer), ("zero_grad", loop.optimizer)):
            stack.enter_context(mock.patch.object(owner, name, clocked(getattr(owner, name), spent, "optimizer", loop)))
        clip = clocked(nn.utils.clip_grad_norm_, spent, "optimizer", loop)
        stack.enter_context(mock.patch.object(nn.utils, "clip_grad_norm_", clip))
        whole = sum(seconds(lambda: loop.step(batch, progress), loop) for _ in range(rounds))
    return {part: spent[part] / whole for part in (*PARTS, "optimizer")}


@contextmanager
def watched(spent: Counter[str], part: str, modules: tuple[Any, ...], loop: Loop) -> Iterator[None]:
    """Inside the block, the functions of ``modules`` are clocked wherever a method imported them."""
    ours = {module.__name__ for module in modules}
    with ExitStack() as stack:
        for name in [name for name in sys.modules if name.startswith("semiseg.methods.")]:
            for key, value in list(vars(sys.modules[name]).items()):
                if getattr(value, "__module__", None) in ours and callable(value) and not isinstance(value, type):
                    wrapped = clocked(value, spent, part, loop)
                    stack.enter_context(mock.patch.object(sys.modules[name], key, wrapped))
        if mixing in modules:
            regions = {key: clocked(value, spent, part, loop) for key, value in mixing.REGIONS.items()}
            stack.enter_context(mock.patch.dict(mixing.REGIONS, regions))
        yield


def clocked(function: Callable[..., Any], spent: Counter[str], part: str, loop: Loop) -> Callable[..., Any]:
    """Return ``function``, adding what it takes to ``spent[part]``."""

    def run(*args: Any, **kwargs: Any) -> Any:
        synchronize(loop)
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            synchronize(loop)
            spent[part] += time.perf_counter() - start

    return run


def data_wait(loop: Loop, steps: int) -> float:
    """Return the share of ``steps`` steps spent waiting for batches, the first two steps left out."""
    clock = Clock(1)
    for done, batch in enumerate(clock.waiting(batches(loop, steps + 2)), start=1):
        loop.step(batch, Progress(TOTAL // 2, TOTAL, loop.stream.steps_per_epoch))
        if done == 2:
            clock.restart(done)
    return clock.read(steps + 2)["data_wait_fraction"]


def batches(loop: Loop, steps: int) -> Iterator[Batch]:
    """Return ``steps`` batches as a run loads them."""
    pin = loop.fabric.device.type == "cuda"
    return loop.on_device(make_loader(loop.stream, 0, steps, loop.config.workers, pin))


def device_name(args: argparse.Namespace) -> str:
    cuda = args.accelerator in ("auto", "cuda") and torch.cuda.is_available()
    return torch.cuda.get_device_name() if cuda else "CPU"


if __name__ == "__main__":
    main()
