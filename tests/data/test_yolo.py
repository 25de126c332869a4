"""Tests of the YOLO importer: polygons, class names, lists of data.yaml, errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiseg.data.importers import ForeignData, ImportOptions, detect_form, open_foreign
from trees import refused, write_lines

HEIGHT, WIDTH = 20, 40
SQUARE = "0 0.1 0.25 0.3 0.25 0.3 0.5 0.1 0.5"  # columns 4 to 12, rows 5 to 10


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (WIDTH, HEIGHT)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four training images (one labeled, one empty, two without a label file) and a val image."""
    for name in ("train/a", "train/b", "train/c", "train/d", "val/a"):
        write_image(tmp_path / "images" / f"{name}.jpg")
    write_lines(tmp_path / "labels/train/a.txt", SQUARE, "1 0.2 0.25 0.5 0.25 0.5 0.5")
    write_lines(tmp_path / "labels/train/b.txt")
    write_lines(tmp_path / "labels/val/a.txt", SQUARE)
    write_lines(tmp_path / "data.yaml", "path: /content/set", "train: images/train", "val: images/val", "names:",
                "  0: leaf", "  1: soil")  # fmt: skip
    return tmp_path


def read(root: Path, **options: Any) -> ForeignData:
    assert detect_form(root) == "yolo"
    return open_foreign(root, None, ImportOptions(**options))


def square(**more: tuple[slice, slice]) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[5:11, 4:13] = 1  # with the outline, like the masks that YOLO trains on
    return mask


def test_polygons_lists_and_classes(root: Path) -> None:
    dataset = read(root)
    assert dataset.classes == ("background", "leaf", "soil")
    assert (dataset.read_mask("val/a").numpy() == square()).all()
    mask = dataset.read_mask("train/a").numpy()
    assert mask[6, 5] == 1 and mask[5, 12] == 2 and mask[5, 20] == 2 and mask[9, 8] == 1
    assert dataset.split("train") == ("train/a", "train/b", "train/c", "train/d") and dataset.split("val") == ("val/a",)
    assert [id for id in dataset.ids if dataset.has_mask(id)] == ["train/a", "train/b", "val/a"]
    assert "train/b" not in read(root, empty="unlabeled").masks


@pytest.mark.parametrize(
    "lines",
    [
        ("names: [leaf, soil]", "train: ../train/images", "val: ../valid/images", "nc: 2"),
        ("names: [leaf, soil]", "train: [/elsewhere/set/train/images]", "val: 'C:\\set\\valid\\images'"),
        ("names: [leaf, soil]", "train: train.txt", "val: val.txt"),
        ("names: [leaf, soil]",),
    ],
    ids=["Roboflow", "absolute", "files", "folders"],
)
def test_lists_of_other_layouts(tmp_path: Path, lines: tuple[str, ...]) -> None:
    for name in ("train", "valid"):
        write_image(tmp_path / name / "images" / "x.jpg")
        write_lines(tmp_path / name / "labels" / "x.txt", SQUARE)
    write_lines(tmp_path / "data.yaml", *lines)
    write_lines(tmp_path / "train.txt", "./train/images/x.jpg")
    write_lines(tmp_path / "val.txt", "/content/valid/images/x.jpg")
    dataset = read(tmp_path)
    assert dataset.split("train") == ("train/images/x",) and dataset.split("val") == ("valid/images/x",)
    assert all((dataset.read_mask(id).numpy() == square()).all() for id in dataset.ids)


def test_images_of_train_and_val_stay_in_train(root: Path) -> None:
    write_lines(root / "data.yaml", "train: images/train", "val: images/train", "names: [leaf, soil]")
    (root / "images/val/a.jpg").unlink()
    dataset = read(root)
    assert dataset.split("val") is None and dataset.has_mask("a")
    assert "val in data.yaml repeats 4 images of train: they stay there" in dataset.notes


def test_classes_file_in_place_of_yaml(root: Path) -> None:
    (root / "data.yaml").unlink()
    write_lines(root / "classes.txt", "leaf", "background")
    dataset = read(root)
    assert dataset.classes == ("leaf", "background")
    assert dataset.read_mask("val/a").numpy()[0, 0] == 1 and dataset.read_mask("val/a").numpy()[6, 6] == 0


