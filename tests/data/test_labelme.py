"""Tests of the LabelMe importer: shapes, labels, images inside JSON files, errors."""

from __future__ import annotations

import base64
import json
import shutil
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import semiseg
from semiseg.data import open_dataset
from semiseg.data.importers import ForeignData, ImportOptions, detect_form, open_foreign
from semiseg.data.importers.shapes.labelme import LabelMe
from trees import refused, write_lines

FIXTURES = Path(__file__).parents[1] / "fixtures"  # made by fixtures/make_labelme.py
HEIGHT, WIDTH = 20, 30


def shape(label: str, points: list[Any], kind: str = "polygon", **more: Any) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": None, "shape_type": kind, "flags": {}, **more}


def write(root: Path, name: str, shapes: list[Any], image: bool = True, **more: Any) -> Path:
    """Write an image and its JSON file as LabelMe does."""
    path = root / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if image:
        Image.new("RGB", (WIDTH, HEIGHT), (90, 120, 30)).save(path.with_suffix(".jpg"))
    content = {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": f"{path.stem}.jpg", "imageData": None}
    path.write_text(json.dumps(content | {"imageHeight": HEIGHT, "imageWidth": WIDTH} | more))
    return path


def read(root: Path, **options: Any) -> ForeignData:
    assert detect_form(root) == "labelme"
    return open_foreign(root, None, ImportOptions(**options))


def png(values: np.ndarray) -> str:
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_shapes_are_drawn_in_file_order(tmp_path: Path) -> None:
    bitmap = np.eye(4, dtype=bool)
    shapes = [
        shape("leaf", [[2, 3], [10, 3], [10, 8], [2, 8]]),
        shape("soil", [[8, 12], [4, 6]], "rectangle"),
        shape("soil", [[25, 1], [28, 4]], "mask", mask=png(bitmap)),
        shape("soil", [[0, 0], [29, 19]], "line"),
        shape("soil", [[3, 3]], "point"),
    ]
    write(tmp_path, "a", shapes)
    dataset = read(tmp_path)
    assert dataset.classes == ("background", "leaf", "soil")
    expected = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    expected[3:9, 2:11] = 1  # with the outline
    expected[6:13, 4:9] = 2
    expected[1:5, 25:29][bitmap] = 2
    assert (dataset.read_mask("a").numpy() == expected).all()
    assert "shapes without an area are left out: 1 line, 1 point" in dataset.notes


def test_masks_equal_those_of_labelme(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "labelme", tmp_path / "labelme")
    write_lines(tmp_path / "labelme" / "labels.txt", "__ignore__", "_background_", "leaf", "soil")
    dataset = read(tmp_path / "labelme")
    with np.load(FIXTURES / "labelme.npz") as given:
        assert sorted(given) == list(dataset.ids) == ["a", "b", "c"]
        for id, mask in given.items():
            assert (dataset.read_mask(id).numpy() == mask).all() and set(np.unique(mask)) == {0, 1, 2}


def test_labels_file_decides_the_order_and_ignored_pixels(tmp_path: Path) -> None:
    box = [[0, 0], [4, 4]]
    write(tmp_path, "a", [shape("soil", box, "rectangle"), shape("__ignore__", [[2, 2], [9, 9]], "rectangle")])
    write_lines(tmp_path / "labels.txt", "__ignore__", "_background_", "soil", "leaf")
    dataset = read(tmp_path)
    assert dataset.classes == ("_background_", "soil", "leaf")
    mask = dataset.read_mask("a").numpy()
    assert mask[0, 0] == 1 and mask[3, 3] == 255 and mask[15, 15] == 0
    write_lines(tmp_path / "labels.txt", "leaf")
    with refused("labels.txt", "does not list the label 'soil' of", "a.json"):
        read(tmp_path)


def test_images_without_shapes_are_background_or_unlabeled(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape("leaf", [[0, 0], [4, 4]], "rectangle")])
    write(tmp_path, "empty", [])
    write(tmp_path, "none", []).unlink()
    dataset = read(tmp_path)
    assert [id for id in dataset.ids if dataset.has_mask(id)] == ["a", "empty"]
    assert not dataset.read_mask("empty").any() and any("--empty unlabeled" in note for note in dataset.notes)
    assert list(read(tmp_path, empty="unlabeled").masks) == ["a"]


