"""Tests of the importer of "CVAT for images": shapes, order, subsets, untrusted XML."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from semiseg.data.importers import ForeignData, ImportOptions, detect_form, open_foreign
from trees import refused

HEIGHT, WIDTH = 20, 30
LABELS = "".join(f"<label><name>{name}</name><color>#ff0000</color></label>" for name in ("soil", "leaf"))
META = f"<version>1.1</version><meta><task><name>t</name><labels>{LABELS}</labels></task></meta>"
BOX = '<box label="leaf" xtl="2" ytl="3" xbr="8" ybr="9" occluded="0" z_order="0"></box>'


def image(name: str, shapes: str = "", more: str = "") -> str:
    return f'<image id="0" name="{name}" width="{WIDTH}" height="{HEIGHT}"{more}>{shapes}</image>'


def write(root: Path, *images: str, names: tuple[str, ...] = ("a", "b"), meta: str = META) -> Path:
    for name in names:
        path = root / "images" / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (WIDTH, HEIGHT)).save(path)
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    (root / "annotations.xml").write_text(f"{head}<annotations>{meta}{''.join(images)}</annotations>")
    return root


def read(root: Path, **options: Any) -> ForeignData:
    assert detect_form(root) == "cvat"
    return open_foreign(root, None, ImportOptions(**options))


def test_shapes_are_drawn_by_z_order(tmp_path: Path) -> None:
    shapes = [
        '<polygon label="soil" points="4,5;12,5;12,11;4,11" z_order="1"></polygon>',
        BOX,
        '<ellipse label="leaf" cx="20" cy="10" rx="6" ry="2" rotation="90" z_order="0"></ellipse>',
        '<mask label="soil" rle="1, 3, 2" left="25" top="15" width="3" height="2" z_order="0"></mask>',
        '<polyline label="soil" points="1,1;9,9" z_order="0"></polyline>',
        '<points label="soil" points="1,1" z_order="0"></points>',
    ]
    dataset = read(write(tmp_path, image("a.jpg", "".join(shapes))))
    assert dataset.classes == ("background", "soil", "leaf")
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:9, 2:8] = 2
    rows, columns = np.ogrid[:HEIGHT, :WIDTH]
    expected[((columns - 20) / 2) ** 2 + ((rows - 10) / 6) ** 2 <= 1] = 2
    expected[15, 26:28] = expected[16, 25] = 1
    expected[5:11, 4:12] = 1
    assert (dataset.read_mask("a").numpy() == expected).all() and not dataset.has_mask("b")
    assert "shapes without an area are left out: 1 points, 1 polyline" in dataset.notes


@pytest.mark.parametrize("corners", ["4.5,5.49;12,5;12.51,11.7;4,11", "-3,2;9.99,30.2;28.4,7;11,9;40,-2"])
def test_polygons_equal_those_of_cvat(tmp_path: Path, corners: str) -> None:
    shape = f'<polygon label="leaf" points="{corners}" z_order="0"></polygon>'
    mask = read(write(tmp_path, image("a.jpg", shape))).read_mask("a").numpy()
    numbers = [float(number) for number in corners.replace(";", ",").split(",")]
    expected = coco_mask.decode(coco_mask.frPyObjects([numbers], HEIGHT, WIDTH)[0])
    assert mask.any() and ((mask == 2) == expected).all()


def test_empty_labels_are_refused(tmp_path: Path) -> None:
    root = write(tmp_path, image("a.jpg", BOX + BOX.replace('"leaf"', '" "')))
    with refused("annotations.xml", "a shape of image a has an empty label", "Give it a label"):
        read(root)


def test_small_ellipses_cover_their_center(tmp_path: Path) -> None:
    shape = '<ellipse label="leaf" cx="9.6" cy="5.2" rx="0.3" ry="2.4" z_order="0"></ellipse>'
    data = read(write(tmp_path, image("a.jpg", shape + shape.replace("0.3", "0"))))
    mask = data.read_mask("a").numpy()
    assert any("shapes of no size or fewer than three corners are left out: 1" in line for line in data.describe())
    assert np.argwhere(mask).tolist() == [[row, 10] for row in range(3, 8)]


def test_rotated_box(tmp_path: Path) -> None:
    turned = '<box label="leaf" xtl="10" ytl="8" xbr="20" ybr="12" rotation="90"></box>'
    mask = read(write(tmp_path, image("a.jpg", turned))).read_mask("a").numpy()
    assert mask[5:15, 13:17].all() and mask.sum() == 2 * 10 * 4


def test_subsets_are_lists_and_images_are_found_by_folder(tmp_path: Path) -> None:
    images = [image("one/x.jpg", BOX, ' subset="Train"'), image("two\\x.jpg", BOX, ' subset="Validation"')]
    dataset = read(write(tmp_path, *images, names=("one/x", "two/x", "y")))
    assert dataset.split("train") == ("one/x", "y") and dataset.split("val") == ("two/x",)


def test_names_of_files_are_lists(tmp_path: Path) -> None:
    for name, one in (("train", "a"), ("val", "b")):
        write(tmp_path, image(f"{one}.jpg", BOX))
        (tmp_path / "annotations.xml").rename(tmp_path / f"{name}.xml")
    dataset = read(tmp_path)
    assert dataset.split("train") == ("a",) and dataset.split("val") == ("b",)


def test_images_without_shapes_are_background_or_unlabeled(tmp_path: Path) -> None:
    root = write(tmp_path, image("a.jpg", BOX), image("b.jpg"))
    assert not read(root).read_mask("b").any() and any("--empty unlabeled" in note for note in read(root).notes)
    assert not read(root, empty="unlabeled").has_mask("b")


def test_labels_without_meta_are_sorted(tmp_path: Path) -> None:
    root = write(tmp_path, image("a.jpg", BOX + BOX.replace("leaf", "ash")), meta="<version>1.1</version>")
    assert read(root).classes == ("background", "ash", "leaf")


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>',
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a SYSTEM "http://localhost/a.dtd">',
    ],
)
def test_entities_are_refused(tmp_path: Path, declaration: str) -> None:
    path = write(tmp_path, image("a.jpg", BOX.replace("leaf", "&a;"))) / "annotations.xml"
    path.write_text(path.read_text().replace("<annotations>", f"{declaration}<annotations>", 1))
    with refused("annotations.xml", "declares a document type"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ('<polygon label="leaf" points="1,2;3,4;1e9,5"/>', "in or near the image"),
        ('<polygon label="leaf" points="1,2;3;4,5"/>', "malformed"),
        ('<mask label="leaf" rle="1,2" left="0" top="0" width="3" height="2"/>', "run lengths cover 3"),
        ('<mask label="leaf" rle="6" left="29" top="0" width="3" height="2"/>', "outside the image"),
        ('<mask label="leaf" rle="999999999999" left="0" top="0" width="999999" height="1000001"/>', "run lengths"),
        ('<box label="leaf" xtl="nan" ytl="0" xbr="3" ybr="2"/>', "in or near the image"),
        ('<ellipse label="leaf" cx="1" cy="1" rx="-1" ry="2"/>', "half axis"),
    ],
)
def test_malformed_shapes_raise_an_error(tmp_path: Path, shape: str, words: str) -> None:
    with refused("annotations.xml", words):
        read(write(tmp_path, image("a.jpg", shape))).read_mask("a")


def test_malformed_files_raise_an_error(tmp_path: Path) -> None:
    with refused("annotations.xml", "not an annotation of CVAT", "KeyError"):
        read(write(tmp_path, '<image name="a.jpg"></image>'))
    with refused("annotations.xml", '"CVAT for video"', "Export the task"):
        read(write(tmp_path, '<track id="0" label="leaf"></track>'))
    with refused("annotations.xml", "cannot be read as XML"):
        read(write(tmp_path, "<image>"))
    Image.new("RGB", (5, 5)).save(write(tmp_path, image("a.jpg", BOX)) / "images" / "a.jpg")
    with refused("annotations.xml", "is 30x20, the file is 5x5"):
        read(tmp_path).read_mask("a")
