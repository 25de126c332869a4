"""Tests of ``semiseg.check``: one folder per fault, clean data, duplicates, text and page."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

import semiseg
from semiseg import check
from semiseg.data import open_dataset, read_image_file, resolve_split
from semiseg.data.dataset import default_palette
from semiseg.data.files.mask_files import write_mask_file
from semiseg.errors import UserError, printable
from semiseg.tools.checking import DataCheck, Finding, format_check, near_duplicates
from semiseg.tools.checking.finding import format_names, from_errors
from semiseg.tools.checking.near_duplicates import find_near_duplicates, fingerprint
from trees import make_ade20k, make_cityscapes, make_voc, refused, write_image, write_lines, write_mask

Change = Callable[[Path], None]


def only(checked: DataCheck, kind: str) -> Finding:
    """Return the only finding of a kind."""
    found = [finding for finding in checked.findings if finding.kind == kind]
    assert len(found) == 1, checked.findings
    return found[0]


def kinds(checked: DataCheck, *severities: str) -> set[str]:
    return {finding.kind for finding in checked.findings if finding.severity in severities}


def photo(seed: int, side: int = 96) -> Image.Image:
    """Return a smooth image of light and dark areas, like a photograph, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def mask(data: Path, name: str) -> Path:
    return data / "masks" / f"{name}.png"


def set_mask(data: Path, name: str, values: np.ndarray) -> None:
    Image.fromarray(values.astype(np.uint8)).save(mask(data, name))


@pytest.fixture
def folder(tiny_folder: Path) -> Path:
    """Return valid data: 12 training images, three of them without mask, 3 val and 3 test images."""
    for name in ("train00009", "train00010", "train00011"):
        mask(tiny_folder, name).unlink()
    values = np.array(Image.open(mask(tiny_folder, "train00000")))
    values[:12, :12] = 5  # a class of only one other image
    set_mask(tiny_folder, "train00000", values)
    return tiny_folder


def test_valid_data_have_no_findings(folder: Path) -> None:
    checked = check(folder)
    assert checked.findings == () and checked.usable
    assert (checked.images, checked.masks) == (18, 15)
    assert checked.lists == {"labeled": 9, "unlabeled": 3, "val": 3, "test": 3}
    assert checked.sizes == ((48, 48),) * 3 and checked.known == 1
    assert checked.command == f"semiseg train --data {folder} --out runs/first"


def test_class_counts(folder: Path) -> None:
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


# Problems: each function introduces one fault.


def break_images(data: Path) -> None:
    for name in ("train00000", "train00010", "val00001"):
        (data / "images" / f"{name}.png").write_bytes(b"no picture")


def break_masks(data: Path) -> None:
    for index in range(5):
        mask(data, f"train0000{index}").write_bytes(b"no picture")


def invalid_values(data: Path) -> None:
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


def repeated_line(data: Path) -> None:
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


def contradicting_tags(data: Path) -> None:
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
    "values outside the classes": (
        invalid_values,
        "mask",
        "value 70 is not one of the 7 classes",
        tuple(f"masks/train0000{index}.png" for index in range(5)),
    ),
    "masks of another size": (
        other_sizes,
        "mask",
        "48x40",
        ("masks/test00001.png", "masks/train00002.png"),
    ),
    "jpeg masks": (jpeg_masks, "refused", "JPEG", ("masks/train00002.jpg", "masks/train00003.jpg")),
    "two images of one stem": (same_stems, "refused", "same stem", ("images/train00002.bmp", "images/val00002.bmp")),
    "0 and 255": (only_255, "foreground-255", "all masks show only class 0", ()),
    "0 and 255, no class file": (no_class_file, "refused", "only 0 and 255", ("masks",)),
    "broken class file": (broken_class_file, "refused", "cannot be used", ("classes.json",)),
    "missing images": (missing_in_val, "missing-images", "2 of 4 images of the val list", ("val00007", "val00008")),
    "empty list": (empty_val, "empty-list", "the val list is empty", ()),
    "repeated line": (repeated_line, "list", "is listed twice", ("splits/val.txt",)),
    "overlapping lists": (
        overlapping,
        "overlap",
        "in both the train and the val list",
        ("images/train00004.png", "images/train00005.png"),
    ),
    "val without mask": (val_without_mask, "val-without-mask", "1 image of the val list", ("images/val00002.png",)),
    "no training mask": (no_training_mask, "no-masks", "none of 12 training images has a mask", ()),
    "one label and no val list": (one_label, "refused", "one labeled image cannot serve", ()),
    "wrong tags": (wrong_tags, "refused", "banana", ()),
    "tags that contradict a mask": (contradicting_tags, "refused", "tags say absent", ("masks/train00000.png",)),
}


