"""Tests of ``--safeguard``: the unlabeled images lose their weight when they make the model worse."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg
from semiseg.inference import ConfusionMatrix
from semiseg.methods import METHODS, Progress
from semiseg.training import safeguard, trainer
from semiseg.training.logging.metrics_log import read_metrics
from semiseg.training.safeguard import Safeguard
from toy import make, make_batch

QUICK: dict[str, Any] = {"encoder": "test_resnet", "weights": "none", "workers": 0, "accelerator": "cpu"}
SHORT: dict[str, Any] = QUICK | {
    "labeled": "4",
    "method": "mean-teacher",
    "val_limit": 1,
    "steps": 8,
    "val_every": 2,
    "batch_size": 2,
    "crop_size": 32,
}


def update(guard: Safeguard, student: float, teacher: float, step: int = 0, in_burn_in: bool = False) -> str:
    return guard.update(step, {"student": student, "teacher1": teacher}, ["student", "teacher1"], in_burn_in)


def test_two_declines_in_a_row_leave_the_unlabeled_images_out() -> None:
    guard = Safeguard.for_images(25)
    assert guard.margin == 2.0
    assert [update(guard, miou, 20, step) for step, miou in enumerate((30, 40, 38.5))] == ["", "", ""]
    assert guard.factor == 1
    peak = "points worse on val than at its best"
    assert update(guard, 37.5, 20) == f"student is 2.5 {peak} (40.0 at step 1): unlabeled images count 25 % from here"
    assert update(guard, 39, 17) == f"teacher1 is 3.0 {peak} (20.0 at step 0): unlabeled images are left out from here"
    assert guard.factor == 0 and update(guard, 50, 50) == "" and guard.factor == 0


def test_the_weight_returns_after_a_recovery() -> None:
    guard = Safeguard(margin=2.0, best={"student": (40.0, 1), "teacher1": (40.0, 1)})
    update(guard, 37.0, 41.0)
    update(guard, 39.5, 41.5)
    assert guard.factor == 0.25
    assert update(guard, 40.5, 42) == "mIoU on val has recovered: unlabeled images count fully from here"
    assert guard.factor == 1


def test_each_network_is_compared_with_its_own_best() -> None:
    guard = Safeguard(margin=2.0)
    first = {"student": 30.0, "teacher1": 20.0, "teacher2": 35.0}
    assert guard.update(10, first, ["student", "teacher2"]) == ""
    second = {"student": 31.0, "teacher1": 25.0, "teacher2": 10.0}  # teacher2 labels no more
    assert guard.update(20, second, ["student", "teacher1"]) == "" and guard.factor == 1
    assert guard.best == {"student": (31, 20), "teacher1": (25, 20), "teacher2": (35, 10)}
    note = guard.update(30, second | {"teacher1": 17.8}, ["student", "teacher1"])
    assert note.startswith("teacher1 is 7.2 points worse on val than at its best (25.0 at step 20):")


def test_the_burn_in_only_raises_the_best() -> None:
    guard = Safeguard(margin=2.0)
    assert [update(guard, miou, miou, step, in_burn_in=True) for step, miou in ((1, 40), (2, 20))] == ["", ""]
    assert (guard.factor, guard.best) == (1, {"student": (40, 1), "teacher1": (40, 1)})


@pytest.mark.parametrize(("images", "margin"), [(16, 2.5), (25, 2.0), (1000, 2.0)])
def test_the_margin_is_wider_for_few_val_images(images: int, margin: float) -> None:
    assert Safeguard.for_images(images).margin == margin


def test_predicted_classes_that_val_lacks_do_not_count() -> None:
    matrices, guard = [ConfusionMatrix(3) for _ in range(2)], Safeguard(margin=2.0)
    mask = torch.tensor([[0] * 50 + [1] * 50])
    stray = mask.clone()
    stray[0, 0] = 2
    for step, (matrix, prediction) in enumerate(zip(matrices, (mask, stray), strict=True)):
        matrix.update(prediction, mask)
        miou = {"student": matrix.miou_of_shown() or 0.0}
        assert guard.update(step, miou, ["student"]) == "" and guard.factor == 1
    assert matrices[1].miou() == pytest.approx(66, abs=0.1) and miou["student"] == 99  # by miou, a decline of 34 points


@pytest.mark.parametrize("name", [name for name, method in METHODS.items() if method.uses_unlabeled])
def test_factor_0_trains_on_labels_only(name: str) -> None:
    burned_in, without = (make(name, burn_in=share) for share in (1.0, 0.0))
    losses = []
    for method, progress in (
        (burned_in, Progress(50, 100, 10)),
        (without, Progress(50, 100, 10, unlabeled_factor=0.0)),
    ):
        torch.manual_seed(0)
        losses.append(method(make_batch(), progress).loss)
    assert torch.equal(*losses)


@pytest.fixture
def declining(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Replace the mIoU on the one val image by numbers that fall after the burn-in; collects the evaluated steps."""
    steps: list[int] = []
    real = trainer.evaluate_on_val

    def evaluate(method: Any, run: Any, config: Any, fabric: Any) -> Any:
        lines, evaluation = real(method, run, config, fabric)
        steps.append(max(line["step"] for line in read_metrics(run.metrics)))
        return [line | {"miou": 60.0 - 10 * steps[-1]} for line in lines], evaluation

    monkeypatch.setattr(trainer, "evaluate_on_val", evaluate)
    monkeypatch.setattr(ConfusionMatrix, "miou_of_shown", lambda _: 60.0 - 10 * steps[-1])
    monkeypatch.setattr(safeguard, "LEAST_IMAGES", 1)
    return steps


