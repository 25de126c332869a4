"""The check of data: each fault by a folder that has just that one, all of them told, and none where there is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

import semiseg
from semiseg.data import open_dataset, resolve_split
from semiseg.errors import printable
from semiseg.tools.checking import DataCheck, Finding, in_words
from semiseg.tools.checking.finding import from_messages, listed
from trees import make_ade20k, make_cityscapes, make_voc, refused, write_image, write_lines, write_mask

Change = Callable[[Path], None]


def check(data: Path | str) -> DataCheck:
    return semiseg.check(data)


def one(checked: DataCheck, kind: str) -> Finding:
    found = [finding for finding in checked.findings if finding.kind == kind]
    assert len(found) == 1, checked.findings
    return found[0]


def kinds(checked: DataCheck, *severities: str) -> set[str]:
    return {finding.kind for finding in checked.findings if finding.severity in severities}


def photo(seed: int, side: int = 96) -> Image.Image:
    """A smooth picture unlike any of another seed: light and dark fields, as photographs have."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def mask(data: Path, name: str) -> Path:
    return data / "masks" / f"{name}.png"


def set_mask(data: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(mask(data, name))


@pytest.fixture
def folder(tiny_folder: Path) -> Path:
    """12 training images, of which three have no mask, 3 val and 3 test images: nothing is wrong with them."""
    for name in ("train00009", "train00010", "train00011"):
        mask(tiny_folder, name).unlink()
    values = np.array(Image.open(mask(tiny_folder, "train00000")))
    values[:12, :12] = 5  # a class that one other image shows
    set_mask(tiny_folder, "train00000", values)
    return tiny_folder


def test_clean_data_have_neither_problem_nor_warning(folder: Path) -> None:
    checked = check(folder)
    assert checked.findings == () and checked.usable
    assert (checked.images, checked.masks) == (18, 15)
    assert checked.lists == {"labeled": 9, "unlabeled": 3, "val": 3, "test": 3}
    assert checked.sizes == ((48, 48),) * 3 and checked.known == 1
    few = "--preset small --steps 1200 --batch-size 6 --crop-size 32"
    assert checked.command == f"semiseg train --data {folder} {few} --out runs/first"


def test_classes_are_counted_in_pixels_and_images(folder: Path) -> None:
    for path in (folder / "masks").glob("*.png"):
        set_mask(folder, path.stem, np.zeros((48, 48)))
    values = np.zeros((48, 48))
    values[:3] = 1
    values[3:6] = 255
    set_mask(folder, "train00000", values)
    set_mask(folder, "val00000", values)
    zero, circle, square, *_ = check(folder).classes
    assert (zero.name, circle.name, circle.pixels, square.pixels) == ("background", "circle", 3 * 48, 0)
    assert circle.share == pytest.approx(3 * 48 / (9 * 48 * 48 - 3 * 48))
    assert (circle.images, zero.images["labeled"]) == ({"labeled": 1, "val": 1, "test": 0}, 9)


# One fault each: what it is called, how grave it is, and the files that are named.


def break_images(data: Path) -> None:
    for name in ("train00000", "train00010", "val00001"):
        (data / "images" / f"{name}.png").write_bytes(b"no picture")


def break_masks(data: Path) -> None:
    for index in range(5):
        mask(data, f"train0000{index}").write_bytes(b"no picture")


def strange_values(data: Path) -> None:
    for index in range(5):
        set_mask(data, f"train0000{index}", np.full((48, 48), 70 + index))


def other_sizes(data: Path) -> None:
    for name in ("train00002", "test00001"):
        set_mask(data, name, np.zeros((40, 48)))


def jpeg_masks(data: Path) -> None:
    for name in ("train00002", "train00003"):
        Image.open(mask(data, name)).convert("L").save(data / "masks" / f"{name}.jpg")


def same_stems(data: Path) -> None:
    for name in ("train00002", "val00002"):
        Image.open(data / "images" / f"{name}.png").convert("L").save(data / "images" / f"{name}.bmp")


def only_255(data: Path) -> None:
    for path in (data / "masks").glob("*.png"):
        set_mask(data, path.stem, np.where(np.indices((48, 48))[0] < 20, 255, 0))


def no_class_file(data: Path) -> None:
    only_255(data)
    (data / "classes.json").unlink()


def broken_class_file(data: Path) -> None:
    (data / "classes.json").write_text("{")


def missing_in_val(data: Path) -> None:
    write_lines(data / "splits" / "val.txt", "val00000", "val00001", "val00007", "val00008")


def empty_val(data: Path) -> None:
    write_lines(data / "splits" / "val.txt")


def double_line(data: Path) -> None:
    write_lines(data / "splits" / "val.txt", "val00000", "val00001", "val00001", "val00002")


def overlapping(data: Path) -> None:
    write_lines(data / "splits" / "val.txt", "val00000", "val00001", "val00002", "train00004", "train00005")


def val_without_mask(data: Path) -> None:
    mask(data, "val00002").unlink()


def no_training_mask(data: Path) -> None:
    for path in (data / "masks").glob("train*.png"):
        path.unlink()


def wrong_tags(data: Path) -> None:
    write_lines(data / "tags.csv", "image,tags", "train00000,banana")


def denying_tags(data: Path) -> None:
    set_mask(data, "train00000", np.zeros((48, 48)))
    write_lines(data / "tags.csv", "image,background,circle", "train00000,0,1")


def one_label(data: Path) -> None:
    for path in (data / "masks").glob("*.png"):
        if path.stem != "train00000":
            path.unlink()
    for name in ("val", "test"):
        (data / "splits" / f"{name}.txt").unlink()


PROBLEMS: dict[str, tuple[Change, str, str, tuple[str, ...]]] = {
    "images that cannot be read": (
        break_images,
        "image",
        "cannot be read",
        ("images/train00000.png", "images/train00010.png", "images/val00001.png"),
    ),
    "masks that cannot be read": (
        break_masks,
        "mask",
        "cannot be read",
        tuple(f"masks/train0000{index}.png" for index in range(5)),
    ),
    "values that are no class": (
        strange_values,
        "mask",
        "value 70 is none of the 7 classes",
        tuple(f"masks/train0000{index}.png" for index in range(5)),
    ),
    "masks of another size": (
        other_sizes,
        "mask",
        "the mask is 48x40",
        ("masks/test00001.png", "masks/train00002.png"),
    ),
    "jpeg masks": (jpeg_masks, "refused", "JPEG", ("masks/train00002.jpg", "masks/train00003.jpg")),
    "one stem twice": (same_stems, "refused", "same stem", ("images/train00002.bmp", "images/val00002.bmp")),
    "0 and 255": (only_255, "foreground-255", "no mask shows anything but class 0", ()),
    "0 and 255, no class file": (no_class_file, "refused", "hold only 0 and 255", ("masks",)),
    "broken class file": (broken_class_file, "refused", "cannot be used", ("classes.json",)),
    "missing images": (missing_in_val, "missing-images", "2 of 4 images of the val list", ("val00007", "val00008")),
    "empty list": (empty_val, "empty-list", "the val list is empty", ()),
    "a line twice": (double_line, "list", "is listed twice", ("splits/val.txt",)),
    "lists that overlap": (
        overlapping,
        "overlap",
        "in both the train and the val list",
        ("images/train00004.png", "images/train00005.png"),
    ),
    "val without mask": (val_without_mask, "val-without-mask", "1 image of the val list", ("images/val00002.png",)),
    "no training mask": (no_training_mask, "no-masks", "none of 12 training images has a mask", ()),
    "one label and no val list": (one_label, "refused", "one labeled image cannot serve", ()),
    "wrong tags": (wrong_tags, "refused", "banana", ()),
    "tags that deny a mask": (denying_tags, "refused", "the tags say that it is absent", ("masks/train00000.png",)),
}


@pytest.mark.parametrize("fault", PROBLEMS)
def test_what_training_would_refuse_is_a_problem_with_every_file(folder: Path, fault: str) -> None:
    change, kind, words, files = PROBLEMS[fault]
    change(folder)
    checked = check(folder)
    finding = one(checked, kind)
    assert (finding.severity, checked.usable) == ("problem", False)
    assert words in finding.text and finding.remedy and str(folder) not in finding.text
    assert not files or finding.files == files
    assert kinds(checked, "problem") == {kind}


def test_all_that_is_wrong_is_told_at_once(folder: Path) -> None:
    for change in (jpeg_masks, break_images, broken_class_file, missing_in_val):
        change(folder)
    other_sizes(folder)
    checked = check(folder)
    assert kinds(checked, "problem") == {"refused", "image", "mask", "missing-images"}
    assert [f.kind for f in checked.findings].count("refused") == 2


def test_a_folder_without_masks_and_class_file_is_still_looked_through(folder: Path) -> None:
    shutil.rmtree(folder / "masks")
    (folder / "classes.json").unlink()
    (folder / "images" / "val00001.png").write_bytes(b"no picture")
    checked = check(folder)
    assert kinds(checked, "problem") == {"refused", "val-without-mask", "no-masks", "image"}
    assert checked.lists["unlabeled"] == 12


def test_five_bad_masks_are_all_named_in_words(folder: Path) -> None:
    strange_values(folder)
    assert all(f"masks/train0000{index}.png" in one(check(folder), "mask").text for index in range(5))


def test_a_bad_mask_that_nobody_reads_is_a_warning(folder: Path) -> None:
    write_lines(folder / "splits" / "train.txt", *(f"train000{index:02d}" for index in range(1, 12)))
    mask(folder, "train00000").write_bytes(b"no picture")
    checked = check(folder)
    assert checked.usable and one(checked, "mask").severity == "warning"
    assert one(checked, "unlisted").files == ("images/train00000.png",)


# Warnings: training begins, and is worth less.


def masks_of_nothing(data: Path) -> None:
    set_mask(data, "train00001", np.full((48, 48), 255))


def some_0_and_255(data: Path) -> None:
    set_mask(data, "train00001", np.where(np.indices((48, 48))[0] < 20, 255, 0))


def one_class_each(data: Path) -> None:
    for index, path in enumerate(sorted((data / "masks").glob("*.png"))):
        set_mask(data, path.stem, np.full((48, 48), index % 7))


def little_known(data: Path) -> None:
    for path in (data / "masks").glob("*.png"):
        values = np.array(Image.open(path))
        values[4:40] = 255
        set_mask(data, path.stem, values)


def only_in_val(data: Path) -> None:
    for path in (data / "masks").glob("train*.png"):
        values = np.array(Image.open(path))
        set_mask(data, path.stem, np.where(values == 2, 0, values))
    set_mask(data, "val00001", np.full((48, 48), 2))


def in_no_mask(data: Path) -> None:
    content = json.loads((data / "classes.json").read_text())
    (data / "classes.json").write_text(json.dumps(content | {"classes": [*content["classes"], "unicorn"]}))


def hardly_there(data: Path) -> None:
    in_no_mask(data)
    for name in ("train00001", "train00002"):
        values = np.array(Image.open(mask(data, name)))
        values[5, 5] = 7
        set_mask(data, name, values)


def stray_mask(data: Path) -> None:
    mask(data, "train00001").rename(data / "masks" / "train00001_mask.png")


def case_of_masks(data: Path) -> None:
    mask(data, "train00001").rename(data / "masks" / "Train00001.png")


def case_of_images(data: Path) -> None:
    write_image(data / "images" / "Train00001.png", 1)


def flat_images(data: Path) -> None:
    for name in ("train00001", "test00001"):
        Image.new("RGB", (48, 48), (20, 20, 20)).save(data / "images" / f"{name}.png")


def small_image(data: Path) -> None:
    photo(1, 20).save(data / "images" / "train00010.png")


def list_of_labeled(data: Path) -> None:
    folder = data / "splits" / "1_4" / "seed0"
    write_lines(folder / "labeled.txt", "train00000", "train00010", "val00000", "train00077")
    write_lines(folder / "unlabeled.txt", "train00001")


WARNINGS: dict[str, tuple[Change, set[str], str]] = {
    "nothing but 255": (masks_of_nothing, {"mask-unknown"}, "masks/train00001.png"),
    "some masks of 0 and 255": (some_0_and_255, {"foreground-255"}, "1 mask of 0 and 255 only: masks/train00001.png"),
    "one class in each": (one_class_each, {"mask-single"}, "15 of 15 masks of a single class"),
    "little is known": (little_known, {"partial"}, "25.0% of the pixels"),
    "a class only in val": (only_in_val, {"class-not-learned"}, "1 class in val or test masks"),
    "a class in no mask": (in_no_mask, {"class-absent"}, "unicorn"),
    "a class of two pixels": (hardly_there, {"class-rare"}, "unicorn (2 images, 0.01% of pixels)"),
    "a mask without image": (stray_mask, {"mask-without-image"}, "1 mask without image: masks/train00001_mask.png"),
    "a mask of another case": (case_of_masks, {"mask-without-image"}, "masks/Train00001.png"),
    "images of one name": (case_of_images, {"case"}, "images/Train00001.png, images/train00001.png"),
    "images of one color": (flat_images, {"flat"}, "2 images of (nearly) one color"),
    "a small image": (small_image, {"small"}, "images/train00010.png"),
    "lists of labeled images": (
        list_of_labeled,
        {"missing-images", "labeled-without-mask", "overlap"},
        "splits/1_4/seed0/labeled.txt",
    ),
}


@pytest.mark.parametrize("fault", WARNINGS)
def test_what_costs_quality_is_a_warning(folder: Path, fault: str) -> None:
    change, expected, words = WARNINGS[fault]
    change(folder)
    checked = check(folder)
    assert checked.usable
    warned = checked.of("warning")
    classes_lost = {"class-absent", "class-rare", "class-not-learned"} - expected  # by the way, in so few masks
    assert {finding.kind for finding in warned} - classes_lost == expected
    assert all(finding.remedy for finding in warned)
    assert any(words in finding.text for finding in warned if finding.kind in expected), warned


def test_a_stray_mask_is_told_the_image_that_it_may_be_of(folder: Path) -> None:
    stray_mask(folder)
    assert "train00001_mask.png may be meant for train00001.png" in one(check(folder), "mask-without-image").remedy


def test_single_classes_beside_255_are_annotation_in_part_and_no_mistaken_foreground(folder: Path) -> None:
    for index, path in enumerate(sorted((folder / "masks").glob("*.png"))):
        set_mask(folder, path.stem, np.where(np.indices((48, 48))[0] < 30, 255, index % 7))
    checked = check(folder)
    assert {"mask-single", "partial"} <= kinds(checked, "warning")
    assert "foreground-255" not in kinds(checked, "problem", "warning", "note")
    assert "--annotation partial" in checked.command


def test_odd_sizes_and_files_of_other_kinds_are_noted(folder: Path) -> None:
    photo(1, 64).save(folder / "images" / "train00010.png")
    (folder / "images" / "holiday.heic").write_bytes(b"")
    checked = check(folder)
    assert one(checked, "odd-size").files == ("images/train00010.png",)
    assert one(checked, "other-files").files == ("images/holiday.heic",)
    assert kinds(checked, "problem", "warning") == set()
    assert checked.sizes[2] == (64, 64)


# The same picture twice.


def series(root: Path, count: int = 8) -> Path:
    """Half of the images for training, the rest for validation; each of them is another picture."""
    names = [f"p{index}" for index in range(count)]
    for index, name in enumerate(names):
        (root / "images").mkdir(parents=True, exist_ok=True)
        photo(index).save(root / "images" / f"{name}.png")
        write_mask(root / "masks" / f"{name}.png", (0, 1) if index % 2 else (0, 1, 0))
        with Image.open(root / "masks" / f"{name}.png") as small:
            enlarged = small.resize((96, 96), Image.Resampling.NEAREST)
        enlarged.save(root / "masks" / f"{name}.png")
    write_lines(root / "classes.txt", "ground", "thing")
    write_lines(root / "splits" / "train.txt", *names[: count // 2])
    write_lines(root / "splits" / "val.txt", *names[count // 2 :])
    return root


def test_different_pictures_are_no_twins(tmp_path: Path) -> None:
    checked = check(series(tmp_path, 40))
    assert kinds(checked, "problem", "warning", "note") == {"no-unlabeled"}


def test_copies_across_lists_are_a_leak_also_in_another_format(tmp_path: Path) -> None:
    data = series(tmp_path)
    (data / "images" / "p5.png").unlink()
    Image.open(data / "images" / "p1.png").save(data / "images" / "p5.bmp")
    finding = one(check(data), "leak")
    assert finding.severity == "warning"
    assert "images/p1.png (labeled), images/p5.bmp (val)" in finding.text
    assert "near-leak" not in kinds(check(data), "warning")


def test_copies_within_a_list_are_noted_and_a_warning_where_validation_is_drawn(tmp_path: Path) -> None:
    data = series(tmp_path)
    shutil.copy(data / "images" / "p0.png", data / "images" / "p2.png")
    finding = one(check(data), "copies")
    assert (finding.severity, finding.files) == ("note", ("images/p0.png", "images/p2.png"))
    shutil.copy(data / "images" / "p0.png", data / "images" / "of no list.png")
    assert one(check(data), "copies").files == finding.files
    shutil.rmtree(data / "splits")
    assert one(check(data), "copies").severity == "warning"


def test_one_picture_with_two_masks_contradicts_itself(tmp_path: Path) -> None:
    data = series(tmp_path)
    shutil.copy(data / "images" / "p0.png", data / "images" / "p1.png")
    assert one(check(data), "contradiction").files == ("images/p0.png", "images/p1.png")


def cropped(picture: Image.Image) -> Image.Image:
    return picture.crop((2, 2, 94, 94)).resize((96, 96), Image.Resampling.BICUBIC)


def brighter(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(1.3)


@pytest.mark.parametrize("change", [None, cropped, brighter], ids=["jpeg", "cropped", "brighter"])
def test_a_picture_saved_anew_cropped_or_brightened_is_a_twin(
    tmp_path: Path, change: Callable[[Image.Image], Image.Image] | None
) -> None:
    data = series(tmp_path)
    picture = Image.open(data / "images" / "p1.png")
    (data / "images" / "p6.png").unlink()
    if change:
        change(picture).save(data / "images" / "p6.png")
    else:
        picture.save(data / "images" / "p6.jpg", quality=30)
    finding = one(check(data), "near-leak")
    assert finding.severity == "warning"
    assert finding.text.startswith("1 of 4 val images much like a training image, such as images/p6.")
    assert finding.text.endswith(" and images/p1.png")


def test_twins_within_training_are_noted_and_a_warning_where_validation_is_drawn(tmp_path: Path) -> None:
    data = series(tmp_path)
    brighter(Image.open(data / "images" / "p0.png")).save(data / "images" / "p2.png")
    finding = one(check(data), "near-copies")
    assert finding.severity == "note" and finding.text.startswith("2 of 4 training images much like another")
    shutil.rmtree(data / "splits")
    assert one(check(data), "near-copies").severity == "warning"
    (data / "masks" / "p2.png").unlink()
    assert one(check(data), "near-copies").severity == "note"  # no labeled image is held out beside its twin


def test_flat_images_are_no_twins(tmp_path: Path) -> None:
    data = series(tmp_path)
    for index in (0, 1, 5, 6):
        gray = np.random.default_rng(index).integers(98, 102, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(gray).save(data / "images" / f"p{index}.png")
    assert kinds(check(data), "warning") == {"flat"}


def test_the_leak_is_found_in_long_lists_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from semiseg.data import read_image_file
    from semiseg.tools.checking import near_duplicates as module
    from semiseg.tools.checking.near_duplicates import look_of, twins

    monkeypatch.setattr(module, "PAIRS_AT_ONCE", 8)  # four images of the first list with two of the second at once
    looks = []
    for seed in range(3):
        photo(seed).save(tmp_path / "one.png")
        looks.append(look_of(read_image_file(tmp_path / "one.png")))
    first = [looks[0]] * 4 + [looks[1]]
    found = twins(first, [looks[2], looks[1]])
    assert [(twin.one, twin.other) for twin in found] == [(4, 1)]
    assert found[0].likeness == pytest.approx(1, abs=1e-5)
    assert twins(looks) == [] and twins([], looks) == []


# Every form of data.


def test_generated_images_are_checked_too() -> None:
    checked = check("shapes:images=10,val=3,test=2,size=48")
    assert checked.usable and kinds(checked, "problem", "warning", "note") == {"no-unlabeled"}
    assert "--method supervised" in checked.command


@pytest.mark.parametrize("make", [make_voc, make_cityscapes, make_ade20k])
def test_published_forms_are_checked_without_being_told_which_they_are(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    data = make(tmp_path)
    good = check(data)
    assert good.usable and not kinds(good, "problem")
    assert not kinds(good, "warning") & {"mask", "image", "mask-without-image", "case"}
    dataset = open_dataset(data)
    bad = [path for id in dataset.split("train")[:2] if (path := dataset.mask_path(id))]
    for path in bad:
        path.write_bytes(b"no picture")
    finding = one(check(data), "mask")
    assert [data / name for name in finding.files] == bad


def test_a_published_form_without_its_masks_is_told_in_one_problem(tmp_path: Path) -> None:
    data = make_cityscapes(tmp_path)
    shutil.rmtree(data / "gtFine")
    checked = check(data)
    assert not checked.usable and "gtFine" in one(checked, "refused").text


@pytest.mark.parametrize("data", ["nowhere", "shapes:images=0", "shapes:what=1"])
def test_what_is_no_data_at_all_is_a_problem_too(data: str) -> None:
    checked = check(data)
    assert [finding.severity for finding in checked.findings] == ["problem"]
    assert "not usable yet: 1 problem" in in_words(checked)


def test_an_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert "no images there" in one(check(tmp_path), "refused").text


# The command that it ends with.


def command_begins(checked: DataCheck) -> None:
    """Read the lists as the command's training would; raises UserError where it is refused."""
    words = checked.command.split()[2:]
    pairs = {word[2:].replace("-", "_"): words[i + 1] for i, word in enumerate(words) if word.startswith("--")}
    only = pairs.pop("existing_only", None) is not None
    split = resolve_split(open_dataset(pairs["data"]), pairs.get("labeled"), 0, existing_only=only)
    assert bool(split.unlabeled) != (pairs.get("method") == "supervised")


def test_the_command_takes_lists_that_come_with_the_data(folder: Path) -> None:
    for name in ("train00009", "train00010", "train00011"):
        set_mask(folder, name, np.zeros((48, 48)))
    for share, count in (("1_2", 5), ("1_4", 2), ("2", 2)):
        names = [f"train000{index:02d}" for index in range(12)]
        write_lines(folder / "splits" / share / "seed0" / "labeled.txt", *names[:count])
        write_lines(folder / "splits" / share / "seed0" / "unlabeled.txt", *names[count:])
    checked = check(folder)
    assert "--labeled 1/4 " in checked.command
    command_begins(checked)


def test_the_command_works_on_lists_with_gaps(folder: Path) -> None:
    missing_in_val(folder)
    checked = check(folder)
    assert "--existing-only" in checked.command
    command_begins(checked)


def test_the_command_quotes_what_a_shell_would_take_apart(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "my data")
    assert f"--data '{tmp_path / 'my data'}' " in check(tmp_path / "my data").command


# Words.


def test_names_are_counted_beyond_five() -> None:
    assert listed(list("abcde")) == "a, b, c, d, e"
    assert listed(list("abcdef")) == "a, b, c and 3 more"


def test_names_that_would_break_a_line_are_escaped(folder: Path) -> None:
    assert printable("a\nb") == "a\\nb" and printable("grün.png") == "grün.png"
    (folder / "images" / "a\nb.png").write_bytes(b"no picture")
    checked = check(folder)
    assert "a\\nb.png" in one(checked, "image").text and one(checked, "image").files == ("images/a\nb.png",)


def test_messages_of_one_fault_are_one_finding(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).write_text("")
    first, second = from_messages(
        [f"{tmp_path}/a: value 7 is wrong; mend it", f"{tmp_path}/b: value 9 is wrong; mend it", "lists: odd"],
        "mask",
        tmp_path,
    )
    assert first.text == "a, b: value 7 is wrong (the first of these)" and first.remedy == "mend it"
    assert (second.text, second.files) == ("lists: odd", ())


def test_words_show_every_finding_its_remedy_and_the_command(folder: Path) -> None:
    strange_values(folder)
    stray_mask(folder)
    checked = check(folder)
    text = " ".join(in_words(checked).split())
    for finding in checked.findings:
        assert finding.text in text and finding.remedy in text
    assert text.endswith(checked.command)
    assert "█" in in_words(checked) and "#" in in_words(checked, "#") and "█" not in in_words(checked, "#")


def test_many_classes_are_cut_in_words(tmp_path: Path) -> None:
    lines = in_words(check(make_ade20k(tmp_path))).splitlines()
    assert "     and 110 rarer classes (--json and --html have all)" in lines


# The page.

HOSTILE = "<script>alert(1)<"


def test_the_page_says_the_same_and_escapes_every_name(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "classes.json").read_text())
    content["classes"][1] = HOSTILE
    (folder / "classes.json").write_text(json.dumps(content))
    strange = f"{HOSTILE}br>"
    photo(1, 48).save(folder / "images" / f"{strange}.png")
    write_lines(folder / "splits" / "train.txt", strange, *(f"train000{index:02d}" for index in range(12)))
    set_mask(folder, strange, np.full((48, 48), 99))
    page = tmp_path / "new" / "check.html"
    checked = semiseg.check(folder, html=page)
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text and "&lt;script&gt;" in text and "<script" not in text
    assert "What to do" in text and "value 99 is none of the 7 classes" in text
    assert text.count("data:image/jpeg") >= 8 and "http" not in text.replace("http-equiv", "")
    assert len(text) < 5_000_000 and not checked.usable
    with refused("check.html exists", "--html"):
        semiseg.check(folder, html=page)
    assert page.read_text(encoding="utf-8") == text


def test_there_is_a_page_where_there_are_no_images(tmp_path: Path) -> None:
    semiseg.check("nowhere", html=tmp_path / "check.html")
    assert "there is no such folder" in (tmp_path / "check.html").read_text()


def test_the_page_shows_the_pairs_that_look_alike(tmp_path: Path) -> None:
    data = series(tmp_path / "data")
    brighter(Image.open(data / "images" / "p0.png")).save(data / "images" / "p6.png")
    semiseg.check(data, html=tmp_path / "check.html")
    assert "Look-alikes" in (tmp_path / "check.html").read_text()


def test_a_page_that_cannot_be_written_is_the_users_fault(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("cannot be written", "--html"):
        semiseg.check(folder, html=tmp_path / "file" / "check.html")


# Real data.


def test_camvid_is_usable_and_its_twins_are_one_line(camvid_dir: Path) -> None:
    checked = check(camvid_dir)
    assert checked.usable and checked.images == 701 and len(checked.classes) == 11
    assert kinds(checked, "warning") <= {"near-leak"}
    alike = [finding for finding in checked.findings if finding.kind.startswith("near")]
    assert len(alike) <= 2 and all(len(finding.text) < 250 for finding in alike)
    moving = checked.images - sum(len(finding.files) for finding in alike)
    assert moving > 0.8 * checked.images  # frames a second apart are other pictures, unless the car stands
    command_begins(checked)


def test_voc_samples_are_told_what_their_lists_miss(voc_dir: Path) -> None:
    checked = check(voc_dir)
    assert not kinds(checked, "problem", "warning") & {"image", "mask", "leak", "near-leak", "mask-without-image"}
    command_begins(checked)
