"""Masks whose values, colors, palettes or orientations contradict the classes, and plausible ones that do not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from conftest import real_data
from semiseg.data import FolderDataset, check_masks, open_dataset
from semiseg.data.mask_validation import count_pixels
from semiseg.errors import UserError
from semiseg.tools.checking import check_data
from trees import refused, write_lines

Mask = NDArray[np.uint8]
COLORS = np.array([[0, 0, 0], [220, 20, 60], [0, 160, 80]], dtype=np.uint8)
PALETTE = ("background 0 0 0", "square 220 20 60", "disc 0 160 80")
NAMES = ("background", "square", "disc")
SIDE = 64


def scene(number: int) -> Mask:
    """Return a square of class 1 and a disc of class 2 on class 0."""
    random = np.random.default_rng(number)
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    y, x = random.integers(0, 44, 2)
    mask[y : y + 20, x : x + 20] = 1
    y, x = random.integers(10, 54, 2)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    mask[(rows - y) ** 2 + (columns - x) ** 2 < 100] = 2
    return mask


def make(root: Path, masks: Sequence[Mask | Image.Image], classes: Sequence[str] = (), palette: bool = False) -> Path:
    """Write masks 0, 1, ... with images, and optionally class names or a palette file."""
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number, mask in enumerate(masks):
        image = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
        noise = np.random.default_rng(number).integers(0, 255, (*image.size[::-1], 3), dtype=np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{number}.png")
        image.save(root / "masks" / f"{number}.png")
    if classes:
        write_lines(root / "classes.txt", *classes)
    if palette:
        write_lines(root / "palette.txt", *PALETTE)
    return root


def indexed(mask: Mask, order: Sequence[int], colors: Mask = COLORS) -> Image.Image:
    """Return an indexed picture of a mask, whose palette lists the colors in the given order."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[mask])
    image.putpalette(colors[list(order)].tobytes())
    return image


def check(root: Path) -> list[str]:
    """Read and compare all masks like training does, and return the notes."""
    dataset, notes = open_dataset(root), list[str]()
    count_pixels(dataset, dataset.ids, notes)
    return notes


# Palettes.


def test_indexed_masks_go_by_the_colors_of_the_class_file(tmp_path: Path) -> None:
    orders = [(0, 1, 2), (0, 2, 1), (2, 0, 1)]
    masks = [scene(number) for number in range(3)]
    root = make(tmp_path / "d", [indexed(m, o) for m, o in zip(masks, orders, strict=True)], palette=True)
    assert check(root) == []
    for number, mask in enumerate(masks):
        assert np.array_equal(FolderDataset(root).read_mask(str(number)).numpy(), mask)


def test_value_255_is_ignored_beside_colors(tmp_path: Path) -> None:
    mask = indexed(scene(0), (0, 2, 1))
    values = np.array(mask)
    values[:5] = 255
    again = Image.fromarray(values)
    again.putpalette([*COLORS[[0, 2, 1]].ravel().tolist(), *[70, 80, 90] * 253])  # 3 colors would be saved in 2 bits
    root = make(tmp_path / "d", [again], palette=True)
    expected = scene(0)
    expected[:5] = 255
    assert np.array_equal(FolderDataset(root).read_mask("0").numpy(), expected)


def test_palette_for_display_goes_by_index(tmp_path: Path) -> None:
    other = np.array([[0, 0, 0], [9, 9, 9], [77, 0, 77]], dtype=np.uint8)  # black is the background in both
    root = make(tmp_path / "d", [indexed(scene(0), (0, 1, 2), other)], palette=True)
    assert np.array_equal(FolderDataset(root).read_mask("0").numpy(), scene(0))


def test_index_and_color_that_contradict_each_other_fail(tmp_path: Path) -> None:
    other = COLORS.copy()
    other[0] = (1, 2, 3)
    root = make(tmp_path / "d", [indexed(scene(0), (0, 2, 1), other)], palette=True)
    with refused("0.png", "index 1 is displayed in the color (0, 160, 80)", "palette.txt", "(1, 2, 3) of index 0"):
        FolderDataset(root).read_mask("0")


