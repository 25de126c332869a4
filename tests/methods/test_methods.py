"""Tests of every method: training, gradients of each loss, unusual batches, and resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from expected import EXPECTED
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as plain_cross_entropy

from semiseg.data import Shapes, StreamConfig, TrainStream
from semiseg.inference.metrics import ConfusionMatrix
from semiseg.methods import ALIASES, METHODS, VARIANTS, Batch, Method, Progress
from semiseg.methods.method import as_float
from semiseg.ops.losses import cross_entropy
from semiseg.ops.schedules import poly, ramp_up
from semiseg.training.logging.metrics_log import LOSS_TERMS
from toy import Toy, gradients, make, make_batch, run, state

ALL = list(METHODS)
WITH_UNLABELED = [name for name in ALL if METHODS[name].uses_unlabeled]
WITH_TEACHERS = ["mean-teacher", "dual-teacher"]
EARLY = Progress(step=3, total_steps=100, steps_per_epoch=10)
SCALARS = {*(f"loss/{term}" for term in LOSS_TERMS), "trusted_fraction"}


@pytest.fixture(params=ALL)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def learning(name: str, method: Method) -> dict[str, nn.Module]:
    names = {*EXPECTED[name].labeled, *EXPECTED[name].unlabeled}
    return {key: network for key, network in method.predictors.items() if key in names}


def teachers(method: Method) -> dict[str, nn.Module]:
    return {key: network for key, network in method.predictors.items() if key.startswith("teacher")}


def step(method: Method, batch: Batch, progress: Progress = EARLY, seed: int = 0) -> dict[str, float]:
    """Compute loss and gradients of one batch; return loss and scalars."""
    method.zero_grad()
    torch.manual_seed(seed)
    output = method(batch, progress)
    output.loss.backward()
    return {"loss": output.loss.item()} | {key: float(value) for key, value in output.scalars.items()}


def unknown(batch: Batch) -> Batch:
    """Return the batch with every label ignored, without a supervised loss."""
    return Batch(**vars(batch) | {"masks": torch.full_like(batch.masks, 255)})


# Networks and parameters.


def test_expectations_cover_every_method() -> None:
    assert list(EXPECTED) == ALL
    assert ALIASES["cps"] == "dual-student" and {*ALIASES.values()} <= {*ALL}
    assert ALL[1:] == WITH_UNLABELED


def test_predictors_have_the_expected_names(name: str) -> None:
    method = make(name)
    assert tuple(method.predictors) == EXPECTED[name].networks
    assert method.default_network in method.predictors


def test_teachers_are_not_optimized(name: str) -> None:
    method = make(name)
    optimized = {id(p) for p in method.parameters() if p.requires_grad}
    assert optimized >= {id(p) for network in learning(name, method).values() for p in network.parameters()}
    assert not optimized & {id(p) for teacher in teachers(method).values() for p in teacher.parameters()}


def test_all_methods_start_from_the_same_student() -> None:
    reference = state(make("supervised", seed=3).student)
    for name in ALL:
        method = make(name, seed=3)
        assert torch.equal(state(method.student), reference)
        assert all(torch.equal(state(teacher), reference) for teacher in teachers(method).values())
    assert not torch.equal(state(make("dual-student", seed=3).student2), reference)


# Training.

SIDE, STEPS = 24, 60


def normalized_by_group(classes: int) -> nn.Module:
    """Return a toy network with GroupNorm, since batch statistics of four images hide differences of the methods."""
    network = Toy(classes, width=24)
    for parent in list(network.modules()):
        for key, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(parent, key, nn.GroupNorm(4, child.num_features))
    return network


def training_miou(name: str) -> float:
    """Train 60 steps on four labeled images; return the default network's mIoU on them, in percent.

    With seed 2 it is between 93 and 100 % of the supervised result.
    """
    dataset = Shapes(images=40, size=48)
    center = slice(8, 8 + SIDE)
    images = torch.stack([dataset.read_image(id)[:, center, center] for id in dataset.split("train") or ()])
    masks = torch.stack([dataset.read_mask(id)[center, center] for id in (dataset.split("train") or ())[:4]]).long()
    method = make(name, len(dataset.classes), seed=2, network=normalized_by_group, **EXPECTED[name].short_run)
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad])
    valid = torch.ones(4, SIDE, SIDE, dtype=torch.bool)
    for index in range(STEPS):
        first = 4 + 4 * index % 36
        batch = Batch(images[:4], masks, valid, images[first : first + 4], valid)
        progress = Progress(index, STEPS, steps_per_epoch=9)
        torch.manual_seed(2000 + index)
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * poly(index, STEPS, warmup=5)
        method(batch, progress).loss.backward()
        nn.utils.clip_grad_norm_(method.parameters(), 5.0)
        optimizer.step()
        optimizer.zero_grad()
        method.after_step(progress)
    matrix = ConfusionMatrix(len(dataset.classes))
    with torch.no_grad():
        matrix.update(method.predictors[method.default_network].eval()(as_float(images[:4])).argmax(dim=1), masks)
    miou = matrix.miou()
    assert miou is not None
    return miou


@pytest.fixture(scope="module")
def supervised_miou() -> float:
    return training_miou("supervised")


@pytest.mark.slow
def test_short_training_comes_close_to_supervised_training(name: str, supervised_miou: float) -> None:
    assert supervised_miou > 70  # predicting only background gives about 10
    if name != "supervised":
        assert training_miou(name) >= 0.9 * supervised_miou


# Gradients of each loss.


def assert_gradients(method: Method, trained: tuple[str, ...]) -> None:
    """Check that exactly the parameters of the networks ``trained`` have gradients."""
    for network_name, network in method.predictors.items():
        for key, parameter in network.named_parameters():
            gradient = torch.zeros(1) if parameter.grad is None else parameter.grad
            assert gradient.isfinite().all()
            assert bool(gradient.any()) == (network_name in trained), f"{network_name}.{key}"
    for teacher in teachers(method).values():
        assert all(parameter.grad is None for parameter in teacher.parameters())


def test_supervised_loss_reaches_every_parameter(name: str) -> None:
    # The authors' code optimizes an unused classifier.
    method = make(name, **EXPECTED[name].off)
    step(method, make_batch())
    assert_gradients(method, trained=EXPECTED[name].labeled)


def test_no_gradient_without_labels_and_unsupervised_terms(name: str) -> None:
    method = make(name, **EXPECTED[name].off)
    assert step(method, unknown(make_batch()))["loss"] == 0
    assert_gradients(method, trained=())


@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_unsupervised_loss_trains_the_students_only(name: str) -> None:
    method = make(name, **EXPECTED[name].trusting)
    values = step(method, unknown(make_batch()))
    assert values["loss/supervised"] == 0 < values["loss"]
    assert_gradients(method, trained=EXPECTED[name].unlabeled)


@pytest.mark.parametrize("on", ["unlabeled", "all"])
def test_consistency_loss_trains_the_student_only(on: str) -> None:
    options = {"unsupervised_weight": 0.0, "threshold": 0.0, "drop_path": 0.0, "consistency_on": on}
    method = make("dual-teacher", **options)
    values = step(method, unknown(make_batch()))
    assert values["loss/supervised"] == 0 < values["loss"] == pytest.approx(0.2 * values["loss/consistency"])
    assert_gradients(method, trained=("student",))


@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_networks_that_label_under_autocast_still_learn(name: str) -> None:
    method, batch = make(name), make_batch()
    method.zero_grad()
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = method(batch, EARLY).loss
    loss.backward()
    for network in EXPECTED[name].labeled:
        for parameter in method.predictors[network].parameters():
            assert parameter.grad is not None and parameter.grad.any()


def test_untrusted_labels_do_not_change_the_gradient() -> None:
    batch, alone = make_batch(), make("dual-teacher", **EXPECTED["dual-teacher"].off)
    step(alone, batch)
    method = make("dual-teacher", threshold=1.0, consistency_weight=0.0)
    assert step(method, batch)["trusted_fraction"] == 0
    assert torch.equal(gradients(method.student), gradients(alone.student))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_loss_of_one_student_does_not_reach_the_other(temperature: float) -> None:
    method, batch = make("dual-student", cutmix=False, label_temperature=temperature), make_batch()
    step(method, batch)
    reference, images = make("dual-student", cutmix=False), torch.cat([batch.labeled_images, batch.unlabeled_images])
    z_1, z_2 = reference.student(as_float(images)), reference.student2(as_float(images))
    labels = z_2.detach().softmax(dim=1) if temperature else z_2.argmax(dim=1)
    own = plain_cross_entropy(z_1[:2], batch.masks) + plain_cross_entropy(z_1, labels)
    own.backward()
    torch.testing.assert_close(gradients(method.student), gradients(reference.student))
    assert not gradients(reference.student2).any()


def test_students_learn_labels_of_the_other_student() -> None:
    method, batch = make("dual-student"), make_batch()
    for parameter in method.student2.parameters():
        parameter.requires_grad_(False)
    nn.init.zeros_(method.student2.head.weight)
    method.student2.head.bias.data = torch.tensor([0.0, 0.0, 20.0])  # student 2 predicts class 2 everywhere
    seen: list[Tensor] = []
    method.student.register_forward_hook(lambda _, args, logits: seen.append(logits.detach()))
    values = step(method, unknown(batch))
    mixed = seen[-1][2:]
    of_1 = plain_cross_entropy(mixed, torch.full_like(batch.masks, 2))
    first = seen[0].argmax(dim=1)  # labels of student 1; student 2 has loss 20 where they are not class 2
    assert values["loss/unsupervised"] == pytest.approx(float(of_1) + 20 * float((first != 2).float().mean()), abs=2.0)
    assert values["loss/unsupervised"] > float(of_1)


# The loss follows the equations.


@pytest.mark.parametrize("progress_step", [9, 10, 12, 30])
@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_loss_is_the_weighted_sum_of_its_terms(name: str, progress_step: int) -> None:
    expected = EXPECTED[name]
    method = make(name, burn_in=0.1, ramp_up=0.2, **expected.weighted, **expected.choosy)
    values = step(method, make_batch(), Progress(progress_step, 100, 10))
    ramp = ramp_up(progress_step, 10, 20)
    terms = (values.get(f"loss/{term}", 0) for term in ("supervised", "unsupervised", "consistency"))
    weighted = [weight * term for weight, term in zip(expected.weights, terms, strict=True)]
    auxiliary = values.get("loss/auxiliary", 0)
    assert (auxiliary > 0) == expected.auxiliary
    assert values["loss"] == pytest.approx(weighted[0] + auxiliary + ramp * sum(weighted[1:]))
    assert (progress_step < 10) == (values.get("loss/unsupervised", 0) == 0)


@pytest.mark.parametrize("name", WITH_TEACHERS)
def test_burn_in_uses_the_labels_only(name: str) -> None:
    method, supervised, batch = make(name, burn_in=0.5), make("supervised"), make_batch()
    for teacher in teachers(method).values():
        teacher.register_forward_pre_hook(lambda *_: pytest.fail("a teacher labels during the burn-in"))
    poisoned = Batch(**vars(batch) | {"unlabeled_images": torch.empty(0, 3, 16, 16), "unlabeled_valid": None})
    assert step(method, poisoned) == step(supervised, batch)
    assert torch.equal(gradients(method.student), gradients(supervised.student))


@pytest.mark.parametrize("name", WITH_TEACHERS)
def test_teacher_is_the_mean_of_all_students_after_burn_in(name: str) -> None:
    method, batch, seen = make(name, burn_in=0.1), make_batch(), []
    run(method, [batch] * 8, total_steps=80, after=lambda _: seen.append(state(method.student)))
    for teacher in teachers(method).values():
        parameters_only = dict(teacher.named_parameters())
        mean = {
            key: torch.stack([vector_of(method.student, vector)[key] for vector in seen]).mean(dim=0)
            for key in parameters_only
        }
        for key, value in parameters_only.items():
            torch.testing.assert_close(value.double(), mean[key], rtol=1e-4, atol=1e-6)


def vector_of(network: nn.Module, vector: Tensor) -> dict[str, Tensor]:
    """Return the tensors in a vector made by ``state``, by name."""
    sizes = {key: value.numel() for key, value in network.state_dict().items()}
    parts = zip(network.state_dict().items(), vector.split(list(sizes.values())), strict=True)
    return {key: part.view_as(value) for (key, value), part in parts}


def test_scalars_have_known_names_and_are_detached(name: str) -> None:
    torch.manual_seed(0)
    output = make(name)(make_batch(), EARLY)
    assert "loss/supervised" in output.scalars
    assert set(output.scalars) <= SCALARS
    assert not any(value.requires_grad for value in output.scalars.values())


def test_networks_see_values_between_zero_and_one(name: str) -> None:
    # The authors' code changes colors after normalization, where torchvision clamps negative values to 0. Here the
    # networks normalize, so their input must be in [0, 1].
    method, seen = make(name), []

    def watched(encode: Callable[[Tensor], list[Tensor]]) -> Callable[[Tensor], list[Tensor]]:
        return lambda images: encode(seen.append(images) or images)

    for network in method.predictors.values():
        network.encode = watched(network.encode)  # called by every forward pass
    step(method, make_batch())
    assert seen
    for images in seen:
        assert images.dtype == torch.float32 and images.min() >= 0 and images.max() <= 1
        assert images.max() > 0.1  # not divided by 255 twice


@pytest.mark.parametrize("progress_step", [0, 50])
def test_class_weights_apply_to_labels_only(name: str, progress_step: int) -> None:
    """The weights apply in the burn-in too, but not to pseudo-labels."""
    options = ({} if name == "supervised" else {"burn_in": 0.1}) | EXPECTED[name].choosy
    method, batch, progress = make(name, **options), make_batch(), Progress(progress_step, 100, 10)
    plain = step(method.eval(), batch, progress)
    method.class_weights.mul_(2)
    weighted = step(method, batch, progress)
    assert weighted["loss/supervised"] == pytest.approx(2 * plain["loss/supervised"])
    for term in ("loss/unsupervised", "loss/consistency"):
        assert weighted.get(term) == plain.get(term)
    weight = EXPECTED[name].weights[0]
    auxiliary = weighted.get("loss/auxiliary", 0) - plain.get("loss/auxiliary", 0)  # partly per pixel
    assert auxiliary >= 0
    assert weighted["loss"] == pytest.approx(plain["loss"] + weight * plain["loss/supervised"] + auxiliary)


# Unusual batches.


@pytest.mark.parametrize("progress_step", [0, 3])
def test_supervised_loss_can_be_replaced(name: str, progress_step: int) -> None:
    batch, progress = make_batch(), Progress(progress_step, 100, 10)
    options = {} if name == "supervised" else {"burn_in": 0.02}
    plain = step(make(name, **options), batch, progress)
    method = make(name, **options)
    method.supervised_loss = lambda logits, masks, weights: 3 * cross_entropy(logits, masks, weights)
    other = step(method, batch, progress)
    assert other["loss/supervised"] == pytest.approx(3 * plain["loss/supervised"], rel=1e-5)
    for key in plain.keys() - {"loss", "loss/supervised", "loss/auxiliary"}:
        assert other[key] == plain[key]


@pytest.mark.parametrize("classes", [1, 2, 150])
def test_any_number_of_classes(name: str, classes: int) -> None:
    # The authors' code mixes 3 and 150 channels only.
    method, batch = make(name, classes), make_batch(classes)
    for progress_step in (0, 15):  # CutMix and ClassMix
        values = step(method, batch, Progress(progress_step, 100, 10))
        assert all(torch.tensor(value).isfinite() for value in values.values())
    assert method.student(as_float(batch.labeled_images)).shape[1] == classes


def unusual_batches() -> Iterator[tuple[str, Batch]]:
    batch = make_batch(labeled=3, unlabeled=3)
    flat = {"labeled_images": torch.full_like(batch.labeled_images, 9), "masks": torch.zeros_like(batch.masks)}
    yield "one class", Batch(**vars(batch) | flat | {"unlabeled_images": torch.full_like(batch.unlabeled_images, 9)})
    masks = batch.masks.clone()
    masks[0] = 255
    yield "a crop without labels", Batch(**vars(batch) | {"masks": masks})
    yield "no labels at all", unknown(batch)
    padded = batch.unlabeled_valid.clone()
    padded[1] = False
    yield "a crop of padding", Batch(**vars(batch) | {"unlabeled_valid": padded})
    yield "only padding", Batch(**vars(batch) | {"unlabeled_valid": torch.zeros_like(padded)})
    yield "single images", make_batch(labeled=1, unlabeled=1)
    yield "more unlabeled", make_batch(labeled=1, unlabeled=3)


@pytest.mark.parametrize(
    ("kind", "batch"), list(unusual_batches()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_unusual_batches_give_finite_steps(name: str, kind: str, batch: Batch) -> None:
    method = make(name)
    losses = run(method, [batch] * 3, steps_per_epoch=2, total_steps=16)
    assert all(torch.tensor(loss).isfinite() for loss in losses)
    assert all(state(network).isfinite().all() for network in method.predictors.values())
    if kind == "no labels at all":
        assert step(make(name), batch)["loss/supervised"] == 0


@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_padding_has_no_loss(name: str) -> None:
    batch, losses = make_batch(), []
    padding = torch.zeros_like(batch.unlabeled_valid)
    method = make(name, **EXPECTED[name].trusting)
    for valid in (batch.unlabeled_valid, padding):
        losses.append(step(method, Batch(**vars(batch) | {"unlabeled_valid": valid})))
    assert losses[0]["loss/unsupervised"] > 0
    assert losses[1]["loss/unsupervised"] == losses[1].get("loss/consistency", 0) == 0


@pytest.mark.parametrize(
    ("name", "options", "term"),
    [
        ("dual-teacher", {"consistency_on": "all", "threshold_mode": "none"}, "loss/consistency"),
        ("dual-student", {"cutmix": False}, "loss/unsupervised"),
    ],
)
def test_padding_of_labeled_images_has_no_unsupervised_loss(name: str, options: dict[str, object], term: str) -> None:
    batch, losses = make_batch(), []
    nowhere = torch.zeros_like(batch.labeled_valid)
    for valid in (batch.labeled_valid, nowhere):
        changed = Batch(**vars(batch) | {"labeled_valid": valid, "unlabeled_valid": nowhere})
        losses.append(step(make(name, **options), changed)[term])
    assert losses[0] > losses[1] == 0


@pytest.mark.parametrize("name", WITH_UNLABELED)
def test_padding_moves_with_its_image(name: str) -> None:
    """Pixels of an image of only padding do not count, even where they are pasted into another image."""
    batch = make_batch()
    batch.unlabeled_valid[1] = False
    method = make(name, **EXPECTED[name].trusting)
    before = step(method.eval(), batch)["loss/unsupervised"]
    with torch.no_grad():  # pixel-wise networks, so that padding does not affect other pixels
        for network in method.predictors.values():
            for block in network.blocks:
                block.conv.weight.zero_()
            kernel = network.stem[0].weight
            kernel.copy_(kernel[:, :, 2:3, 2:3] * torch.eye(5)[2].outer(torch.eye(5)[2]))
    before = step(method, batch)["loss/unsupervised"]
    batch.unlabeled_images[1] = 255 - batch.unlabeled_images[1]
    after = step(method, batch)["loss/unsupervised"]
    assert before == pytest.approx(after, rel=1e-5)


def test_fewer_labeled_images_than_a_batch(name: str) -> None:
    dataset = Shapes(images=9, val=1, test=1, size=48)
    ids = dataset.split("train") or ()
    unlabeled = 4 if METHODS[name].uses_unlabeled else 0
    stream = TrainStream(dataset, ids[:2], ids[2:], StreamConfig(4, crop_size=16, unlabeled_batch_size=unlabeled))
    method = make(name, len(dataset.classes))
    losses = run(method, [stream[index] for index in range(3)], steps_per_epoch=stream.steps_per_epoch)
    assert all(torch.tensor(loss).isfinite() for loss in losses)


# State.


def test_step_depends_on_state_batch_and_seed_only(name: str) -> None:
    method, batch = make(name, **EXPECTED[name].choosy), make_batch()
    first, again = step(method.eval(), batch), step(method, batch)
    assert first == again
    if name != "supervised":
        assert step(method, batch, seed=1)["loss"] != first["loss"]


def test_state_dict_is_the_whole_state(name: str) -> None:
    batches = [make_batch(seed=seed) for seed in range(7)]
    options = {} if name == "supervised" else {"burn_in": 0.1}
    method = make(name, **options)
    run(method, batches[:4], total_steps=20, steps_per_epoch=3)
    other = make(name, seed=77, **options)
    other.load_state_dict(method.state_dict())
    losses = [run(m, batches[4:], total_steps=20, steps_per_epoch=3, first=4) for m in (method, other)]
    assert losses[0] == losses[1]
    assert torch.equal(state(method), state(other))


@pytest.mark.parametrize("name", WITH_TEACHERS)
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_teacher_mode_option(name: str, mode: str) -> None:
    # Teachers of the authors' code label in train mode, with dropout and their own statistics.
    method, modes = make(name, teacher_mode=mode), []
    for teacher in teachers(method).values():
        teacher.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    before = [state(teacher) for teacher in teachers(method).values()]
    step(method, make_batch())
    after = [state(teacher) for teacher in teachers(method).values()]
    assert modes == [mode == "train"]
    assert torch.equal(before[0], after[0]) == (mode == "eval")  # train mode updates the statistics


@pytest.mark.parametrize("mode", ["pixel", "image", "batch", "none"])
@pytest.mark.parametrize("name", WITH_TEACHERS)
def test_threshold_modes(name: str, mode: str) -> None:
    values = step(make(name, threshold_mode=mode, threshold=0.4), make_batch())
    assert 0 < values["trusted_fraction"] < 1
    assert values["loss/unsupervised"] > 0


def test_invalid_options_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"--mixing: unknown mixing 'cutmax'. Choose from cutmix, classmix"):
        make("mean-teacher", mixing="cutmax")
    with pytest.raises(ValueError, match=r"--pool: unknown mixing 'cutmax'. Choose from cutmix, classmix"):
        make("dual-teacher", pool=("cutmix", "cutmax"))
    with pytest.raises(ValueError, match=r"--pool: unknown colors 'grey'. Choose from blur, gray"):
        make("dual-teacher", pool=("cutmix:grey",))
    with pytest.raises(ValueError, match=r"--pool: unknown mixing ''. Choose from"):
        make("dual-teacher", pool=())
    with pytest.raises(ValueError, match=r"--teachers: 0 is out of range\. Choose a value of at least 1"):
        make("dual-teacher", teachers=0)
    for name in WITH_UNLABELED:
        with pytest.raises(ValueError, match=r"--burn-in: 2.* is out of range. Choose a value in \[0, 1\]"):
            make(name, burn_in=2.0)
        with pytest.raises(
            ValueError, match=r"--unsupervised-weight: -1\.0 is out of range\. Choose a value of at least 0"
        ):
            make(name, unsupervised_weight=-1.0)
        with pytest.raises(ValueError, match="--unsupervised-weight: inf is out of range"):
            make(name, unsupervised_weight=float("inf"))
    for option in ("drop_path", "threshold", "ema_decay"):
        with pytest.raises(ValueError, match=f"--{option.replace('_', '-')}: .* is out of range. Choose a value in"):
            make("dual-teacher", **{option: 1.5})


def test_sub_models_need_residual_branches() -> None:
    class Plain(nn.Conv2d):
        def __init__(self, classes: int) -> None:
            super().__init__(3, classes, 1)

    with pytest.raises(ValueError, match="no residual branches"):
        make("dual-teacher", network=Plain)
    make("dual-teacher", network=Plain, consistency_weight=0.0)


# Variants.


def test_variants_change_options_of_a_method() -> None:
    for name, (target, options) in VARIANTS.items():
        assert name not in METHODS and name not in ALIASES
        assert len({"mixing", "unsupervised_loss"} & {*options}) >= 1
        assert METHODS[target].Options(**options) != METHODS[target].Options()


def test_cutmix_seg_compares_probabilities() -> None:
    """The loss of constant networks is the squared difference of their softmax times the share of confident pixels."""
    target, options = VARIANTS["cutmix-seg"]
    method, batch = make(target, **options | {"threshold": 0.5}), make_batch()
    for network, bias in ((method.student, [0.0, 2.0, 0.0]), (method.teacher, [1.0, 0.0, 3.0])):
        nn.init.zeros_(network.head.weight)
        network.head.bias.data = torch.tensor(bias)
    p, q = torch.tensor([0.0, 2.0, 0.0]).softmax(dim=0), torch.tensor([1.0, 0.0, 3.0]).softmax(dim=0)
    values = step(method, batch)
    assert values["loss/unsupervised"] == pytest.approx(float((p - q).square().sum()), rel=1e-5)
    assert values["trusted_fraction"] == 1


def test_mse_with_hard_labels_is_rejected() -> None:
    with pytest.raises(ValueError, match="mse compares probabilities"):
        make("mean-teacher", unsupervised_loss="mse")
