"""Tests of the CVAT importer: masks equal the input of datumaro, lists and errors."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from semiseg.data import check_masks, detect_layout, resolve_split
from semiseg.data.importers import ForeignData, detect_form, open_foreign
from semiseg.data.importers.cvat import CvatMask
from semiseg.data.importers.foreign_data import ImportOptions
from trees import make_voc, refused, write_lines

FIXTURES = Path(__file__).parents[1] / "fixtures"  # made by fixtures/make_cvat.py
NAMES = {0: "background", 1: "leaf rust", 2: "soil"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(FIXTURES / "cvat", tmp_path / "cvat")


def open_dataset(root: Path) -> ForeignData:
    return CvatMask(root, ImportOptions())


def test_masks_equal_the_input_of_datumaro(root: Path) -> None:
    dataset = open_dataset(root)
    assert dataset.classes == ("background", "leaf rust", "soil")
    assert dataset.palette == ((0, 0, 0), (250, 50, 83), (51, 221, 255))
    with np.load(FIXTURES / "cvat.npz") as given:
        assert sorted(given) == ["a 1", "b", "c"]
        for id, mask in given.items():
            assert (dataset.read_mask(id).numpy() == mask).all() and set(np.unique(mask)) == {0, 1, 2, 255}


def test_exports_in_a_folder_of_their_own_are_read_by_their_labelmap(root: Path, tmp_path: Path) -> None:
    expected = open_dataset(root).read_mask("b")
    upper = tmp_path / "upper"
    upper.mkdir()
    root.rename(upper / "task_1")
    data = open_foreign(upper, None, ImportOptions())
    assert detect_form(upper) == data.form == "cvat-mask" and (data.read_mask("b") == expected).all()
    shutil.copytree(upper / "task_1", upper / "task_2")
    with refused("upper: task_1/ is a CVAT export", f"semiseg import {upper}/task_1 --out {upper}/task_1-semiseg"):
        open_foreign(upper, None, ImportOptions())


def test_lists(root: Path) -> None:
    dataset = open_dataset(root)
    assert dataset.split("train") == ("a 1", "b", "d") and dataset.split("val") == ("c",)
    assert dataset.split("test") is None and not dataset.has_mask("d")
    split = resolve_split(dataset, None, 0)
    assert (split.labeled, split.unlabeled, split.val) == (("a 1", "b"), ("d",), ("c",))
    write_lines(root / "splits" / "train.txt", "b", "d")
    write_lines(root / "splits" / "1_2" / "labeled.txt", "b")
    write_lines(root / "splits" / "1_2" / "unlabeled.txt", "a 1")
    assert dataset.split("train") == ("b", "d")
    shutil.move(root / "ImageSets/Segmentation/Train.txt", root / "ImageSets/Segmentation/default.txt")
    assert resolve_split(dataset, "1/2", 0).unlabeled == ("a 1",)


def test_masks_are_read_by_color_in_any_image_mode(root: Path) -> None:
    path = root / "SegmentationClass" / "b.png"
    before = open_dataset(root).read_mask("b")
    with Image.open(path) as opened:
        opened.convert("RGB").quantize(8).save(path)
    with Image.open(path) as opened:
        assert opened.mode == "P"
    assert (open_dataset(root).read_mask("b") == before).all()
    Image.new("L", (32, 24)).save(path)
    assert open_dataset(root).read_mask("b").unique().tolist() == [0]


def test_labelmap_distinguishes_cvat_from_pascal_voc(tmp_path: Path) -> None:
    root = make_voc(tmp_path / "voc")
    assert detect_layout(root) == "voc2012"
    write_lines(root / "labelmap.txt", "background:0,0,0::", "cat:9,9,9::")
    assert (detect_layout(root), detect_form(root)) == ("folder", "cvat-mask")


def test_unknown_color_raises_an_error(root: Path) -> None:
    path = root / "labelmap.txt"
    path.write_text(path.read_text().replace("soil:51,221,255", "soil:51,221,254"))
    with refused("SegmentationClass/a 1.png", "(51, 221, 255)", "labelmap.txt", "Add its label"):
        check_masks(open_dataset(root), ["a 1"])


def test_malformed_labelmaps_raise_an_error(root: Path) -> None:
    for lines, words in (
        (("background:0,0,0::", "soil:0,0,0::"), ("color (0, 0, 0)", "first for background")),
        (("soil:0,0,0::", "soil:1,0,0::"), ("name soil is listed twice",)),
        (("soil:0,0::",), ("'soil:0,0::'", "three numbers")),
        (("soil:0,0,256::",), ("three numbers from 0 to 255",)),
        (("soil:0,0,x::",), ("three numbers",)),
        (("soil",), ("'soil' is not a label",)),
        (("# nothing",), ("0 classes",)),
        (("void:0,0,0::",), ("0 classes in 1 lines",)),
    ):
        write_lines(root / "labelmap.txt", *lines)
        with refused("labelmap.txt", *words):
            open_dataset(root)


def test_labelmap_without_colors_uses_the_voc_color_map(root: Path) -> None:
    write_lines(root / "labelmap.txt", "background:::", "soil:::")
    Image.new("RGB", (32, 24), (128, 0, 0)).save(root / "SegmentationClass" / "b.png")
    assert open_dataset(root).read_mask("b").unique().tolist() == [1]


def test_missing_and_resized_files_raise_an_error(root: Path) -> None:
    (root / "JPEGImages" / "d.png").unlink()
    with refused("Train.txt", "'d' is not an image"):
        resolve_split(open_dataset(root), None, 0)
    Image.new("RGB", (5, 6)).save(root / "JPEGImages" / "b.png")
    with refused("SegmentationClass/b.png", "the mask is 32x24", "is 5x6"):
        check_masks(open_dataset(root), ["b"])
    shutil.move(root / "SegmentationClass", root / "away")
    (root / "SegmentationClass").mkdir()
    with refused("SegmentationClass", "no masks of these images"):
        open_dataset(root)
    shutil.rmtree(root / "JPEGImages")
    with refused("JPEGImages", "no images found", "Save images"):
        open_dataset(root)