@pytest.mark.parametrize("order", [(0, 2, 1), (2, 0, 1)])
def test_contradicting_palettes_fail_without_colors(tmp_path: Path, order: tuple[int, ...]) -> None:
    masks = [indexed(scene(0), (0, 1, 2)), indexed(scene(1), (0, 1, 2)), indexed(scene(2), order)]
    root = make(tmp_path / "d", masks, NAMES)
    with refused("2.png", "its palette and that of", "0.png disagree", "palette.txt with a name and a color"):
        check(root)


def test_palettes_that_use_few_indices_are_compared_by_color(tmp_path: Path) -> None:
    only_disc = np.where(scene(1) == 2, 2, 0).astype(np.uint8)
    root = make(tmp_path / "d", [indexed(scene(0), (0, 1, 2)), indexed(only_disc, (0, 2, 1))], NAMES)
    with refused("1.png", "the color (0, 160, 80) has the index 2 in one and 1 in the other"):
        check(root)


def test_palettes_with_colors_of_voc_are_compared(tmp_path: Path) -> None:
    voc = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], dtype=np.uint8)
    masks = [indexed(scene(0).clip(0, 1), (0, 1), voc), indexed(scene(1).clip(0, 1), (0, 1), voc[[0, 2]])]
    with refused("1.png", "index 1 is displayed as (128, 0, 0) in one and as (0, 128, 0) in the other"):
        check(make(tmp_path / "d", masks, NAMES))
    masks = [indexed(scene(0), (0, 1, 2), voc), indexed(scene(1).clip(0, 1), (0, 1, 2), voc)]
    assert check(make(tmp_path / "e", masks, NAMES)) == []


VOC = np.array([[0, 0, 0], [128, 0, 0], [0, 128, 0]], dtype=np.uint8)  # the colors that tools give by default
OTHER = np.array([[0, 0, 0], [9, 9, 99], [77, 0, 77]], dtype=np.uint8)


def test_masks_in_default_colors_beside_those_of_the_class_file_are_noted(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [indexed(scene(0), (0, 1, 2)), indexed(scene(1), (0, 1, 2), VOC)], palette=True)
    (note,) = check(root)
    assert note == (
        f"warning: the palettes of {root}/masks/0.png and {root}/masks/1.png disagree: one has the colors of the class "
        "file, (220, 20, 60) for index 1, and the other displays index 1 as (128, 0, 0). Write all masks with one "
        "order of classes (semiseg import --classes FOLDER), or save these masks with the colors of the class file if "
        "their indices are right"
    )
    disjoint = [indexed(scene(0).clip(0, 1), (0, 1, 2)), indexed(np.uint8(scene(1) == 2) * 2, (0, 1, 2), VOC)]
    assert "(0, 160, 80) for index 2" in check(make(tmp_path / "e", disjoint, palette=True))[0]


@pytest.mark.parametrize("first", [COLORS, VOC])
def test_two_palettes_in_one_folder_fail_beside_a_class_file_with_colors(tmp_path: Path, first: Mask) -> None:
    masks = [indexed(scene(0), (0, 1, 2), first), indexed(scene(1), (0, 1, 2), OTHER)]
    with refused("1.png", "its palette and that of", "0.png disagree", "index 1", "(9, 9, 99)", "--classes FOLDER"):
        check(make(tmp_path / "d", masks, palette=True))


@pytest.mark.parametrize("colors", [VOC, OTHER])
def test_one_palette_for_display_is_a_conflict_only_beside_gray_masks(tmp_path: Path, colors: Mask) -> None:
    only_disc = np.uint8(scene(1) == 2) * 2
    masks = [indexed(scene(0), (0, 1, 2), colors), indexed(only_disc, (0, 1, 2), colors)]
    empty = Image.fromarray(np.zeros((SIDE, SIDE), dtype=np.uint8))
    assert check(make(tmp_path / "d", [*masks, empty], palette=True)) == []
    (note,) = check(make(tmp_path / "e", [*masks, Image.fromarray(scene(2))], palette=True))
    shown = tuple(colors[1].tolist())
    assert "2.png and" in note and f"lists (220, 20, 60) for index 1, and the other displays index 1 as {shown}" in note