def test_images_are_found_in_other_folders_and_by_windows_paths(tmp_path: Path) -> None:
    for folder, label in (("one", "leaf"), ("two", "soil")):
        write(tmp_path / "images" / folder, "x", []).unlink()
        more = {"imagePath": f"..\\..\\images\\{folder}\\x.jpg"}
        write(tmp_path / "json" / folder, "x", [shape(label, [[0, 0], [4, 4]], "rectangle")], False, **more)
    dataset = read(tmp_path)
    assert dataset.ids == ("one/x", "two/x")
    assert [int(dataset.read_mask(id).max()) for id in dataset.ids] == [1, 2]
    write(tmp_path / "renamed", "y", [shape("leaf", [[0, 0], [4, 4]], "rectangle")], imagePath="C:\\photos\\DSC1.JPG")
    assert read(tmp_path).has_mask("renamed/y")


def test_images_inside_json_files_are_extracted(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    write(tmp_path / "data", "a", [shape("leaf", [[0, 0], [4, 4]], "rectangle")], False, imageData=png(pixels))
    imported = semiseg.import_data(tmp_path / "data", tmp_path / "own")
    assert "images taken from inside their JSON file: 1" in imported.notes
    dataset = open_dataset(tmp_path / "own")
    assert (dataset.read_image("a").permute(1, 2, 0).numpy() == pixels).all() and dataset.read_mask("a").sum() == 25
    assert not (tmp_path / "own" / "images" / "a.png").is_symlink()


MALFORMED: dict[str, tuple[Any, str]] = {
    "far away": ([shape("leaf", [[0, 0], [1e9, 4], [4, 4]])], "in or near the image"),
    "not a number": ([shape("leaf", [["0", 0], [3, 4], [4, 4]])], "in or near the image"),
    "no base64": ([shape("leaf", [[0, 0], [4, 4]], "mask", mask="!")], "malformed"),
    "outside": ([shape("leaf", [[30, 0], [33, 3]], "mask", mask=png(np.eye(4, dtype=bool)))], "outside the image"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_malformed_shapes_raise_an_error(kind: str, tmp_path: Path) -> None:
    shapes, words = MALFORMED[kind]
    write(tmp_path, "a", shapes)
    with refused("a.json", "of image a is malformed", words, "Correct it in the tool"):
        read(tmp_path).read_mask("a")


def test_one_shape_without_an_area_does_not_refuse_the_others(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape("leaf", [[0, 0], [4, 4]]), shape("leaf", [[5, 5], [9, 9]], "rectangle")])
    data = read(tmp_path)
    mask = data.read_mask("a").numpy()
    assert mask.sum() == 25 and mask[9, 9] == 1
    assert (
        "shapes of no size or fewer than three corners are left out: 1, such as one of a in a.json" in data.describe()
    )


def test_a_bitmap_is_cut_off_one_pixel_beyond_the_edge(tmp_path: Path) -> None:
    write(tmp_path, "a", [shape("leaf", [[28, 0], [31, 3]], "mask", mask=png(np.ones((4, 3), dtype=bool)))])
    mask = read(tmp_path).read_mask("a").numpy()
    assert mask.sum() == 4 * (mask.shape[1] - 28) and mask[0, 28] == 1


def test_an_image_path_that_contradicts_the_name_of_the_file_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path, name, [shape("leaf", [[0, 0], [4, 4]], "rectangle")])
    content = json.loads((tmp_path / "a.json").read_text())
    content["imagePath"] = json.loads((tmp_path / "b.json").read_text())["imagePath"]
    (tmp_path / "a.json").write_text(json.dumps(content))
    with refused("a.json", "imagePath is b.", "the file is named like a."):
        read(tmp_path)


def test_malformed_files_raise_an_error(tmp_path: Path) -> None:
    path = write(tmp_path, "a", [shape("leaf", [[0, 0], [4, 4]], "rectangle")], imageWidth=31)
    with refused("a.json", "is 31x20", "is 30x20"):
        read(tmp_path).read_mask("a")
    for shapes in (5, [3], [{"points": []}]):
        write(tmp_path, "a", shapes)  # type: ignore[arg-type]
        with refused("a.json", "not an annotation of LabelMe"):
            read(tmp_path)
    path.write_text('{"shapes": [], "imagePath": ')
    with refused("a.json", "cannot be read"):
        LabelMe(tmp_path, ImportOptions())
    write(tmp_path, "a", [shape("leaf", [[0, 0], [4, 4]], "rectangle")]).with_suffix(".jpg").rename(tmp_path / "b.jpg")
    with refused("no shape belongs to an image (looked for", "a.jpg"):
        read(tmp_path)
