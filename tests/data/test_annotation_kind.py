"""Masks in part: what is known is used, what is unknown is left to a teacher, and nothing is read as absence."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import semiseg
from semiseg.data import FolderDataset, Shapes, StreamConfig, TrainStream, resolve_split
from semiseg.errors import UserError
from semiseg.methods import Batch, Method, Progress
from semiseg.methods.method import as_float
from semiseg.ops.losses import cross_entropy, filled_cross_entropy
from semiseg.training.resolve_config import resolve
from toy import gradients, make, make_batch

WITH_TEACHERS = ["mean-teacher", "dual-teacher"]
TRUSTING = {"threshold_mode": "none"}
QUICK = {"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0}
TRAIN = QUICK | {"accelerator": "cpu", "labeled": "4"}
MIDDLE = Progress(step=50, total_steps=100, steps_per_epoch=10)


def step(method: Method, batch: Batch, progress: Progress = MIDDLE) -> dict[str, float]:
    method.zero_grad()
    torch.manual_seed(0)
    output = method(batch, progress)
    output.loss.backward()
    return {"loss": output.loss.item()} | {key: float(value) for key, value in output.scalars.items()}


def in_part(batch: Batch, fill: bool = True) -> Batch:
    """The left half of each labeled image is not annotated, its first row is padding."""
    masks, valid = batch.masks.clone(), batch.labeled_valid.clone()
    masks[..., :8] = 255
    masks[:, 0], valid[:, 0] = 255, False
    unknown = (masks == 255) & valid
    return replace(batch, masks=masks, labeled_valid=valid, fill=unknown if fill else unknown[:0])


# The supervised term.


def test_the_supervised_term_has_no_gradient_where_nobody_annotated() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, :, 1:] = 255
    cross_entropy(logits, masks).backward()
    assert logits.grad is not None
    unknown = (masks == 255)[:, None].expand_as(logits)
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).all()


@pytest.mark.parametrize("truth", [0, 1, 2])
def test_a_single_positive_mask_pulls_toward_its_class_and_no_other(truth: int) -> None:
    logits = torch.zeros(1, 3, 1, 2, requires_grad=True)
    cross_entropy(logits, torch.tensor([[[truth, 255]]])).backward()
    assert logits.grad is not None
    # softmax - onehot at the one known pixel, over one known pixel; nothing at the other.
    expected = torch.full((3,), 1 / 3) - torch.eye(3)[truth]
    torch.testing.assert_close(logits.grad[0, :, 0, 0], expected)
    assert (logits.grad[0, :, 0, 1] == 0).all()


# Filling in.


def test_filling_in_by_hand() -> None:
    teacher = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.1, 0.0]]).T[None, :, None]  # decisions 0, 1, 0
    student = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]).T[None, :, None]
    fill = torch.tensor([[[True, True, True]]])
    # -log softmax: ln 2, ln(1 + e^2) = 2.126928; the third pixel's confidence, 0.525, is below the threshold.
    loss = filled_cross_entropy(student, teacher, fill, 0.0, 0.9, "pixel")
    torch.testing.assert_close(loss, torch.tensor((math.log(2) + math.log(1 + math.exp(2))) / 3))
    # Only the first pixel is to be filled in: the others neither count nor divide.
    fill = torch.tensor([[[True, False, False]]])
    loss = filled_cross_entropy(student, teacher, fill, 0.0, 0.9, "pixel")
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))
    # Soft labels, (0.525, 0.475) on the third: against (1/2, 1/2) any distribution costs ln 2.
    fill = torch.tensor([[[False, False, True]]])
    loss = filled_cross_entropy(student, teacher, fill, 1.0, 0.0, "none")
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_a_threshold_by_images_counts_the_pixels_to_fill_in() -> None:
    teacher = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).T[None, :, None]
    fill = torch.tensor([[[True, True, False, False]]])
    loss = filled_cross_entropy(torch.zeros(1, 2, 1, 4), teacher, fill, 0.0, 0.9, "image")
    torch.testing.assert_close(loss, torch.tensor(0.5 * math.log(2)))  # one of two is trusted, not one of four


def test_without_pixels_to_fill_in_the_loss_is_zero() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = filled_cross_entropy(logits, torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), 0, 0, "none")
    loss.backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("name", WITH_TEACHERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_teacher_fills_in_what_nobody_annotated_and_nothing_else(name: str, temperature: float) -> None:
    method, batch = make(name, label_temperature=temperature, fill_weight=0.25, **TRUSTING), in_part(make_batch())
    values = step(method, batch)
    with torch.no_grad():
        z_t = method.predictors["teacher1"].eval()(as_float(batch.labeled_images))
    q = z_t.softmax(dim=1) if temperature else torch.nn.functional.one_hot(z_t.argmax(dim=1), 3).movedim(-1, 1)
    seen: list[Tensor] = []
    method.student.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    without = step(method, replace(batch, fill=batch.fill[:0]))
    log_p = seen[0][:2].log_softmax(dim=1)
    by_pixel = -(q * log_p).sum(dim=1)
    inside = torch.zeros(2, 16, 16, dtype=torch.bool)
    inside[:, 1:, :8] = True
    assert torch.equal(inside, batch.fill)
    assert values["loss/filled"] == pytest.approx(by_pixel[inside].mean().item(), rel=1e-4)
    assert values["loss"] == pytest.approx(without["loss"] + 0.25 * values["loss/filled"], rel=1e-5)
    assert without["loss/filled"] == 0


@pytest.mark.parametrize("name", WITH_TEACHERS)
def test_filling_in_waits_for_the_end_of_the_burn_in_and_ramps_up(name: str) -> None:
    batch = in_part(make_batch())
    for at, share in [(9, 0.0), (10, 0.1), (14, 0.5), (19, 1.0)]:
        options = {"burn_in": 0.1, "ramp_up": 0.1, "unsupervised_weight": 0.0, "fill_weight": 2.0} | TRUSTING
        extra = {"consistency_weight": 0.0} if name == "dual-teacher" else {}
        values = step(make(name, **options, **extra), batch, Progress(at, 100, 10))
        filled = values.get("loss/filled", 0.0)
        assert values["loss"] == pytest.approx(values["loss/supervised"] + share * 2.0 * filled, rel=1e-5)
        assert bool(filled) == bool(share)


@pytest.mark.parametrize("name", WITH_TEACHERS)
@pytest.mark.parametrize(("fill", "weight", "asked"), [(True, 0.5, 2), (True, 0.0, 1), (False, 0.5, 1)])
def test_the_teacher_is_asked_about_labeled_images_only_where_it_is_to_fill_in(
    name: str, fill: bool, weight: float, asked: int
) -> None:
    method, calls = make(name, fill_weight=weight), []
    for network in (network for key, network in method.predictors.items() if key.startswith("teacher")):
        network.register_forward_hook(lambda *_: calls.append(1))
    step(method, in_part(make_batch(), fill=fill))
    assert len(calls) == asked


@pytest.mark.parametrize("name", ["supervised", *WITH_TEACHERS])
def test_with_full_annotation_nothing_changes(name: str) -> None:
    """255 inside an image is a border then: a loss with fill weight and one without are the same, bit for bit."""
    weights = {} if name == "supervised" else {"fill_weight": 7.0}
    method, twin = make(name, tag_weight=7.0, **weights), make(name, tag_weight=0.0)
    batch = in_part(make_batch(), fill=False)
    assert step(method, batch) == step(twin, batch)
    assert torch.equal(gradients(method.student), gradients(twin.student))


# The stream.


def test_the_stream_says_what_is_to_fill_in(tiny_folder: Path) -> None:
    for path in sorted((tiny_folder / "masks").iterdir()):
        mask = np.array(Image.open(path))
        mask[:, :24] = 255
        Image.fromarray(mask).save(path)
    dataset = FolderDataset(tiny_folder)
    split = resolve_split(dataset, "4", 0)
    config = StreamConfig(batch_size=4, crop_size=80, unlabeled_batch_size=4, scale_max=1.0)
    full = TrainStream(dataset, split.labeled, split.unlabeled, config)[0]
    part = TrainStream(dataset, split.labeled, split.unlabeled, replace(config, fill=True))[0]
    assert full.fill.shape == (0, 80, 80) and torch.equal(full.masks, part.masks)
    assert torch.equal(part.fill, (part.masks == 255) & part.labeled_valid)
    shares = part.fill.sum((1, 2)) / part.labeled_valid.sum((1, 2))
    assert ((shares > 0.45) & (shares < 0.55)).all()  # half of each image, none of the padding around it


# What is checked before the first step.


def save(folder: Path, id: str, mask: np.ndarray) -> None:
    Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{id}.png")


def labeled_of(folder: Path) -> tuple[str, ...]:
    return resolve_split(FolderDataset(folder), "4", 0).labeled


def test_a_single_positive_mask_shows_one_class(tiny_folder: Path, tmp_path: Path) -> None:
    first, *others = labeled_of(tiny_folder)
    for number, id in enumerate(others):
        save(tiny_folder, id, np.where(np.arange(48) < 24, number, 255)[None].repeat(48, 0))
    for values, found in [((1, 4), "circle, star"), ((255, 255), "none")]:
        save(tiny_folder, first, np.where(np.arange(48) < 24, *values)[None].repeat(48, 0))
        with pytest.raises(UserError, match=rf"{first}\.png: a single-positive mask shows one class, this one {found}"):
            semiseg.train(tiny_folder, "supervised", tmp_path / "run", annotation="single-positive", **TRAIN)
    assert not (tmp_path / "run").exists()


def test_a_run_says_how_much_is_annotated(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def log(name: str, annotation: str, method: str = "supervised") -> str:
        run = semiseg.train(tiny_folder, method, tmp_path / name, annotation=annotation, **TRAIN)
        return (run / "log.txt").read_text()

    assert "annotated" not in log("1", "full")
    assert "100.0% of the pixels of labeled images are annotated; warning: what is unknown has to be 255" in log(
        "2", "partial"
    )
    for id in labeled_of(tiny_folder):
        mask = np.array(Image.open(tiny_folder / "masks" / f"{id}.png"))
        mask[:, 12:] = 255
        save(tiny_folder, id, mask)
    assert "warning: 25.0% of the pixels of labeled images are annotated: this looks like partial" in log("3", "full")
    text = log("4", "partial")
    assert "partial annotation: 25.0% of the pixels of labeled images are annotated\n" in text and "looks" not in text
    assert "dual-student has no teacher that fills in unannotated pixels" in log("5", "partial", "dual-student")


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(UserError, match="annotation is 'weak': expected full, partial, single-positive"):
        resolve({"annotation": "weak"})


def test_shapes_are_fully_annotated() -> None:
    dataset = Shapes(images=2, val=1, test=1, size=48)
    assert dataset.tags(dataset.ids[0]) is None
