"""Image tags: the loss of present, absent and unknown classes, the stream, and tag files."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import semiseg
from semiseg.data import FolderDataset, StreamConfig, TrainStream, resolve_split
from semiseg.data.tag_file import read_tags, write_tags
from semiseg.errors import UserError
from semiseg.methods import Batch, Method, Progress
from semiseg.methods.method import tag_term
from semiseg.ops.pseudo_labels import pseudo_label, soft_label
from semiseg.ops.tag_loss import SHARPNESS, mask_absent, tag_loss
from toy import gradients, make, make_batch

QUICK = {"encoder": "test_resnet", "weights": "none", "crop_size": 32, "batch_size": 2, "steps": 2, "workers": 0}
TRAIN = QUICK | {"accelerator": "cpu", "labeled": "4"}
CLASSES = ("road", "car", "tree")


def tags_of(*rows: tuple[int, ...]) -> Tensor:
    return torch.tensor(rows, dtype=torch.int8)


def whole(n: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return masks of whole images without padding."""
    return torch.ones(n, height, width, dtype=torch.bool), torch.full((n,), height * width)


def loss_of(probabilities: list[tuple[float, ...]], tags: tuple[int, ...], area: int | None = None) -> float:
    """Return the loss of one image, a row of pixels with the given probabilities."""
    logits = torch.tensor(probabilities).log().T[None, :, None]
    shown, whole_area = whole(1, 1, len(probabilities))
    return float(tag_loss(logits, tags_of(tags), shown, whole_area if area is None else torch.tensor([area])))


# The formula.


def test_absence_applies_to_every_pixel() -> None:
    pixels = [(0.5, 0.3, 0.2), (0.1, 0.1, 0.8)]
    assert loss_of(pixels, (-1, -1, 0)) == pytest.approx(-(math.log(0.8) + math.log(0.2)) / 2)
    assert loss_of(pixels, (-1, 0, 0)) == pytest.approx(-(math.log(0.5) + math.log(0.1)) / 2)
    # It applies to any crop, independent of its share of the image.
    assert loss_of(pixels, (-1, -1, 0), area=50) == pytest.approx(loss_of(pixels, (-1, -1, 0)))


def test_presence_uses_the_generalized_mean() -> None:
    assert SHARPNESS == 4
    pixels = [(0.8, 0.2), (0.2, 0.8), (0.2, 0.8)]
    score = ((0.8**4 + 2 * 0.2**4) / 3) ** 0.25
    assert loss_of(pixels, (1, -1)) == pytest.approx(-math.log(score))


def test_presence_counts_less_in_small_crops() -> None:
    pixels = [(0.25, 0.75)] * 2
    assert loss_of(pixels, (1, -1), area=2) == pytest.approx(-math.log(0.25))
    assert loss_of(pixels, (1, -1), area=4) == pytest.approx(-math.log(0.5 + 0.5 * 0.25))
    assert loss_of(pixels, (1, -1), area=10) == pytest.approx(-math.log(0.8 + 0.2 * 0.25))
    # At most -log(1 - share), even if the student is certain that the class is not in the crop.
    assert loss_of([(1e-12, 1.0)] * 2, (1, -1), area=10) == pytest.approx(-math.log(0.8), rel=1e-4)


def test_presence_and_absence_are_separate_means() -> None:
    one, other = [(0.5, 0.3, 0.2)], [(0.1, 0.1, 0.8)]
    logits = torch.tensor([*one, *other]).log()[:, :, None, None]
    loss = tag_loss(logits, tags_of((1, 1, 0), (-1, 1, -1)), *whole(2, 1, 1))
    absent, present = -math.log(0.8), -(math.log(0.5) + math.log(0.3) + math.log(0.1)) / 3
    assert float(loss) == pytest.approx(absent + present)


def test_hidden_pixels_do_not_count() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    shown, area = whole(2, 4, 4)
    shown[0, :2] = False
    tag_loss(logits, tags_of((1, 0, -1), (0, -1, 1)), shown, area).backward()
    assert logits.grad is not None
    hidden = ~shown[:, None].expand_as(logits)
    assert (logits.grad[hidden] == 0).all() and (logits.grad[~hidden] != 0).all()