@pytest.mark.parametrize("fault", PROBLEMS)
def test_problems_name_every_file(folder: Path, fault: str) -> None:
    change, kind, words, files = PROBLEMS[fault]
    change(folder)
    checked = check(folder)
    finding = only(checked, kind)
    assert (finding.severity, checked.usable) == ("problem", False)
    assert words in finding.text and finding.remedy and str(folder) not in finding.text
    assert not files or finding.files == files
    assert kinds(checked, "problem") == {kind}


def test_several_problems_are_reported_together(folder: Path) -> None:
    for change in (jpeg_masks, break_images, broken_class_file, missing_in_val):
        change(folder)
    other_sizes(folder)
    checked = check(folder)
    assert kinds(checked, "problem") == {"refused", "image", "mask", "missing-images"}
    assert [f.kind for f in checked.findings].count("refused") == 2


def test_folder_without_masks_and_class_file_is_scanned(folder: Path) -> None:
    shutil.rmtree(folder / "masks")
    (folder / "classes.json").unlink()
    (folder / "images" / "val00001.png").write_bytes(b"no picture")
    checked = check(folder)
    assert kinds(checked, "problem") == {"refused", "val-without-mask", "no-masks", "image"}
    assert checked.lists["unlabeled"] == 12


def test_five_files_are_all_named_in_the_text(folder: Path) -> None:
    invalid_values(folder)
    text = only(check(folder), "mask").text
    assert all(f"masks/train0000{index}.png" in text for index in range(5))


def test_unreadable_mask_of_unlisted_image_is_a_warning(folder: Path) -> None:
    write_lines(folder / "splits" / "train.txt", *(f"train000{index:02d}" for index in range(1, 12)))
    mask(folder, "train00000").write_bytes(b"no picture")
    checked = check(folder)
    assert checked.usable and only(checked, "mask").severity == "warning"
    assert only(checked, "unlisted").files == ("images/train00000.png",)


# Warnings.


def empty_mask(data: Path) -> None:
    set_mask(data, "train00001", np.full((48, 48), 255))


def some_0_and_255(data: Path) -> None:
    set_mask(data, "train00001", np.where(np.indices((48, 48))[0] < 20, 255, 0))


def one_class_each(data: Path) -> None:
    for index, path in enumerate(sorted((data / "masks").glob("*.png"))):
        set_mask(data, path.stem, np.full((48, 48), index % 7))


def mostly_255(data: Path) -> None:
    for path in (data / "masks").glob("*.png"):
        values = np.array(Image.open(path))
        values[4:40] = 255
        set_mask(data, path.stem, values)


def class_only_in_val(data: Path) -> None:
    for path in (data / "masks").glob("train*.png"):
        values = np.array(Image.open(path))
        set_mask(data, path.stem, np.where(values == 2, 0, values))
    set_mask(data, "val00001", np.full((48, 48), 2))


def class_in_no_mask(data: Path) -> None:
    content = json.loads((data / "classes.json").read_text())
    (data / "classes.json").write_text(json.dumps(content | {"classes": [*content["classes"], "unicorn"]}))


def rare_class(data: Path) -> None:
    class_in_no_mask(data)
    for name in ("train00001", "train00002"):
        values = np.array(Image.open(mask(data, name)))
        values[5, 5] = 7
        set_mask(data, name, values)


def mask_of_no_image(data: Path) -> None:
    mask(data, "train00001").rename(data / "masks" / "holiday.png")


def image_of_other_case(data: Path) -> None:
    write_image(data / "images" / "Train00001.png", 1)


def flat_images(data: Path) -> None:
    for name in ("train00001", "test00001"):
        Image.new("RGB", (48, 48), (20, 20, 20)).save(data / "images" / f"{name}.png")


def small_image(data: Path) -> None:
    photo(1, 20).save(data / "images" / "train00010.png")


