"""Dual Teacher follows the paper and avoids the faults of the authors' code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from semiseg.data import Shapes, StreamConfig, TrainStream
from semiseg.methods import Batch, Method, Progress
from semiseg.methods.dual_teacher import DualTeacher
from semiseg.methods.method import as_float
from semiseg.ops import mixing
from semiseg.ops.ema import ema_decay
from semiseg.ops.mixing import classmix_region, cutmix_region
from semiseg.ops.photometric import COLOR_SETS, change_colors, color_set, photometric
from semiseg.ops.pseudo_labels import pseudo_label
from toy import Toy, gradients, make, make_batch, parameters, run, state

EARLY = Progress(step=3, total_steps=100, steps_per_epoch=10)
TRUSTING = {"threshold": 0.4}  # random networks are not confident


def dual_teacher(**options: Any) -> DualTeacher:
    method = make("dual-teacher", **options)
    assert isinstance(method, DualTeacher)
    return method


def step(method: Method, batch: Batch, progress: Progress = EARLY) -> dict[str, float]:
    method.zero_grad()
    torch.manual_seed(0)
    output = method(batch, progress)
    output.loss.backward()
    return {"loss": output.loss.item()} | {key: float(value) for key, value in output.scalars.items()}


def active_teachers(method: DualTeacher, total_steps: int, steps_per_epoch: int, first: int = 0) -> list[int]:
    """Return the number of the active teacher, from 1, at each step."""
    steps = (Progress(step, total_steps, steps_per_epoch) for step in range(first, total_steps))
    return [1 + [method.active_teacher(p) is teacher for teacher in method.teachers].index(True) for p in steps]


# Shifts.


def test_the_teachers_take_turns_by_epoch() -> None:
    assert active_teachers(dual_teacher(), 32, 4) == 4 * [*4 * [1], *4 * [2]]


def test_shift_is_at_most_an_eighth_of_the_run() -> None:
    assert active_teachers(dual_teacher(), 16, 1000) == 4 * [1, 1, 2, 2]
    assert active_teachers(dual_teacher(), 4, 1000) == [1, 2, 1, 2]  # a run too short for eight shifts


def test_three_teachers_take_turns() -> None:
    assert active_teachers(dual_teacher(teachers=3), 24, 3) == [*3 * [1], *3 * [2], *3 * [3]] * 2 + [*3 * [1], *3 * [2]]
    assert active_teachers(dual_teacher(teachers=1), 24, 3) == 24 * [1]


def test_shift_steps_replace_the_epoch() -> None:
    assert active_teachers(dual_teacher(shift_steps=2), 12, 5) == 3 * [1, 1, 2, 2]


def test_the_first_shift_begins_after_burn_in() -> None:
    method = dual_teacher(burn_in=0.25, shift_steps=3)
    assert active_teachers(method, 12, 5, first=3) == [1, 1, 1, 2, 2, 2, 1, 1, 1]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(total=st.integers(8, 3000), epoch=st.integers(1, 5000), burn_in=st.floats(0, 0.5))
def test_both_teachers_become_active_in_every_run(total: int, epoch: int, burn_in: float) -> None:
    method = dual_teacher(burn_in=burn_in)
    length = method.shift_length(Progress(0, total, epoch))
    assert length <= epoch and length <= total / 8
    last = Progress(total - 1, total, epoch)
    assert method.shift(last) >= 3  # two shifts each, even if half of the run is burn-in
    assert method.shift(Progress(method.burn_in_steps(last), total, epoch)) == 0


# Labeling and updates.


def test_only_the_active_teacher_changes() -> None:
    method = dual_teacher(**TRUSTING)
    before: list[list[Tensor]] = [[state(teacher) for teacher in method.teachers]]
    run(method, [make_batch(seed=s) for s in range(24)], 40, 5, after=lambda _: before.append(states(method)))
    for index, (old, new) in enumerate(pairwise(before)):
        active = index // 5 % 2
        assert not torch.equal(old[active], new[active])
        assert torch.equal(old[1 - active], new[1 - active])


def states(method: DualTeacher) -> list[Tensor]:
    return [state(teacher) for teacher in method.teachers]


def test_each_network_runs_once_per_step() -> None:
    # The authors' code runs two student passes per backward pass, and two equal teacher passes.
    method, calls = dual_teacher(), []
    for name, network in method.predictors.items():
        network.register_forward_hook(lambda *_, name=name: calls.append(name))
    run(method, [make_batch() for _ in range(8)], 32, 4, after=lambda _: calls.append("|"))
    assert "".join(calls) == 4 * "teacher1student|" + 4 * "teacher2student|"


def test_the_teacher_labels_the_weak_view_without_a_gradient() -> None:
    method, batch, seen = dual_teacher(), make_batch(), []
    method.teachers[0].register_forward_hook(lambda _, args, out: seen.append((args[0], out.requires_grad)))
    step(method, batch)
    ((images, graph),) = seen
    assert torch.equal(images, as_float(batch.unlabeled_images))
    assert not graph


# The moving average.


def test_shift_starts_with_a_copy_of_the_student() -> None:
    method, equal = dual_teacher(), []

    def compare(index: int) -> None:
        active = method.teachers[index // 5 % 2]
        equal.append(torch.equal(parameters(active), parameters(method.student)))

    run(method, [make_batch(seed=s) for s in range(20)], 40, 5, after=compare)
    assert equal == 4 * [True, False, False, False, False]


@pytest.mark.slow
def test_teacher_is_the_mean_of_the_students_of_its_shift() -> None:
    """The teacher is the mean for a hundred steps, then the moving average with decay 0.99."""
    method, seen = dual_teacher(consistency_weight=0.0), []
    batches = [make_batch(side=8, seed=s) for s in range(4)] * 60

    def compare(index: int) -> None:
        since, teacher = index % 110, method.teachers[index // 110]
        if since == 0:
            seen.clear()
        previous = seen[-1][1] if seen else None
        seen.append((parameters(method.student).double(), parameters(teacher)))
        if since in (0, 1, 2, 50, 98, 99):
            mean = torch.stack([student for student, _ in seen]).mean(dim=0)
            torch.testing.assert_close(seen[-1][1].double(), mean, rtol=1e-4, atol=1e-6)
        elif since >= 100:
            assert previous is not None
            expected = 0.99 * previous + 0.01 * parameters(method.student)
            torch.testing.assert_close(seen[-1][1], expected, rtol=1e-5, atol=1e-7)

    run(method, batches[:220], 2000, 110, lr=0.01, after=compare)


@pytest.mark.parametrize("burn_in", [0.0, 0.1])
def test_without_reset_a_teacher_counts_its_own_updates_over_all_shifts(burn_in: float) -> None:
    """With ``ema_reset="never"``, each teacher counts its updates over the burn-in and all its shifts."""
    method = dual_teacher(ema_reset="never", shift_steps=3, burn_in=burn_in)
    first = round(burn_in * 40)
    shadows, counts = [parameters(teacher) for teacher in method.teachers], [0, 0]

    def follow(index: int) -> None:
        active = [0, 1] if index < first else [(index - first) // 3 % 2]
        for teacher in active:
            decay = ema_decay(counts[teacher], 0.99)
            shadows[teacher] = decay * shadows[teacher] + (1 - decay) * parameters(method.student)
            counts[teacher] += 1
        for teacher, shadow in zip(method.teachers, shadows, strict=True):
            torch.testing.assert_close(parameters(teacher), shadow)

    run(method, [make_batch(seed=s) for s in range(18)], 40, 10, after=follow)
    assert sum(counts) == 18 + first


def test_reset_makes_temporary_teachers() -> None:
    """A reset removes all earlier shifts from a teacher."""
    for reset, forgotten in (("shift", True), ("never", False)):
        method = dual_teacher(ema_reset=reset, shift_steps=2)
        run(method, [make_batch(seed=s) for s in range(4)], 40, 10)
        method.teachers[0].head.bias.data.fill_(1e6)
        run(method, [make_batch(seed=s) for s in range(4, 6)], 40, 10, first=4, lr=0)
        assert bool(method.teachers[0].head.bias.max() < 1e5) == forgotten


@pytest.mark.parametrize(
    ("buffers", "mode", "expected"), [("ema", "eval", "mean"), ("copy", "eval", "latest"), ("own", "eval", "still")]
)
def test_batchnorm_statistics_of_a_teacher(buffers: str, mode: str, expected: str) -> None:
    # Teachers of the authors' code have the statistics of their own forward passes.
    method = dual_teacher(ema_buffers=buffers, teacher_mode=mode)
    start, seen = method.teachers[0].stem[1].running_mean.clone(), []
    run(
        method,
        [make_batch(seed=s) for s in range(4)],
        after=lambda _: seen.append(method.student.stem[1].running_mean.clone()),
    )
    wanted = {"mean": torch.stack(seen).mean(dim=0), "latest": seen[-1], "still": start}[expected]
    torch.testing.assert_close(method.teachers[0].stem[1].running_mean, wanted)


# The pool of strong mixings.


@pytest.mark.parametrize("teachers", [1, 2, 3])
@pytest.mark.parametrize("pool", [("cutmix",), ("cutmix", "classmix"), ("cutmix", "classmix", "third")])
def test_each_shift_uses_the_next_region_of_the_pool(
    monkeypatch: pytest.MonkeyPatch, teachers: int, pool: tuple[str, ...]
) -> None:
    used: list[str] = []

    def spy(name: str, region: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        return lambda labels: used.append(name) or region(labels)  # type: ignore[func-returns-value]

    regions = {**mixing.REGIONS, "third": lambda labels: labels == 0}  # defined by a user
    for name, region in regions.items():
        monkeypatch.setitem(mixing.REGIONS, name, spy(name, region))
    method = dual_teacher(teachers=teachers, pool=pool, shift_steps=2)
    run(method, [make_batch() for _ in range(12)])
    assert used == [pool[shift % len(pool)] for shift in range(6) for _ in range(2)]


def test_an_entry_of_the_pool_may_name_its_colors() -> None:
    options = DualTeacher.Options(pool=("cutmix:blur", "classmix:gray", "cutmix"), color_strength=0.3)
    views = [options.strong_view(shift) for shift in range(4)]
    assert [region for region, _ in views] == [cutmix_region, classmix_region, cutmix_region, cutmix_region]
    assert [colors for _, colors in views[:2]] == [COLOR_SETS["blur"], COLOR_SETS["gray"]]
    assert views[2][1] == color_set(0.3) and views[3][1] == COLOR_SETS["blur"]
    assert replace(options, color_strength=0).strong_view(2)[1] is None
    gray = change_colors(
        torch.full((400, 3, 2, 2), 0.5) + torch.tensor([0, 0.1, 0.2])[:, None, None], COLOR_SETS["gray"]
    )
    share = (gray[:, 0] == gray[:, 1]).all(dim=2).all(dim=1).float().mean()
    assert share == pytest.approx(0.2, abs=0.06)


def test_default_mixing_of_each_teacher() -> None:
    method = dual_teacher()
    assert method.options.pool == ("cutmix", "classmix") and len(method.teachers) == 2


# The loss.


def losses_by_hand(method: DualTeacher, batch: Batch, kind: str = "cutmix") -> tuple[Tensor, Tensor]:
    """Compute the two losses of the first shift, with one forward pass over labeled and mixed images."""
    torch.manual_seed(0)
    x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
    with torch.no_grad():
        z_t = method.teachers[0].eval()(x_w)
        yhat, c = pseudo_label(z_t)
    region, partner = mixing.REGIONS[kind](yhat), mixing.partners(len(x_w))
    x_s = photometric(x_w)
    x_m = torch.where(region[:, None], x_s, x_s[partner])
    yhat_m, c_m = torch.where(region, yhat, yhat[partner]), torch.where(region, c, c[partner])
    logits = method.student(torch.cat([x_l, x_m]))
    if (temperature := method.options.label_temperature) > 0:
        q = (z_t / temperature).softmax(dim=1)
        per_pixel = -(torch.where(region[:, None], q, q[partner]) * logits[len(x_l) :].log_softmax(dim=1)).sum(dim=1)
    else:
        per_pixel = cross_entropy(logits[len(x_l) :], yhat_m, reduction="none")
    unsupervised = (per_pixel * (c_m >= method.options.threshold)).mean()
    return cross_entropy(logits[: len(x_l)], batch.masks), unsupervised


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_gradient_without_consistency_equals_that_of_two_terms(temperature: float) -> None:
    options = {"consistency_weight": 0.0, "label_temperature": temperature} | TRUSTING
    method, reference = dual_teacher(**options), dual_teacher(**options)
    batch = make_batch()
    values = step(method, batch)
    supervised, unsupervised = losses_by_hand(reference, batch)
    (supervised + unsupervised).backward()
    assert values["loss/unsupervised"] == pytest.approx(unsupervised.item()) != 0
    torch.testing.assert_close(gradients(method.student), gradients(reference.student), rtol=1e-4, atol=1e-7)


class Shade(nn.Module):
    """Logits ``(0, gain * mean color - 1/2)`` per pixel: confidently class 1 for white, class 0 for black."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, images: Tensor) -> Tensor:
        score = self.gain * images.mean(dim=1) - 0.5
        return torch.stack([torch.zeros_like(score), score], dim=1)


