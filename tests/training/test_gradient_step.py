"""However a batch is shared out, among processes or in parts one after the other, the same is learned of it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

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
    **{"data": "shapes:images=24,val=2,test=2,size=48", "labeled": "10", "batch_size": 8, "crop_size": 48},
    **{"weights": "none", "encoder": "test_resnet", "accelerator": "cpu", "precision": "fp32", "optimizer": "sgd"},
    "lr": 0.004,
}
# Labels of which a network without training trusts some, and what looks at all images at once left out.
EASY = {"threshold": 0.7, "threshold_mode": "batch", "contrast_weight": 0.0, "drop_percent": 0.0, "drop_path": 0.5}
CASES: dict[str, dict[str, Any]] = {name: {"method": name} for name in METHODS}
CASES["pseudoseg"]["threshold"] = 0.3  # the mean of both branches is less sure
CASES["classmix"] = {"method": "dual-teacher", "pool": ("classmix",), "consistency_on": "all"}
CASES["partial"] = {"method": "dual-teacher", "annotation": "partial"}
SURER = 100  # factor on the last layer of a network that would give all classes the same probability
STEPS = range(500, 502)


def configured(values: dict[str, Any], **more: Any) -> tuple[TrainConfig, Any]:
    known = {field.name for field in fields(METHODS[values["method"]].Options)}
    easy = {key: value for key, value in EASY.items() if key in known}
    return resolve({**SETTINGS, **easy, **values, **more})


def learned(values: dict[str, Any], fabric: Any, **more: Any) -> tuple[list[float], dict[str, Tensor]]:
    """The loss of each step, and what the method consists of after them."""
    config, options = configured(values, **more)
    dataset = open_dataset(config.data)
    split = resolve_split(dataset, config.labeled, config.seed)
    method = make_method(config, options, dataset)
    with torch.no_grad():
        for name, weight in method.named_parameters():
            weight.mul_(SURER if "head" in name else 1)
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
        batch = stream[step] if config.annotation == "full" else partly_known(stream[step])
        scalars, finite = trainer.step(batch, Progress(step, 1000, stream.steps_per_epoch))
        assert finite
        losses.append(mean_over_processes(fabric, scalars))
        assert scalars["trusted_fraction"] > 0 or values["method"] == "supervised"
    return [line["loss"] for line in losses], method.state_dict()


def partly_known(batch: Batch) -> Batch:
    """The batch without the labels of every other row, and with tags that follow from each image."""
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


def on_processes(world: int) -> tuple[str, ...]:
    """The cases to try on so many processes: all of them on two."""
    return tuple(CASES) if world == 2 else ("supervised", "dual-teacher", "classmix", "augseg")


BOTH = [(world, case) for world in (2, 4) for case in on_processes(world)]


def several(out: Path) -> None:
    """What each of the processes does."""
    with launched(configured(CASES["supervised"], devices=int(os.environ["WORLD_SIZE"]))[0]) as fabric:
        results = {name: learned(CASES[name], fabric) for name in on_processes(fabric.world_size)}
    torch.save(results, out / f"{fabric.world_size}-{fabric.global_rank}.pt")


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    with launched(configured(CASES["supervised"])[0]) as fabric:
        return {name: learned(values, fabric) for name, values in CASES.items()}


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    return {world: launch(world, tmp_path_factory.mktemp(f"{world}-processes")) for world in (2, 4)}


def launch(world: int, out: Path) -> list[dict[str, Any]]:
    """What each of so many processes has learned."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world), "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, str(out)],
            env=os.environ | common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "NODE_RANK": "0"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(world)
    ]
    told = [process.communicate(timeout=240)[1] for process in processes]
    assert not any(process.returncode for process in processes), told
    return [torch.load(out / f"{world}-{rank}.pt") for rank in range(world)]


@pytest.mark.parametrize(("world", "case"), BOTH)
def test_processes_learn_what_one_does(
    one: dict[str, Any], many: dict[int, list[dict[str, Any]]], world: int, case: str
) -> None:
    losses, state = one[case]
    for result in many[world]:
        assert result[case][0] == pytest.approx(losses, abs=1e-5)
        for name, value in state.items():  # students and teachers
            torch.testing.assert_close(result[case][1][name], value, rtol=1e-5, atol=1e-5, msg=f"{case}: {name}")


@pytest.mark.parametrize(("world", "case"), BOTH)
def test_all_processes_have_the_same_networks(many: dict[int, list[dict[str, Any]]], world: int, case: str) -> None:
    for result in many[world][1:]:
        for name, value in many[world][0][case][1].items():
            assert torch.equal(result[case][1][name], value), f"{case}: {name}"


@pytest.mark.parametrize("case", ["supervised", "dual-teacher", "unimatch", "augseg"])
def test_parts_one_after_the_other_learn_what_the_whole_does(case: str) -> None:
    """Where no pixel is padding or unknown, since the parts count alike."""
    whole = {"data": "shapes:images=24,val=2,test=2,size=96", "scale_min": 1.0, "threshold_mode": "none"}
    whole = {key: value for key, value in whole.items() if case != "supervised" or key != "threshold_mode"}
    with launched(configured(CASES[case])[0]) as fabric:
        (losses, state), (in_parts, parts_state) = (
            learned(CASES[case] | whole, fabric, accumulate=times) for times in (1, 4)
        )
    assert in_parts == pytest.approx(losses, abs=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(parts_state[name], value, rtol=1e-5, atol=1e-5, msg=name)


if __name__ == "__main__":
    several(Path(sys.argv[1]))