@pytest.mark.parametrize("tags", [tags_of((-1, -1, -1), (-1, -1, -1)), torch.empty((0, 0), dtype=torch.int8)])
def test_unknown_gives_no_gradient(tags: Tensor) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = tag_loss(logits, tags, *whole(2, 4, 4))
    assert loss == 0
    if loss.requires_grad:
        loss.backward()
        assert logits.grad is not None and (logits.grad == 0).all()


def test_unknown_class_is_not_absent() -> None:
    """It may gain probability that an absent class loses; an absent class may not."""
    logits = torch.zeros(1, 3, 2, 2, requires_grad=True)
    tag_loss(logits, tags_of((-1, -1, 0)), *whole(1, 2, 2)).backward()
    assert logits.grad is not None
    downhill = -logits.grad.sum((0, 2, 3))
    assert downhill[0] == downhill[1] > 0 > downhill[2]


@given(
    seed=st.integers(0, 2**31), scale=st.sampled_from([1.0, 30.0, 1e4]), dtype=st.sampled_from(["float32", "bfloat16"])
)
@settings(max_examples=50, deadline=None, derandomize=True)
def test_loss_and_gradient_are_finite_for_extreme_input(seed: int, scale: float, dtype: str) -> None:
    g = torch.Generator().manual_seed(seed)
    logits = (torch.randn(3, 4, 3, 3, generator=g) * scale).to(getattr(torch, dtype)).requires_grad_()
    tags = torch.randint(-1, 2, (3, 4), generator=g, dtype=torch.int8)
    shown, area = torch.rand(3, 3, 3, generator=g) < 0.5, torch.tensor([9, 40, 1])
    shown[0] = seed % 2 == 0
    loss = tag_loss(logits, tags, shown, area)
    loss.backward()
    assert loss.isfinite() and loss >= 0 and logits.grad is not None and logits.grad.isfinite().all()


# Absent classes and the teacher.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_absent_classes_get_no_probability_and_the_others_share_theirs(dtype: torch.dtype) -> None:
    logits = torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]])[:, :, None, None].to(dtype)
    masked = mask_absent(logits, tags_of((0, 1, 1), (-1, 1, -1)))
    labels, confidence = pseudo_label(masked)
    assert labels.flatten().tolist() == [1, 0]
    torch.testing.assert_close(confidence[0], torch.full((1, 1), 0.5))
    for temperature in (1e-3, 0.5, 1.0):
        q = soft_label(masked, temperature)
        torch.testing.assert_close(q[0].flatten(), torch.tensor([0.0, 0.5, 0.5]))
        assert torch.equal(q[1], soft_label(logits, temperature)[1])


def test_probabilities_are_finite_if_all_classes_are_absent() -> None:
    masked = mask_absent(torch.randn(1, 3, 2, 2), tags_of((0, 0, 0)))
    assert pseudo_label(masked)[1].isfinite().all() and soft_label(masked, 0.5).isfinite().all()


def step(method: Method, batch: Batch, at: int = 50) -> dict[str, float]:
    method.zero_grad()
    torch.manual_seed(0)
    output = method(batch, Progress(at, 100, 10))
    output.loss.backward()
    return {"loss": output.loss.item()} | {key: float(value) for key, value in output.scalars.items()}


