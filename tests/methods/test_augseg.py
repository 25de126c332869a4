"""AugSeg: the pool of changes, certainty, and labels for hard images."""

from __future__ import annotations

import math

import pytest
import torch
from torchvision.transforms.v2.functional import adjust_sharpness

from semiseg.ops.injection import inject_labels
from semiseg.ops.intensity import POOL, random_intensity
from semiseg.ops.pseudo_labels import certainty
from toy import Toy, make, make_batch, parameters, run


def test_each_of_the_eleven_changes_keeps_shape_and_type() -> None:
    assert len(POOL) == 11
    image = torch.randint(0, 256, (3, 12, 9), dtype=torch.uint8)
    for name, change in POOL.items():
        for strength in (0.0, 0.37, 0.999):
            changed = change(image, strength)
            assert changed.shape == image.shape and changed.dtype == torch.uint8, name
    assert torch.equal(POOL["identity"](image, 0.5), image)


@pytest.mark.parametrize(("u", "bits"), [(0.0, 7), (0.01, 7), (0.3, 6), (0.6, 5), (0.999, 4)])
def test_posterize_keeps_four_to_seven_bits(u: float, bits: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    assert POOL["posterize"](levels, u).unique().numel() == 2**bits


@pytest.mark.parametrize(("u", "threshold"), [(0.0, 255), (0.5, 128), (1.0, 1)])
def test_solarize_inverts_values_from_the_threshold_on(u: float, threshold: int) -> None:
    levels = torch.arange(256, dtype=torch.uint8).view(1, 16, 16).expand(3, -1, -1)
    expected = torch.where(levels.int() < threshold, levels.int(), 255 - levels.int())
    assert torch.equal(POOL["solarize"](levels, u).int(), expected)


def test_sharpness_equals_that_of_torchvision() -> None:
    for size in ((12, 9), (2, 9)):
        image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
        for u in (0.0, 0.4, 1.0):
            assert torch.equal(POOL["sharpness"](image, u), adjust_sharpness(image, 0.05 + 0.9 * u))


def test_factors_are_between_5_and_95_percent() -> None:
    gray = torch.full((3, 4, 4), 200, dtype=torch.uint8)
    assert POOL["brightness"](gray, 0.0).float().mean() == pytest.approx(10, abs=1)
    assert POOL["brightness"](gray, 1.0).float().mean() == pytest.approx(190, abs=1)


def test_random_intensity_differs_between_images_and_stays_in_range() -> None:
    images = torch.rand(1, 3, 16, 16).repeat(12, 1, 1, 1)
    torch.manual_seed(0)
    changed = random_intensity(images)
    assert changed.min() >= 0 and changed.max() <= 1 and changed.shape == images.shape
    assert len({tuple(image.flatten()[:40].tolist()) for image in changed}) > 6


def test_certainty_by_hand() -> None:
    """Average ``c (1 - H / log 2)`` over a pixel with p = (3/4, 1/4) and a certain one; a third is padding."""
    logits = torch.tensor([[math.log(3.0), 0.0], [100.0, 0.0], [0.0, 0.0]]).T.view(1, 2, 1, 3)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)) / math.log(2)
    valid = torch.tensor([[[True, True, False]]])
    assert certainty(logits, valid).item() == pytest.approx((0.75 * (1 - entropy) + 1) / 2, abs=1e-6)
    assert certainty(logits, torch.zeros_like(valid)).item() == 0
    assert certainty(torch.zeros(1, 5, 2, 2), torch.ones(1, 2, 2, dtype=torch.bool)).item() == pytest.approx(
        0, abs=1e-6
    )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_labels_are_injected_into_uncertain_images_only(temperature: float) -> None:
    batch = make_batch(labeled=3, unlabeled=4, side=32)
    batch.masks[:, :5] = 255
    n, (height, width) = 4, batch.unlabeled_images.shape[-2:]
    labels = torch.full((n, height, width), 2)
    q = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2).float() if temperature else labels
    views = (torch.full((n, 3, height, width), 2.0), q, torch.full((n, height, width), 0.5), batch.unlabeled_valid)
    rho = torch.tensor([0.0, 1.0, 0.0, 1.0])  # unsure of images 0 and 2
    x_l = batch.labeled_images.float() / 255
    x, q_i, c, _ = inject_labels(views, x_l, batch.masks, batch.labeled_valid, rho, 3)
    pasted = (x != 2).any(dim=1)
    assert pasted.flatten(1).any(dim=1).tolist() == [True, False, True, False]
    share = pasted[[0, 2]].float().mean()
    assert 0.02 < share < 0.6  # the mean of 1 - Beta(8, 2) is 0.2
    for image in (0, 2):
        donor = next(
            k for k in range(3) if torch.equal(x[image].where(pasted[image], 0), x_l[k].where(pasted[image], 0))
        )
        truth = batch.masks[donor][pasted[image]]
        given = q_i[image][:, pasted[image]] if temperature else q_i[image][pasted[image]]
        known = truth != 255
        assert torch.equal((given.argmax(dim=0) if temperature else given)[known], truth[known])
        if temperature:
            assert not given[:, ~known].any()  # unknown pixels have no label
        assert torch.equal(c[image][pasted[image]], known.float())
        assert (c[image][~pasted[image]] == 0.5).all()


def test_teacher_is_copied_in_the_first_epoch_and_averaged_afterwards() -> None:
    method, batch, same = make("augseg", ema_decay=0.9), make_batch(), []

    def compare(_: int) -> None:
        same.append(torch.equal(parameters(method.teacher), parameters(method.student)))

    run(method, [batch] * 6, steps_per_epoch=3, after=compare)
    assert same == [True] * 3 + [False] * 3


def test_extra_weak_views_change_the_statistics_but_not_the_loss() -> None:
    batch, results = make_batch(), []
    for extra in (False, True):
        method, seen = make("augseg", extra_weak=extra), []
        method.student.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        method.student.eval()
        torch.manual_seed(0)
        results.append(run(method, [batch])[0])
        assert len(seen[0]) == (6 if extra else 4)
    assert torch.equal(seen[0][4:], batch.unlabeled_images.float() / 255)
    assert results[0] == pytest.approx(results[1])


def test_zero_intensity_changes_keep_the_images() -> None:
    method, batch, seen = make("augseg", intensity_changes=0, label_injection=False), make_batch(), []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    run(method, [batch])
    original = batch.unlabeled_images.float() / 255
    mixed = seen[0][2:]
    either = (mixed == original) | (mixed == original.flip(0))  # two images are each other's partners
    assert either.all()
    assert isinstance(method.student, Toy)