def invalid_labeled_lists(data: Path) -> None:
    folder = data / "splits" / "1_4" / "seed0"
    write_lines(folder / "labeled.txt", "train00000", "train00010", "val00000", "train00077")
    write_lines(folder / "unlabeled.txt", "train00001")


WARNINGS: dict[str, tuple[Change, set[str], str]] = {
    "nothing but 255": (empty_mask, {"mask-unknown"}, "masks/train00001.png"),
    "some masks of 0 and 255": (some_0_and_255, {"foreground-255"}, "1 mask of 0 and 255 only: masks/train00001.png"),
    "one class in each": (one_class_each, {"mask-single"}, "15 of 15 masks of a single class"),
    "mostly 255": (mostly_255, {"partial"}, "25.0% of the pixels"),
    "a class only in val": (class_only_in_val, {"class-not-learned"}, "1 class in val or test masks"),
    "a class in no mask": (class_in_no_mask, {"class-absent"}, "unicorn"),
    "a class of two pixels": (rare_class, {"class-rare"}, "unicorn (2 images, 0.01% of pixels)"),
    "a mask without image": (
        mask_of_no_image,
        {"mask-without-image"},
        "1 mask without image: masks/holiday.png",
    ),
    "images of one name": (image_of_other_case, {"case"}, "images/Train00001.png, images/train00001.png"),
    "images of one color": (flat_images, {"flat"}, "2 images of (nearly) one color"),
    "a small image": (small_image, {"small"}, "images/train00010.png"),
    "lists of labeled images": (
        invalid_labeled_lists,
        {"missing-images", "labeled-without-mask", "overlap"},
        "splits/1_4/seed0/labeled.txt",
    ),
}


@pytest.mark.parametrize("fault", WARNINGS)
def test_warnings(folder: Path, fault: str) -> None:
    change, expected, words = WARNINGS[fault]
    change(folder)
    checked = check(folder)
    assert checked.usable
    warned = checked.with_severity("warning")
    side_effects = {"class-absent", "class-rare", "class-not-learned"} - expected  # there are few masks
    assert {finding.kind for finding in warned} - side_effects == expected
    assert all(finding.remedy for finding in warned)
    assert any(words in finding.text for finding in warned if finding.kind in expected), warned


def test_one_mask_of_0_and_255_beside_masks_with_an_ignored_border(folder: Path) -> None:
    for path in (folder / "masks").glob("*.png"):
        values = np.array(Image.open(path))
        values[:2] = 255
        set_mask(folder, path.stem, values)
    some_0_and_255(folder)
    finding = only(check(folder), "foreground-255")
    assert (finding.severity, finding.files) == ("warning", ("masks/train00001.png",))
    assert finding.text.endswith("255 is ignored") and "save it as 1 like the other masks" in finding.remedy


def test_masks_of_0_and_255_show_the_line_that_names_the_values(folder: Path) -> None:
    only_255(folder)
    (folder / "classes.json").write_text('{"classes": ["soil", "plant"]}')
    remedy = only(check(folder), "foreground-255").remedy
    assert 'if 255 means plant, add "values": {"0": "soil", "255": "plant"} to classes.json' in remedy
    (folder / "classes.json").write_text('{"values": {"0": "soil", "255": "plant"}}')
    assert check(folder).usable and "foreground-255" not in kinds(check(folder), "problem", "warning")
    assert check(folder).known == 1