def test_black_that_is_not_the_background_fails(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [indexed(scene(number), (1, 0, 2)) for number in range(2)], NAMES)
    with refused("index 0 (background) is displayed as (220, 20, 60) and index 1 as black", "palette.txt"):
        check(root)
    write_lines(root / "palette.txt", *PALETTE)
    assert np.array_equal(FolderDataset(root).read_mask("0").numpy(), scene(0))


def test_palettes_that_agree(tmp_path: Path) -> None:
    flat = Image.fromarray(scene(3))
    flat.putpalette([9, 9, 9] * 256)
    gray = Image.fromarray(scene(4))
    masks = [indexed(scene(0), (0, 1, 2)), indexed(scene(1).clip(0, 1), (0, 1, 2)), flat, gray]
    assert check(make(tmp_path / "d", masks, NAMES)) == []


def test_gray_levels_of_the_class_file_are_colors(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [np.array([0, 128, 255], dtype=np.uint8)[scene(0)], scene(1)])
    write_lines(root / "palette.txt", "background 0 0 0", "square 128 128 128", "disc 255 255 255")
    for number in (0, 1):
        assert np.array_equal(FolderDataset(root).read_mask(str(number)).numpy(), scene(number))


# Colors.


def test_antialiased_colors_fail(tmp_path: Path) -> None:
    smooth = Image.fromarray(COLORS[scene(0)]).resize((63, 63), Image.Resampling.BILINEAR)
    root = make(tmp_path / "d", [smooth.resize((SIDE, SIDE), Image.Resampling.BILINEAR)], palette=True)
    with refused("0.png", "colors between those of", "antialiased", "--threshold 128"):
        FolderDataset(root).read_mask("0")
    (root / "palette.txt").unlink()
    write_lines(root / "classes.txt", *NAMES)
    with refused("0.png", "most of them between the", "antialiased", "palette.txt"):
        FolderDataset(root).read_mask("0")


def test_antialiased_indexed_mask_fails(tmp_path: Path) -> None:
    smooth = Image.fromarray(COLORS[scene(0)]).resize((63, 63), Image.Resampling.BILINEAR)
    smooth = smooth.resize((SIDE, SIDE), Image.Resampling.BILINEAR).quantize(200)
    root = make(tmp_path / "d", [smooth], palette=True)
    with refused("0.png", "antialiased"):
        FolderDataset(root).read_mask("0")


def test_missing_class_is_not_called_antialiasing(tmp_path: Path) -> None:
    colors = np.array([*COLORS, [110, 10, 30]], dtype=np.uint8)  # between background and square
    mask = scene(0)
    mask[50:, 50:] = 3
    root = make(tmp_path / "d", [colors[mask]], palette=True)
    with refused("0.png", "color (110, 10, 30) is not in the palette", "Add it there"):
        FolderDataset(root).read_mask("0")


def test_colors_without_names_are_listed(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [COLORS[scene(0)]], NAMES)
    with refused("holds colors, such as (", "NAME 0 0 0, NAME 220 20 60, NAME 0 160 80"):
        FolderDataset(root).read_mask("0")


# Values.


def levels(*values: int) -> Callable[[int], Mask]:
    return lambda number: np.array(values, dtype=np.uint8)[scene(number)]


def blurred(number: int) -> Mask:
    image = Image.fromarray((scene(number) > 0).astype(np.uint8) * 255)
    return np.array(image.filter(ImageFilter.GaussianBlur(1.2)))


def supersampled(number: int) -> Mask:
    image = Image.fromarray((scene(number) > 0).astype(np.uint8) * 255)
    return np.array(image.resize((SIDE * 3, SIDE * 3)).rotate(8).resize((SIDE, SIDE), Image.Resampling.BOX))


def lossy(number: int) -> Mask:
    noise = np.random.default_rng(number).integers(0, 6, (SIDE, SIDE))
    return np.where(scene(number) > 0, 255 - noise, noise).astype(np.uint8)


