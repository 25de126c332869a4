"""Tests of the ADE20K reader: layout, mask values, class names, lists and errors."""

import shutil
from pathlib import Path

import pytest

from semiseg.data import Ade20k, check_masks, open_dataset, resolve_split
from trees import ADE_TRAIN, ADE_VAL, make_ade20k, refused, write_lines, write_mask


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_ade20k(tmp_path / "ADEChallengeData2016")


def test_ids_lists_and_names(root: Path) -> None:
    for folder in (root, root.parent):
        dataset = open_dataset(folder)
        assert isinstance(dataset, Ade20k) and dataset.name == "ade20k"
    assert dataset.split("train") == ADE_TRAIN and dataset.split("val") == ADE_VAL and dataset.split("test") is None
    assert dataset.classes == tuple(f"thing {value}" for value in range(1, 151))
    assert len(set(dataset.palette)) == 150
    (root / "objectInfo150.txt").unlink()
    assert open_dataset(root).classes == tuple(f"class{value}" for value in range(1, 151))


def test_mask_values_are_shifted_and_zero_is_ignored(root: Path) -> None:
    mask = open_dataset(root).read_mask(ADE_TRAIN[2])
    assert [int(mask[row, 0]) for row in (0, 12, 24, 36)] == [255, 0, 3, 149]


def test_shifted_and_unknown_mask_values_raise_an_error(root: Path) -> None:
    path = root / "annotations" / "training" / f"{ADE_TRAIN[0]}.png"
    for value in (255, 151):
        write_mask(path, (0, 149, value))
        with refused(str(path), f"value {value}", "shifted"):
            check_masks(open_dataset(root), ADE_TRAIN)


def test_incomplete_class_file_raises_an_error(root: Path) -> None:
    path = root / "objectInfo150.txt"
    lines = path.read_text().splitlines()
    write_lines(path, *lines[:-1])
    with refused(str(path), "expected 150", "found 149"):
        open_dataset(root)
    write_lines(path, *lines[:-1], lines[1])
    with refused(str(path), "found 149 in 150 lines"):
        open_dataset(root)


def test_lists_of_dual_teacher_and_unimatch(root: Path, tmp_path: Path) -> None:
    folder = "data/ADEChallengeData2016/images/training2"
    write_lines(tmp_path / "training2_l.txt", *(f"{folder}_l/{id}.jpg" for id in ADE_TRAIN[:2]))
    write_lines(tmp_path / "training2_u.txt", f"/{folder}_u/{ADE_TRAIN[2]}.jpg", f"{folder}_u/{ADE_TRAIN[4]}.jpg", "")
    split = resolve_split(open_dataset(root), str(tmp_path / "training2_l.txt"), 0)
    assert split.labeled == ADE_TRAIN[:2] and split.unlabeled == (ADE_TRAIN[2], ADE_TRAIN[4])
    line = f"images/training/{ADE_TRAIN[3]}.jpg annotations/training/{ADE_TRAIN[3]}.png"
    path = write_lines(tmp_path / "unimatch.txt", line)
    assert resolve_split(open_dataset(root), str(path), 0).labeled == ADE_TRAIN[3:4]


def test_missing_folders_raise_an_error(root: Path) -> None:
    shutil.rmtree(root / "annotations")
    with refused("annotations/training: no masks"):
        open_dataset(root)
    shutil.rmtree(root / "images")
    (root / "images" / "training").mkdir(parents=True)
    with refused("images/training: no images"):
        open_dataset(root)
    with refused("ADE20K was not found"):
        Ade20k(root / "elsewhere")