@pytest.mark.parametrize("extra", [{}, {"consistency_on": "all"}])
@pytest.mark.parametrize("name", ["mean-teacher", "dual-teacher"])
def test_teachers_never_predict_absent_classes(
    name: str, extra: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    if extra and name == "mean-teacher":
        return
    batch = make_batch()
    batch = replace(batch, fill=batch.labeled_valid, masks=torch.full_like(batch.masks, 255))
    tagged = replace(
        batch, labeled_tags=tags_of((0, -1, 1), (-1, 0, -1)), unlabeled_tags=tags_of((-1, 0, 0), (0, 0, 1))
    )
    method, seen = make(name, tag_weight=0.0, **extra), []
    label = method.label
    monkeypatch.setattr(method, "label", lambda *args: (seen.append(args), label(*args))[1])
    step(method, tagged)
    assert len(seen) == 2  # unlabeled images, and labeled images to fill in
    for teacher, images, tags in seen:
        labels, _ = pseudo_label(label(teacher, images, tags))
        for tag, shown in zip(tags, labels, strict=True):
            assert not set(shown.unique().tolist()) & {c for c in range(3) if tag[c] == 0}


@pytest.mark.parametrize("name", ["supervised", "mean-teacher", "dual-teacher"])
def test_tag_weight_scales_the_tag_loss(name: str) -> None:
    batch = make_batch()
    tags = tags_of((1, -1, 0), (-1, -1, -1))
    some, none = make(name, tag_weight=0.3), make(name, tag_weight=0.0)
    tagged = replace(batch, labeled_tags=tags, unlabeled_tags=torch.full_like(tags, -1))
    seen: list[Tensor] = []
    some.student.register_forward_hook(lambda module, args, out: seen.append(out.detach()))
    values, without = step(some, tagged), step(none, tagged)
    by_hand = tag_loss(seen[0][:2], tags, batch.labeled_valid, batch.labeled_area)
    assert values["loss/tags"] == pytest.approx(float(by_hand), rel=1e-5) and by_hand > 0
    assert values["loss"] == pytest.approx(without["loss"] + 0.3 * values["loss/tags"], rel=1e-5)
    assert not torch.equal(gradients(some.student), gradients(none.student))


@pytest.mark.parametrize("name", ["mean-teacher", "dual-teacher"])
def test_tags_of_unlabeled_images_are_not_used_in_the_burn_in(name: str) -> None:
    tags, unknown = tags_of((1, -1, 0), (0, -1, 1)), tags_of((-1, -1, -1), (-1, -1, -1))
    for labeled, unlabeled, early in [(tags, unknown, True), (unknown, tags, False)]:
        batch = replace(make_batch(), labeled_tags=labeled, unlabeled_tags=unlabeled)
        assert bool(step(make(name, burn_in=0.5), batch, at=10)["loss/tags"]) == early
        assert step(make(name, burn_in=0.5), batch, at=60)["loss/tags"] > 0


def test_tags_apply_to_their_part_of_a_mixed_image() -> None:
    batch = replace(make_batch(), unlabeled_tags=tags_of((1, -1, 0), (-1, 0, -1)))
    batch.unlabeled_valid[:, :2] = False
    region = torch.zeros(2, 16, 16, dtype=torch.bool)
    region[0, :, :8], region[1, :4] = True, True
    z_l, z_m = torch.randn(2, 3, 16, 16), torch.randn(2, 3, 16, 16, requires_grad=True)
    loss = tag_term(batch, z_l, z_m, region)
    loss.backward()
    shown = region & batch.unlabeled_valid
    assert z_m.grad is not None
    assert torch.equal((z_m.grad != 0).any(dim=1), shown)
    assert loss == tag_loss(z_m, batch.unlabeled_tags, shown, batch.unlabeled_area) > 0


# The stream.


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_stream_returns_tags_and_image_areas(tiny_folder: Path) -> None:
    ids = [f"train{index:05d}" for index in range(12)]
    write(tiny_folder / "tags.csv", "image,star,ring", *(f"{id},{n % 2},?" for n, id in enumerate(ids)))
    dataset = FolderDataset(tiny_folder)
    star = dataset.classes.index("star")
    split = resolve_split(dataset, "4", 0)
    config = StreamConfig(batch_size=4, crop_size=32, unlabeled_batch_size=8, scale_min=0.5, scale_max=1.0)
    batch = TrainStream(dataset, split.labeled, split.unlabeled, config)[0]
    assert batch.labeled_tags.shape == (4, 7) and batch.unlabeled_tags.shape == (8, 7)
    assert batch.labeled_tags.dtype == torch.int8
    rest = [c for c in range(7) if c != star]
    assert (batch.unlabeled_tags[:, rest] == -1).all() and set(batch.unlabeled_tags[:, star].tolist()) == {0, 1}
    known = sorted(int(id[-2:]) % 2 for id in split.labeled)
    assert sorted(batch.labeled_tags[:, star].tolist()) == known  # the batch is the whole list
    shown = batch.unlabeled_valid.sum((1, 2))
    assert (shown <= batch.unlabeled_area).all() and batch.unlabeled_area.max() <= 48 * 48
    small = batch.unlabeled_area <= 32 * 32  # only images smaller than the crop are completely visible
    assert small.any() and not small.all()
    assert torch.equal(shown[small], batch.unlabeled_area[small]) and (shown < batch.unlabeled_area)[~small].all()


def test_stream_without_tags(tiny_folder: Path) -> None:
    dataset = FolderDataset(tiny_folder)
    split = resolve_split(dataset, "4", 0)
    batch = TrainStream(dataset, split.labeled, split.unlabeled, StreamConfig(2, 32, unlabeled_batch_size=2))[0]
    assert batch.labeled_tags.shape == batch.unlabeled_tags.shape == (0, 0)


# tags.csv.


def test_read_tag_table(tmp_path: Path) -> None:
    lines = ("image,tree,road", "a.jpg,1,0", "images/b, ? ,", "", "c,,1")
    tags = read_tags(write(tmp_path / "tags.csv", *lines), CLASSES, ["a", "b", "c", "d"])
    assert tags == {"a": (0, -1, 1), "b": (-1, -1, -1), "c": (1, -1, -1)}


def test_tag_list_leaves_other_classes_unknown(tmp_path: Path) -> None:
    path = write(tmp_path / "tags.csv", "image,tags", "a,car; tree", "b,")
    assert read_tags(path, CLASSES, ["a", "b"]) == {"a": (-1, 1, 1), "b": (-1, -1, -1)}
    # A class of that name makes the file a table.
    write(path, "image,tags", "a,0")
    assert read_tags(path, ("tags", "else"), ["a"]) == {"a": (0, -1)}


def test_tag_files_can_be_written_and_read(tmp_path: Path) -> None:
    classes, tags = ("a, b", 'say "c"', "d"), {"x": (1, 0, -1), "y": (-1, -1, 1)}
    write_tags(tmp_path / "tags.csv", classes, tags)
    assert read_tags(tmp_path / "tags.csv", classes, ["x", "y"]) == tags


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ((), "the file is empty"),
        (("car,tree", "a,1"), "line 1: starts with 'car'"),
        (("image", "a"), "line 1: starts with 'image' and has 1 cells"),
        (("image,cars", "a,1"), r"line 1: unknown class 'cars': did you mean car\?"),
        (("image,car,car", "a,1,1"), "line 1: 'car' is listed twice"),
        (("image,car", "a,1", "b,yes"), "line 3: car is 'yes'. Write 1"),
        (("image,car", "a,1", "", "e,1"), "line 4: 'e' is not an image"),
        (("image,car", "a,1,1"), "line 2: 3 cells, the first line has 2"),
        (("image,car", "a,1", "a.png,0"), r"line 3: 'a\.png' is listed twice"),
        (("image,road,car,tree", "a,0,0,0"), r"line 2: every class is 0 \(absent\)"),
        (("image,tags", "a,car;bus"), "line 2: unknown class 'bus'"),
        (("image,car", 'a,"1'), "cannot be read"),
    ],
)
def test_malformed_tag_line_is_reported(tmp_path: Path, lines: tuple[str, ...], complaint: str) -> None:
    path = write(tmp_path / "tags.csv", *lines)
    with pytest.raises(UserError, match=complaint) as caught:
        read_tags(path, CLASSES, ["a", "b"])
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_mask_that_contradicts_tags_is_reported(tiny_folder: Path, tmp_path: Path) -> None:
    id = resolve_split(FolderDataset(tiny_folder), "4", 0).labeled[1]
    write(tiny_folder / "tags.csv", "image,background", f"{id},0")
    with pytest.raises(UserError, match=rf"{id}\.png: the mask shows background, but its tags say absent"):
        semiseg.train(tiny_folder, "supervised", tmp_path / "run", **TRAIN)


@pytest.mark.slow
@pytest.mark.parametrize(("method", "warned"), [("dual-student", True), ("mean-teacher", False)])
def test_run_warns_if_the_method_ignores_tags(
    quick: None, tiny_folder: Path, tmp_path: Path, method: str, warned: bool
) -> None:
    write(tiny_folder / "tags.csv", "image,background", "train00003,1")
    log = (semiseg.train(tiny_folder, method, tmp_path / "run", **TRAIN) / "log.txt").read_text()
    assert ("does not use image tags" in log) == warned
