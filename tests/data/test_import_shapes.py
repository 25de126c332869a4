"""Importers of Supervisely, Darwin and VIA: pixels equal those of the tools, lists, notes and refusals."""

from __future__ import annotations

import base64
import csv
import json
import math
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from semiseg.data.importers import IMPORTERS, ForeignData, ImportOptions, detect_form, open_foreign
from trees import refused, write_lines

FIXTURES = Path(__file__).parents[1] / "fixtures"  # made by make_supervisely.py and make_darwin.py
HEIGHT, WIDTH = 24, 32
EMPTY: tuple[Literal["background", "unlabeled"], ...] = ("background", "unlabeled")


@pytest.fixture
def copied(tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: shutil.copytree(FIXTURES / name, tmp_path / name)


def opened(root: Path, **options: Any) -> ForeignData:
    return open_foreign(root, None, ImportOptions(**options))


def assert_equal_to_tool(data: ForeignData, name: str) -> None:
    with np.load(FIXTURES / f"{name}.npz") as given:
        for id, mask in given.items():
            if id.replace("|", "/") in data.masks:
                found = data.read_mask(id.replace("|", "/")).numpy()
            assert (np.where(found == 255, 0, found) == mask).all(), id


def edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_supervisely_masks_equal_those_of_its_sdk(copied: Callable[[str], Path]) -> None:
    data = opened(copied("supervisely"))
    assert data.form == "supervisely" and data.classes == ("background", "leaf rust", "soil", "stone")
    assert tuple(data.images) == ("train/a 1", "train/b", "val/a 1", "val/empty") == tuple(data.masks)
    assert_equal_to_tool(data, "supervisely")
    assert data.split("train") == ("train/a 1", "train/b") and data.split("val") == ("val/a 1", "val/empty")
    assert data.notes[0] == "shapes without an area are left out: 1 line"
    assert data.notes[1] == "images without regions: 1, background (--empty unlabeled if they are not annotated yet)"


def test_supervisely_empty_images_can_be_unlabeled(copied: Callable[[str], Path]) -> None:
    data = opened(copied("supervisely"), empty="unlabeled")
    assert "val/empty" not in data.masks and data.split("val") == ("val/a 1",)
    assert data.notes[1] == "images without regions: 1, unlabeled (--empty background if they show no class)"


def test_supervisely_refuses_what_does_not_fit_the_image(copied: Callable[[str], Path]) -> None:
    root = copied("supervisely")
    Image.new("RGB", (16, 12)).save(root / "train/img/a 1.png")
    with refused("a 1.png.json", "the annotated image train/a 1 is 32x24, the file is 16x12"):
        opened(root).read_mask("train/a 1")
    file = root / "train/ann/b.png.json"
    bomb = base64.b64encode(zlib.compress(b"\0" * 50_000_000)).decode()
    for data, words in ((bomb, "larger than"), ("no base64!", "malformed"), ("", "malformed")):
        edit(file, lambda content, data=data: content["objects"][0]["bitmap"].update(data=data))
        with refused("b.png.json", "'stone'", words):
            opened(root).read_mask("train/b")
    edit(file, lambda content: content["objects"][0]["bitmap"].update(origin=["x"]))
    with refused("b.png.json", "not an annotation of Supervisely"):
        opened(root)
    edit(file, lambda content: content.update(objects=[{"classTitle": "moss", **square("rectangle")}]))
    with refused("meta.json", "does not list the label 'moss' of", "b.png.json"):
        opened(root)


def square(kind: str) -> dict[str, Any]:
    return {"geometryType": kind, "points": {"exterior": [[1, 2], [3, 4]], "interior": []}}


def test_darwin_masks_equal_those_of_darwin_py(copied: Callable[[str], Path]) -> None:
    data = opened(copied("darwin"))
    assert data.form == "darwin" and data.classes == ("background", "leaf", "soil")
    assert tuple(data.masks) == ("a", "b", "day 1/a")  # of two images called a.png, each has its own annotation
    assert_equal_to_tool(data, "darwin")
    assert "shapes without an area are left out: 1 tag" in data.notes
    assert "objects with only a box, whose pixels are ignored (255): 1" in data.notes
    mask = data.read_mask("a").numpy()
    assert (mask[1:6, 1:6] > 0).all() and set(np.unique(mask[1:6, 1:6])) == {1, 255} and (mask == 255).sum() == 18


def test_darwin_ellipse_and_malformed_runs(copied: Callable[[str], Path]) -> None:
    root = copied("darwin")
    file = root / "releases/latest/annotations/a.json"
    ellipse = {"center": {"x": 15, "y": 11}, "radius": {"x": 9, "y": 4}, "angle": math.pi / 2}
    edit(file, lambda content: content.update(annotations=[{"id": "1", "name": "leaf", "ellipse": ellipse}]))
    mask = opened(root).read_mask("a").numpy()
    assert np.argwhere(mask == 1).min(0).tolist() == [2, 11] and np.argwhere(mask == 1).max(0).tolist() == [20, 19]
    assert mask.sum() == pytest.approx(math.pi * 36, rel=0.06)
    layer = root / "releases/latest/annotations/b.json"
    edit(layer, lambda content: content["annotations"][-1]["raster_layer"]["dense_rle"].append(1))
    with refused("b.json", "the run lengths cover"):
        opened(root).read_mask("b")


VIA_SHAPES = {
    "a.png": [
        ({"name": "polygon", "all_points_x": [2, 12, 12, 2], "all_points_y": [3, 3, 9, 9]}, "square"),
        ({"name": "rect", "x": 20, "y": 4, "width": 6, "height": 8}, "disc"),
        ({"name": "polyline", "all_points_x": [2, 12], "all_points_y": [3, 3]}, "disc"),
    ],
    "b.png": [
        ({"name": "circle", "cx": 10, "cy": 12, "r": 6}, "disc"),
        ({"name": "ellipse", "cx": 24, "cy": 12, "rx": 3, "ry": 7}, "square"),
    ],
    "c.png": [],
}


def via(root: Path, suffix: str = ".json", value: Callable[[str], Any] = str) -> Path:
    """Write four images and the annotation of three of them, and an image that does not exist."""
    images = {}
    for name in (*VIA_SHAPES, "d.png", "gone.png"):
        if name != "gone.png":
            (root / "photos").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((HEIGHT, WIDTH, 3), 99, np.uint8)).save(root / "photos" / name)
        if name != "d.png":
            shapes = VIA_SHAPES.get(name, [])
            regions = [
                {"shape_attributes": shape, "region_attributes": {"note": "", "class": value(label)}}
                for shape, label in shapes
            ]
            images[name + "9"] = {"filename": name, "size": 9, "file_attributes": {}, "regions": regions}
    if suffix == ".json":
        options = {"note": {"type": "text"}, "class": {"type": "dropdown", "options": {"square": "", "disc": ""}}}
        content = {"_via_settings": {}, "_via_img_metadata": images, "_via_attributes": {"region": options}}
        (root / "via_project.json").write_text(json.dumps(content))
        return root
    with (root / "via_region_data.csv").open("w") as file:
        table = csv.writer(file)
        file.write(
            "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
        )
        for entry in images.values():
            for number, region in enumerate(entry["regions"] or [{}]):
                cells = [json.dumps(region.get(key, {})) for key in ("shape_attributes", "region_attributes")]
                table.writerow([entry["filename"], 9, "{}", len(entry["regions"]), number, *cells])
    return root