@pytest.fixture
def confident_on_white() -> tuple[DualTeacher, Batch, list[Tensor]]:
    """Return a method whose teacher is confident on the first image only, a batch, and a list for mixing regions."""
    method = make("dual-teacher", 2, network=Shade, consistency_weight=0.0)
    assert isinstance(method, DualTeacher)
    for teacher in method.teachers:
        teacher.gain.data.fill_(10.0)
    batch = make_batch(2, side=32)
    batch.unlabeled_images[0], batch.unlabeled_images[1] = 255, 0
    return method, batch, []


def test_confidence_is_mixed_with_the_labels_it_belongs_to(
    confident_on_white: tuple[DualTeacher, Batch, list[Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    # In CutMix shifts the authors' code mixes labels, but not their confidence.
    method, batch, regions = confident_on_white
    cutmix = mixing.REGIONS["cutmix"]
    monkeypatch.setitem(mixing.REGIONS, "cutmix", lambda labels: regions.append(cutmix(labels)) or regions[-1])
    values = step(method, batch)
    inside = regions[0].float().mean(dim=(1, 2))
    # White is visible inside the first box and outside the second. Only there is the teacher confident.
    share = float(inside[0] + 1 - inside[1]) / 2
    assert abs(share - 0.5) > 0.01  # without mixing the confidence it would be 1/2
    assert values["trusted_fraction"] == pytest.approx(share)
    # The student's logit of class 1 is -1/2, so the loss of a trusted pixel is ln(1 + e^0.5) = 0.974077. Other pixels
    # have no loss; in the authors' code they have a smaller weight.
    assert values["loss/unsupervised"] == pytest.approx(share * 0.974077)


def test_student_sees_labeled_then_mixed_then_weak_views() -> None:
    # Sub-models of the authors' code see strong colors, those of the paper weak views only.
    for on in ("unlabeled", "all"):
        method, batch, seen = dual_teacher(consistency_on=on), make_batch(labeled=2, unlabeled=3), []
        method.student.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        step(method, batch)
        (images,) = seen
        x_l, x_w = as_float(batch.labeled_images), as_float(batch.unlabeled_images)
        assert torch.equal(images[:2], x_l)
        assert not torch.equal(images[2:5], x_w)
        assert torch.equal(images[5:], x_w if on == "unlabeled" else torch.cat([x_w, x_l]))


@pytest.mark.parametrize(("on", "temperature"), [("unlabeled", 0.0), ("all", 0.0), ("all", 1.0)])
def test_consistency_without_drop_path_is_plain_consistency(on: str, temperature: float) -> None:
    options = {"consistency_on": on, "label_temperature": temperature} | TRUSTING
    method, batch = dual_teacher(drop_path=0.0, **options), make_batch()
    method.student.eval()  # logits do not depend on other samples
    value = step(method, batch)["loss/consistency"]
    images = torch.cat([batch.unlabeled_images, batch.labeled_images] if on == "all" else [batch.unlabeled_images])
    with torch.no_grad():
        probabilities = method.teachers[0].eval()(as_float(images)).softmax(dim=1)
        confidence, yhat = probabilities.max(dim=1)
        labels = probabilities if temperature else yhat
        costs = cross_entropy(method.student(as_float(images)), labels, reduction="none")
    assert 0 < (confidence >= 0.4).float().mean() < 1
    assert value == pytest.approx((costs * (confidence >= 0.4)).mean().item())


def test_drop_path_makes_sub_models_for_the_consistency_term_only() -> None:
    # The authors' code drops layers in every pass of the student.
    whole, thin = (dual_teacher(drop_path=rate, **TRUSTING) for rate in (0.0, 0.9))
    for method in (whole, thin):
        method.student.eval()
    a, b = step(whole, make_batch()), step(thin, make_batch())
    assert a["loss/supervised"] == pytest.approx(b["loss/supervised"])
    assert a["loss/unsupervised"] == pytest.approx(b["loss/unsupervised"])
    assert a["loss/consistency"] != pytest.approx(b["loss/consistency"])
    assert not any(module._forward_hooks for module in thin.modules())


def test_each_sample_has_its_own_sub_model() -> None:
    method, batch, seen = dual_teacher(drop_path=0.9), make_batch(unlabeled=8), []
    method.student.eval().register_forward_hook(lambda _, args, logits: seen.append(logits))
    batch.unlabeled_images[:] = batch.unlabeled_images[:1]
    step(method, batch)
    kinds = {tuple(logits.flatten().tolist()) for logits in seen[0][-8:]}
    assert 1 < len(kinds) <= 4  # two branches, each kept or dropped


@pytest.mark.parametrize("shift", [0, 1])
def test_masks_do_not_affect_the_unlabeled_terms(shift: int) -> None:
    # The authors' code ignores unlabeled pixels where an unrelated labeled image has no label.
    method, batch = dual_teacher(consistency_on="all", **TRUSTING), make_batch()
    method.student.eval()
    progress = Progress(3 + 10 * shift, 100, 10)
    before = step(method, batch, progress)
    batch.masks[:, :9] = 255
    after = step(method, batch, progress)
    assert before["loss/supervised"] != after["loss/supervised"]
    for term in ("loss/unsupervised", "loss/consistency", "trusted_fraction"):
        assert before[term] == after[term] > 0


def test_colors_differ_between_images() -> None:
    # The authors' code samples colors once per batch.
    method, batch, seen = dual_teacher(pool=("classmix",)), make_batch(unlabeled=6), []
    method.student.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    batch.unlabeled_images[:] = torch.tensor([200, 120, 40], dtype=torch.uint8).view(1, 3, 1, 1)
    step(method, batch)
    colors = {tuple(image[:, 0, 0].tolist()) for image in seen[0][2:8]}
    assert len(colors) >= 4


# The ablation with one teacher is Mean Teacher.


@pytest.mark.parametrize("kind", ["cutmix", "classmix"])
@pytest.mark.parametrize(("burn_in", "temperature"), [(0.0, 0.0), (0.1, 0.0), (0.1, 0.5)])
def test_one_teacher_without_reset_and_consistency_equals_mean_teacher(
    kind: str, burn_in: float, temperature: float
) -> None:
    common = {"burn_in": burn_in, "ramp_up": 0.1, "threshold": 0.4, "label_temperature": temperature}
    ablated = dual_teacher(teachers=1, pool=(kind,), consistency_weight=0.0, ema_reset="never", **common)
    single = make("mean-teacher", mixing=kind, **common)
    losses = [run(m, [make_batch(seed=s) for s in range(9)], 30, 3) for m in (ablated, single)]
    assert losses[0] == losses[1]
    for name, network in single.predictors.items():
        assert torch.equal(state(network), state(ablated.predictors[name]))


# Data.


class RecordingShapes(Shapes):
    """Record the opened files."""

    def __init__(self) -> None:
        super().__init__(images=14, val=1, test=1, size=48)
        self.images: list[str] = []
        self.masks: list[str] = []

    def read_image(self, id: str) -> Tensor:
        self.images.append(id)
        return super().read_image(id)

    def read_mask(self, id: str) -> Tensor:
        self.masks.append(id)
        return super().read_mask(id)


@pytest.fixture
def epochs() -> Iterator[tuple[RecordingShapes, tuple[str, ...], tuple[str, ...], TrainStream]]:
    dataset = RecordingShapes()
    ids = dataset.split("train") or ()
    stream = TrainStream(dataset, ids[:3], ids[3:], StreamConfig(4, crop_size=16, unlabeled_batch_size=4))
    yield dataset, ids[:3], ids[3:], stream


def test_a_teacher_sees_the_whole_unlabeled_list_in_its_shift(
    epochs: tuple[RecordingShapes, tuple[str, ...], tuple[str, ...], TrainStream],
) -> None:
    # In the authors' code an epoch of 3 labeled and 11 unlabeled images has one step, always with the same images.
    dataset, labeled, unlabeled, stream = epochs
    assert stream.steps_per_epoch == 3  # 11 unlabeled images, 4 per step
    method = make("dual-teacher", len(dataset.classes), network=Toy)
    assert isinstance(method, DualTeacher)
    orders = []
    for epoch in range(4):
        first = 3 * epoch
        dataset.images.clear()
        run(method, (stream[s] for s in range(first, first + 3)), 40, stream.steps_per_epoch, first=first)
        assert active_teachers(method, 40, 3)[first : first + 3] == 3 * [1 + epoch % 2]
        order = [id for id in dataset.images if id not in labeled]
        assert set(order) == set(unlabeled)
        assert len(order) == 12  # one image twice, to fill the last batch
        orders.append(tuple(order))
    assert len(set(orders)) == 4


def test_no_mask_of_an_unlabeled_image_is_opened(
    epochs: tuple[RecordingShapes, tuple[str, ...], tuple[str, ...], TrainStream],
) -> None:
    # The authors' code loads masks of unlabeled images to choose crops.
    dataset, labeled, _, stream = epochs
    for index in range(6):
        stream[index]
    assert set(dataset.masks) == set(labeled)