@pytest.mark.usefixtures("quick")
def test_a_run_backs_off_and_the_burn_in_wins(declining: list[int], tiny_folder: Path, tmp_path: Path) -> None:
    out = semiseg.train(tiny_folder, out=tmp_path / "run", burn_in=0.375, safeguard=True, **SHORT)
    assert declining == [2, 3, 4, 6, 8]  # 3 is the end of the burn-in
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert [line["unlabeled_factor"] for line in lines] == [1, 1, 1, 1, 0.25, 0.25, 0, 0]
    assert [line["loss/unsupervised"] for line in lines][6:] == [0, 0]
    text = (out / "log.txt").read_text()
    below = "student is 20.0 points worse on val than at its best (40.0 at step 2)"
    assert f"{below}: unlabeled images count 25 % from here" in text
    assert "The best checkpoint is from the burn-in: the unlabeled images did not help" in text
    assert "the unlabeled images did not help" not in (tmp_path / "run" / "config.yaml").read_text()


@pytest.mark.usefixtures("quick")
def test_a_resumed_run_keeps_the_weight(declining: list[int], tiny_folder: Path, tmp_path: Path) -> None:
    options = SHORT | {"burn_in": 0.34, "safeguard": True, "steps": 6}
    whole = semiseg.train(tiny_folder, out=tmp_path / "whole", **options)
    half, validate = tmp_path / "half", trainer.Trainer.validate

    def stop_at_4(self: trainer.Trainer, log: Any, progress: Progress) -> None:
        validate(self, log, progress)
        assert progress.step < 3, "stopped"

    with pytest.MonkeyPatch.context() as patch, pytest.raises(AssertionError, match="stopped"):
        patch.setattr(trainer.Trainer, "validate", stop_at_4)
        semiseg.train(tiny_folder, out=half, **options)
    assert torch.load(half / "checkpoints" / "last.pt")["safeguard"] == {
        "factor": 0.25,
        "best": {"student": [40.0, 2], "teacher1": [40.0, 2]},
    }
    semiseg.train(resume=half)
    assert "stay left out" not in (half / "log.txt").read_text()
    checkpoints = [torch.load(run / "checkpoints" / "last.pt") for run in (whole, half)]
    assert [state["safeguard"]["factor"] for state in checkpoints] == [0, 0]
    assert all(torch.equal(tensor, checkpoints[1]["method"][key]) for key, tensor in checkpoints[0]["method"].items())


@pytest.mark.usefixtures("quick", "declining")
def test_a_resumed_run_says_that_images_are_left_out(tiny_folder: Path, tmp_path: Path) -> None:
    out = semiseg.train(tiny_folder, out=tmp_path / "run", burn_in=0.34, safeguard=True, **SHORT | {"steps": 6})
    semiseg.train(resume=out)
    assert (out / "log.txt").read_text().count("unlabeled images stay left out (safeguard); more --steps bring") == 1
    semiseg.train(resume=out, steps=8)
    assert "left out so far (safeguard), count fully again in the longer run" in (out / "log.txt").read_text()
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "loss" in line]
    assert [line["unlabeled_factor"] for line in lines] == [1, 1, 1, 1, 0.25, 0.25, 1, 1]
    assert torch.load(out / "checkpoints" / "last.pt")["safeguard"]["factor"] == 0.25  # declined again


@pytest.mark.usefixtures("quick")
def test_few_val_images_switch_it_off(tiny_folder: Path, tmp_path: Path) -> None:
    options = SHORT | {"steps": 2, "burn_in": 0.5, "safeguard": True}
    out = semiseg.train(tiny_folder, out=tmp_path / "run", **options | {"val_limit": 2})
    semiseg.train(resume=out, steps=3)
    assert (out / "log.txt").read_text().count("--safeguard needs at least 10 val images; this run has 2") == 1
    lines = read_metrics(out / "metrics.jsonl")
    assert not any("unlabeled_factor" in line for line in lines)
    assert {line["step"] for line in lines if line.get("split") == "val"} == {2, 3}  # 1 ends the burn-in
    assert "safeguard" not in torch.load(out / "checkpoints" / "last.pt")


@pytest.mark.usefixtures("quick")
def test_runs_without_the_option_are_unchanged(declining: list[int], tiny_folder: Path, tmp_path: Path) -> None:
    out = semiseg.train(tiny_folder, out=tmp_path / "run", burn_in=0.75, **SHORT | {"steps": 4})
    assert declining == [2, 4]
    assert not any("unlabeled_factor" in line for line in read_metrics(out / "metrics.jsonl"))
    assert "safeguard" not in torch.load(out / "checkpoints" / "last.pt")