@pytest.mark.parametrize(("suffix", "classes"), [(".json", ("square", "disc")), (".csv", ("disc", "square"))])
def test_via_masks(tmp_path: Path, suffix: str, classes: tuple[str, ...]) -> None:
    data = opened(via(tmp_path / "data", suffix))
    assert data.form == "via" and data.classes == ("background", *classes)
    square, disc = (data.classes.index(name) for name in ("square", "disc"))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[3:10, 2:13], expected[4:12, 20:26] = square, disc
    assert (data.read_mask("a").numpy() == expected).all()
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[(columns - 10) ** 2 + (rows - 12) ** 2 <= 36] = disc
    expected[((columns - 24) / 3) ** 2 + ((rows - 12) / 7) ** 2 <= 1] = square
    assert (data.read_mask("b").numpy() == expected).all()
    assert not data.read_mask("c").any() and not data.has_mask("d")
    assert data.notes == [
        "the class of a region is its attribute 'class' (not used: note; --attribute uses another one)",
        "shapes without an area are left out: 1 polyline",
        "images without regions: 1, background (--empty unlabeled if they are not annotated yet)",
        "annotated images that are not in the folder: 1, such as gone.png",
    ]


def test_via_checkboxes_and_regions_without_a_class(tmp_path: Path) -> None:
    data = opened(via(tmp_path / "boxes", value=lambda label: {label: True, "other": False}))
    assert set(np.unique(data.read_mask("a"))) == {0, 1, 2}
    root = via(tmp_path / "none", value=lambda label: "" if label == "disc" else label)
    with refused("via_project.json", "a region of a.png has 0 classes", "Give its attribute 'class' one value"):
        opened(root)