def objects(number: int) -> Mask:
    """Return ``number + 2`` disjoint squares, numbered from 1."""
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for index in range(number + 2):
        y, x = divmod(index, 5)
        mask[y * 12 : y * 12 + 8, x * 12 : x * 12 + 8] = index + 1
    return mask


def sparse_ids(number: int) -> Mask:
    """Return values as of Cityscapes: some of 0 to 33."""
    chosen = np.random.default_rng(number).choice(
        [0, 7, 8, 11, 12, 13, 17, 19, 20, 21, 23, 24, 26, 33], 9, replace=False
    )
    return np.repeat(np.repeat(chosen.reshape(3, 3), 20, axis=0), 20, axis=1).astype(np.uint8)


def few_objects(number: int) -> Mask:
    """Return one to three disjoint squares, numbered from 1."""
    return np.where(objects(1) <= number % 3 + 1, objects(1), 0).astype(np.uint8)


IMPLAUSIBLE: dict[str, tuple[Callable[[int], Mask], tuple[str, ...]]] = {
    "three levels": (levels(0, 128, 255), ("0, 128, 255", "gray levels", '"128": "class128"')),
    "four levels": (levels(0, 85, 170), ("0, 85, 170", "gray levels", '"values": {"0": "background", "85"')),
    "levels without 0": (levels(50, 100, 150), ("50, 100, 150", '"values": {"50": "class50"')),
    "multiples of ten": (levels(0, 10, 20), ("0, 10, 20", "gray levels")),
    "0 and 100": (levels(0, 100, 100), ("0, 100", "gray levels", '"100": "foreground"')),
    "converted colors": (levels(0, 38, 75), ("0, 38, 75", "gray levels")),
    "blurred": (blurred, ("antialiased", "--threshold 128")),
    "supersampled": (supersampled, ("antialiased", "--threshold 128")),
    "lossy": (lossy, ("near a few gray levels", "lossy compression", "--threshold 128")),
    "some of 34 ids": (sparse_ids, ("only 14 of the values 0 to 33", "no class file", '"7": "class7"')),
    "far classes": (levels(0, 3, 11), ("only 3 of the values 0 to 11", '"11": "class11"}}', "number objects")),
    "few objects": (few_objects, ("number single objects (1 to 3)", "If they are classes, write classes.json")),
    "objects": (objects, ("number single objects", "the class of each pixel")),
}


@pytest.mark.parametrize("name", IMPLAUSIBLE)
@pytest.mark.parametrize("with_names", [False, True])
def test_values_that_are_not_classes_fail(tmp_path: Path, name: str, with_names: bool) -> None:
    make_mask, words = IMPLAUSIBLE[name]
    root = make(tmp_path / "d", [make_mask(number) for number in range(5)], NAMES[:2] if with_names else ())
    if with_names and name not in ("some of 34 ids", "far classes", "few objects"):
        words = tuple(word for word in words if "class" not in word or "each" in word)
        with refused("0.png" if name != "objects" else "masks", "is not one of the 2 classes", *words[:1]):
            check(root)
    elif not with_names:
        with refused(str(root / "masks"), *words):
            FolderDataset(root)


def test_names_of_the_class_file_are_in_the_fix(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [levels(0, 128, 200)(number) for number in range(3)], ("soil", "leaf", "stem"))
    with refused(
        "0.png", 'write classes.json with {"values": {"0": "soil", "128": "leaf", "200": "stem"}}'.capitalize()[1:]
    ):
        check(root)
    (root / "classes.txt").unlink()
    (root / "classes.json").write_text('{"classes": ["soil", "leaf", "stem"]}')
    with refused("0.png", '"values": {"0": "soil", "128": "leaf", "200": "stem"} to classes.json'):
        check(root)


def test_masks_of_0_and_255_with_class_file_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [levels(0, 255, 255)(number) for number in range(3)], ("soil", "plant"))
    with refused("all 3 masks hold only 0 and 255", '{"values": {"0": "soil", "255": "plant"}}'):
        check(root)
    (root / "classes.json").write_text('{"values": {"0": "soil", "255": "plant"}}')
    assert check(root) == []
    assert np.array_equal(FolderDataset(root).read_mask("0").numpy(), scene(0).clip(0, 1))


