"""Tests of the importer of VOC folders with own classes, and of CVAT's CamVid export."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import semiseg
from semiseg.data import open_dataset
from semiseg.data.importers import ForeignData, ImportOptions, detect_form, open_foreign
from semiseg.data.importers.voc_like import read_array
from trees import refused, write_image, write_lines

MASK = np.repeat(np.array([[0, 1, 2, 255]], dtype=np.uint8), 12, axis=1).repeat(48, axis=0)
COLORS = np.array([[0, 0, 0], [220, 20, 60], [0, 160, 80]], dtype=np.uint8)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three images with own names, of which a has an indexed PNG and b a NumPy array with -1."""
    root = tmp_path / "voc"
    for index, name in enumerate("abc"):
        write_image(root / "JPEGImages" / f"{name}.jpg", index)
    (root / "SegmentationClass").mkdir()
    (root / "SegmentationClassVisualization").mkdir()
    image = Image.fromarray(MASK)
    image.putpalette(COLORS.tobytes() + bytes(253 * 3))
    image.save(root / "SegmentationClass" / "a.png")
    write_image(root / "SegmentationClassVisualization" / "a.jpg")
    np.save(root / "SegmentationClass" / "b.npy", np.where(MASK == 255, -1, MASK.astype(np.int32)))
    write_lines(root / "class_names.txt", "_background_", "square", "disc")
    return root


def read(root: Path) -> ForeignData:
    assert detect_form(root) == "voc-like"
    return open_foreign(root, None, ImportOptions())


def test_indexed_masks_and_arrays(root: Path) -> None:
    dataset = read(root)
    assert dataset.ids == ("a", "b", "c") and dataset.classes == ("_background_", "square", "disc")
    assert all((dataset.read_mask(id).numpy() == MASK).all() for id in "ab") and not dataset.has_mask("c")
    write_lines(root / "ImageSets" / "Segmentation" / "train.txt", "a")
    write_lines(root / "ImageSets" / "Segmentation" / "val.txt", "b")
    imported = semiseg.import_data(root, root.parent / "own")
    own = open_dataset(root.parent / "own")
    assert imported.checked.classes[1].name == "square"
    assert own.split("train") == ("a",) and own.split("val") == ("b",)
    assert (own.read_mask("b").numpy() == MASK).all()
    with refused(f"semiseg import {root}"):
        open_dataset(root)


def test_folders_of_older_versions(root: Path) -> None:
    (root / "SegmentationClass" / "a.png").rename(root / "a.png")
    (root / "SegmentationClassPNG").mkdir()
    (root / "a.png").rename(root / "SegmentationClassPNG" / "a.png")
    assert (read(root).read_mask("a").numpy() == MASK).all()


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((2, 3, 4), dtype=int), "shape (2, 3, 4)"),
        (np.zeros((2, 3)), "is not a mask of integers"),
        (np.full((2, 3), 256), "values outside"),
        (np.array([[{}]]), "is not a mask of integers"),
    ],
)
def test_other_arrays_raise_an_error(tmp_path: Path, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with refused("a.npy: the mask cannot be read", words):
        read_array(tmp_path / "a.npy")


def test_malformed_arrays_raise_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", MASK)
    whole = (tmp_path / "a.npy").read_bytes()
    for content in (b"", whole[:50], whole[:-1], pickle.dumps(3), whole.replace(b"(48, 48)", b"(9999999, 9999999)")):
        (tmp_path / "a.npy").write_bytes(content)
        with refused("a.npy: the mask cannot be read"):
            read_array(tmp_path / "a.npy")


def test_camvid_export_of_cvat(tmp_path: Path) -> None:
    values = np.where(MASK == 255, 0, MASK)
    for folder, name in (("train", "a"), ("train", "b"), ("val", "c")):
        write_image(tmp_path / folder / f"{name}.png", ord(name))
        (tmp_path / f"{folder}annot").mkdir(exist_ok=True)
        Image.fromarray(COLORS[values]).save(tmp_path / f"{folder}annot" / f"{name}.png")
    for folder, names in (("train", "ab"), ("val", "c")):
        lines = (f"/{folder}/{name}.png {folder}annot/{name}.png" for name in names)
        write_lines(tmp_path / f"{folder}.txt", *lines)
    write_lines(tmp_path / "label_colors.txt", "0 0 0 background", "220 20 60 square", "0 160 80 disc")
    with refused(f"semiseg import {tmp_path}"):
        open_dataset(tmp_path)
    dataset = open_foreign(tmp_path, None, ImportOptions())
    assert dataset.classes == ("background", "square", "disc") and dataset.palette[1] == (220, 20, 60)
    assert all((dataset.read_mask(id).numpy() == values).all() for id in dataset.ids)
    assert dataset.split("train") == ("train/a", "train/b") and dataset.split("val") == ("val/c",)
