"""Partial annotation in losses and methods: unknown pixels have no supervised loss, and a teacher may label them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from semiseg.methods import Batch, Method, Progress
from semiseg.methods.method import as_float
from semiseg.ops.losses import cross_entropy, filled_cross_entropy
from toy import gradients, make, make_batch

WITH_TEACHERS = ["mean-teacher", "dual-teacher"]
TRUSTING = {"threshold_mode": "none"}
MIDDLE = Progress(step=50, total_steps=100, steps_per_epoch=10)


def step(method: Method, batch: Batch, progress: Progress = MIDDLE) -> dict[str, float]:
    method.zero_grad()
    torch.manual_seed(0)
    output = method(batch, progress)
    output.loss.backward()
    return {"loss": output.loss.item()} | {key: float(value) for key, value in output.scalars.items()}


def partially_annotated(batch: Batch, fill: bool = True) -> Batch:
    """Remove the annotation of the left half of each labeled image, and make its first row padding."""
    masks, valid = batch.masks.clone(), batch.labeled_valid.clone()
    masks[..., :8] = 255
    masks[:, 0], valid[:, 0] = 255, False
    unknown = (masks == 255) & valid
    return replace(batch, masks=masks, labeled_valid=valid, fill=unknown if fill else unknown[:0])


# The supervised loss.


def test_supervised_loss_has_no_gradient_at_unknown_pixels() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.randint(0, 3, (2, 4, 4))
    masks[0, :, 1:] = 255
    cross_entropy(logits, masks).backward()
    assert logits.grad is not None
    unknown = (masks == 255)[:, None].expand_as(logits)
    assert (logits.grad[unknown] == 0).all() and (logits.grad[~unknown] != 0).all()


@pytest.mark.parametrize("truth", [0, 1, 2])
def test_single_positive_gradient_matches_softmax_minus_onehot(truth: int) -> None:
    logits = torch.zeros(1, 3, 1, 2, requires_grad=True)
    cross_entropy(logits, torch.tensor([[[truth, 255]]])).backward()
    assert logits.grad is not None
    # softmax - onehot at the known pixel, which is the only one in the mean; zero at the other.
    expected = torch.full((3,), 1 / 3) - torch.eye(3)[truth]
    torch.testing.assert_close(logits.grad[0, :, 0, 0], expected)
    assert (logits.grad[0, :, 0, 1] == 0).all()


# Pixels labeled by a teacher.


def test_filled_loss_matches_hand_computation() -> None:
    teacher = torch.tensor([[3.0, 0.0], [0.0, 3.0], [0.1, 0.0]]).T[None, :, None]  # decisions 0, 1, 0
    student = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 0.0]]).T[None, :, None]
    fill = torch.tensor([[[True, True, True]]])
    # -log softmax: ln 2, ln(1 + e^2) = 2.126928; the third pixel's confidence, 0.525, is below the threshold.
    loss = filled_cross_entropy(student, teacher, fill, 0.0, 0.9, "pixel")
    torch.testing.assert_close(loss, torch.tensor((math.log(2) + math.log(1 + math.exp(2))) / 3))
    # Only the first pixel is filled: the others count neither in the sum nor in the mean.
    fill = torch.tensor([[[True, False, False]]])
    loss = filled_cross_entropy(student, teacher, fill, 0.0, 0.9, "pixel")
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))
    # Soft labels, (0.525, 0.475) on the third: against (1/2, 1/2) any distribution costs ln 2.
    fill = torch.tensor([[[False, False, True]]])
    loss = filled_cross_entropy(student, teacher, fill, 1.0, 0.0, "none")
    torch.testing.assert_close(loss, torch.tensor(math.log(2)))


def test_image_threshold_counts_only_filled_pixels() -> None:
    teacher = torch.tensor([[9.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]).T[None, :, None]
    fill = torch.tensor([[[True, True, False, False]]])
    loss = filled_cross_entropy(torch.zeros(1, 2, 1, 4), teacher, fill, 0.0, 0.9, "image")
    torch.testing.assert_close(loss, torch.tensor(0.5 * math.log(2)))  # one of two filled pixels is trusted


def test_filled_loss_is_zero_without_pixels_to_fill() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = filled_cross_entropy(logits, torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.bool), 0, 0, "none")
    loss.backward()
    assert loss == 0 and logits.grad is not None and (logits.grad == 0).all()


@pytest.mark.parametrize("name", WITH_TEACHERS)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_teacher_labels_unknown_pixels_only(name: str, temperature: float) -> None:
    method, batch = (
        make(name, label_temperature=temperature, fill_weight=0.25, **TRUSTING),
        partially_annotated(make_batch()),
    )
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
def test_filled_loss_starts_after_burn_in_and_ramps_up(name: str) -> None:
    batch = partially_annotated(make_batch())
    for at, share in [(9, 0.0), (10, 0.1), (14, 0.5), (19, 1.0)]:
        options = {"burn_in": 0.1, "ramp_up": 0.1, "unsupervised_weight": 0.0, "fill_weight": 2.0} | TRUSTING
        extra = {"consistency_weight": 0.0} if name == "dual-teacher" else {}
        values = step(make(name, **options, **extra), batch, Progress(at, 100, 10))
        filled = values.get("loss/filled", 0.0)
        assert values["loss"] == pytest.approx(values["loss/supervised"] + share * 2.0 * filled, rel=1e-5)
        assert bool(filled) == bool(share)


@pytest.mark.parametrize("name", WITH_TEACHERS)
@pytest.mark.parametrize(("fill", "weight", "forward_passes"), [(True, 0.5, 2), (True, 0.0, 1), (False, 0.5, 1)])
def test_teacher_runs_on_labeled_images_only_to_fill_pixels(
    name: str, fill: bool, weight: float, forward_passes: int
) -> None:
    method, calls = make(name, fill_weight=weight), []
    for network in (network for key, network in method.predictors.items() if key.startswith("teacher")):
        network.register_forward_hook(lambda *_: calls.append(1))
    step(method, partially_annotated(make_batch(), fill=fill))
    assert len(calls) == forward_passes


@pytest.mark.parametrize("name", ["supervised", *WITH_TEACHERS])
def test_fill_and_tag_weights_do_not_matter_with_full_annotation(name: str) -> None:
    """With full annotation, 255 is a border: losses with and without the weights are bit-identical."""
    weights = {} if name == "supervised" else {"fill_weight": 7.0}
    method, other = make(name, tag_weight=7.0, **weights), make(name, tag_weight=0.0)
    batch = partially_annotated(make_batch(), fill=False)
    assert step(method, batch) == step(other, batch)
    assert torch.equal(gradients(method.student), gradients(other.student))
