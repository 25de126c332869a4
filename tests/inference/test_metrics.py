"""The confusion matrix and its metrics, compared with a computation pixel by pixel."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from semiseg.data.dataset import IGNORE
from semiseg.inference import ConfusionMatrix


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


@pytest.mark.parametrize("mask", [[[255, 255]], [[]]])
def test_metrics_are_none_without_valid_pixels(mask):
    matrix = ConfusionMatrix(2)
    matrix.update(torch.zeros(1, len(mask[0]), dtype=torch.uint8), torch.tensor(mask, dtype=torch.uint8))
    assert matrix.summary(("a", "b")) == {"miou": None, "pixel_accuracy": None, "iou": {"a": None, "b": None}}


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