# A poisoned pool.


def toy_accuracy(name: str, pool: str = "", guarded: bool = False, seed: int = 0, steps: int = 120) -> list[float]:
    """Train a toy network, with validations like the trainer's; return the accuracy in percent of each."""
    options = {} if name == "supervised" else {"burn_in": 0.3, "threshold_mode": "none", "unsupervised_weight": 5.0}
    method, guard = make(name, seed=seed, **options), Safeguard.for_images(32)
    val, values = make_batch(labeled=32, unlabeled=1, seed=999), []
    optimizer = torch.optim.SGD(method.student.parameters(), lr=0.05)
    for step in range(steps):
        torch.manual_seed(step)
        batch = make_batch(labeled=4, unlabeled=4, seed=step % 4)
        if pool:
            shape = batch.unlabeled_images.shape
            noise = torch.randint(0, 256, shape, dtype=torch.uint8)
            dark = torch.randint(0, 60, (*shape[:3], 1), dtype=torch.uint8).expand(shape)
            batch = replace(batch, unlabeled_images=noise if pool == "noise" else dark)
        progress = Progress(step, steps, 10, guard.factor if guarded else 1.0)
        method(batch, progress).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
        if (step + 1) % (steps // 10) == 0:
            labeler = method.labeler(progress) or "student"
            scores = {key: accuracy(net, val.labeled_images, val.masks) for key, net in method.predictors.items()}
            guard.update(step + 1, scores, ["student", labeler], in_burn_in=step < 0.3 * steps)
            values.append(scores["student"])
    return values


@torch.no_grad()
def accuracy(network: torch.nn.Module, images: torch.Tensor, masks: torch.Tensor) -> float:
    network.eval()
    found = network(images.float() / 255).argmax(dim=1)
    network.train()
    return float((found == masks).float().mean() * 100)


@pytest.mark.slow
def test_a_poisoned_pool_costs_a_toy_little() -> None:
    supervised, poisoned = (toy_accuracy(name, "noise") for name in ("supervised", "dual-teacher"))
    guarded = toy_accuracy("dual-teacher", "noise", guarded=True)
    assert max(poisoned) < max(supervised) - 5  # the pool does harm
    assert guarded[-1] >= max(supervised) - 3 and guarded[-1] > poisoned[-1] + 5


def write_blocks(folder: Path, labeled: int, val: int, pool: str) -> Path:
    """Write images of colored blocks whose brightness is the class, and a pool of other images."""
    random = np.random.default_rng(0)
    for name in ("images", "masks", "splits"):
        (folder / name).mkdir(parents=True)
    for index in range(labeled + val):
        blocks = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        image = np.clip(np.kron(blocks, np.ones((6, 6, 1))) + random.normal(0, 12, (48, 48, 3)), 0, 255)
        Image.fromarray(image.astype(np.uint8)).save(folder / "images" / f"{index:03d}.png")
        mask = np.kron((blocks.mean(axis=2) // 52).clip(1, 3) - 1, np.ones((6, 6))).astype(np.uint8)
        Image.fromarray(mask).save(folder / "masks" / f"{index:03d}.png")
    names = [f"{index:03d}" for index in range(labeled + val)]
    (folder / "splits" / "val.txt").write_text("\n".join(names[labeled:]) + "\n")
    for index in range(40):
        if pool == "noise":
            image = random.integers(0, 256, (48, 48, 3), dtype=np.uint8)
        else:  # another domain: dark stripes
            image = np.broadcast_to((random.integers(0, 40, 48)[:, None, None]), (48, 48, 3)).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"pool{index:03d}.png")
    return folder


def last_miou(folder: Path, out: Path, steps: int, **options: Any) -> tuple[float, float]:
    """Return mIoU on val of the best and of the last checkpoint."""
    shared = QUICK | {"steps": steps, "val_every": steps // 10, "batch_size": 6, "crop_size": 48, "lr": 3e-3}
    run = semiseg.train(folder, out=out, scale_min=1.0, scale_max=1.0, **shared, **options)
    values = [line["miou"] for line in read_metrics(run / "metrics.jsonl") if line.get("network") == "student"]
    return max(values), values[-1]


POISONED: dict[str, Any] = {
    **{
        "method": "dual-teacher",
        "burn_in": 0.3,
        "threshold_mode": "none",
        "safeguard": True,
        "unsupervised_weight": 5.0,
    }
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("pool", ["noise", "stripes"])
@pytest.mark.long
def test_a_poisoned_pool_does_no_harm(pool: str, tmp_path: Path) -> None:
    folder = write_blocks(tmp_path / "data", 12, 12, pool)
    supervised, guarded = [], []
    for seed in range(3):
        supervised.append(last_miou(folder, tmp_path / f"s{seed}", 300, method="supervised", seed=seed)[0])
        guarded.append(last_miou(folder, tmp_path / f"g{seed}", 300, seed=seed, **POISONED)[0])
    assert fmean(guarded) >= fmean(supervised) - 3, (supervised, guarded)