def test_via_options_name_the_classes(tmp_path: Path) -> None:
    before = opened(via(tmp_path / "before")).read_mask("a").numpy()
    root = via(tmp_path / "data", value=lambda label: {"square": "1", "disc": "2"}[label])
    options = {"class": {"type": "dropdown", "options": {"1": "square", "2": "disc"}}}
    edit(root / "via_project.json", lambda content: content.update(_via_attributes={"region": options}))
    data = opened(root)
    assert data.classes == ("background", "square", "disc") and (data.read_mask("a").numpy() == before).all()
    assert before.any() and "names of its options: 1 is square, 2 is disc" in data.notes


def rename_attribute(content: Any) -> None:
    for entry in content["_via_img_metadata"].values():
        for region in entry["regions"]:
            region["region_attributes"] = {"type": "good", "species": region["region_attributes"]["class"]}


def test_via_attribute_is_chosen_by_the_user(tmp_path: Path) -> None:
    before = opened(via(tmp_path / "before")).read_mask("a").numpy()
    root = via(tmp_path / "data")
    edit(root / "via_project.json", rename_attribute)
    with refused("several attributes that may be the class (type: good; species: square, disc)", "--attribute type"):
        opened(root)
    data = opened(root, attribute="species")
    assert (data.read_mask("a").numpy() > 0).tolist() == (before > 0).tolist()
    assert data.classes == ("background", "disc", "square")
    with refused("--attribute", "no region has the attribute 'name'", "Choose one of type, species"):
        opened(root, attribute="name")


def test_via_images_of_one_name_differ_by_size(tmp_path: Path) -> None:
    root = via(tmp_path / "data")
    (root / "other").mkdir()
    shutil.copy(root / "photos/a.png", root / "other/a.png")
    data = opened(root)
    note = "1 annotated images fit several files, such as a.png (other/a.png and photos/a.png): left out"
    assert any(note in line for line in data.notes) and not data.has_mask("photos/a")
    with (root / "photos/a.png").open("ab") as file:
        file.write(b"\0")
    size = (root / "photos/a.png").stat().st_size
    edit(root / "via_project.json", lambda content: content["_via_img_metadata"]["a.png9"].update(size=size))
    assert opened(root).has_mask("photos/a") and not opened(root).has_mask("other/a")


def test_an_export_in_the_only_folder_is_found(copied: Callable[[str], Path], tmp_path: Path) -> None:
    expected = opened(copied("supervisely")).read_mask("train/b")
    (tmp_path / "download/export").mkdir(parents=True)
    (tmp_path / "supervisely").rename(tmp_path / "download/export/project")
    write_lines(tmp_path / "download/README.txt", "unpacked")
    assert detect_form(tmp_path / "download") == "supervisely"
    data = opened(tmp_path / "download")
    assert (data.read_mask("train/b") == expected).all()
    assert data.notes[0] == "read from export/project/, the only folder in download/"


def test_via_refuses_an_image_of_another_size(tmp_path: Path) -> None:
    root = via(tmp_path / "data")
    Image.new("RGB", (16, 12)).save(root / "photos/a.png")
    with refused("via_project.json", "it reaches 26, 12, but the image is 16x12"):
        opened(root).read_mask("a")


def test_one_image_in_two_projects_is_refused(tmp_path: Path) -> None:
    root = via(tmp_path / "data")
    shutil.copy(root / "via_project.json", root / "via_2.json")
    with refused("via_project.json", "a.png is annotated a second time", "via_2.json"):
        opened(root)


def test_class_file_sets_the_order_and_forms_are_detected(copied: Callable[[str], Path]) -> None:
    for name in ("supervisely", "darwin"):
        root = copied(name)
        assert detect_form(root) == name and IMPORTERS[name].recognizes(root)
    write_lines(root / "classes.txt", "soil", "leaf")
    assert opened(root).classes == ("background", "soil", "leaf")