def test_unclear_values_are_not_counted_as_classes(folder: Path) -> None:
    (folder / "classes.json").unlink()
    for path in (folder / "masks").glob("*.png"):
        set_mask(folder, path.stem, np.array([0, 128, 255])[np.indices((48, 48))[0] // 16])
    checked = check(folder)
    assert "gray levels" in only(checked, "refused").text and checked.classes == ()
    assert not kinds(checked, "warning") & {"class-absent", "class-rare"}
    assert "gray levels" in format_check(checked)


def test_contradicting_palettes_are_a_problem(folder: Path) -> None:
    (folder / "classes.json").write_text(json.dumps({"classes": [f"c{index}" for index in range(7)]}))
    with Image.open(mask(folder, "train00001")) as stored:
        palette = stored.getpalette() or []
    palette[:6] = [*palette[3:6], *palette[:3]]
    swapped = Image.fromarray((np.indices((48, 48))[0] // 24).astype(np.uint8))
    swapped.putpalette(palette)
    swapped.save(mask(folder, "train00002"))
    finding = only(check(folder), "palette")
    assert finding.severity == "problem" and finding.files[1] == "masks/train00002.png"
    assert "palette.txt with a name and a color" in finding.remedy


def test_masks_in_the_colors_of_an_import_are_a_warning(folder: Path) -> None:
    content = json.loads((folder / "classes.json").read_text())
    content["palette"] = [[0, 0, 0], *([250 - index, 180, index] for index in range(1, 7))]
    for path in sorted((folder / "masks").glob("*.png")):
        with Image.open(path) as stored:
            values = torch.from_numpy(np.array(stored))
        write_mask_file(path, values, content["palette"])
    (folder / "classes.json").write_text(json.dumps(content))
    assert "palette" not in {found.kind for found in check(folder).findings}
    values = torch.arange(48)[:, None].expand(48, 48) // 24
    write_mask_file(mask(folder, "train00002"), values, default_palette(2))
    finding = only(check(folder), "palette")
    assert finding.severity == "warning" and finding.files[1] == "masks/train00002.png"
    assert "(249, 180, 1) for index 1, and the other displays index 1 as (128, 0, 0)" in finding.text
    assert "semiseg import --classes FOLDER" in finding.remedy


def test_images_that_exif_turns_unlike_their_masks_are_a_warning(folder: Path) -> None:
    tags = Image.Exif()
    tags[0x0112] = 3
    for name in ("train00001", "train00002", "train00003"):
        path = folder / "images" / f"{name}.png"
        Image.open(path).save(path, exif=tags)
    masked = Image.open(mask(folder, "train00003"))
    masked.save(mask(folder, "train00003"), exif=tags)  # turned like its image
    finding = only(check(folder), "exif")
    assert (finding.severity, finding.files) == ("warning", ("images/train00001.png", "images/train00002.png"))
    assert finding.text.startswith("2 images rotated or flipped by EXIF unlike the mask")


@pytest.mark.parametrize("other", ["Soil", " soil", "so il"])
def test_similar_class_names_are_a_warning(folder: Path, other: str) -> None:
    names = ["soil", other, *(f"c{index}" for index in range(5))]
    (folder / "classes.json").write_text(json.dumps({"classes": names}))
    finding = only(check(folder), "class-names")
    assert finding.severity == "warning" and finding.text.endswith(f"case or spaces: 'soil', {other!r}")


def test_unused_class_file_is_a_note(folder: Path) -> None:
    (folder / "_classes.csv").write_text("filename, plant\na.jpg, 1\n")
    assert "_classes.csv is not used" in only(check(folder), "reading").text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("pages", "the mask has 2 pages"),
        ("opacity", "100 pixels of the mask are partly transparent"),
        ("levels", "the masks hold the values 0, 128, 255, which look like gray levels"),
    ],
)
def test_masks_that_cannot_be_meant_are_problems(folder: Path, kind: str, words: str) -> None:
    path, values = mask(folder, "train00001"), np.zeros((48, 48), dtype=np.uint8)
    if kind == "pages":
        Image.fromarray(values).save(path, save_all=True, append_images=[Image.fromarray(values + 1)])
    elif kind == "opacity":
        opacity = np.full((48, 48), 255, dtype=np.uint8)
        opacity[:10, :10] = 90
        Image.fromarray(np.dstack([values, opacity])).save(path)
    else:
        for other in (folder / "masks").glob("*.png"):
            set_mask(folder, other.stem, np.array([0, 128, 255])[np.indices((48, 48))[0] // 16])
    finding = only(check(folder), "mask")
    assert finding.severity == "problem" and words in finding.text and finding.remedy


def test_single_classes_beside_255_are_partial_annotation(folder: Path) -> None:
    for index, path in enumerate(sorted((folder / "masks").glob("*.png"))):
        set_mask(folder, path.stem, np.where(np.indices((48, 48))[0] < 30, 255, index % 7))
    checked = check(folder)
    assert {"mask-single", "partial"} <= kinds(checked, "warning")
    assert "foreground-255" not in kinds(checked, "problem", "warning", "note")
    assert "--annotation partial" in checked.command


def test_unusual_sizes_are_notes_and_videos_warnings(folder: Path) -> None:
    photo(1, 64).save(folder / "images" / "train00010.png")
    (folder / "images" / "holiday.mov").write_bytes(b"")
    checked = check(folder)
    assert only(checked, "odd-size").files == ("images/train00010.png",)
    assert only(checked, "other-files").files == ("images/holiday.mov",)
    assert "1 .mov (video: extract its frames)" in only(checked, "other-files").text
    assert kinds(checked, "problem", "warning") == {"other-files"}
    assert checked.sizes[2] == (64, 64)


# Duplicates and near-duplicates.


def series(root: Path, count: int = 8) -> Path:
    """Write distinct images with masks, one half for training and the other for validation."""
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


def test_distinct_images_are_not_near_duplicates(tmp_path: Path) -> None:
    checked = check(series(tmp_path, 40))
    assert kinds(checked, "problem", "warning", "note") == {"no-unlabeled"}


def test_duplicates_across_lists_in_another_format(tmp_path: Path) -> None:
    data = series(tmp_path)
    (data / "images" / "p5.png").unlink()
    Image.open(data / "images" / "p1.png").save(data / "images" / "p5.bmp")
    finding = only(check(data), "leak")
    assert finding.severity == "warning"
    assert "images/p1.png (labeled), images/p5.bmp (val)" in finding.text
    assert "near-leak" not in kinds(check(data), "warning")


def test_duplicates_within_a_list_are_a_warning_without_val_list(tmp_path: Path) -> None:
    data = series(tmp_path)
    shutil.copy(data / "images" / "p0.png", data / "images" / "p2.png")
    finding = only(check(data), "copies")
    assert (finding.severity, finding.files) == ("note", ("images/p0.png", "images/p2.png"))
    for folder in ("images", "masks"):  # an image without a mask would be unlabeled
        shutil.copy(data / folder / "p0.png", data / folder / "of no list.png")
    assert only(check(data), "copies").files == finding.files
    shutil.rmtree(data / "splits")
    assert only(check(data), "copies").severity == "warning"


def test_duplicates_with_different_masks(tmp_path: Path) -> None:
    data = series(tmp_path)
    shutil.copy(data / "images" / "p0.png", data / "images" / "p1.png")
    assert only(check(data), "contradiction").files == ("images/p0.png", "images/p1.png")


def recompressed(picture: Image.Image) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=30)
    return Image.open(buffer)


def cropped(picture: Image.Image) -> Image.Image:
    return picture.crop((2, 2, 94, 94)).resize((96, 96), Image.Resampling.BICUBIC)


def brighter(picture: Image.Image) -> Image.Image:
    return ImageEnhance.Brightness(picture).enhance(1.3)


@pytest.mark.parametrize("change", [recompressed, cropped, brighter])
def test_recompressed_cropped_and_brightened_images_are_near_duplicates(
    tmp_path: Path, change: Callable[[Image.Image], Image.Image]
) -> None:
    data = series(tmp_path)
    change(Image.open(data / "images" / "p1.png")).save(data / "images" / "p6.png")
    finding = only(check(data), "near-leak")
    assert finding.severity == "warning"
    assert finding.text.startswith("1 of 4 val images nearly identical to a training image, such as images/p6.")
    assert finding.text.endswith(" and images/p1.png")


def test_near_duplicates_within_training_are_a_warning_without_val_list(tmp_path: Path) -> None:
    data = series(tmp_path)
    brighter(Image.open(data / "images" / "p0.png")).save(data / "images" / "p2.png")
    finding = only(check(data), "near-copies")
    assert finding.severity == "note" and finding.text.startswith("2 of 4 training images nearly identical to another")
    shutil.rmtree(data / "splits")
    assert only(check(data), "near-copies").severity == "warning"
    (data / "masks" / "p2.png").unlink()
    assert only(check(data), "near-copies").severity == "note"  # validation images are sampled from the labeled ones


def test_flat_images_are_not_near_duplicates(tmp_path: Path) -> None:
    data = series(tmp_path)
    for index in (0, 1, 5, 6):
        gray = np.random.default_rng(index).integers(98, 102, (96, 96, 3), dtype=np.uint8)
        Image.fromarray(gray).save(data / "images" / f"p{index}.png")
    assert kinds(check(data), "warning") == {"flat"}


def test_near_duplicates_in_several_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "PAIRS_PER_BLOCK", 8)  # four images of the first list, two of the second
    prints = []
    for seed in range(3):
        photo(seed).save(tmp_path / "one.png")
        prints.append(fingerprint(read_image_file(tmp_path / "one.png")))
    first = [prints[0]] * 4 + [prints[1]]
    found = find_near_duplicates(first, [prints[2], prints[1]])
    assert [(match.first, match.second) for match in found] == [(4, 1)]
    assert found[0].similarity == pytest.approx(1, abs=1e-5)
    assert find_near_duplicates(prints) == [] and find_near_duplicates([], prints) == []


# Other forms of data.


def test_generated_data() -> None:
    checked = check("shapes:images=10,val=3,test=2,size=48")
    assert checked.usable and kinds(checked, "problem", "warning", "note") == {"no-unlabeled"}
    assert "--method supervised" in checked.command


@pytest.mark.parametrize("make", [make_voc, make_cityscapes, make_ade20k])
def test_benchmark_data(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    data = make(tmp_path)
    good = check(data)
    assert good.usable and not kinds(good, "problem")
    assert not kinds(good, "warning") & {"mask", "image", "mask-without-image", "case"}
    dataset = open_dataset(data)
    bad = [path for id in dataset.split("train")[:2] if (path := dataset.mask_path(id))]
    for path in bad:
        path.write_bytes(b"no picture")
    finding = only(check(data), "mask")
    assert [data / name for name in finding.files] == bad


def test_benchmark_data_without_masks_have_one_problem(tmp_path: Path) -> None:
    data = make_cityscapes(tmp_path)
    shutil.rmtree(data / "gtFine")
    checked = check(data)
    assert not checked.usable and "gtFine" in only(checked, "refused").text


@pytest.mark.parametrize("data", ["nowhere", "shapes:images=0", "shapes:what=1"])
def test_missing_data_and_invalid_options_are_problems(data: str) -> None:
    checked = check(data)
    assert [finding.severity for finding in checked.findings] == ["problem"]
    assert "not usable yet: 1 problem" in format_check(checked)


def test_empty_folder_is_a_problem(tmp_path: Path) -> None:
    assert "found no files" in only(check(tmp_path), "refused").text


# The suggested command.


def assert_command_works(checked: DataCheck) -> None:
    """Read the lists as the suggested training would."""
    words = checked.command.split()[2:]
    pairs = {word[2:].replace("-", "_"): words[i + 1] for i, word in enumerate(words) if word.startswith("--")}
    existing_only = pairs.pop("existing_only", None) is not None
    split = resolve_split(open_dataset(pairs["data"]), pairs.get("labeled"), 0, existing_only=existing_only)
    assert bool(split.unlabeled) != (pairs.get("method") == "supervised")


def test_command_uses_published_lists(folder: Path) -> None:
    for name in ("train00009", "train00010", "train00011"):
        set_mask(folder, name, np.zeros((48, 48)))
    for share, count in (("1_2", 5), ("1_4", 2), ("2", 2)):
        names = [f"train000{index:02d}" for index in range(12)]
        write_lines(folder / "splits" / share / "seed0" / "labeled.txt", *names[:count])
        write_lines(folder / "splits" / share / "seed0" / "unlabeled.txt", *names[count:])
    checked = check(folder)
    assert "--labeled 1/4 " in checked.command
    assert_command_works(checked)


def test_command_skips_missing_images(folder: Path) -> None:
    missing_in_val(folder)
    checked = check(folder)
    assert "--existing-only" in checked.command
    assert_command_works(checked)


def test_command_is_quoted_for_the_shell(folder: Path, tmp_path: Path) -> None:
    folder.rename(tmp_path / "my data")
    assert f"--data '{tmp_path / 'my data'}' " in check(tmp_path / "my data").command


# Text.


def test_more_than_five_names_are_counted() -> None:
    assert format_names(list("abcde")) == "a, b, c, d, e"
    assert format_names(list("abcdef")) == "a, b, c and 3 more"


def test_line_breaks_in_names_are_escaped(folder: Path) -> None:
    assert printable("a\nb") == "a\\nb" and printable("grün.png") == "grün.png"
    (folder / "images" / "a\nb.png").write_bytes(b"no picture")
    checked = check(folder)
    assert "a\\nb.png" in only(checked, "image").text and only(checked, "image").files == ("images/a\nb.png",)


def test_errors_with_the_same_problem_are_one_finding(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.png", "b.png")]
    for path in paths:
        path.write_text("")
    values = [UserError(f"value {i} is wrong", path=path, fix=f"edit {tmp_path}/x") for i, path in enumerate(paths)]
    stems = [UserError(f"{path.stem}.bmp has the same stem", path=path) for path in paths]
    others = [UserError("unknown", path="shapes:x=1"), UserError("out of range", option="images"), UserError("bad")]
    findings = from_errors([*values, *stems, *others], "mask", tmp_path)
    assert [(finding.text, finding.remedy, finding.files) for finding in findings] == [
        ("a.png, b.png: value 0 is wrong (in the first file)", "edit x", ("a.png", "b.png")),
        ("a.png, b.png: a.bmp has the same stem (in the first file)", "", ("a.png", "b.png")),
        ("shapes:x=1: unknown", "", ()),
        ("--images: out of range", "", ()),
        ("bad", "", ()),
    ]


def test_text_contains_findings_remedies_and_command(folder: Path) -> None:
    invalid_values(folder)
    mask_of_no_image(folder)
    checked = check(folder)
    text = " ".join(format_check(checked).split())
    for finding in checked.findings:
        assert finding.text in text and finding.remedy in text
    assert text.endswith(checked.command)
    assert "█" in format_check(checked)
    assert "#" in format_check(checked, "#") and "█" not in format_check(checked, "#")


def test_text_lists_at_most_40_classes(tmp_path: Path) -> None:
    lines = format_check(check(make_ade20k(tmp_path))).splitlines()
    assert "     and 110 rarer classes (--json and --html list all)" in lines


# The page.

SCRIPT = "<script>alert(1)<"


def test_page_escapes_names_and_is_not_overwritten(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "classes.json").read_text())
    content["classes"][1] = SCRIPT
    (folder / "classes.json").write_text(json.dumps(content))
    name = f"{SCRIPT}br>"
    photo(1, 48).save(folder / "images" / f"{name}.png")
    write_lines(folder / "splits" / "train.txt", name, *(f"train000{index:02d}" for index in range(12)))
    set_mask(folder, name, np.full((48, 48), 99))
    page = tmp_path / "new" / "check.html"
    checked = semiseg.check(folder, html=page)
    text = page.read_text(encoding="utf-8")
    assert SCRIPT not in text and "&lt;script&gt;" in text and "<script" not in text
    assert "What to do" in text and "value 99 is not one of the 7 classes" in text
    assert text.count("data:image/jpeg") >= 8 and "http" not in text.replace("http-equiv", "")
    assert len(text) < 5_000_000 and not checked.usable
    with refused("check.html: already exists", "--html"):
        semiseg.check(folder, html=page)
    assert page.read_text(encoding="utf-8") == text


def test_page_without_data(tmp_path: Path) -> None:
    semiseg.check("nowhere", html=tmp_path / "check.html")
    assert "there is no such folder" in (tmp_path / "check.html").read_text()


def test_page_shows_near_duplicates(tmp_path: Path) -> None:
    data = series(tmp_path / "data")
    brighter(Image.open(data / "images" / "p0.png")).save(data / "images" / "p6.png")
    semiseg.check(data, html=tmp_path / "check.html")
    assert "The most similar pairs" in (tmp_path / "check.html").read_text()


def test_page_in_unwritable_folder_is_an_error(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with refused("cannot be written", "--html"):
        semiseg.check(folder, html=tmp_path / "file" / "check.html")


# Real data.


@pytest.mark.slow
def test_camvid(camvid_dir: Path) -> None:
    checked = check(camvid_dir)
    assert checked.usable and checked.images == 701 and len(checked.classes) == 11
    assert kinds(checked, "warning") <= {"near-leak"}
    near = [finding for finding in checked.findings if finding.kind.startswith("near")]
    assert len(near) <= 2 and all(len(finding.text) < 250 for finding in near)
    distinct = checked.images - sum(len(finding.files) for finding in near)
    assert distinct > 0.8 * checked.images  # frames one second apart differ unless the car stands
    assert_command_works(checked)


@pytest.mark.slow
def test_voc_sample(voc_dir: Path) -> None:
    checked = check(voc_dir)
    assert not kinds(checked, "problem", "warning") & {"image", "mask", "leak", "near-leak", "mask-without-image"}
    assert_command_works(checked)
