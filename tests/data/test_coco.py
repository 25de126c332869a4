"""Tests of the COCO importer: masks equal those of pycocotools, lists follow file names, errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from semiseg.data import FolderDataset, check_masks
from semiseg.data import open_dataset as open_own
from semiseg.data.importers import ForeignData, ImportOptions, detect_form
from semiseg.data.importers.shapes.coco import Coco
from semiseg.data.importers.shapes.polygons import counts_region, polygon_region
from trees import SIDE, refused, write_image, write_lines

CATEGORIES = [{"id": 7, "name": "tree"}, {"id": 3, "name": "car"}]


def open_dataset(root: Path, **options: Any) -> ForeignData:
    return Coco(root, ImportOptions(**options))


def rectangle(left: int, top: int, right: int, bottom: int) -> NDArray[np.uint8]:
    mask = np.zeros((SIDE, SIDE), dtype=np.uint8)
    mask[top:bottom, left:right] = 1
    return mask


def compressed(mask: NDArray[np.uint8]) -> dict[str, Any]:
    """Encode a mask with pycocotools, as in a JSON file."""
    encoded = coco_mask.encode(np.asfortranarray(mask))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def annotation(id: int, image: int, category: int, segmentation: Any, **more: Any) -> dict[str, Any]:
    return {"id": id, "image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": 0, **more}


def make_coco(root: Path, annotations: list[dict[str, Any]], file: str = "annotations/instances_default.json") -> Path:
    """Write four images and a COCO file that names the first three."""
    for index in range(4):
        write_image(root / "images" / f"{index}.png", index)
    images = [{"id": 10 + i, "file_name": f"images/{i}.png", "width": SIDE, "height": SIDE} for i in range(3)]
    write_json(root / file, {"images": images, "annotations": annotations, "categories": CATEGORIES})
    return root


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


POLYGONS = [
    [3.2, 4.7, 30.1, 6.0, 25.5, 40.9, 8.0, 33.3],
    [40, 40, 47.6, 41.2, 43, 60],
]  # leaves the image
ANNOTATIONS = [
    annotation(1, 10, 3, POLYGONS),
    annotation(2, 10, 7, compressed(rectangle(10, 10, 20, 44))),
    annotation(3, 10, 7, {"size": [SIDE, SIDE], "counts": [SIDE * 25 + 5, 20, SIDE * 23 - 25]}, iscrowd=1),
    annotation(4, 11, 3, compressed(rectangle(0, 0, SIDE, 5))),
]


def test_masks_equal_those_of_pycocotools(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    dataset = open_dataset(root)
    assert isinstance(dataset, Coco) and dataset.classes == ("background", "car", "tree")
    theirs = COCO(str(root / "annotations/instances_default.json"))
    for index, order in ((0, (3, 1, 2)), (1, (4,))):  # the crowd, 3, is rendered first
        expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
        for number in order:
            one = theirs.anns[number]
            expected[theirs.annToMask(one) == 1] = {3: 1, 7: 2}[one["category_id"]]
        assert (dataset.read_mask(str(index)).numpy() == expected).all()
        assert len(np.unique(expected)) == (3 if index == 0 else 2)
        assert expected[5, 25] == 2 * (index == 0) and expected[20, 25] == 1 * (index == 0)  # outside and inside a car


@settings(max_examples=60, deadline=None)
@given(st.integers(3, 30), st.integers(3, 30), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_random_polygons_equal_those_of_pycocotools(height: int, width: int, seed: int, digits: int) -> None:
    random = np.random.default_rng(seed)
    polygons = [random.uniform(-9, 30, 2 * random.integers(3, 9)).round(digits).tolist() for _ in range(2)]
    expected = coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, height, width)))
    assert (polygon_region(polygons, height, width) == expected).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
def test_run_lengths_of_random_masks(height: int, width: int, seed: int, share: float) -> None:
    mask = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    written = coco_mask.encode(np.asfortranarray(mask))
    assert (counts_region(written["counts"].decode(), written["size"], height, width) == mask).all()


def test_long_runs_of_a_large_mask() -> None:
    mask = np.zeros((1500, 1100), dtype=np.uint8)
    mask[1400:, 900:] = mask[5, 3] = 1
    written = coco_mask.encode(np.asfortranarray(mask))
    assert (counts_region(written["counts"].decode(), written["size"], 1500, 1100) == mask).all()


def test_images_without_annotations(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    dataset = open_dataset(root)
    assert [dataset.has_mask(id) for id in "0123"] == [True, True, True, False]  # the file does not list image 3
    assert dataset.read_mask("2").unique().tolist() == [0]
    assert "images without regions: 1, background (--empty unlabeled if they are not annotated yet)" in dataset.notes
    dataset = open_dataset(root, empty="unlabeled")
    assert [dataset.has_mask(id) for id in "0123"] == [True, True, False, False]
    assert "images without regions: 1, unlabeled (--empty background if they show no class)" in dataset.notes
    content = {"images": [{"id": 1, "file_name": "3.png"}], "annotations": [], "categories": CATEGORIES}
    write_json(root / "annotations" / "instances_test2017.json", content)  # published without annotations
    assert not open_dataset(root).has_mask("3")


def test_lists_follow_names_of_files_and_folders(tmp_path: Path) -> None:
    root = tmp_path / "test of val"  # the name of the root must not matter
    for name, count in (("train", 3), ("valid", 2), ("test", 2)):
        entries = []
        for index in range(count):
            write_image(root / name / f"{name}{index}.jpg", index)
            entries.append({"id": index, "file_name": f"{name}{index}.jpg", "width": SIDE, "height": SIDE})
        annotations = [annotation(1, 0, 3, compressed(rectangle(0, 0, 9, 9)))]
        write_json(
            root / name / "_annotations.coco.json",
            {"images": entries, "annotations": annotations, "categories": CATEGORIES},
        )
    write_image(root / "test" / "further.jpg")
    write_image(root / "more" / "own.jpg")
    dataset = open_dataset(root, empty="unlabeled")
    assert dataset.split("train") == ("more/own", "train/train0", "train/train1", "train/train2")
    assert dataset.split("val") == ("valid/valid0",) and dataset.split("test") == ("test/test0",)
    assert open_dataset(root).split("val") == ("valid/valid0", "valid/valid1")


def test_captions_are_ignored_and_own_folder_takes_precedence(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    write_json(root / "annotations" / "captions_train2017.json", {"images": [], "annotations": []})
    assert detect_form(root) == "coco"
    Image.fromarray(rectangle(0, 0, 9, 9)).save(tmp_path / "0.png")
    (root / "masks").mkdir()
    (tmp_path / "0.png").rename(root / "masks" / "0.png")
    write_lines(root / "classes.txt", "background", "car")
    assert type(open_own(root)) is FolderDataset
    (root / "images").rename(root / "train2017")  # COCO with converted masks
    with refused("this is a COCO export", f"Run: semiseg import {root} --out {root}-semiseg"):
        open_own(root)
    assert open_dataset(root).ids == ("0", "1", "2", "3")


@pytest.mark.parametrize("name", ["background", "_background_"])
def test_category_named_background_is_the_background(tmp_path: Path, name: str) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    path = root / "annotations/instances_default.json"
    content = json.loads(path.read_text())
    write_json(path, content | {"categories": [*CATEGORIES, {"id": 9, "name": name}]})
    dataset = open_dataset(root)
    assert dataset.classes == ("car", "tree", name) and dataset.read_mask("1").unique().tolist() == [0, 2]


BAD = {
    "too short": ({"size": [SIDE, SIDE], "counts": [5, 5]}, "cover 10 pixels"),
    "too long": ({"size": [SIDE, SIDE], "counts": [5, SIDE * SIDE]}, "cover 2309 pixels"),
    "negative": ({"size": [SIDE, SIDE], "counts": [-5, 5 + SIDE * SIDE]}, "not a list of non-negative integers"),
    "of another size": ({"size": [5, 2], "counts": [5, 5]}, "height and width [5, 2]"),
    "cut off": ({"size": [SIDE, SIDE], "counts": compressed(rectangle(3, 3, 9, 9))["counts"][:-1]}, "run lengths"),
    "invalid text": ({"size": [SIDE, SIDE], "counts": "~~\x00"}, "run lengths"),
    "an odd number": ([[1, 2, 3, 4, 5, 6, 7]], "three corners"),
    "far away": ([[1, 2, 3, 4, 1e9, 6]], "in or near the image"),
    "words": ([["a", 2, 3, 4, 1, 6]], "in or near the image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_malformed_segmentations_raise_an_error(tmp_path: Path, kind: str) -> None:
    segmentation, words = BAD[kind]
    dataset = open_dataset(make_coco(tmp_path / "data", [*ANNOTATIONS[:3], annotation(44, 11, 3, segmentation)]))
    with refused("instances_default.json", "annotation 44 of image 1", words, "Correct it and export again"):
        check_masks(dataset, ["0", "1"])


def test_polygons_without_an_area_are_left_out_and_flat_lists_read(tmp_path: Path) -> None:
    degenerate = [annotation(44, 11, 3, [[1, 2, 3, 4]]), annotation(45, 11, 3, [[]])]
    dataset = open_dataset(make_coco(tmp_path / "data", [annotation(43, 11, 3, [1, 1, 9, 1, 9, 9, 1, 9]), *degenerate]))
    mask = dataset.read_mask("1").numpy()
    assert (mask > 0).sum() == 64 and mask[4, 4] == mask[1, 1] > 0
    assert (
        "shapes of no size or fewer than three corners are left out: 2, such as one of 1 in" in dataset.describe()[-1]
    )
    dataset = open_dataset(make_coco(tmp_path / "none", degenerate))
    assert not dataset.read_mask("1").any()
    with refused("instances_default.json", "no shape has three corners"):
        dataset.describe()


def test_ids_may_be_text(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", [annotation(43, 11, 3, [[1, 1, 9, 1, 9, 9, 1, 9]])])
    expected = open_dataset(root).read_mask("1").numpy()
    file = root / "annotations/instances_default.json"
    content = json.loads(file.read_text())
    for entries, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
        for entry, key in ((entry, key) for entry in content[entries] for key in keys):
            entry[key] = str(entry[key])
    write_json(file, content)
    assert (open_dataset(root).read_mask("1").numpy() == expected).all() and expected.any()


def test_boxes_are_ignored_pixels_and_refused_without_outlines(tmp_path: Path) -> None:
    boxes = [annotation(n, 11, 3, segmentation, bbox=[10, 20, 5, 4]) for n, segmentation in ((5, []), (6, None))]
    dataset = open_dataset(make_coco(tmp_path / "data", [*ANNOTATIONS[:3], *boxes]))
    expected = np.zeros((SIDE, SIDE), dtype=np.uint8)
    expected[20:24, 10:15] = 255
    assert (dataset.read_mask("1").numpy() == expected).all()
    assert "annotations with only a box, whose pixels are ignored (255): 2" in dataset.notes
    content = {"images": [{"id": 11, "file_name": "3.png"}], "annotations": boxes, "categories": CATEGORIES}
    write_json(tmp_path / "data" / "annotations" / "instances_val.json", content)
    assert (open_dataset(tmp_path / "data").read_mask("3").numpy() == expected).all()
    with refused("instances_default.json", "the annotations are boxes", "outlines"):
        open_dataset(make_coco(tmp_path / "boxes", boxes))


def test_images_are_found_by_folder_and_by_windows_paths(tmp_path: Path) -> None:
    root = tmp_path / "data"
    entries = []
    for index, folder in enumerate(("morning", "evening")):
        write_image(root / "images" / folder / "x.png", index)
        entries.append({"id": index, "file_name": f"C:\\photos\\{folder}\\x.png", "width": SIDE, "height": SIDE})
    annotations = [annotation(1, 0, 3, compressed(rectangle(0, 0, 9, 9)))]
    write_json(root / "result.json", {"images": entries, "annotations": annotations, "categories": CATEGORIES})
    dataset = open_dataset(root, empty="unlabeled")
    assert dataset.ids == ("evening/x", "morning/x")
    assert not dataset.has_mask("evening/x") and dataset.read_mask("morning/x").sum() == 81
    entries[0]["file_name"] = "../../etc/passwd"
    write_json(root / "result.json", {"images": entries[:1], "annotations": annotations, "categories": CATEGORIES})
    with refused("result.json", "none of the 1 listed images was found, such as ../../etc/passwd"):
        open_dataset(root)


def test_inconsistent_files_raise_an_error(tmp_path: Path) -> None:
    good = json.loads(make_coco(tmp_path / "0", ANNOTATIONS).joinpath("annotations/instances_default.json").read_text())
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "category": ({"annotations": [annotation(5, 10, 8, POLYGONS)]}, "annotation 5 has the undefined category 8"),
        "image": ({"annotations": [annotation(5, 99, 3, POLYGONS)]}, "annotation 5 has the undefined image 99"),
        "twice": ({"images": [*good["images"], good["images"][0]]}, "image 0 is listed twice. List it once"),
        "no annotation": ({"annotations": []}, "no annotated image was found"),
        "no category": ({"categories": []}, "found 0 categories"),
        "no name": ({"categories": [{"id": 1}]}, "no id or name"),
        "no image's name": ({"images": [{"id": 10, "width": 48, "height": 48}]}, "KeyError: 'file_name'"),
        "no number": ({"images": [{"id": 10, "file_name": "0.png", "width": "w", "height": 2}]}, "ValueError"),
    }
    for name, (change, words) in changes.items():
        root = make_coco(tmp_path / name, ANNOTATIONS)
        write_json(root / "annotations/instances_default.json", good | change)
        with refused("instances_default.json", words):
            open_dataset(root)
    (root / "annotations/instances_default.json").write_text("{")
    with refused("instances_default.json", "cannot be read"):
        open_dataset(root)


def test_categories_of_several_files_are_joined_by_name(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    more = {
        "images": [{"id": 1, "file_name": "3.png", "width": SIDE, "height": SIDE}],
        "annotations": [annotation(1, 1, 3, compressed(rectangle(0, 0, 9, 9)))],
        "categories": [{"id": 3, "name": "tree"}, {"id": 4, "name": "pond"}, {"id": 5, "name": "pond"}],
    }
    write_json(root / "annotations/instances_val.json", more)
    dataset = open_dataset(root)
    assert dataset.classes == ("background", "car", "tree", "pond")
    assert dataset.read_mask("3").unique().tolist() == [0, 2] and dataset.split("val") == ("3",)


def test_roboflows_category_of_the_project_is_not_a_class(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    path = root / "annotations/instances_default.json"
    content = json.loads(path.read_text())
    named = [{"id": 0, "name": "streets", "supercategory": "none"}]
    named += [{**category, "supercategory": "streets"} for category in CATEGORIES]
    write_json(path, content | {"categories": named})
    assert open_dataset(root).classes == ("background", "car", "tree")


def test_missing_and_resized_images(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    (root / "images" / "1.png").unlink()
    dataset = open_dataset(root)
    assert dataset.ids == ("0", "2", "3") and "1 listed images are missing, such as images/1.png: left out" in (
        dataset.notes
    )
    Image.new("RGB", (30, 20)).save(root / "images" / "0.png")
    with refused("instances_default.json", f"the annotated image 0 is {SIDE}x{SIDE}", "is 30x20"):
        check_masks(dataset, ["0"])


def test_exif_rotation_changes_the_expected_size(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, SIDE)).save(root / "images" / "1.png", exif=exif)
    with refused("the file is 48x20"):  # after rotation
        open_dataset(root).read_mask("1")
    assert open_dataset(root).read_image("1").shape == (3, 20, SIDE)


def test_sizes_in_the_file_are_optional(tmp_path: Path) -> None:
    root = make_coco(tmp_path / "data", ANNOTATIONS)
    path = root / "annotations/instances_default.json"
    before, content = open_dataset(root).read_mask("0"), json.loads(path.read_text())
    images = [{**entry, "width": None, "height": None} for entry in content["images"]]
    write_json(path, content | {"images": images})
    assert (open_dataset(root).read_mask("0") == before).all()


def test_polygon_without_area() -> None:
    assert not polygon_region([[1, 1, 1, 1, 1, 1]], 9, 9)[5:].any()
