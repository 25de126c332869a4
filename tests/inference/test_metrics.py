"""The confusion matrix and its metrics, compared with a computation pixel by pixel."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.data.dataset import IGNORE
from semiseg.inference import ConfusionMatrix
from semiseg.inference.boundary_iou import BoundaryIoU


def matrix_of(classes, prediction, mask):
    matrix = ConfusionMatrix(classes)
    matrix.update(torch.tensor(prediction), torch.tensor(mask))
    return matrix


def naive(classes, pairs):
    """Return IoU, mIoU and pixel accuracy in percent, computed with sets of pixels."""
    valid = [(index, truth, guess) for index, (truth, guess) in enumerate(pairs) if truth != IGNORE]
    ious = []
    for label in range(classes):
        true = {index for index, truth, _ in valid if truth == label}
        guessed = {index for index, _, guess in valid if guess == label}
        ious.append(100 * len(true & guessed) / len(true | guessed) if true | guessed else None)
    present = [iou for iou in ious if iou is not None]
    right = sum(truth == guess for _, truth, guess in valid)
    return ious, sum(present) / len(present) if present else None, 100 * right / len(valid) if valid else None


@st.composite
def labelings(draw):
    classes = draw(st.integers(1, 6))
    truth = st.one_of(st.integers(0, classes - 1), st.just(IGNORE))
    return classes, draw(st.lists(st.tuples(truth, st.integers(0, classes - 1)), max_size=60))


@settings(max_examples=150, deadline=None)
@given(labelings(), st.integers(0, 60))
def test_metrics_equal_a_computation_pixel_by_pixel(labeling, cut):
    classes, pairs = labeling
    matrix = ConfusionMatrix(classes)
    for part in (pairs[:cut], pairs[cut:]):  # two updates equal one
        truth = torch.tensor([truth for truth, _ in part], dtype=torch.uint8)
        matrix.update(torch.tensor([guess for _, guess in part], dtype=torch.uint8), truth)
    ious, miou, accuracy = naive(classes, pairs)
    assert matrix.iou() == pytest.approx(ious)
    assert matrix.miou() == pytest.approx(miou)
    assert matrix.pixel_accuracy() == pytest.approx(accuracy)


def test_rows_are_the_truth():
    matrix = matrix_of(3, [[0, 1, 1]], [[2, 1, 0]])
    assert matrix.counts.tolist() == [[0, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert matrix.counts.dtype == torch.int64


def test_ignored_pixels_are_not_counted():
    assert matrix_of(2, [[0, 1, 1, 1]], [[0, 1, 255, 255]]).iou() == [100, 100]


def test_iou_is_none_for_absent_classes_and_zero_for_false_positives():
    matrix = matrix_of(4, [[0, 0, 2]], [[0, 0, 0]])
    assert matrix.iou() == [pytest.approx(200 / 3), None, 0, None]
    assert matrix.miou() == pytest.approx(100 / 3)
    assert matrix.miou_of_shown() == pytest.approx(200 / 3)  # not over class 2, which the mask lacks


@pytest.mark.parametrize("mask", [[[255, 255]], [[]]])
def test_metrics_are_none_without_valid_pixels(mask):
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(1, len(mask[0]), dtype=torch.uint8), torch.tensor(mask, dtype=torch.uint8))
    assert matrix.summary(("a", "b")) == {"miou": None, "pixel_accuracy": None, "iou": {"a": None, "b": None}}
    assert matrix.miou_of_shown() is None


def test_batches_equal_single_images():
    prediction, mask = torch.randint(0, 3, (2, 4, 5, 6))
    batch, single = ConfusionMatrix(3), ConfusionMatrix(3)
    batch.update(prediction, mask)
    for one, other in zip(prediction, mask, strict=True):
        single.update(one.to(torch.uint8), other.to(torch.uint8))
    assert torch.equal(batch.counts, single.counts)


def test_counts_are_exact_beyond_the_precision_of_floats():
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**53
    matrix.update(torch.zeros(1, 1), torch.zeros(1, 1))
    assert int(matrix.counts[0, 0]) == 2**53 + 1


@pytest.mark.parametrize(("prediction", "mask"), [([[2]], [[0]]), ([[0]], [[2]]), ([[0]], [[254]]), ([[-1]], [[0]])])
def test_labels_outside_the_classes_are_rejected(prediction, mask):
    with pytest.raises(ValueError, match="labels must lie in"):
        matrix_of(2, prediction, mask)


def test_different_shapes_are_rejected():
    with pytest.raises(ValueError, match="differ in shape"):
        matrix_of(2, [[0, 1]], [[0], [1]])


def test_summary_contains_the_class_names():
    summary = matrix_of(2, [[0, 1]], [[0, 0]]).summary(("sky", "tree"))
    assert summary == {"miou": 25.0, "pixel_accuracy": 50.0, "iou": {"sky": 50.0, "tree": 0.0}}
    with pytest.raises(ValueError):
        ConfusionMatrix(2).summary(("sky",))


@settings(max_examples=60, deadline=None)
@given(labelings())
def test_dice_precision_and_recall_equal_scikit_learn(labeling):
    from sklearn.metrics import precision_recall_fscore_support  # takes a second

    classes, pairs = labeling
    matrix = ConfusionMatrix(classes)
    matrix.update(torch.tensor([guess for _, guess in pairs]), torch.tensor([truth for truth, _ in pairs]))
    valid = [(truth, guess) for truth, guess in pairs if truth != IGNORE]
    present = sorted({label for pair in valid for label in pair})
    expected = {name: [None] * classes for name in ("dice", "precision", "recall")}
    if valid:
        truths, guesses = zip(*valid, strict=True)
        scores = precision_recall_fscore_support(truths, guesses, labels=present, zero_division=0)
        for name, values in zip(("precision", "recall", "dice"), scores, strict=False):
            for label, value in zip(present, values, strict=True):
                expected[name][label] = 100 * value
    names = [f"class {label}" for label in range(classes)]
    details = matrix.details(names)
    for name, values in expected.items():
        assert details[name] == pytest.approx(dict(zip(names, values, strict=True)))
        means = [value for value in values if value is not None]
        assert details[f"mean_{name}"] == pytest.approx(np.mean(means) if means else None)


def eroded(region, times):
    """Erode a region by squares of 3 x 3, one pixel at a time; outside of the image is not in the region."""
    for _ in range(times):
        padded = np.pad(region, 1)
        height, width = region.shape
        shifts = [padded[y : y + height, x : x + width] for y in range(3) for x in range(3)]
        region = np.logical_and.reduce(shifts)
    return region


@pytest.mark.parametrize("size", [(1, 1), (2, 40), (23, 31), (70, 64)])
@pytest.mark.parametrize("ignored", [0, 0.05])
def test_boundary_iou_equals_erosion_class_by_class(size, ignored):
    rng = np.random.default_rng(size[0])
    blocks = rng.integers(0, 4, (2, *(-(-side // 20) for side in size)))
    truth, guess = (np.kron(block, np.ones((20, 20), dtype=int))[: size[0], : size[1]] for block in blocks)
    guess = np.roll(np.where(rng.random(size) < 0.02, 3, guess), 1, axis=-1)
    truth = np.where(rng.random(size) < ignored, IGNORE, truth)
    measured = BoundaryIoU(5)
    for _ in range(2):  # counts add up over images
        measured.update(torch.from_numpy(guess), torch.from_numpy(truth))
    distance = max(1, round(0.02 * math.hypot(*size)))
    for label, found in enumerate(measured.iou()):
        ours, theirs = truth == label, (guess == label) & (truth != IGNORE)
        ours, theirs = (region & ~eroded(region, distance) for region in (ours, theirs))
        union = (ours | theirs).sum()
        assert found == pytest.approx(100 * (ours & theirs).sum() / union if union else None)


def test_boundary_iou_is_lower_than_iou_for_a_shifted_square():
    truth, guess = torch.zeros(2, 100, 100, dtype=torch.uint8)
    truth[20:80, 20:80] = 1
    guess[22:82, 20:80] = 1
    matrix, boundary = ConfusionMatrix(2), BoundaryIoU(2)
    matrix.update(guess, truth)
    boundary.update(guess, truth)
    assert matrix.iou()[1] == pytest.approx(100 * 58 / 62)
    assert 40 < boundary.iou()[1] < 80


def test_boundary_iou_of_a_perfect_prediction_is_100():
    labels = torch.randint(0, 3, (30, 40), dtype=torch.uint8)
    measured = BoundaryIoU(4)
    measured.update(labels, labels)
    assert measured.iou() == [100, 100, 100, None]
