"""PC2Seg: both losses by hand, sampled cells, and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from semiseg.methods import METHODS, Batch, Method, Progress
from semiseg.methods import pc2seg as module
from semiseg.methods.method import as_float
from semiseg.methods.pc2seg import PC2SegOptions, sample_cells
from semiseg.networks import build
from semiseg.ops.losses import info_nce
from toy import gradients, make, make_batch

PROGRESS = Progress(50, 100, 10)


def contrastive(**options: object) -> Method:
    """Return a method whose projection is the identity."""
    method = make("pc2seg", **options)
    method.projector = nn.Identity()
    return method


def features_of(*images: list[list[float]]) -> list[Tensor]:
    """Return features as from ``encode`` for images of one row of cells, given as a vector per cell."""
    deepest = torch.tensor(images).permute(0, 2, 1)[:, :, None]
    return [torch.zeros(len(images), 3, *deepest.shape[-2:]), deepest]


def labels_of(*images: list[int], classes: int = 3) -> Tensor:
    """Return one-hot probabilities ``(N, C, 1, W)`` of these classes."""
    return nn.functional.one_hot(torch.tensor(images), classes).float().permute(0, 2, 1)[:, :, None]


def everywhere(q: Tensor) -> Tensor:
    return torch.ones(len(q), *q.shape[-2:], dtype=torch.bool)


# The contrastive loss.


def test_info_nce_by_hand() -> None:
    positives = torch.tensor([[1.0, 0.5, 0.0, 1.0]])
    negatives = torch.tensor([[[0.0, 9.0], [0.5, 0.0], [0.5, 0.5], [1.0, 1.0]]])
    allowed = torch.tensor([[[True, False], [True, True], [False, False], [True, True]]])
    anchors = torch.tensor([[True, True, True, False]])
    # tau = 1/2. Anchor 1: ln(1 + e^-2). Anchor 2: ln(1 + 1 + e^-1). Anchor 3: no negatives. 4: not an anchor.
    loss = info_nce(positives, negatives, allowed, anchors, 0.5)
    expected = (math.log(1 + math.exp(-2)) + math.log(2 + math.exp(-1))) / 3
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_info_nce_is_defined_everywhere() -> None:
    positives, negatives = torch.tensor([[1.0]]).requires_grad_(), torch.tensor([[[0.9, -1.0]]]).requires_grad_()
    everything, nothing = torch.ones(1, 1, 2, dtype=torch.bool), torch.zeros(1, 1, 2, dtype=torch.bool)
    for allowed, anchors in ((nothing, everything[..., 0]), (everything, nothing[..., 0]), (nothing, nothing[..., 0])):
        loss = info_nce(positives, negatives, allowed, anchors, 0.01)
        gradient = torch.autograd.grad(loss, (positives, negatives))
        assert loss == 0 and not any(g.any() for g in gradient)
    assert info_nce(positives, negatives, everything, everything[..., 0], 1e-3).isfinite()


# One cell of each of two images, in the strong and in the weak view. Similarities are 0.6 and 1 to the own weak view, 0
# and 0.8 to that of the other image.
STRONG, WEAK = features_of([[1.0, 0.0]], [[0.0, 3.0]]), features_of([[0.6, 0.8]], [[0.0, 2.0]])
TOLD_APART = [math.log(1 + math.exp((0.0 - 0.6) / 0.5)), math.log(1 + math.exp((0.8 - 1.0) / 0.5))]


def test_contrast_of_two_pixels_by_hand() -> None:
    q = labels_of([0], [1])
    loss = contrastive(contrast_temperature=0.5).contrast(STRONG, WEAK, q, everywhere(q))
    torch.testing.assert_close(loss, torch.tensor(sum(TOLD_APART) / 2))


@pytest.mark.parametrize("debias", [True, False])
def test_cells_with_the_same_pseudo_label_are_not_negatives(debias: bool) -> None:
    q = labels_of([2], [2])
    loss = contrastive(contrast_temperature=0.5, debias=debias).contrast(STRONG, WEAK, q, everywhere(q))
    torch.testing.assert_close(loss, torch.tensor(0.0 if debias else sum(TOLD_APART) / 2))


def test_negatives_come_from_other_images() -> None:
    q = labels_of([0, 1])  # two different cells in one image
    strong = features_of([[1.0, 0.0], [0.0, 1.0]])
    assert contrastive().contrast(strong, strong, q, everywhere(q)) == 0
    q = labels_of([0, 1], [0, 1])
    twice = features_of(*[[[1.0, 0.0], [0.0, 1.0]]] * 2)
    loss = contrastive(contrast_temperature=1.0).contrast(twice, twice, q, everywhere(q))
    torch.testing.assert_close(loss, torch.tensor(math.log(1 + math.exp(-1.0))))  # one negative each


def test_padding_is_neither_anchor_nor_negative() -> None:
    q = labels_of([0, 1], [1, 2])
    valid = torch.tensor([[[True, False]], [[True, False]]])
    strong = features_of([[1.0, 0.0], [7.0, 1.0]], [[0.0, 3.0], [1.0, -1.0]])  # STRONG and WEAK with one more cell each
    weak = features_of([[0.6, 0.8], [0.0, -1.0]], [[0.0, 2.0], [5.0, 5.0]])
    loss = contrastive(contrast_temperature=0.5).contrast(strong, weak, q, valid)
    torch.testing.assert_close(loss, torch.tensor(sum(TOLD_APART) / 2))
    assert contrastive().contrast(strong, weak, q, ~everywhere(q)) == 0


def test_class_of_a_cell_is_that_of_most_valid_pixels() -> None:
    """Cells have 3 x 1 pixels. If padding counted, both images would have class 0."""
    q = labels_of([0, 0, 1], [1, 0, 0])
    valid = torch.tensor([[[True, True, True]], [[True, False, False]]])
    strong, weak = ([torch.zeros(2, 3, 1, 3), f[1]] for f in (STRONG, WEAK))
    loss = contrastive(contrast_temperature=0.5).contrast(strong, weak, q, valid)
    torch.testing.assert_close(loss, torch.tensor(sum(TOLD_APART) / 2))


def test_projections_have_unit_length_and_the_size_of_the_grid() -> None:
    deepest = torch.arange(1.0, 13.0).view(1, 1, 3, 4).repeat(1, 2, 1, 1) * torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    deepest[..., 2, 1] = torch.tensor([0.0, -1.0])
    h = contrastive().project(deepest, (3, 2))
    expected = [[0.6, 0.8]] * 5 + [[0.0, -1.0]]
    torch.testing.assert_close(h, torch.tensor([expected]))


# Sampling.


def test_allowed_cells_are_sampled_uniformly() -> None:
    torch.manual_seed(0)
    allowed = torch.tensor([[True, False, True, True, True]]).repeat(4000, 1)
    index, is_allowed = sample_cells(allowed, 2)
    assert index.shape == (4000, 2) and is_allowed.all()
    assert (index[:, 0] != index[:, 1]).all()
    counts = index.flatten().bincount(minlength=5)
    assert counts[1] == 0
    for count in counts[[0, 2, 3, 4]]:
        assert count.item() == pytest.approx(2000, abs=150)  # five standard deviations


def test_cells_that_are_not_allowed_are_marked() -> None:
    index, is_allowed = sample_cells(torch.tensor([[False, True, False], [False, False, False]]), 5)
    assert index.shape == (2, 3)
    assert is_allowed.tolist() == [[True, False, False], [False] * 3] and index[0, 0] == 1


def test_numbers_of_anchors_and_negatives(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []
    monkeypatch.setattr(module, "info_nce", lambda p, n, *_: shapes.append((p.shape, n.shape)) or p.sum())
    for anchors, negatives in ((5, 7), (10_000, 10_000)):
        make("pc2seg", anchors=anchors, negatives=negatives)(make_batch(unlabeled=3), PROGRESS)
    assert shapes == [((3, 5), (3, 5, 7)), ((3, 256), (3, 256, 768))]


# Gradients.


def test_contrast_trains_encoder_and_projection_through_the_strong_view() -> None:
    method, batch = make("pc2seg", unsupervised_weight=0.0), make_batch()
    batch.masks[:] = 255
    output = method(batch, PROGRESS)
    output.loss.backward()
    assert output.loss.item() == pytest.approx(0.1 * output.scalars["loss/consistency"].item())
    for part in (method.student.stem, method.student.blocks, method.projector):
        assert gradients(part).any()
    assert not gradients(method.student.head).any()

    q = labels_of([0], [1])
    strong, weak = ([f[0], f[1].clone().requires_grad_()] for f in (STRONG, WEAK))
    contrastive().contrast(strong, weak, q, everywhere(q)).backward()
    assert strong[1].grad is not None and strong[1].grad.any() and weak[1].grad is None


def test_consistency_trains_the_student_but_not_the_projection() -> None:
    method, batch = make("pc2seg", contrast_weight=0.0), make_batch()
    method.projector.register_forward_pre_hook(lambda *_: pytest.fail("what has no weight is not computed"))
    batch.masks[:] = 255
    output = method(batch, PROGRESS)
    output.loss.backward()
    assert output.scalars["loss/consistency"] == 0 < output.scalars["loss/unsupervised"]
    assert gradients(method.student.head).any() and not gradients(method.projector).any()


def test_consistency_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    method, batch = make("pc2seg").eval(), make_batch(unlabeled=1)
    batch.masks[:] = 255
    batch.unlabeled_valid[:, :6] = False
    monkeypatch.setattr(module, "photometric", lambda images, strength: images.flip(1))
    output = method(batch, PROGRESS)
    output.loss.backward()
    reference, x_w = make("pc2seg").eval(), as_float(batch.unlabeled_images)
    p_w, p_s = (reference.student(x).softmax(dim=1) for x in (x_w, x_w.flip(1)))
    expected = (p_s - p_w.detach()).square().sum(dim=1)[:, 6:].mean()  # the weak view has no gradient
    expected.backward()
    torch.testing.assert_close(output.scalars["loss/unsupervised"], expected.detach())
    torch.testing.assert_close(gradients(method.student), gradients(reference.student))


def test_the_burn_in_is_supervised() -> None:
    method, batch = make("pc2seg", burn_in=0.6), make_batch()
    reference = make("supervised")
    torch.testing.assert_close(method(batch, PROGRESS).loss, reference(batch, PROGRESS).loss)


# Batches and networks.


@pytest.mark.parametrize("classes", [2, 21])
def test_contrast_is_zero_for_a_single_image_or_class(classes: int) -> None:
    values = make("pc2seg", classes)(make_batch(classes, unlabeled=1), PROGRESS).scalars
    assert values["loss/consistency"] == 0 < values["loss/unsupervised"]
    method, batch = make("pc2seg", classes), make_batch(classes)
    assert method(batch, PROGRESS).scalars["loss/consistency"] > 0
    nn.init.zeros_(method.student.head.weight)
    nn.init.zeros_(method.student.head.bias)
    method.student.head.bias.data[1] = 1
    assert method(batch, PROGRESS).scalars["loss/consistency"] == 0
    padding = Batch(**vars(batch) | {"unlabeled_valid": torch.zeros_like(batch.unlabeled_valid)})
    values = make("pc2seg", classes)(padding, PROGRESS).scalars
    assert values["loss/consistency"] == values["loss/unsupervised"] == 0


@pytest.mark.parametrize(
    ("architecture", "encoder", "side", "images"),
    [
        ("deeplabv3plus-separable", "tf_efficientnet_lite0", 40, 2),
        ("segformer", "mit_b0", 64, 2),
        ("segformer", "mit_b0", 32, 1),  # a single image is padded to more cells
    ],
)
def test_a_step_on_real_networks(architecture: str, encoder: str, side: int, images: int) -> None:
    torch.manual_seed(0)
    method = METHODS["pc2seg"](lambda: build(architecture, encoder, 4, weights="none"), 4, PC2SegOptions(debias=False))
    output = method.train()(make_batch(4, images, images, side), PROGRESS)
    output.loss.backward()
    assert all(value.isfinite() for value in (output.loss, *output.scalars.values()))
    assert (output.scalars["loss/consistency"] > 0) == (images > 1)
    without = [name for name, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not without


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast_temperature": 0.0}, "--contrast-temperature: 0.0 is out of range. Choose a value above 0"),
        ({"contrast_weight": -1.0}, "--contrast-weight: -1.0 is out of range. Choose a value of at least 0"),
        ({"anchors": 0}, "--anchors: 0 is out of range. Choose a value of at least 1"),
        ({"negatives": 0}, "--negatives: 0 is out of range. Choose a value of at least 1"),
        ({"projection": 0}, "--projection: 0 is out of range. Choose a value of at least 1"),
    ],
)
def test_invalid_options_are_rejected(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make("pc2seg", **options)
