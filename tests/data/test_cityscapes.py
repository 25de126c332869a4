"""Tests of the Cityscapes reader: layout, labelIds and trainIds, lists and errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.data import Cityscapes, check_masks, open_dataset, resolve_split
from trees import CITY_TRAIN, CITY_VAL, make_cityscapes, refused, write_image, write_lines, write_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_cityscapes(tmp_path / "city")


def test_ids_classes_and_lists(root: Path) -> None:
    dataset = open_dataset(root)
    assert isinstance(dataset, Cityscapes) and dataset.name == "cityscapes"
    assert len(dataset.classes) == len(dataset.palette) == 19
    assert dataset.split("train") == CITY_TRAIN and dataset.split("val") == CITY_VAL and dataset.split("test") is None
    assert dataset.read_image(CITY_TRAIN[0]).shape == (3, 48, 48)


def test_label_ids_are_mapped_to_train_ids(root: Path) -> None:
    mask = open_dataset(root).read_mask(CITY_TRAIN[0])  # 0 and 3 are not evaluated; road, car, bicycle
    assert [int(mask[row, 0]) for row in (0, 12, 22, 32, 47)] == [255, 255, 0, 13, 18]


def test_each_evaluated_label_has_its_own_class(root: Path) -> None:
    path = root / "gtFine" / "train" / "aachen" / f"{CITY_TRAIN[0]}_gtFine_labelIds.png"
    Image.fromarray(np.arange(34, dtype=np.uint8)[None]).save(path)
    mask = open_dataset(root).read_mask(CITY_TRAIN[0])[0]
    assert mask[mask != 255].tolist() == list(range(19))
    assert mask[[7, 8, 11, 17, 24, 26, 33]].tolist() == [0, 1, 2, 5, 11, 13, 18]
    assert mask[[0, 6, 9, 18, 30]].eq(255).all()


def test_train_ids_take_precedence_over_label_ids(tmp_path: Path) -> None:
    dataset = open_dataset(make_cityscapes(tmp_path, train_ids=True))
    assert dataset.read_mask(CITY_TRAIN[0]).unique().tolist() == [0, 18, 255]


def test_dummy_masks_of_the_test_set_are_ignored(root: Path) -> None:
    dataset = open_dataset(root)
    assert "berlin_000000_000019" in dataset.ids and not dataset.has_mask("berlin_000000_000019")
    split = resolve_split(dataset, "2", 0)
    assert "berlin_000000_000019" not in (*split.labeled, *split.unlabeled, *split.val)


def test_unlabeled_list_may_name_images_of_train_extra(root: Path, tmp_path: Path) -> None:
    write_image(root / "leftImg8bit" / "train_extra" / "jena" / "jena_000001_000019_leftImg8bit.png")
    labeled = write_lines(tmp_path / "mine.txt", CITY_TRAIN[0])
    extra = write_lines(tmp_path / "extra.txt", "/leftImg8bit/train_extra/jena/jena_000001_000019_leftImg8bit.png")
    split = resolve_split(open_dataset(root), str(labeled), 0, str(extra))
    assert split.unlabeled == ("jena_000001_000019",)


def test_list_formats_of_three_sources_name_the_same_image(root: Path, tmp_path: Path) -> None:
    city, name = "aachen", CITY_TRAIN[1]
    lines = (
        f"leftImg8bit/train/{city}/{name}_leftImg8bit.png gtFine/train/{city}/{name}_gtFine_labelTrainIds.png",
        f"leftImg8bit/train/{city}/{name}_leftImg8bit.png",
        f"/images/train/{name}.png\t/segmentation/train/{name}_gtFine.png",
    )
    for index, line in enumerate(lines):
        path = write_lines(tmp_path / f"{index}.txt", line)
        assert resolve_split(open_dataset(root), str(path), 0).labeled == (name,)


def test_unknown_mask_values_raise_an_error(tmp_path: Path) -> None:
    root = make_cityscapes(tmp_path, train_ids=True)
    path = root / "gtFine" / "train" / "aachen" / f"{CITY_TRAIN[0]}_gtFine_labelTrainIds.png"
    write_mask(path, (0, 19))
    with refused(str(path), "value 19", "0 to 18"):
        check_masks(open_dataset(root), CITY_TRAIN)
    path.unlink()
    path = path.with_name(f"{CITY_TRAIN[0]}_gtFine_labelIds.png")
    write_mask(path, (7, 34))
    with refused(str(path), "value 34", "0 to 33"):
        check_masks(open_dataset(root), CITY_TRAIN)


def test_missing_folders_and_duplicate_names_raise_an_error(root: Path) -> None:
    double = root / "leftImg8bit" / "train" / "bremen" / f"{CITY_TRAIN[0]}_leftImg8bit.png"
    write_image(double)
    with refused(str(double), "same name"):
        open_dataset(root)
    double.unlink()
    shutil.rmtree(root / "gtFine")
    with refused("gtFine: no train/CITY", "Unpack gtFine_trainvaltest.zip"):
        open_dataset(root)
    shutil.rmtree(root / "leftImg8bit" / "train")
    shutil.rmtree(root / "leftImg8bit" / "val")
    shutil.rmtree(root / "leftImg8bit" / "test")
    with refused("leftImg8bit: no train/CITY", "Unpack leftImg8bit_trainvaltest.zip"):
        Cityscapes(root)
