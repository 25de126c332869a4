"""Values stay finite: operations on unusual tensors, metrics compared with scikit-learn, and runs on poor data."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import semiseg
from semiseg import cli
from semiseg.data import open_dataset
from semiseg.inference.evaluation import image_miou
from semiseg.inference.metrics import ConfusionMatrix
from semiseg.methods import METHODS, Batch, Progress, StepOutput
from semiseg.methods.supervised import Supervised
from semiseg.ops import losses, mixing, photometric, pseudo_labels
from semiseg.ops import tag_loss as tags
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.features import channel_dropout, complementary_dropout, to_cells, to_pixels
from semiseg.ops.injection import inject_labels
from semiseg.ops.intensity import random_intensity
from semiseg.ops.schedules import poly, ramp_up
from semiseg.ops.stochastic_depth import stochastic_depth
from semiseg.ops.strong_view import strong_view
from semiseg.training.checkpoint import load_checkpoint
from semiseg.training.run_directory import RunDirectory
from semiseg.training.trainer import make_method
from toy import Toy

few = settings(max_examples=30, deadline=None, derandomize=True)
EXTREMES = (0.0, 1.0, -1.0, 30.0, 1e4, -1e4)


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    """Generate tensors of one batch with extreme values: no image, one pixel, labels of 255 only."""
    n, c = draw(st.sampled_from([0, 1, 1, 2, 3])), draw(st.sampled_from([1, 2, 5]))
    h, w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))

    def pick(values: tuple[float, ...], *shape: int) -> Tensor:
        return torch.tensor(values)[torch.randint(len(values), shape, generator=g)]

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g) < draw(st.sampled_from([0.0, 0.5, 1.0]))

    masks = torch.randint(c, (n, h, w), generator=g).masked_fill(some(n, h, w), 255)
    return {
        "logits": pick(EXTREMES, n, c, h, w).requires_grad_(),
        "other": pick(EXTREMES, n, c, h, w),
        "masks": masks,
        "weights": pick((0.0, 0.5, 1.0), n, h, w),
        "valid": some(n, h, w),
        "class_weights": draw(st.sampled_from([None, torch.zeros(c), torch.ones(c)])),
        "threshold": draw(st.sampled_from([0.0, 0.95, 1.0])),
        "temperature": draw(st.sampled_from([0.0, 1e-45, 0.5, 1.0])),
        "mode": draw(st.sampled_from(["pixel", "image", "batch", "none"])),
        "tags": torch.randint(-1, 2, (n, c), generator=g).to(torch.int8),
        "area": pick((0.0, 1.0, 1e6), n),
        "images": pick((0.0, 0.5, 1.0), n, 3, h, w),
        "classes": c,
    }


LOSSES: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "cross-entropy": lambda x: losses.cross_entropy(x["logits"], x["masks"], x["class_weights"]),
    "ohem": lambda x: losses.ohem_cross_entropy(
        x["logits"], x["masks"], x["class_weights"], threshold=x["threshold"], min_kept=2
    ),
    "weighted": lambda x: losses.weighted_cross_entropy(x["logits"], x["masks"], x["weights"], x["valid"]),
    "weighted, soft": lambda x: losses.weighted_cross_entropy(
        x["logits"], pseudo_labels.soft_label(x["other"], x["temperature"]), x["weights"], x["valid"]
    ),
    "per pixel": lambda x: losses.per_pixel_cross_entropy(x["logits"], x["masks"]).sum(),
    "squared": lambda x: losses.weighted_squared_error(
        x["logits"], pseudo_labels.soft_label(x["other"], 1.0), x["weights"], x["valid"]
    ),
    "filled": lambda x: losses.filled_cross_entropy(
        x["logits"], x["other"], x["valid"], x["temperature"], x["threshold"], x["mode"]
    ),
    "tags": lambda x: tags.tag_loss(x["logits"], x["tags"], x["valid"], x["area"]),
    "contrast": lambda x: losses.info_nce(
        x["logits"].flatten(1) / 1e4,
        x["other"].flatten(1)[..., None].expand(-1, -1, 3) / 1e4,
        x["valid"].flatten(1).repeat_interleave(x["classes"], dim=1)[..., None].expand(-1, -1, 3),
        x["valid"].flatten(1).repeat_interleave(x["classes"], dim=1),
        0.1,
    ),
}


@pytest.mark.parametrize("name", LOSSES)
@few
@given(world=worlds())
def test_losses_and_their_gradients_are_finite(name: str, world: dict[str, Any]) -> None:
    loss = LOSSES[name](world)
    if loss.requires_grad:  # not for a teacher or an empty batch
        loss.backward()
    gradient = world["logits"].grad
    assert loss.isfinite() and (gradient is None or gradient.isfinite().all())


@few
@given(world=worlds(), denied=st.booleans())
def test_labels_and_their_weights_are_finite(world: dict[str, Any], denied: bool) -> None:
    logits, valid = world["other"], world["valid"]
    if denied:
        logits = tags.mask_absent(logits, world["tags"])
    labels, confidence = pseudo_labels.pseudo_label(logits)
    assert confidence.isfinite().all() and ((confidence >= 0) & (confidence <= 1)).all()
    rho = pseudo_labels.certainty(logits, valid)
    assert ((rho >= 0) & (rho <= 1)).all()
    soft = pseudo_labels.soft_label(logits, world["temperature"])
    assert soft.isfinite().all()
    for sure in (confidence, torch.zeros_like(confidence), torch.ones_like(confidence)):
        weights, share = pseudo_labels.confidence_weights(sure, valid, world["threshold"], world["mode"])
        assert ((weights >= 0) & (weights <= 1)).all() and 0 <= share <= 1
    pixels = world["masks"].flatten().bincount(minlength=256)[: world["classes"]]
    for power in (0.0, 0.5, 1.0):
        assert losses.balancing_weights(pixels, power).isfinite().all()
    assert labels.shape == valid.shape


@few
@given(world=worlds())
def test_views_are_finite_and_stay_within_their_range(world: dict[str, Any]) -> None:
    images, masks, valid = world["images"], world["masks"], world["valid"]
    n = len(images)
    for region in (*mixing.REGIONS.values(), mixing.occasional_box_region, mixing.half_box_region):
        assert region(masks).shape == masks.shape
    assert sorted(mixing.partners(n).tolist()) == [*range(n)]
    labels, confidence = pseudo_labels.pseudo_label(world["other"])
    views = [photometric.color_jitter(images), random_intensity(images), photometric.cutout(images, 1.0)[0]]
    if n:
        given = pseudo_labels.PseudoLabels(images, labels, confidence, valid)
        views += [photometric.photometric(images, 1.0), strong_view(given, 1.0).images]
        rho = pseudo_labels.certainty(world["other"], valid)
        views.append(inject_labels(given, images, masks, valid, rho, world["classes"])[0])
    for view in views:
        assert view.shape == images.shape and ((view >= 0) & (view <= 1)).all()


@few
@given(world=worlds(), rate=st.sampled_from([0.0, 0.5, 1.0]), seed=st.integers(0, 99))
def test_stochastic_depth_and_ema_give_finite_values(world: dict[str, Any], rate: float, seed: int) -> None:
    torch.manual_seed(seed)
    maps = [world["images"], world["other"], world["other"][:, :, :1, :1]]
    assert all(f.isfinite().all() for f in channel_dropout(maps, min(rate, 0.99)))
    doubled = [torch.cat([f, f]) for f in maps]
    assert all(f.isfinite().all() for f in complementary_dropout(doubled, rate))
    if len(maps[0]):
        cells = to_cells(world["other"], maps, (2, 3))
        assert cells.isfinite().all() and to_pixels(cells, maps, maps[0].shape[-2:]).isfinite().all()
    network, images = Toy(2), torch.rand(2, 3, 8, 8)
    with stochastic_depth(network, rate):
        assert network(images).isfinite().all()
    other = Toy(2)
    ema_update(other, network, rate)
    assert all(p.isfinite().all() for p in other.parameters())


@few
@given(step=st.integers(0, 99), total=st.integers(0, 99), power=st.floats(0, 9), length=st.integers(0, 99))
def test_schedules_are_within_zero_and_one(step: int, total: int, power: float, length: int) -> None:
    for value in (ramp_up(step, total, length), poly(step, total, power, length), ema_decay(step, 1.0)):
        assert 0 <= value <= 1


# Metrics, compared with scikit-learn.


@st.composite
def comparisons(draw: st.DrawFn) -> tuple[int, Tensor, Tensor]:
    classes, pixels = draw(st.integers(1, 6)), draw(st.integers(0, 40))
    known = st.integers(0, draw(st.integers(0, classes - 1)))  # often fewer than all classes
    truth = draw(st.lists(st.one_of(known, st.just(255)), min_size=pixels, max_size=pixels))
    prediction = draw(st.lists(st.integers(0, classes - 1), min_size=pixels, max_size=pixels))
    return classes, torch.tensor([truth], dtype=torch.long), torch.tensor([prediction], dtype=torch.long)


@settings(few, max_examples=100)
@given(comparison=comparisons())
def test_metrics_equal_scikit_learn(comparison: tuple[int, Tensor, Tensor]) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    classes, truth, prediction = comparison
    matrix = ConfusionMatrix(classes)
    matrix.update(prediction, truth)
    known = truth != 255
    y, p = truth[known].numpy(), prediction[known].numpy()
    if not len(y):
        assert matrix.miou() is None and matrix.pixel_accuracy() is None and matrix.iou() == [None] * classes
        return
    numbers = [*range(classes)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about absent classes
        theirs = metrics.jaccard_score(y, p, labels=numbers, average=None, zero_division=0)
    theirs[[number for number in numbers if number not in {*y, *p}]] = math.nan
    ours = [math.nan if value is None else value for value in matrix.iou()]
    assert ours == pytest.approx((100 * theirs).tolist(), nan_ok=True)
    assert matrix.miou() == pytest.approx(100 * np.nanmean(theirs))
    assert matrix.pixel_accuracy() == pytest.approx(100 * metrics.accuracy_score(y, p))
    assert matrix.counts.tolist() == metrics.confusion_matrix(y, p, labels=numbers).tolist()
    shown = np.unique(y)
    assert matrix.miou_of_shown() == pytest.approx(100 * theirs[shown].mean())
    assert image_miou(matrix.counts).item() == pytest.approx(100 * theirs[shown].mean(), rel=1e-5)


# Whole runs on poor data.

QUICK: dict[str, Any] = {
    **{"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "workers": 0},
    **{"accelerator": "cpu", "steps": 2, "val_every": 2},
}
HALF = np.repeat(np.uint8([[1], [0]]), 24, axis=0).repeat(48, axis=1)
UNKNOWN = np.full((48, 48), 255, dtype=np.uint8)
POOR: dict[str, tuple[list[np.ndarray], list[str], dict[str, Any]]] = {
    "one class": ([0 * HALF] * 2, ["a"], {}),
    "unknown and absent": ([UNKNOWN, HALF, UNKNOWN], ["a", "b", "never seen"], {"class_balance": 1.0}),
    "nothing known": ([UNKNOWN] * 2, ["a", "b"], {}),
    "one of each in one cell": ([HALF] * 2, ["a", "b"], {"batch_size": 1, "crop_size": 16}),
    "crop beyond the image": ([HALF] * 2, ["a", "b"], {"crop_size": 80, "scale_max": 0.6}),
    "images of a pixel": ([HALF[:1, :1]] * 2, ["a", "b"], {}),
}
SHORT = [("dual-teacher", "unknown and absent"), ("pseudoseg", "one class"), ("augseg", "one of each in one cell")]


def poor_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str) -> list[dict[str, Any]]:
    """Train on one unlabeled image and the labeled ones of ``POOR``; return the lines of metrics.jsonl."""
    masks, classes, options = POOR[kind]
    for folder in ("images", "masks"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    generator = np.random.default_rng(0)
    for index, mask in enumerate([*masks, None]):
        side = masks[0].shape[0]
        image = generator.integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(image).save(tmp_path / "data" / "images" / f"{index}.png")
        if mask is not None:
            Image.fromarray(mask).save(tmp_path / "data" / "masks" / f"{index}.png")
    (tmp_path / "data" / "classes.txt").write_text("".join(f"{name}\n" for name in classes))
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    run = semiseg.train(tmp_path / "data", method, tmp_path / "run", **QUICK | options)
    state = load_checkpoint(run / "checkpoints" / "last.pt")
    assert all(value.isfinite().all() for value in state["method"].values())
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_finite(lines: list[dict[str, Any]]) -> None:
    numbers = [value for line in lines for value in line.values() if isinstance(value, float)]
    assert len(numbers) > 20 and all(map(math.isfinite, numbers))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "kind"), SHORT)
def test_runs_on_poor_data_stay_finite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_finite(poor_run(tmp_path, monkeypatch, method, kind))
    if kind == "unknown and absent":
        assert "warning: no labeled pixel of never seen: the model cannot learn" in capsys.readouterr().err.replace(
            "a, b, ",
            "",  # the one image that shows them may be held out
        )


@pytest.mark.long
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", POOR)
def test_runs_on_poor_data_stay_finite_with_every_method(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, kind: str
) -> None:
    assert_finite(poor_run(tmp_path, monkeypatch, method, kind))


@pytest.mark.parametrize(("clip", "moved"), [(1.0, 1.0), (0.0, math.inf)])
def test_exploding_gradient_is_clipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: float, moved: float
) -> None:
    training_step = Supervised.training_step

    def exploding(self: Supervised, batch: Batch, progress: Progress) -> StepOutput:
        output = training_step(self, batch, progress)
        return StepOutput(1e6 * output.loss, output.scalars)

    monkeypatch.setattr(Supervised, "training_step", exploding)
    monkeypatch.setattr("semiseg.workflows.train.report", lambda runs: None)
    options = {"steps": 1, "optimizer": "sgd", "lr": 1e-3, "encoder_lr_factor": 1.0, "weight_decay": 0.0}
    options |= {"warmup_steps": 0, "clip_norm": clip, "val_every": "never", "labeled": "4"}
    run = semiseg.train("shapes:images=6,val=1,test=1,size=48", "supervised", tmp_path / "run", **QUICK | options)
    config, own = RunDirectory(run).read_config()
    before: nn.Module = make_method(config, own, open_dataset(config.data))
    after = load_checkpoint(run / "checkpoints" / "last.pt")["method"]
    steps = [(after[name] - value).detach().norm() for name, value in before.named_parameters()]
    distance = torch.stack(steps).norm().item() / 1e-3  # as a gradient
    assert distance == pytest.approx(moved, rel=1e-3) if clip else distance > 1e3


def test_float16_is_not_offered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Float16 would need a gradient scaler."""
    monkeypatch.setattr("sys.argv", ["semiseg", "train", "--data", "shapes", "--precision", "fp16"])
    assert cli.main() == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and "fp16" in error and "bf16" in error


def test_line_breaks_in_values_are_escaped_in_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["semiseg", "evaluate", "no\nrun", "--data", "shapes"])
    assert cli.main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
