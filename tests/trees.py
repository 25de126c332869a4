"""Write small data sets in the layouts of published ones, for the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.errors import UserError

SIDE = 48
VOC_TRAIN = tuple(f"2007_{index:06d}" for index in range(8))
VOC_VAL = ("2008_000001", "2008_000002")
CITY_TRAIN = (*(f"aachen_{index:06d}_000019" for index in range(4)), "bremen_000000_000019")
CITY_VAL = ("lindau_000000_000019", "lindau_000001_000019")
ADE_TRAIN = tuple(f"ADE_train_{index:08d}" for index in range(1, 7))
ADE_VAL = ("ADE_val_00000001", "ADE_val_00000002")


def write_image(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_mask(path: Path, values: tuple[int, ...], palette: bool = False) -> None:
    """Write horizontal stripes of the values, of equal height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = np.repeat(np.array(values, dtype=np.uint8), -(-SIDE // len(values)))[:SIDE]
    image = Image.fromarray(np.repeat(rows[:, None], SIDE, axis=1))
    if palette:
        image.putpalette([value * 37 % 256 for value in range(768)])
    image.save(path)


def write_lines(path: Path, *lines: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def make_voc(root: Path) -> Path:
    """Write 8 training and 2 val images with VOC masks for half of the former, SBD masks for all, UniMatch lists."""
    for index, id in enumerate((*VOC_TRAIN, *VOC_VAL)):
        write_image(root / "JPEGImages" / f"{id}.jpg", index)
        write_mask(root / "SegmentationClassAug" / f"{id}.png", (0, 1 + index, 255))
    for id in (*VOC_TRAIN[:4], *VOC_VAL):
        write_mask(root / "SegmentationClass" / f"{id}.png", (0, 20, 255), palette=True)
    write_lines(root / "ImageSets" / "Segmentation" / "train.txt", *VOC_TRAIN[:4])
    write_lines(root / "ImageSets" / "Segmentation" / "val.txt", *VOC_VAL)
    write_lines(root / "splits" / "train_aug.txt", *map(two_columns, VOC_TRAIN))
    write_lines(root / "splits" / "2" / "labeled.txt", *map(two_columns, VOC_TRAIN[1:3]))
    write_lines(root / "splits" / "2" / "unlabeled.txt", *map(two_columns, (VOC_TRAIN[0], *VOC_TRAIN[3:])))
    return root


def two_columns(id: str) -> str:
    """Return a line of UniMatch's VOC lists."""
    return f"JPEGImages/{id}.jpg SegmentationClass/{id}.png"


def make_cityscapes(root: Path, train_ids: bool = False) -> Path:
    """Write 5 training images of two cities, 2 val images and 1 test image; labelIds, and other trainIds if asked."""
    for index, id in enumerate((*CITY_TRAIN, *CITY_VAL, "berlin_000000_000019")):
        folder = "test" if id.startswith("berlin") else "val" if id in CITY_VAL else "train"
        city = Path(folder) / id.split("_")[0]
        write_image(root / "leftImg8bit" / city / f"{id}_leftImg8bit.png", index)
        mask = root / "gtFine" / city / f"{id}_gtFine_labelIds.png"
        write_mask(mask, (0, 3, 7, 26, 33) if folder != "test" else (0, 1))
        write_mask(mask.with_name(f"{id}_gtFine_color.png"), (0,))
        if train_ids:
            write_mask(mask.with_name(f"{id}_gtFine_labelTrainIds.png"), (0, 18, 255))
    return root


def make_ade20k(root: Path, names: bool = True) -> Path:
    """Write 6 training and 2 val images, and objectInfo150.txt."""
    for index, id in enumerate((*ADE_TRAIN, *ADE_VAL)):
        folder = "training" if id in ADE_TRAIN else "validation"
        write_image(root / "images" / folder / f"{id}.jpg", index)
        write_mask(root / "annotations" / folder / f"{id}.png", (0, 1, 2 + index, 150))
    if names:
        rows = (f"{value}\t0.1\t10\t1\t0\tthing {value}, item, object" for value in range(1, 151))
        write_lines(root / "objectInfo150.txt", "Idx\tRatio\tTrain\tVal\tStuff\tName", *rows)
    return root


@contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect a one-line UserError that contains all the words."""
    with pytest.raises(UserError) as caught:
        yield
    text = str(caught.value)
    assert "\n" not in text and [word for word in words if word not in text] == [], text