def test_some_masks_of_0_and_255_are_noted(tmp_path: Path) -> None:
    masks = [levels(0, 1, 1)(0), levels(0, 255, 255)(1), levels(0, 1, 1)(2)]
    notes = check(make(tmp_path / "d", masks, ("soil", "plant")))
    assert len(notes) == 1 and "1 masks of 0 and 255" in notes[0] and "1.png: 255 is ignored" in notes[0]
    assert '"values": {"0": "soil", "1": "plant", "255": "plant"}' in notes[0]
    (tmp_path / "d" / "classes.json").write_text('{"values": {"0": "soil", "1": "plant", "255": "plant"}}')
    assert check(tmp_path / "d") == []
    assert np.array_equal(FolderDataset(tmp_path / "d").read_mask("1").numpy(), scene(1).clip(0, 1))


def test_stray_pixels_do_not_hide_masks_of_0_and_255(tmp_path: Path) -> None:
    masks = [levels(0, 255, 255)(number) for number in range(4)]
    masks[0][0, 0] = 1
    notes = check(make(tmp_path / "d", masks, ("soil", "plant")))
    assert len(notes) == 1 and "4 masks of 0 and 255" in notes[0] and "If it means plant" in notes[0]


def test_masks_of_0_and_255_with_one_name_fail(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [levels(0, 255, 255)(number) for number in range(3)], ("plant",))
    with refused("all 3 masks hold only 0 and 255", '{"values": {"0": "background", "255": "plant"}}'):
        check(root)


def test_number_of_names_and_values_differ(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [levels(1, 2, 3)(number) for number in range(3)], NAMES)
    with refused("value 3", "names are those of 1 to 3", '"values": {"1": "background", "2": "square", "3": "disc"}'):
        check(root)
    write_lines(root / "classes.txt", "square", "disc")
    for number in range(3):
        Image.fromarray(scene(number)).save(root / "masks" / f"{number}.png")
    with refused("value 2", "name of value 0, such as background, above the others"):
        check(root)
    (root / "classes.txt").unlink()
    write_lines(root / "_classes.csv", "Pixel Value, Class", "1, square", "2, disc")
    with refused("value 0 is not one of the 2 classes (1 to 2, 255 is ignored)", "Name value 0 in"):
        check(root)


def test_specks_of_lossy_compression_fail(tmp_path: Path) -> None:
    masks = [scene(number) for number in range(4)]
    for mask in masks:
        mask[:2, 5] = 3
    root = make(tmp_path / "d", masks)
    with refused("value 3", "specks of few pixels", "PNG from the start"):
        FolderDataset(root)
    write_lines(root / "classes.txt", *NAMES)
    with refused("0.png", "value 3 is not one of the 3 classes", "specks of few pixels"):
        check(root)


def resized(mask: Mask, factor: float) -> Mask:
    side = round(SIDE * factor)
    return np.array(Image.fromarray(mask).resize((side, side), Image.Resampling.BILINEAR))


@pytest.mark.parametrize("factor", [0.5, 1.5, 3])
@pytest.mark.parametrize("names", [NAMES, ()])
def test_masks_resized_with_interpolation_are_noted(tmp_path: Path, factor: float, names: Sequence[str]) -> None:
    root = make(tmp_path / "d", [scene(0), resized(scene(1), factor), resized(scene(2), factor)], names)
    (note,) = check(root)
    assert note.startswith("warning: interpolation probably changed 2 of 3 masks: at ")
    assert note.endswith(
        f"first {root}/masks/1.png. If so, resize masks with nearest-neighbor interpolation, from the original masks"
    )
    findings = [found for found in check_data(root)[0].findings if found.kind == "mask-resized"]
    assert [found.files for found in findings] == [("masks/1.png", "masks/2.png")]


