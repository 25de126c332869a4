"""Importers of trees of images and masks: which folder holds which, names, lists, thresholds, classes and layers."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

import semiseg
from scenes import COLORS, NAMES, PALETTE, Pixels, save_image, scene
from semiseg.data import FolderDataset, open_dataset
from semiseg.data.importers import detect_form
from trees import refused, write_lines


def write(root: Path, images: str, masks: str, change: Callable[[Pixels], Any] = lambda mask: mask) -> Path:
    """Write eight images, of which ``{}`` is the number; the last two are of the list ``{list}``. Six have masks."""
    for number in range(8):
        image, mask = scene(number)
        places = {"list": "train" if number < 6 else "val"}
        for pattern, pixels in ((images, image), (masks, change(mask) if number not in (4, 5) else None)):
            path = root / pattern.format(number, **places)
            if pixels is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path, quality=95)
    return root


def imported(root: Path, classes: tuple[str, ...] = NAMES, **options: Any) -> tuple[FolderDataset, list[str]]:
    """Import, compare six masks with those of ``scene``, and return the own folder and the notes."""
    result = semiseg.import_data(root, root.parent / "own", **options)
    data = open_dataset(result.out)
    assert isinstance(data, FolderDataset) and len(data.ids) == 8
    assert data.classes == classes
    numbers = {id: next(n for n in range(8) if f"{n}" in id.rpartition("/")[2]) for id in data.ids}
    annotated = [id for id in data.ids if data.has_mask(id)]
    assert sorted(numbers[id] for id in annotated) == [0, 1, 2, 3, 6, 7]
    for id in annotated:
        expected = scene(numbers[id])[1]
        order = [NAMES.index(name) if name in NAMES else value for value, name in enumerate(classes)]
        assert (np.array(order, np.uint8)[data.read_mask(id).numpy()] == expected * np.isin(expected, order)).all(), id
    return data, list(result.notes)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("{list}/images/{}.png", "{list}/masks/{}.png"),
        ("images/{list}/{}.jpg", "masks/{list}/{}.png"),
        ("images/{list}/{}.jpg", "annotations/{list}/{}.png"),
        ("{list}_images/{}.jpg", "{list}_labels/{}_label.png"),
        ("images_prepped_{list}/{}.jpg", "annotations_prepped_{list}/{}.png"),
        ("data/{list}/img/{}.jpg", "data/{list}/ground_truth/{}_gt.tif"),
        ("{list}/{}.jpg", "{list}/{}_mask.png"),
        ("{list}/{}_sat.jpg", "{list}/{}_mask.png"),
        ("{list}/img_{}.png", "{list}/mask_{}.png"),
        ("{list}/{}.jpg", "{list}/{}.png"),
    ],
)
def test_trees_with_lists(tmp_path: Path, images: str, masks: str) -> None:
    root = write(tmp_path / "data", images, masks)
    write_lines(root / "classes.txt", *NAMES)
    data, notes = imported(root)
    assert all(id.startswith(("train/", "val/")) for id in data.ids)
    assert [len(data.split(name) or ()) for name in ("train", "val", "test")] == [6, 2, 0]
    assert "lists: 6 train, 2 val" in notes
    with refused(str(root), "this is a tree of images and masks", f"semiseg import {root} --out {root}-semiseg"):
        open_dataset(root)


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("imgs/{}.jpg", "masks/{}.png"),
        ("photos/a/{}.jpg", "SegmentationClass/a/{}.png"),
        ("fotos/{}.jpg", "masken/{}.png"),
        ("images/{}.jpg", "masks/{}.jpg.png"),
        ("images/{}.jpg", "masks/{}_mask.png"),
        ("images/IMG_{}.JPG", "masks/img_{}.png"),
        ("images/{}.png", "masks/{}_bw_v2.bmp"),
        ("all/{}.jpg", "all/{}_L.png"),
        ("{}.jpg", "labels/{}.png"),
        ("train/{}.jpg", "train_masks/{}_mask.gif"),
    ],
)
def test_trees_without_lists(tmp_path: Path, images: str, masks: str) -> None:
    root = write(tmp_path / "data", images, masks)
    write_lines(root / "some" / "classes.txt", *NAMES)
    data, notes = imported(root)
    assert data.split("train") is None and "lists: none" in notes
    assert "2 of 8 images have no annotation: unlabeled" in notes


def test_the_way_of_matching_is_stated(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "photos/IMG_{}.jpg", "gt/img_{}-seg.png")
    _, notes = imported(root, ("class0", "class1", "class2"))
    assert "6 masks are matched without '-seg' in other case" in notes
    root = write(tmp_path / "other" / "data", "fotos/{}.jpg", "masken/{}.png")
    _, notes = imported(root, ("class0", "class1", "class2"))
    assert "fotos/ is taken for images by its pixels" in notes and "masken/ is taken for masks by its pixels" in notes


def test_names_in_both_forms_of_unicode(tmp_path: Path) -> None:
    root = write(tmp_path / "data", unicodedata.normalize("NFD", "imgs/Blüte {}.jpg"), "masks/Blüte {}.png")
    data, _ = imported(root, ("class0", "class1", "class2"))
    assert data.ids[0] == unicodedata.normalize("NFC", "Blüte 0")


def test_mask_suffix_is_needed_only_without_a_separator(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "imgs/a{}.jpg", "masks/a{}bw.png")
    with refused(str(root), "no mask is named after an image", "--mask-suffix"):
        semiseg.import_data(root, tmp_path / "out", form="folders")
    imported(root, ("class0", "class1", "class2"), form="folders", mask_suffix="bw")


def test_equal_names_stay_distinct(tmp_path: Path) -> None:
    for number, name in enumerate(("1/images/0.png", "2/images/0.png", "2/images/0.jpg", "2/images/1.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number)[0]).save(path)
    for number, name in enumerate(("1/masks/0.png", "2/masks/0.png.png", "2/masks/0.jpg.png")):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(number)[1]).save(path)
    data = open_dataset(semiseg.import_data(tmp_path / "data", tmp_path / "own").out)
    assert tuple(data.ids) == ("1/0", "2/0_jpg", "2/0_png", "2/1")
    for number, id in enumerate(("1/0", "2/0_png", "2/0_jpg")):
        assert (data.read_mask(id).numpy() == scene(number)[1]).all()
    (tmp_path / "data/2/masks/0.png.png").rename(tmp_path / "data/2/masks/0.png")
    with refused("2/masks/0.png", "the mask fits", "0.jpg and", "Name it after one of them, as 0.jpg.png"):
        semiseg.import_data(tmp_path / "data", tmp_path / "again")


def test_two_folders_of_masks_are_refused_and_can_be_chosen(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "images/{}.jpg", "labels/{}.png")
    write(root, "images/{}.jpg", "gt/{}.png", lambda mask: mask[::-1])
    with refused("images/0.jpg", "the image has two masks, gt/0.png and labels/0.png", "--masks gt or --masks labels"):
        semiseg.import_data(root, tmp_path / "out")
    imported(root, ("class0", "class1", "class2"), images="images", masks="labels")
    with refused("--masks", "has no folder ../x"):
        semiseg.import_data(root, tmp_path / "out", masks="../x")


def test_overlays_and_other_pictures_are_left_out(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "images/{}.jpg", "labels/{}.png")
    write(root, "overlays/{}.jpg", "labels/{}.png")
    write(root, "images/{}.jpg", "annotations/{}.jpg", lambda mask: scene(int(mask.sum()))[0])
    _, notes = imported(root, ("class0", "class1", "class2"))
    assert "annotations/ does not hold masks by its pixels: left out" in notes
    assert "overlays/ repeats names of annotated images: left out" in notes


def test_photographs_in_both_folders_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "images/{}.jpg", "labels/{}.jpg", lambda mask: scene(int(mask.sum()))[0])
    with refused(str(root), "no masks found in images/, labels/", "--images DIR --masks DIR"):
        semiseg.import_data(root, tmp_path / "out")


def test_roboflow_export(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "{list}/i{}_jpg.rf.x.jpg", "{list}/i{}_jpg.rf.x_mask.png")
    for list in ("train", "val"):
        write_lines(root / list / "_classes.csv", "Pixel Value, Class", "0, background", "1, square", "2, disc")
    assert detect_form(root) == "roboflow"
    data, _ = imported(root)
    assert len(data.split("val") or ()) == 2
    write_lines(root / "val" / "_classes.csv", "Pixel Value, Class", "0, background", "1, disc", "2, square")
    with refused("_classes.csv", "its classes differ from those of"):
        semiseg.import_data(root, tmp_path / "out")


def blurred(mask: Pixels) -> Image.Image:
    return Image.fromarray((mask > 0).astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_threshold_on_gray_masks(tmp_path: Path, suffix: str) -> None:
    root = write(tmp_path / "data", "images/{}.png", f"masks/{{}}.{suffix}", lambda mask: np.array(blurred(mask)))
    result = semiseg.import_data(root, tmp_path / "own", threshold=128)
    data = open_dataset(result.out)
    assert data.classes == ("background", "foreground")
    for number in (0, 1, 2, 3, 6, 7):
        expected = np.array(Image.open(root / f"masks/{number}.{suffix}")) >= 128
        assert (data.read_mask(str(number)).numpy() == expected).all()
        assert (expected != (scene(number)[1] > 0)).mean() < 0.02
    assert any(
        "of the pixels of the masks were between the classes: rounded to less than 128, or not" in n
        for n in result.notes
    )
    if suffix == "jpg":
        with refused("masks/0.jpg", "blurred at its edges by lossy compression", "--threshold 128"):
            semiseg.import_data(root, tmp_path / "out", form="folders")
    write_lines(root / "classes.txt", *NAMES)
    with refused("--threshold", "makes two classes", "classes.txt names 3"):
        semiseg.import_data(root, tmp_path / "out", threshold=128)


def test_threshold_on_antialiased_colors_takes_the_nearest(tmp_path: Path) -> None:
    def soft(mask: Pixels) -> Pixels:
        image = Image.fromarray(COLORS[mask])
        return np.array(image.resize((47, 47), Image.Resampling.BILINEAR).resize((48, 48), Image.Resampling.BILINEAR))

    root = write(tmp_path / "data", "images/{}.png", "masks/{}.png", soft)
    with refused("the mask is colored, and no palette names its colors", "palette.txt"):
        semiseg.import_data(root, tmp_path / "out", threshold=128)
    (root / "palette.txt").write_text(PALETTE)
    result = semiseg.import_data(root, tmp_path / "own", threshold=128)
    data = open_dataset(result.out)
    assert data.classes == NAMES and any("rounded to the nearest color" in note for note in result.notes)
    for number in (0, 1, 2, 3, 6, 7):
        assert (data.read_mask(str(number)).numpy() == scene(number)[1]).mean() > 0.97
        distance = np.abs(soft(scene(number)[1])[..., None, :].astype(int) - COLORS) ** 2
        assert (data.read_mask(str(number)).numpy() == distance.sum(-1).argmin(-1)).all()


@pytest.mark.parametrize("pattern", ["masks/{}_class_{name}.png", "masks/{}_{name}_mask.png", "masks/{name}/{}.png"])
def test_one_mask_per_class(tmp_path: Path, pattern: str) -> None:
    root = tmp_path / "data"
    for value, name in enumerate(NAMES):
        if value:
            masks = pattern.replace("{name}", name)
            write(root, "images/{}.jpg", masks, lambda mask, value=value: (mask == value).astype(np.uint8) * 255)
    _, notes = imported(root, ("background", "disc", "square"), form="mask-per-class")
    assert "pixels in no mask are background" in notes


def test_one_mask_per_class_is_detected_and_refused_as_folders(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("square", "disc"):
        write(root, "images/{}.jpg", f"masks/{{}}_{name}.png", lambda mask: (mask > 0).astype(np.uint8))
    with refused("masks/0_disc.png", f"semiseg import {root}"):
        open_dataset(root)
    (root / "images").rename(root / "photos")
    with refused(str(root), "this is a set of images with one binary mask per class"):
        open_dataset(root)
    with refused("the image has two masks", "--form mask-per-class"):
        semiseg.import_data(root, tmp_path / "out", form="folders")
    result = semiseg.import_data(root, tmp_path / "own")
    assert any(
        "masks of two classes overlap in 6 images" in note and "disc, square counts" in note for note in result.notes
    )
    assert open_dataset(result.out).read_mask("0").unique().tolist() == [0, 2]
    write_lines(root / "classes.txt", "square", "disc")
    result = semiseg.import_data(root, tmp_path / "ordered")
    assert open_dataset(result.out).classes == ("background", "square", "disc")
    Image.fromarray(np.array(blurred(scene(0)[1]))).save(root / "masks/0_disc.png")
    with refused("0_disc.png", "instead of 0 and one other", "--threshold 128"):
        semiseg.import_data(root, tmp_path / "out")
    result = semiseg.import_data(root, tmp_path / "out", threshold=1)
    assert any("were between the classes: rounded to less than 1, or not" in note for note in result.notes)


def layers(mask: Pixels, background: bool) -> Pixels:
    return np.stack([(mask == value).astype(np.uint8) for value in range(0 if background else 1, 3)])


@pytest.mark.parametrize("background", [True, False])
@pytest.mark.parametrize("kind", ["pages", "planes", "npy"])
def test_one_hot_layers(tmp_path: Path, kind: str, background: bool) -> None:
    import tifffile

    root = write(tmp_path / "data", "images/{}.jpg", "masks/{}.tif")
    for number in (0, 1, 2, 3, 6, 7):
        array, path = layers(scene(number)[1], background), root / f"masks/{number}.tif"
        if kind == "npy":
            path.unlink()
            np.save(path.with_suffix(".npy"), array.transpose(1, 2, 0))
        elif kind == "pages":
            tifffile.imwrite(path, array, photometric="minisblack")
        else:
            tifffile.imwrite(path, array, photometric="minisblack", planarconfig="separate")
    _, notes = imported(root, ("class0" if background else "background", "class1", "class2"), form="one-hot")
    first = "layers: 0 is class0, 1 is class1, 2 is class2"
    assert (first if background else "layers: 0 is class1, 1 is class2. Pixels in no layer are background") in notes


def test_one_hot_refusals(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "images/{}.jpg", "masks/x{}.png")
    for number in range(8):
        np.save(root / f"masks/{number}.npy", layers(scene(number)[1], True))
    write_lines(root / "classes.txt", "one")
    with refused("classes.txt", "1 names for 3 layers"):
        semiseg.import_data(root, tmp_path / "out", form="one-hot")
    for array, words in (
        (np.zeros((2, 5, 5)), "shape (2, 5, 5)"),
        (np.arange(3 * 48 * 48).reshape(3, 48, 48), "layer 0 holds 2304 values"),
    ):
        np.save(root / "masks/0.npy", array)
        with refused("0.npy", words):
            semiseg.import_data(root, tmp_path / "out", form="one-hot")
    np.save(root / "masks/0.npy", np.array([{}], dtype=object), allow_pickle=True)
    with refused("0.npy", "the layers cannot be read"):
        semiseg.import_data(root, tmp_path / "out", form="one-hot")


def test_folders_named_after_the_image(tmp_path: Path) -> None:
    for number in range(3):
        pixels, mask = scene(number)
        save_image(tmp_path / f"data/case {number}/img.png", pixels)
        save_image(tmp_path / f"data/case {number}/label.png", mask)
        save_image(tmp_path / f"data/case {number}/label_viz.png", COLORS[mask])
    data = open_dataset(semiseg.import_data(tmp_path / "data", tmp_path / "own").out)
    assert tuple(data.ids) == ("case 0/img", "case 1/img", "case 2/img")
    assert all((data.read_mask(id).numpy() == scene(int(id[5]))[1]).all() for id in data.ids)


def test_several_masks_beside_an_image_are_chosen_by_their_suffix(tmp_path: Path) -> None:
    for number in range(3):
        pixels, mask = scene(number)
        name = f"city_{number:06d}_000019"
        save_image(tmp_path / f"data/leftImg8bit/train/city/{name}_leftImg8bit.png", pixels)
        for end, values in (("labelIds", mask), ("instanceIds", mask // 2), ("color", COLORS[mask])):
            save_image(tmp_path / f"data/gtFine/train/city/{name}_gtFine_{end}.png", values)
    write_lines(tmp_path / "data/classes.txt", *NAMES)
    with refused("the image has two masks", "--mask-suffix"):
        semiseg.import_data(tmp_path / "data", tmp_path / "own")
    result = semiseg.import_data(tmp_path / "data", tmp_path / "own", mask_suffix="_gtFine_labelIds")
    data = open_dataset(result.out)
    assert all((data.read_mask(id).numpy() == scene(int(id.split("_")[1]))[1]).all() for id in data.ids)


def test_masks_without_an_image_and_missing_images_of_lists_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "imgs/{}.jpg", "masks/{}.png")
    save_image(root / "masks/gone.png", scene(0)[1])
    write_lines(root / "val.txt", "imgs/6.jpg masks/6.png", "imgs/7.jpg masks/7.png", "imgs/9.jpg masks/9.png")
    data, notes = imported(root, ("class0", "class1", "class2"))
    assert data.split("val") == ("6", "7")
    assert "masks without an image: 1, such as masks/gone.png" in notes
    assert "images of the val list that do not exist: 1, such as 9" in notes
    assert "no class file: write the names into classes.json of the new folder" in notes


def test_unannotated_test_images_with_the_same_numbers_are_kept(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "train/{}.jpg", "train/{}_mask.png")
    for number in range(3):
        save_image(root / f"test/{number}.jpg", scene(number + 20)[0])
    data = open_dataset(semiseg.import_data(root, tmp_path / "own").out)
    assert len(data.ids) == 11 and not data.has_mask("test/0") and data.has_mask("train/0")


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data", "imgs/{}.jpg", "masks/{}.png")
    for options, words in (
        ({"empty": "unlabeled"}, ("--empty", "does not apply to a tree of images and masks", "--form")),
        ({"threshold": 0}, ("--threshold", "must be at least 1")),
        ({"threshold": 9, "form": "one-hot"}, ("--threshold", "does not apply")),
    ):
        with refused(*words):
            semiseg.import_data(root, tmp_path / "own", **options)


PLACES = "train/images/{}.png", "train/masks/{}.png"


def test_masks_of_0_and_255_need_names_for_both(tmp_path: Path) -> None:
    root = write(tmp_path / "data", *PLACES, lambda mask: (mask == 1) * np.uint8(255))
    fix = 'classes.json with {"values": {"0": "background", "255": "foreground"}}'
    with refused(str(root / "train/masks"), "only 0 and 255", fix):
        semiseg.import_data(root, tmp_path / "own")
    write_lines(root / "classes.txt", "background", "square")
    with refused(str(root / "train/masks"), "all 6 masks hold only 0 and 255", '"255": "square"'):
        semiseg.import_data(root, tmp_path / "own")
    assert not (tmp_path / "own").exists()
    (root / "classes.txt").unlink()
    (root / "classes.json").write_text('{"values": {"0": "background", "255": "square"}}')
    imported(root, ("background", "square"))
