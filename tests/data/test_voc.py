"""Tests of the Pascal VOC 2012 reader: layout, masks, lists and errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.data import Voc, check_masks, open_dataset, resolve_split
from trees import SIDE, VOC_TRAIN, VOC_VAL, make_voc, refused, write_lines, write_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_voc(tmp_path / "VOCdevkit" / "VOC2012")


def test_root_may_be_a_parent_folder(root: Path) -> None:
    for folder in (root, root.parent, root.parent.parent):
        dataset = open_dataset(folder)
        assert isinstance(dataset, Voc) and dataset.name == "voc2012" and dataset.root == root
    assert dataset.ids == (*VOC_TRAIN, *VOC_VAL) and len(dataset.classes) == 21
    assert dataset.classes[15] == "person" and dataset.palette[15] == (192, 128, 128)


def test_sbd_masks_take_precedence_over_voc_masks(root: Path) -> None:
    assert open_dataset(root).read_mask(VOC_TRAIN[0]).unique().tolist() == [0, 1, 255]
    (root / "SegmentationClassAug" / f"{VOC_TRAIN[0]}.png").unlink()
    assert open_dataset(root).read_mask(VOC_TRAIN[0]).unique().tolist() == [0, 20, 255]  # the palette's indices
    shutil.rmtree(root / "SegmentationClassAug")
    dataset = open_dataset(root)
    assert dataset.has_mask(VOC_TRAIN[3]) and not dataset.has_mask(VOC_TRAIN[4])


def test_included_lists(root: Path) -> None:
    dataset = open_dataset(root)
    assert dataset.split("train") == VOC_TRAIN and dataset.split("val") == VOC_VAL and dataset.split("test") is None
    split = resolve_split(dataset, "2", seed=5)
    assert split.labeled == VOC_TRAIN[1:3] and set(split.unlabeled) == set(VOC_TRAIN) - set(split.labeled)
    assert split.val == VOC_VAL and "lists that come with voc2012" in split.notes[0]
    (root / "splits" / "train_aug.txt").unlink()
    assert open_dataset(root).split("train") == VOC_TRAIN[:4]  # VOC's own


def test_labeled_list_may_name_sbd_images_without_train_aug_list(root: Path) -> None:
    (root / "splits" / "train_aug.txt").unlink()
    write_lines(root / "splits" / "2" / "labeled.txt", VOC_TRAIN[1], VOC_TRAIN[6])
    write_lines(root / "splits" / "2" / "unlabeled.txt", VOC_TRAIN[0], VOC_TRAIN[7])
    assert resolve_split(open_dataset(root), "2", 0).labeled == (VOC_TRAIN[1], VOC_TRAIN[6])


def test_existing_only_skips_and_reports_missing_images(root: Path) -> None:
    for id in (VOC_TRAIN[1], VOC_TRAIN[5], VOC_VAL[0]):
        (root / "JPEGImages" / f"{id}.jpg").unlink()
    with refused("train_aug.txt", VOC_TRAIN[1], "--existing-only"):
        resolve_split(open_dataset(root), "2", 0)
    split = resolve_split(open_dataset(root), "2", 0, existing_only=True)
    assert split.labeled == VOC_TRAIN[2:3] and split.val == VOC_VAL[1:]
    assert split.unlabeled == tuple(id for id in VOC_TRAIN if id not in (*VOC_TRAIN[1:3], VOC_TRAIN[5]))
    notes = "\n".join(split.notes)
    for note in ("the train list: 2 of 8", "the val list: 1 of 2", "labeled.txt: 1 of 2", "unlabeled.txt: 1 of 6"):
        assert note in notes


def test_missing_images_or_masks_raise_an_error(root: Path) -> None:
    for folder in ("SegmentationClass", "SegmentationClassAug"):
        shutil.rmtree(root / folder)
    with refused(str(root), "no masks", "SegmentationClassAug/"):
        open_dataset(root)
    shutil.rmtree(root / "JPEGImages")
    (root / "JPEGImages").mkdir()
    with refused("JPEGImages: no images"):
        Voc(root)
    with refused("Pascal VOC was not found"):
        Voc(root.parent / "elsewhere")


def test_unknown_mask_values_and_colors_raise_an_error(root: Path) -> None:
    path = root / "SegmentationClassAug" / f"{VOC_TRAIN[2]}.png"
    write_mask(path, (0, 21))
    with refused(str(path), "value 21", "0 to 20"):
        check_masks(open_dataset(root), VOC_TRAIN)
    Image.fromarray(np.zeros((SIDE, SIDE, 3), dtype=np.uint8)).save(path)
    with refused(str(path), "colors"):
        check_masks(open_dataset(root), VOC_TRAIN)


def test_voc_sample(voc_dir: Path) -> None:
    dataset = open_dataset(voc_dir)
    ids = [id for id in dataset.ids if dataset.has_mask(id)][:48]
    pixels = check_masks(dataset, ids)
    assert pixels[0] == max(pixels) and sum(map(bool, pixels)) > 10  # mostly background, half of the classes
    split = resolve_split(dataset, "732", 0, existing_only=True)
    assert split.labeled and split.unlabeled and split.val
    assert not {*split.labeled, *split.unlabeled} & {*split.val}