def test_class_around_another_one_is_not_called_interpolation(tmp_path: Path) -> None:
    """A disc of class 2 lies in a disc of class 1, 8 pixels wider."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    distance = np.hypot(rows - 30, columns - 30)
    masks = [np.uint8(distance < 20 + number) + np.uint8(distance < 12) for number in range(3)]
    assert check(make(tmp_path / "d", masks, NAMES)) == []


def test_object_numbers_among_the_classes_are_noted(tmp_path: Path) -> None:
    masks = []
    for objects in (1, 2, 4, 3):
        masks.append(np.zeros((SIDE, SIDE), dtype=np.uint8))
        for number in range(1, objects + 1):
            masks[-1][14 * number - 8 : 14 * number, 10:30] = number
    root = make(tmp_path / "d", masks, [f"class{number}" for number in range(9)])
    (note,) = check(root)
    assert note.startswith(
        "warning: the values of 4 of 4 masks are probably numbers of objects: each is one region, first "
    )
    assert any(found.kind == "mask-objects" for found in check_data(root)[0].findings)
    masks[2][0, 60] = 1  # a second region
    masks[0][0, 60] = 1
    assert check(make(tmp_path / "regions", masks, [f"class{number}" for number in range(9)])) == []


def test_values_from_1_without_class_file_are_noted(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "d", [scene(number) + 1 for number in range(3)]))
    assert dataset.classes == ("class0", "class1", "class2", "class3")
    assert dataset.notes == [
        "warning: no mask holds a value below 1, so class0 stays empty. If not wanted, write classes.json with "
        '{"values": {"1": "class1", "2": "class2", "3": "class3"}}, with the names you mean'
    ]


@pytest.mark.parametrize(
    ("value", "kind", "fix"),
    [
        (65535, np.uint16, '"values": {"65535": "ignore", "0": "background", "1": '),
        (-2147483648, np.int32, "save an 8-bit mask, with 255 where nothing is known"),
        (np.nan, np.float32, "save an 8-bit mask"),
    ],
)
@pytest.mark.parametrize("names", [NAMES, ()])
def test_unknown_pixels_of_wide_masks(tmp_path: Path, value: float, kind: type, fix: str, names: Sequence[str]) -> None:
    root = make(tmp_path / "d", [scene(number) for number in range(2)], names)
    for number in range(2):
        (root / "masks" / f"{number}.png").unlink()
        values = scene(number).astype(kind)
        values[:5] = value
        tifffile.imwrite(root / "masks" / f"{number}.tif", values)
    with pytest.raises(UserError) as caught:
        check(root)
    assert fix.casefold() in (caught.value.fix or "").casefold()


def test_negative_values_are_ignored_once_listed(tmp_path: Path) -> None:
    root = make(tmp_path / "d", [scene(number) for number in range(2)], NAMES)
    for number in range(2):
        (root / "masks" / f"{number}.png").unlink()
        unknown = np.where(scene(number) == 2, -1, scene(number).astype(np.int16))
        tifffile.imwrite(root / "masks" / f"{number}.tif", unknown.astype(np.int16))
    listed = '{"values": {"-1": "ignore", "0": "background", "1": "square", "2": "disc"}}'
    with refused("0.tif", "value -1", listed):
        check(root)
    (root / "classes.txt").unlink()
    with refused("the masks hold negative values, such as -1"):
        check(root)
    (root / "classes.json").write_text(listed)
    assert check(root) == []
    expected = np.where(scene(1) == 2, 255, scene(1))
    assert np.array_equal(FolderDataset(root).read_mask("1").numpy(), expected)
    (root / "classes.json").write_text(listed.replace("ignore", "disc"))
    with refused('the negative value -1 can only be "ignore"'):
        check(root)


def test_object_numbers_of_cityscapes_fail(tmp_path: Path) -> None:
    masks = [np.array([7, 26000 + number, 26001], dtype=np.uint16)[scene(number)] for number in range(3)]
    with refused("1000 * class + n", "labelIds"):
        FolderDataset(make(tmp_path / "d", masks))
    write_lines(tmp_path / "d" / "classes.txt", *NAMES)
    with refused("0.png", "value 26000", "1000 * class + n"):
        check(tmp_path / "d")


def nested(number: int) -> Mask:
    """Return 0 alone, 0 and 1, or 0, 1 and 2."""
    return scene(number).clip(0, number % 3).astype(np.uint8)


def some_classes(number: int) -> Mask:
    """Return three objects of six classes, each in one region."""
    present = np.random.default_rng(number).permutation(np.arange(1, 7))[:3]
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    for index, value in enumerate(present):
        mask[8:30, index * 20 : index * 20 + 15] = value
    return mask


PLAUSIBLE = {
    "one class absent": levels(0, 1, 3),
    "0, 1, 2": scene,
    "from 1": levels(1, 2, 3),
    "with ignored border": levels(0, 1, 255),
    "nested classes": nested,
    "some of six classes": some_classes,
}


@pytest.mark.parametrize("name", PLAUSIBLE)
def test_plausible_values_are_read(tmp_path: Path, name: str) -> None:
    masks = [PLAUSIBLE[name](number) for number in range(6)]
    dataset = FolderDataset(make(tmp_path / "d", masks))
    assert len(dataset.classes) == max(int(mask[mask < 255].max()) for mask in masks) + 1
    for number, mask in enumerate(masks):
        assert np.array_equal(dataset.read_mask(str(number)).numpy(), mask)


@pytest.mark.parametrize("name", ["camvid", "ccp"])
def test_real_masks_without_class_file_are_read(tmp_path: Path, name: str) -> None:
    source = real_data(name, f"SEMISEG_{name.upper()}", "masks")
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for path in sorted((source / folder).iterdir())[:40]:
            shutil.copy(path, tmp_path / folder)
    dataset = FolderDataset(tmp_path)
    assert len(dataset.classes) == {"camvid": 11, "ccp": 10}[name]


# Orientations.


def turned_folder(root: Path, image_turn: int, mask_turn: int, shape: tuple[int, int]) -> Path:
    """Write an image and a mask of the stored shape with EXIF orientations."""
    for folder, turn in (("images", image_turn), ("masks", mask_turn)):
        (root / folder).mkdir(parents=True)
        tags = Image.Exif()
        if turn > 1:
            tags[0x0112] = turn
        size = (shape[0], shape[1], 3) if folder == "images" else shape
        image = Image.fromarray(np.random.default_rng(0).integers(0, 3, size, dtype=np.uint8))
        suffix = "jpg" if folder == "images" else "png"
        image.save(root / folder / f"a.{suffix}", exif=tags)
    write_lines(root / "classes.txt", *NAMES)
    return root


@pytest.mark.parametrize(
    ("image", "mask", "shape", "noted"),
    [
        (3, 1, (40, 60), True),
        (1, 4, (40, 60), True),
        (6, 1, (50, 50), True),
        (6, 8, (40, 60), True),
        (6, 6, (40, 60), False),
    ],
)
def test_orientation_of_image_or_mask_is_noted(
    tmp_path: Path, image: int, mask: int, shape: tuple[int, int], noted: bool
) -> None:
    root = turned_folder(tmp_path / "d", image, mask, shape)
    notes = check(root)
    assert len(notes) == noted
    for note in notes:
        assert note.startswith("warning: 1 labeled images are rotated or flipped by EXIF differently from their masks")
        assert f"a.jpg (orientation {image}, its mask {mask})" in note


@pytest.mark.parametrize(("image", "mask"), [(6, 1), (1, 8)])
def test_mask_of_the_size_before_rotation_fails(tmp_path: Path, image: int, mask: int) -> None:
    root = turned_folder(tmp_path / "d", image, mask, (40, 60))
    turned = "image (orientation 6) and not the mask" if image == 6 else "mask (orientation 8) and not the image"
    with refused("a.png", "because EXIF rotates the " + turned, "copy of the mask that is upright"):
        check_masks(FolderDataset(root), ["a"])


def test_upright_mask_of_a_rotated_image_fits(tmp_path: Path) -> None:
    root = turned_folder(tmp_path / "d", 6, 1, (40, 60))
    with Image.open(root / "masks" / "a.png") as stored:
        stored.transpose(Image.Transpose.ROTATE_270).save(root / "masks" / "a.png")
    assert check(root) == []
