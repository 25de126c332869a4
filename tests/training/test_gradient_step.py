"""Splitting a batch among ranks or into micro-batches changes neither the losses nor the weights."""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from commands import CONTEXT
from semiseg.config import TrainConfig
from semiseg.data import open_dataset
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.methods import METHODS, Batch, Progress
from semiseg.training.build import make_method, make_optimizer, make_stream
from semiseg.training.distributed.fabric_setup import launched
from semiseg.training.gradient_step import mean_over_processes
from semiseg.training.logging.console import Console
from semiseg.training.resolve_config import resolve
from semiseg.training.signals import SignalHandler
from semiseg.training.trainer import Trainer

SETTINGS = {
    **{"data": "shapes:images=24,val=2,test=2,size=48", "labeled": "10", "batch_size": 8, "crop_size": 32},
    **{"weights": "none", "encoder": "test_resnet", "accelerator": "cpu", "precision": "fp32", "optimizer": "sgd"},
    "lr": 0.004,
}
# Pseudo-labels that an untrained network trusts in part, without the terms that depend on all images of a rank.
EASY = {"threshold": 0.7, "threshold_mode": "batch", "contrast_weight": 0.0, "drop_percent": 0.0, "drop_path": 0.5}
CASES: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
CASES["pseudoseg"]["threshold"] = 0.3  # the mean of both branches is less confident
CASES["classmix"] = {"method": "dual-teacher", "pool": ("classmix",), "consistency_on": "all"}
CASES["partial"] = {"method": "dual-teacher", "annotation": "partial"}
LOGIT_SCALE = 100  # factor on the last layer, because an untrained network gives all classes the same probability
STEPS = range(500, 502)


def configured(values: dict[str, Any], **more: Any) -> tuple[TrainConfig, Any]:
    known = {field.name for field in fields(METHODS[values["method"]].Options)}
    defaults = {key: value for key, value in EASY.items() if key in known}
    return resolve({**SETTINGS, **defaults, **values, **more})


def train_steps(values: dict[str, Any], fabric: Any, **more: Any) -> tuple[list[float], dict[str, Tensor]]:
    """Return the loss of each step and the state of the method after them."""
    config, options = configured(values, **more)
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed)
    method = make_method(config, options, dataset)
    with torch.no_grad():
        for name, weight in method.named_parameters():
            weight.mul_(LOGIT_SCALE if "head" in name else 1)
    wrapped, optimizer = fabric.setup(method, make_optimizer(method, config))
    stream = make_stream(config, dataset, split, fabric)
    none: Any = None
    trainer = Trainer(
        fabric=fabric,
        config=config,
        run=none,
        method=method,
        wrapped=wrapped,
        optimizer=optimizer,
        stream=stream,
        samples=none,
        console=Console(Path(), enabled=False),
        signals=SignalHandler(Path()),
        total_steps=1000,
    )
    method.eval()  # batch normalization by its running statistics, no dropout
    losses = []
    for step in STEPS:
        batch = stream[step] if config.annotation == "full" else partly_annotated(stream[step])
        scalars, finite = trainer.step(batch, Progress(step, 1000, stream.steps_per_epoch))
        assert finite
        losses.append(mean_over_processes(fabric, scalars))
        assert scalars["trusted_fraction"] > 0 or values["method"] == "supervised"
    return [line["loss"] for line in losses], method.state_dict()


def partly_annotated(batch: Batch) -> Batch:
    """Return the batch without the labels of every other row, and with tags that depend on each image."""
    masks = batch.masks.clone()
    masks[:, ::2] = 255
    tags = [
        (images.long().sum(dim=(1, 2, 3))[:, None] + torch.arange(7)) % 3 - 1
        for images in (batch.labeled_images, batch.unlabeled_images)
    ]
    fill = (masks == 255) & batch.labeled_valid
    return replace(
        batch, masks=masks, fill=fill, labeled_tags=tags[0].to(torch.int8), unlabeled_tags=tags[1].to(torch.int8)
    )


def cases_on(world: int) -> tuple[str, ...]:
    """Return the cases to test on ``world`` ranks: all of them on two."""
    return tuple(CASES) if world == 2 else ("supervised", "dual-teacher", "classmix", "augseg")


BOTH = [
    pytest.param(world, case, marks=[pytest.mark.slow] if world == 2 else [pytest.mark.slow, pytest.mark.long])
    for world in (2, 4)
    for case in cases_on(world)
]


def train_rank(out: Path, variables: dict[str, str]) -> None:
    """Train every case on the rank that the environment variables name, and save the results."""
    os.environ.update(variables)
    with launched(configured(CASES["supervised"], devices=int(os.environ["WORLD_SIZE"]))[0]) as fabric:
        results = {name: train_steps(CASES[name], fabric) for name in cases_on(fabric.world_size)}
    torch.save(results, out / f"{fabric.world_size}-{fabric.global_rank}.pt")


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    with launched(configured(CASES["supervised"])[0]) as fabric:
        return {name: train_steps(values, fabric) for name, values in CASES.items()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[dict[str, Any]]]:
    """Return a function that trains on a number of ranks, once, and returns the results of each."""
    return cache(lambda world: launch(world, tmp_path_factory.mktemp(f"{world}-processes")))


def launch(world: int, out: Path) -> list[dict[str, Any]]:
    """Train on ``world`` ranks and return the results of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = []
    for rank in range(world):
        variables = common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"}
        processes.append(CONTEXT.Process(target=train_rank, args=(out, variables)))
        processes[-1].start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    return [torch.load(out / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize(("world", "case"), BOTH)
def test_ranks_learn_what_one_rank_learns(
    one: dict[str, Any], many: Callable[[int], list[dict[str, Any]]], world: int, case: str
) -> None:
    losses, state = one[case]
    for result in many(world):
        assert result[case][0] == pytest.approx(losses, abs=1e-5)
        for name, value in state.items():  # students and teachers
            torch.testing.assert_close(result[case][1][name], value, rtol=1e-5, atol=1e-5, msg=f"{case}: {name}")


@pytest.mark.parametrize(("world", "case"), BOTH)
def test_all_ranks_have_the_same_networks(many: Callable[[int], list[dict[str, Any]]], world: int, case: str) -> None:
    first, *others = many(world)
    for result in others:
        for name, value in first[case][1].items():
            assert torch.equal(result[case][1][name], value), f"{case}: {name}"


@pytest.mark.slow
@pytest.mark.parametrize("case", ["supervised", "dual-teacher", "unimatch", "augseg"])
def test_micro_batches_learn_what_the_batch_teaches(case: str) -> None:
    """Without padding or unlabeled pixels, because every micro-batch has the same weight."""
    whole = {"data": "shapes:images=24,val=2,test=2,size=96", "scale_min": 1.0, "threshold_mode": "none"}
    whole = {key: value for key, value in whole.items() if case != "supervised" or key != "threshold_mode"}
    with launched(configured(CASES[case])[0]) as fabric:
        (losses, state), (in_parts, parts_state) = (
            train_steps(CASES[case] | whole, fabric, accumulate=times) for times in (1, 4)
        )
    assert in_parts == pytest.approx(losses, abs=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(parts_state[name], value, rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_reused() -> None:
    """In a new process, because tests before may have changed the allocator."""
    code = (
        "import resource, torch\n"
        "from semiseg.training.distributed.fabric_setup import keep_freed_memory\n"
        "keep_freed_memory()\n"
        "for _ in range(6):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.ones(16 << 20)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1000  # 64 MiB are 16,384 pages
