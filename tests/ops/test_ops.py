"""Tensor functions: values by hand, and properties for any input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as TF

from semiseg.ops import colors
from semiseg.ops.bilinear import bilinear
from semiseg.ops.ema import ema_decay, ema_update
from semiseg.ops.losses import (
    balancing_weights,
    cross_entropy,
    ohem_cross_entropy,
    weighted_cross_entropy,
    weighted_squared_error,
)
from semiseg.ops.mixing import REGIONS, classmix_region, cutmix_region, partners, paste
from semiseg.ops.photometric import MEAN_PIXEL, color_jitter, cutout, photometric
from semiseg.ops.pseudo_labels import confidence_weights, labeling, pseudo_label, soft_label
from semiseg.ops.schedules import poly, ramp_up
from toy import Toy, parameters, state

few = settings(max_examples=50, deadline=None, derandomize=True)
seeds = st.integers(0, 2**31)


def logits_of(*pixels: tuple[float, ...]) -> Tensor:
    """Return logits ``(1, C, 1, W)`` of one row of pixels."""
    return torch.tensor(pixels).T[None, :, None]


# Losses. -log softmax: of (0, 0) it is ln 2; of (2, 0) it is ln(1 + e^-2) = 0.126928 for class 0, 2.126928 for class 1.


def test_cross_entropy_by_hand() -> None:
    logits = logits_of((0.0, 0.0), (2.0, 0.0), (2.0, 0.0))
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([[[0, 0, 1]]])), torch.tensor(0.982334))
    # The mean is over the known pixels: (0.693147 + 0.126928) / 2.
    torch.testing.assert_close(cross_entropy(logits, torch.tensor([[[0, 0, 255]]])), torch.tensor(0.410038))


def test_cross_entropy_takes_the_mean_over_the_batch_not_over_images() -> None:
    logits = torch.cat([logits_of((0.0, 0.0), (0.0, 0.0), (0.0, 0.0)), logits_of(*[(2.0, 0.0)] * 3)])
    labels = torch.tensor([[[0, 255, 255]], [[1, 1, 1]]])
    # (0.693147 + 3 * 2.126928) / 4; the mean of the means per image would be 1.410038.
    torch.testing.assert_close(cross_entropy(logits, labels), torch.tensor(1.768483))


def test_class_weights_by_hand() -> None:
    logits = logits_of((0.0, 0.0), (2.0, 0.0), (2.0, 0.0))
    weights = torch.tensor([0.5, 3.0])
    # (0.5 * 0.693147 + 0.5 * 0.126928 + 3 * 2.126928) / 3: the sum is divided by the number of known pixels.
    loss = cross_entropy(logits, torch.tensor([[[0, 0, 1]]]), weights)
    torch.testing.assert_close(loss, torch.tensor(2.263607))
    # 3 of 4 pixels have class 0: f^-1/2 = (1.154701, 2), with mean 1.366025 over the pixels.
    torch.testing.assert_close(balancing_weights(torch.tensor([30, 10]), 0.5), torch.tensor([0.845299, 1.464102]))
    torch.testing.assert_close(balancing_weights(torch.tensor([30, 10]), 1.0), torch.tensor([2 / 3, 2.0]))
    torch.testing.assert_close(balancing_weights(torch.tensor([30, 10]), 0.0), torch.ones(2))
    # A class without labels has the weight of the rarest one.
    torch.testing.assert_close(
        balancing_weights(torch.tensor([30, 0, 10]), 0.5), torch.tensor([0.845299, 1.464102, 1.464102])
    )


@few
@given(pixels=st.lists(st.integers(0, 10**9), min_size=1, max_size=30), power=st.floats(0, 1))
def test_balancing_keeps_the_size_of_the_loss(pixels: list[int], power: float) -> None:
    counts = torch.tensor(pixels)
    weights = balancing_weights(counts, power)
    assert weights.isfinite().all() and (weights >= 0).all()
    if counts.sum() > 0:
        shares = counts.double() / counts.sum()
        assert (shares * weights).sum().item() == pytest.approx(1, rel=1e-4)
        order = counts[counts > 0].argsort()
        assert (weights[counts > 0][order].diff() <= 1e-5 * weights.max()).all()  # rarer classes have larger weights


def test_ohem_by_hand() -> None:
    # Probabilities of the true class: 0.880797, 0.5, 0.119203, 0.880797, and an unknown pixel.
    logits = logits_of((2.0, 0.0), (0.0, 0.0), (2.0, 0.0), (0.0, 2.0), (0.0, 9.0))
    labels = torch.tensor([[[0, 0, 1, 1, 255]]])

    def loss(threshold: float, min_kept: int) -> float:
        return ohem_cross_entropy(logits, labels, threshold=threshold, min_kept=min_kept).item()

    assert loss(0.7, 1) == pytest.approx((0.693147 + 2.126928) / 2)  # both below the threshold
    assert loss(0.3, 1) == pytest.approx(2.126928)
    assert loss(0.3, 2) == pytest.approx((0.693147 + 2.126928) / 2)  # the second hardest sets the limit
    everything = cross_entropy(logits, labels).item()
    for threshold, min_kept in ((1.0, 1), (0.7, 4), (0.0, 5), (0.0, 99)):  # fewer known pixels than min_kept
        assert loss(threshold, min_kept) == pytest.approx(everything)
    two = ohem_cross_entropy(logits[..., 1:].expand(2, 2, 1, 4), labels[..., 1:].expand(2, 1, 4), min_kept_per_image=2)
    assert two.item() == pytest.approx((0.693147 + 2.126928) / 2)  # the same for one image: the floor doubles
    weighted = ohem_cross_entropy(logits, labels, torch.tensor([2.0, 1.0]), threshold=0.7, min_kept=1)
    assert weighted.item() == pytest.approx((2 * 0.693147 + 2.126928) / 2)


def test_ohem_gives_no_gradient_to_easy_pixels() -> None:
    logits = logits_of((2.0, 0.0), (0.0, 0.0), (0.0, 3.0)).requires_grad_()
    ohem_cross_entropy(logits, torch.tensor([[[0, 0, 0]]]), threshold=0.7, min_kept=1).backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 0].abs().sum(0).gt(0).tolist() == [False, True, True]


def test_weighted_cross_entropy_by_hand() -> None:
    logits = logits_of((0.0, 0.0), (2.0, 0.0), (2.0, 0.0), (2.0, 0.0))
    labels, weights = torch.tensor([[[0, 1, 0, 1]]]), torch.tensor([[[1.0, 0.5, 0.0, 1.0]]])
    valid = torch.tensor([[[True, True, True, False]]])
    # (1 * 0.693147 + 0.5 * 2.126928 + 0 * ...) / 3: pixels of weight 0 are in the denominator, padding is not.
    loss = weighted_cross_entropy(logits, labels, weights, valid)
    torch.testing.assert_close(loss, torch.tensor(0.585537))


def test_weighted_cross_entropy_skips_ignored_labels() -> None:
    logits = logits_of((0.0, 0.0), (2.0, 0.0))
    ones = torch.ones(1, 1, 2)
    loss = weighted_cross_entropy(logits, torch.tensor([[[0, 255]]]), ones, ones.bool())
    torch.testing.assert_close(loss, torch.tensor(math.log(2) / 2))


def test_weighted_cross_entropy_with_probabilities_by_hand() -> None:
    logits, valid = logits_of((0.0, 0.0), (math.log(3), 0.0), (5.0, 0.0)), torch.tensor([[[True, True, False]]])
    q = torch.tensor([[[[0.3, 0.5, 1.0]], [[0.7, 0.5, 0.0]]]])  # (1, 2, 1, 3)
    # Pixel 1: ln 2 for any q. Pixel 2: -(ln 3/4 + ln 1/4) / 2 = 0.836988, with weight 1/2. Padding: 0.
    loss = weighted_cross_entropy(logits, q, torch.tensor([[[1.0, 0.5, 1.0]]]), valid)
    torch.testing.assert_close(loss, torch.tensor((math.log(2) + 0.5 * 0.836988) / 2))


def test_weighted_squared_error_by_hand() -> None:
    logits, valid = logits_of((0.0, 0.0), (math.log(3), 0.0), (9.0, 0.0)), torch.tensor([[[True, True, False]]])
    q = torch.tensor([[[[0.3, 0.0, 0.0]], [[0.7, 1.0, 1.0]]]])  # (1, 2, 1, 3)
    # Pixel 1: 0.2^2 + 0.2^2 = 0.08. Pixel 2: 0.75^2 + 0.75^2 = 1.125, with weight 1/2. Padding: 0.
    loss = weighted_squared_error(logits, q, torch.tensor([[[1.0, 0.5, 1.0]]]), valid)
    torch.testing.assert_close(loss, torch.tensor((0.08 + 0.5 * 1.125) / 2))


@few
@given(seed=seeds, classes=st.sampled_from([2, 19, 150]))
def test_squared_error_is_between_0_and_2(seed: int, classes: int) -> None:
    g = torch.Generator().manual_seed(seed)
    logits, other = (30 * torch.randn(2, classes, 3, 5, generator=g) for _ in range(2))
    ones = torch.ones(2, 3, 5)
    assert 0 <= weighted_squared_error(logits, other.softmax(dim=1), ones, ones.bool()).item() <= 2
    assert weighted_squared_error(logits, logits.softmax(dim=1), ones, ones.bool()).item() == 0


@pytest.mark.parametrize(
    "kind",
    [
        "supervised, ignored",
        "ohem, ignored",
        "weighted, ignored",
        "weighted, padding",
        "weighted, zero",
        "squared, padding",
        "squared, zero",
    ],
)
def test_losses_are_zero_without_known_pixels(kind: str) -> None:
    logits = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    labels = torch.zeros(2, 4, 4, dtype=torch.long)
    ignored, ones = torch.full_like(labels, 255), torch.ones(2, 4, 4)
    loss = {
        "supervised, ignored": lambda: cross_entropy(logits, ignored),
        "ohem, ignored": lambda: ohem_cross_entropy(logits, ignored, min_kept=3),
        "weighted, ignored": lambda: weighted_cross_entropy(logits, ignored, ones, ones.bool()),
        "weighted, padding": lambda: weighted_cross_entropy(logits, labels, ones, ~ones.bool()),
        "weighted, zero": lambda: weighted_cross_entropy(logits, labels, 0 * ones, ones.bool()),
        "squared, padding": lambda: weighted_squared_error(logits, soft_label(0 * logits, 1), ones, ~ones.bool()),
        "squared, zero": lambda: weighted_squared_error(logits, soft_label(0 * logits, 1), 0 * ones, ones.bool()),
    }[kind]()
    assert loss.item() == 0
    loss.backward()
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


# Pseudo-labels and weights.


def test_pseudo_label_by_hand() -> None:
    logits = logits_of((0.0, 0.0, 0.0), (0.0, math.log(8), 0.0), (math.log(3), 0.0, math.log(6)))
    labels, confidence = pseudo_label(logits.requires_grad_())
    assert labels[0, 0, 1:].tolist() == [1, 2]
    torch.testing.assert_close(confidence, torch.tensor([[[1 / 3, 0.8, 0.6]]]))
    assert not confidence.requires_grad


@few
@given(seed=seeds, classes=st.sampled_from([2, 19, 150]), half=st.booleans())
def test_pseudo_labels_are_classes_and_confidences_probabilities(seed: int, classes: int, half: bool) -> None:
    logits = 10 * torch.randn(2, classes, 3, 5, generator=torch.Generator().manual_seed(seed))
    labels, confidence = pseudo_label(logits.bfloat16() if half else logits)
    assert labels.shape == confidence.shape == (2, 3, 5)
    assert labels.dtype == torch.int64 and labels.min() >= 0 and labels.max() < classes
    assert confidence.dtype == torch.float32 and confidence.min() > 1 / classes - 1e-4 and confidence.max() <= 1


def test_soft_labels_by_hand() -> None:
    logits = logits_of((0.0, math.log(2)), (math.log(3), 0.0)).requires_grad_()
    assert soft_label(logits, 0.0).tolist() == [[[1, 0]]]
    torch.testing.assert_close(soft_label(logits, 1.0), torch.tensor([[[[1 / 3, 3 / 4]], [[2 / 3, 1 / 4]]]]))
    # p^2 / sum: (1, 4) / 5 and (9, 1) / 10.
    sharpened = soft_label(logits, 0.5)
    torch.testing.assert_close(sharpened, torch.tensor([[[[0.2, 0.9]], [[0.8, 0.1]]]]))
    assert not sharpened.requires_grad


@few
@given(seed=seeds, temperature=st.sampled_from([1e-45, 1e-6, 0.1, 1.0]), half=st.booleans())
def test_soft_labels_are_probabilities_with_the_same_argmax(seed: int, temperature: float, half: bool) -> None:
    logits = 10 * torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(seed))
    q = soft_label(logits.bfloat16() if half else logits, temperature)
    assert q.dtype == torch.float32 and q.min() >= 0
    torch.testing.assert_close(q.sum(dim=1), torch.ones(2, 3, 4))
    if not half:
        assert torch.equal(q.argmax(dim=1), logits.argmax(dim=1))


def test_labeling_disables_and_restores_the_autocast_cache() -> None:
    layer, x = nn.Conv2d(3, 4, 3), torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        with labeling():
            assert not torch.is_autocast_cache_enabled() and not torch.is_grad_enabled()
            labels = layer(x)
        assert torch.is_autocast_cache_enabled() and torch.is_grad_enabled()
        out = layer(x)
        with pytest.raises(ZeroDivisionError), labeling():
            assert 1 / 0
        assert torch.is_autocast_cache_enabled() and torch.is_grad_enabled()
    assert labels.dtype == out.dtype == torch.bfloat16
    assert not labels.requires_grad and torch.equal(labels, out)
    out.float().sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()


CONFIDENCE = torch.tensor([[[0.99, 0.95], [0.94, 0.99]], [[0.5, 0.99], [0.2, 0.1]]])
VALID = torch.tensor([[[True, True], [True, False]], [[True, True], [True, True]]])  # with one padding pixel


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        # The threshold of the authors' code only weights images, so that unsure pixels are trained too.
        ("pixel", [[[1, 1], [0, 0]], [[0, 1], [0, 0]]]),
        ("image", [[[2 / 3, 2 / 3], [2 / 3, 2 / 3]], [[1 / 4, 1 / 4], [1 / 4, 1 / 4]]]),
        ("batch", [[[3 / 7, 3 / 7], [3 / 7, 3 / 7]], [[3 / 7, 3 / 7], [3 / 7, 3 / 7]]]),
        ("none", [[[1, 1], [1, 1]], [[1, 1], [1, 1]]]),
    ],
)
def test_confidence_weights_by_hand(mode: str, expected: list[list[list[float]]]) -> None:
    weights, trusted_fraction = confidence_weights(CONFIDENCE, VALID, 0.95, mode)  # type: ignore[arg-type]
    torch.testing.assert_close(weights, torch.tensor(expected, dtype=torch.float32))
    torch.testing.assert_close(trusted_fraction, torch.tensor(3 / 7))  # trusted / valid in every mode


def test_the_threshold_is_not_rounded_to_eight_bits() -> None:
    # The authors' code rounds confidence to 8 bits, so that the threshold is 243/255.
    confidence = torch.tensor([[[243 / 255, 0.9499, 0.95]]])
    weights, _ = confidence_weights(confidence, torch.ones(1, 1, 3, dtype=torch.bool), 0.95)
    assert weights.tolist() == [[[1, 0, 1]]]
    weights, _ = confidence_weights(confidence, torch.ones(1, 1, 3, dtype=torch.bool), 0.9531)
    assert weights.tolist() == [[[0, 0, 0]]]


@few
@given(
    seed=seeds,
    mode=st.sampled_from(["pixel", "image", "batch", "none"]),
    threshold=st.floats(0, 1),
    known=st.floats(0, 1),
)
def test_weights_are_between_zero_and_one(seed: int, mode: str, threshold: float, known: float) -> None:
    g = torch.Generator().manual_seed(seed)
    confidence, valid = torch.rand(3, 4, 5, generator=g), torch.rand(3, 4, 5, generator=g) < known
    weights, trusted_fraction = confidence_weights(confidence, valid, threshold, mode)  # type: ignore[arg-type]
    assert weights.shape == confidence.shape
    assert weights.min() >= 0 and weights.max() <= 1
    assert 0 <= trusted_fraction <= 1


def test_unknown_threshold_mode_is_rejected() -> None:
    with pytest.raises(ValueError, match="unknown threshold mode 'pixels'"):
        confidence_weights(CONFIDENCE, VALID, 0.95, "pixels")  # type: ignore[arg-type]


# CutMix.


@few
@given(seed=seeds, n=st.integers(1, 4), height=st.integers(1, 40), width=st.integers(1, 40))
def test_cutmix_regions_are_boxes_inside_the_image(seed: int, n: int, height: int, width: int) -> None:
    torch.manual_seed(seed)
    regions = cutmix_region(torch.zeros(n, height, width, dtype=torch.long))
    assert regions.shape == (n, height, width) and regions.dtype == torch.bool
    for region in regions:
        rows, columns = region.any(dim=1), region.any(dim=0)
        assert torch.equal(region, rows[:, None] & columns[None])
        for line in (rows, columns):  # contiguous
            assert (line[1:] & ~line[:-1]).sum() + line[0] <= 1


def test_distribution_of_cutmix_areas() -> None:
    torch.manual_seed(0)
    n, side = 2000, 64
    regions = cutmix_region(torch.zeros(n, side, side, dtype=torch.long))
    area = regions.sum(dim=(1, 2)) / side**2
    # The area is 1 - lambda, lambda ~ Beta(4, 4): mean 1/2, variance 1/36. Boxes clipped at the border are smaller.
    assert abs(area.mean() - 1 / 2) < 3 / 6 / n**0.5
    assert abs(area.std() - 1 / 6) < 0.01
    # The proportions are those of the image, and positions are uniform.
    rows, columns = regions.any(dim=2).sum(dim=1), regions.any(dim=1).sum(dim=1)
    assert torch.equal(rows, columns)
    center = (regions.any(dim=1) * torch.arange(side)).sum(dim=1) / columns
    assert abs(center.mean() - (side - 1) / 2) < 3 * center.std() / n**0.5


def test_cutmix_samples_a_box_per_image() -> None:
    torch.manual_seed(0)
    regions = cutmix_region(torch.zeros(3, 64, 64, dtype=torch.long))
    assert regions.double().mean(dim=(1, 2)).unique().numel() == 3
    torch.manual_seed(0)
    assert torch.equal(cutmix_region(torch.zeros(3, 64, 64, dtype=torch.long)), regions)


# ClassMix.


@few
@given(seed=seeds, classes=st.sampled_from([2, 3, 19, 21, 150, 255]), shown=st.integers(1, 150), ignored=st.booleans())
def test_classmix_picks_half_of_the_classes_in_an_image(seed: int, classes: int, shown: int, ignored: bool) -> None:
    # The class mask of the authors' code works for 3 or 150 channels only.
    g = torch.Generator().manual_seed(seed)
    palettes = [torch.randperm(classes, generator=g)[: max(1, shown - i)] for i in range(3)]
    labels = torch.stack([p[torch.randint(len(p), (20, 20), generator=g)] for p in palettes])
    if ignored:
        labels[:, :5] = 255
    torch.manual_seed(seed)
    regions = classmix_region(labels)
    assert regions.shape == labels.shape and regions.dtype == torch.bool
    for region, label in zip(regions, labels, strict=True):
        present = set(label.unique().tolist()) - {255}
        picked = set(label[region].unique().tolist())
        assert len(picked) == len(present) // 2
        assert picked <= present  # 255 is never picked
        assert torch.equal(region, torch.isin(label, torch.tensor(sorted(picked))))  # all pixels of a picked class


@pytest.mark.parametrize("label", [0, 1, 149])
def test_classmix_with_one_class_present_is_a_no_op(label: int) -> None:
    labels = torch.full((2, 8, 8), label)
    labels[1, :4] = 255
    region = classmix_region(labels)
    assert not region.any()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(paste(region, images[[1, 0]], images), images)


def test_classmix_picks_every_class_sometimes() -> None:
    torch.manual_seed(0)
    labels = torch.arange(4).repeat_interleave(4).view(1, 4, 4).repeat(400, 1, 1)
    share = classmix_region(labels).double().mean(dim=(0, 2))
    assert (abs(share - 0.5) < 3 * 0.5 / 400**0.5).all()


def test_there_are_two_regions() -> None:
    assert {"cutmix": cutmix_region, "classmix": classmix_region} == REGIONS


# Partners and pasting.


@few
@given(n=st.integers(2, 40))
def test_partners_are_other_images(n: int) -> None:
    # The authors' code permutes freely, so that images may be pasted onto themselves.
    partner = partners(n)
    assert sorted(partner.tolist()) == list(range(n))
    assert (partner != torch.arange(n)).all()


def test_partners_of_one_two_and_three_images() -> None:
    assert partners(0).tolist() == []
    assert partners(1).tolist() == [0]
    assert partners(2).tolist() == [1, 0]
    assert partners(3).tolist() == [2, 0, 1]
    assert partners(8).tolist() == partners(4).tolist() + (partners(4) + 4).tolist()  # as with two processes


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("channels", [(), (3,)])
def test_paste_is_exact(dtype: torch.dtype, channels: tuple[int, ...]) -> None:
    g = torch.Generator().manual_seed(0)
    region = torch.rand(2, 5, 6, generator=g) < 0.5
    source, target = (torch.randint(0, 256, (2, *channels, 5, 6), generator=g).to(dtype) for _ in range(2))
    mixed = paste(region, source, target)
    assert mixed.dtype == dtype
    where = region[:, None].expand_as(source) if channels else region
    assert torch.equal(mixed[where], source[where])
    assert torch.equal(mixed[~where], target[~where])


# Colors of the strong view.


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_photometric_keeps_shape_and_range_and_does_not_change_its_input(strength: float) -> None:
    torch.manual_seed(0)
    images = torch.rand(16, 3, 12, 9)
    before = images.clone()
    strong = photometric(images, strength)
    assert strong.shape == images.shape and strong.dtype == images.dtype
    assert strong.min() >= 0 and strong.max() <= 1
    assert torch.equal(images, before)
    assert torch.equal(strong, images) == (strength == 0)


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.7])
def test_color_changes_equal_those_of_torchvision(factor: float) -> None:
    image = torch.randint(0, 6, (3, 20, 24)) / 5  # with gray pixels and equal channels
    pairs = [
        (colors.adjust_brightness(image, factor), TF.adjust_brightness(image, factor)),
        (colors.adjust_contrast(image, factor), TF.adjust_contrast(image, factor)),
        (colors.adjust_saturation(image, factor), TF.adjust_saturation(image, factor)),
        (colors.adjust_hue(image, factor / 2 - 0.4), TF.adjust_hue(image, factor / 2 - 0.4)),
        (colors.grayscale(image), TF.rgb_to_grayscale(image)),
        (colors.gaussian_blur(image, 5, factor + 0.1), TF.gaussian_blur(image, [5, 5], [factor + 0.1] * 2)),
    ]
    for ours, theirs in pairs:
        assert torch.equal(ours, theirs)


def test_photometric_differs_between_images() -> None:
    # The authors' code samples colors once per batch.
    torch.manual_seed(0)
    strong = photometric(torch.rand(1, 3, 16, 16).repeat(12, 1, 1, 1))
    kinds = {tuple(image.flatten().tolist()) for image in strong}
    assert len(kinds) >= 10  # (1 - 0.8) * (1 - 0.2) * (1 - 0.5) = 8 % of the images do not change
    gray = [(image[0] == image[1]).all().item() for image in strong]
    assert any(gray) and not all(gray)


def test_photometric_follows_the_seed() -> None:
    images = torch.rand(4, 3, 8, 8)

    def jittered(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return photometric(images)

    assert torch.equal(jittered(1), jittered(1))
    assert not torch.equal(jittered(1), jittered(2))
    assert photometric(images[:0]).shape == (0, 3, 8, 8)


@few
@given(seed=seeds, strength=st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_color_jitter_keeps_shape_and_range_and_does_not_change_its_input(seed: int, strength: float) -> None:
    torch.manual_seed(seed)
    images = torch.rand(2, 3, 7, 9)
    before = images.clone()
    changed = color_jitter(images, strength)
    assert changed.shape == images.shape and changed.min() >= 0 and changed.max() <= 1
    assert torch.equal(images, before)
    if strength == 0:
        torch.testing.assert_close(changed, images)
    else:
        assert not torch.allclose(changed[0], images[0]) and not torch.allclose(changed[1], images[1])


def test_color_jitter_adds_brightness_and_differs_between_images() -> None:
    torch.manual_seed(0)
    gray = torch.full((400, 3, 2, 2), 0.5)  # contrast, saturation and hue do not change uniform gray
    changed = color_jitter(gray, 0.3)[:, 0, 0, 0]
    assert 0.2 <= changed.min() < 0.22 and 0.78 < changed.max() <= 0.8
    assert changed.mean().item() == pytest.approx(0.5, abs=0.03)
    assert len(changed.unique()) > 390


def test_color_jitter_changes_in_random_order() -> None:
    def in_order(seed: int, order: list[int]) -> Tensor:
        torch.manual_seed(seed)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "randperm", lambda n, generator: torch.tensor(order))
            return color_jitter(image, 0.5)

    image = torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    assert not torch.allclose(in_order(3, [0, 1, 2, 3]), in_order(3, [3, 2, 1, 0]))
    torch.manual_seed(3)
    changed = color_jitter(image, 0.5)
    assert any(torch.allclose(changed, in_order(3, list(o))) for o in itertools.permutations(range(4)))


@few
@given(seed=seeds, n=st.integers(0, 3), height=st.integers(1, 20), width=st.integers(1, 20), share=st.floats(0, 1))
def test_cutout_fills_a_rectangle_with_the_mean_color(seed: int, n: int, height: int, width: int, share: float) -> None:
    torch.manual_seed(seed)
    images = torch.rand(n, 3, height, width)
    filled, cut = cutout(images, share)
    assert cut.shape == (n, height, width) and cut.dtype == torch.bool
    assert torch.equal(filled, torch.where(cut[:, None], torch.tensor(MEAN_PIXEL).view(3, 1, 1), images))
    for mask in cut:
        rows, columns = mask.any(dim=1), mask.any(dim=0)
        assert torch.equal(mask, rows[:, None] & columns)
        for inside, side in ((rows, height), (columns, width)):
            where = inside.nonzero().flatten()
            assert len(where) <= round(share * side)
            assert (where.diff() == 1).all()


def test_cutout_size() -> None:
    torch.manual_seed(0)
    _, cut = cutout(torch.rand(500, 3, 20, 30), 0.2)
    areas = cut.sum(dim=(1, 2))
    assert areas.max() == 4 * 6 and areas.median() == 4 * 6
    assert areas.min() >= 2 * 3  # a center in a corner leaves a quarter
    assert cut.any(dim=0).all()  # every pixel can be cut out
    assert not cutout(torch.rand(2, 3, 20, 30), 0.0)[1].any()


def test_photometric_on_tiny_images() -> None:
    torch.manual_seed(0)
    assert photometric(torch.rand(20, 3, 2, 3)).isfinite().all()  # the blur's kernel must fit


# The exponential moving average.


def test_ema_decay_by_hand() -> None:
    assert [ema_decay(i, 0.99) for i in (0, 1, 3, 99, 100, 10_000)] == [0, 0.5, 0.75, 0.99, 0.99, 0.99]
    assert ema_decay(98, 0.99) == 1 - 1 / 99 < 0.99
    assert [ema_decay(i, 0.0) for i in (0, 5)] == [0, 0]


def wandering(seed: int, moved_statistics: bool = True) -> nn.Module:
    torch.manual_seed(seed)
    network = Toy()
    if moved_statistics:
        with torch.no_grad():
            network.train()(torch.rand(2, 3, 8, 8))
    return network


def test_the_first_update_copies_the_student_bit_for_bit() -> None:
    teacher, student = wandering(0), wandering(1)
    before = state(student)
    ema_update(teacher, student, ema_decay(0, 0.99))
    assert torch.equal(parameters(teacher), parameters(student))
    assert torch.equal(state(student), before)


def test_during_warm_up_the_teacher_is_the_mean_of_the_students() -> None:
    teacher, seen = wandering(99), []
    for i in range(100):
        student = wandering(i, moved_statistics=i % 10 == 0)
        seen.append(parameters(student))
        ema_update(teacher, student, ema_decay(i, 0.99))
        if i in (0, 1, 7, 99):
            torch.testing.assert_close(parameters(teacher), torch.stack(seen).mean(dim=0), rtol=1e-5, atol=1e-6)
    mean, latest = parameters(teacher), wandering(500)
    ema_update(teacher, latest, ema_decay(100, 0.99))  # from here on with decay 0.99
    torch.testing.assert_close(parameters(teacher), 0.99 * mean + 0.01 * parameters(latest))


@pytest.mark.parametrize("mode", ["ema", "copy", "own"])
def test_ema_of_batchnorm_statistics(mode: str) -> None:
    # In the authors' code only parameters follow the student.
    teacher, student = wandering(0), wandering(1)
    with torch.no_grad():
        student.train()(torch.rand(2, 3, 8, 8))
    own = teacher.stem[1].running_mean.clone()
    theirs = student.stem[1].running_mean.clone()
    ema_update(teacher, student, 0.75, mode)  # type: ignore[arg-type]
    expected = {"ema": 0.75 * own + 0.25 * theirs, "copy": theirs, "own": own}[mode]
    torch.testing.assert_close(teacher.stem[1].running_mean, expected)
    assert teacher.stem[1].num_batches_tracked == (1 if mode == "own" else 2)
    assert torch.equal(student.stem[1].running_mean, theirs)


def test_ema_is_not_part_of_a_graph() -> None:
    teacher, student = wandering(0).requires_grad_(False), wandering(1)
    ema_update(teacher, student, 0.5)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.is_leaf for p in teacher.parameters())


# Schedules.


def test_poly_by_hand() -> None:
    assert poly(0, 10) == 1
    assert poly(5, 10) == pytest.approx(0.535887)  # 0.5 ** 0.9
    assert poly(10, 10) == poly(11, 10) == 0
    assert [poly(step, 10, 1.0, 4) for step in range(6)] == pytest.approx([0.25, 0.5, 0.75, 1, 1, 5 / 6])
    assert [poly(step, 3, 0.0) for step in range(3)] == [1, 1, 1]


def test_ramp_up_by_hand() -> None:
    assert [ramp_up(step, 2, 4) for step in range(8)] == [0, 0, 0.25, 0.5, 0.75, 1, 1, 1]
    assert [ramp_up(step, 2, 0) for step in range(4)] == [0, 0, 1, 1]
    assert ramp_up(0, 0, 0) == 1


@few
@given(total=st.integers(1, 500), warmup=st.integers(0, 500), power=st.floats(0.1, 3))
def test_learning_rates_rise_then_fall_and_never_vanish_before_the_end(total: int, warmup: int, power: float) -> None:
    warmup = min(warmup, total // 10)
    factors = [poly(step, total, power, warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize("shape", [(2, 3, 4, 6), (2, 40, 5, 1), (1, 3, 130, 2)])
def test_bilinear_equals_interpolate(shape: tuple[int, ...], channels_last: bool, align_corners: bool) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for resize in (
        lambda x: bilinear(x, (13, 16), align_corners),
        lambda x: nn.functional.interpolate(x, (13, 16), mode="bilinear", align_corners=align_corners),
    ):
        x_ = x.clone().requires_grad_()
        y = resize(x_)
        (y * torch.arange(y.numel()).view_as(y).sin()).sum().backward()
        results.append((y.detach(), x_.grad))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