def test_boxes_are_ignored_pixels_and_refused_without_polygons(root: Path) -> None:
    write_lines(root / "labels/val/a.txt", SQUARE, "1 0.5 0.5 0.5 0.5")
    dataset = read(root)
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[5:15, 10:30] = 255
    expected[square() == 1] = 1
    assert (dataset.read_mask("val/a").numpy() == expected).all()
    assert "objects with only a box, whose pixels are ignored (255): 1" in dataset.notes
    for name in ("train/a", "val/a"):
        write_lines(root / "labels" / f"{name}.txt", "1 0.5 0.5 0.5 0.5")
    with refused(str(root), "the labels are boxes", "with polygons"):
        read(root)


def test_confidences_and_classes_with_a_point_are_read(root: Path) -> None:
    for name in ("train/a", "val/a"):
        write_lines(root / f"labels/{name}.txt", f"{SQUARE} 0.93".replace("0 ", "0.0 ", 1))
    dataset = read(root)
    assert (dataset.read_mask("val/a").numpy() == square()).all()
    assert "the last number of each line is taken for a confidence: left out" in dataset.notes


def test_lines_without_an_area_and_corners_beyond_the_edge_are_noted(root: Path) -> None:
    write_lines(root / "labels/val/a.txt", SQUARE, "0 0.1 0.1 0.1 0.1 0.1", "1 0.8 0.5 1.05 0.5 1.05 0.75 0.8 0.75")
    dataset = read(root)
    expected = square()
    expected[10:16, 32:] = 2
    assert (dataset.read_mask("val/a").numpy() == expected).all()
    assert "polygons with fewer than three corners are left out: 1" in dataset.notes
    assert "polygons that reach beyond the image are cut off: 1" in dataset.notes


def test_numbers_of_classes_may_have_gaps(root: Path) -> None:
    write_lines(root / "data.yaml", "names: {0: leaf, 2: soil}")
    write_lines(root / "labels/train/a.txt", SQUARE.replace("0 ", "2 ", 1))
    dataset = read(root)
    assert dataset.classes == ("background", "leaf", "soil")
    assert (dataset.read_mask("train/a").numpy() == 2 * square()).all()


def test_label_files_beside_the_images(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_image(tmp_path / f"{name}.jpg")
    write_lines(tmp_path / "a.txt", SQUARE)
    write_lines(tmp_path / "classes.txt", "leaf")
    dataset = read(tmp_path)
    assert list(dataset.masks) == ["a"] and (dataset.read_mask("a").numpy() == square()).all()


def test_a_data_set_in_the_only_folder_is_found(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    upper = tmp_path_factory.mktemp("upper")
    root.rename(upper / "dataset")
    dataset = read(upper)
    assert dataset.classes == ("background", "leaf", "soil") and list(dataset.masks)[-1] == "val/a"


def test_labels_without_names_name_the_missing_file(root: Path) -> None:
    (root / "data.yaml").unlink()
    with refused(
        "labels/train/a.txt", "neither data.yaml nor classes.txt names the classes", f"Write {root}/classes.txt"
    ):
        read(root)
    write_lines(root / "labels/classes.txt", "leaf", "soil")
    assert read(root).classes == ("background", "leaf", "soil")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.1 0.2 0.3 0.2 0.3 0.4", "is not a class below 2"),
        ("0 0.1 0.2 0.3 0.2 0.3 0.4 0.5", "line 2 has 7 coordinates"),
        ("0 0.1 0.2 0.3 0.2 0.3 40", "outside of 0 to 1"),
        ("0 0.1 0.2 0.3 nan 0.3 0.4", "is not a class below 2"),
        ("leaf 0.1 0.2 0.3 0.2 0.3 0.4", "is not a class below 2"),
    ],
)
def test_malformed_lines_raise_an_error(root: Path, line: str, words: str) -> None:
    write_lines(root / "labels/val/a.txt", SQUARE, line)
    with refused("val/a.txt", words):
        read(root)


@pytest.mark.parametrize("names", ["names: leaf", "names: {-1: leaf}", "names: []", "names: {a: leaf}"])
def test_malformed_names_raise_an_error(root: Path, names: str) -> None:
    write_lines(root / "data.yaml", names)
    with refused("data.yaml", "names is not a list of class names"):
        read(root)


def test_lists_do_not_lead_out_of_the_data_set(root: Path) -> None:
    write_image(root.parent / "outside" / "x.jpg")
    write_lines(root / "data.yaml", "names: [leaf, soil]", "train: images/train", "val: ../outside")
    dataset = read(root)
    assert dataset.split("val") is None or "outside" not in str(dataset.split("val"))
    assert "val in data.yaml names no image: ../outside" in dataset.notes
