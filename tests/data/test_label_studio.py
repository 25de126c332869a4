"""Label Studio's exports: masks equal what its own encoder was given, and one line for what cannot be read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from semiseg.data import Coco, FolderDataset, LabelStudio, check_masks, open_dataset, resolve_split
from semiseg.data.importers.label_studio import find_image
from semiseg.data.importers.polygons import brush_region
from trees import refused, write_lines

FIXTURES = Path(__file__).parents[1] / "fixtures"  # made by fixtures/make_label_studio.py
EXPORT = FIXTURES / "label_studio"
LABELS = {"background": 0, "leaf-rust": 1, "dry soil": 2}


def make(root: Path, *exports: str) -> Path:
    """The images, and one or more of the exports."""
    shutil.copytree(EXPORT / "images", root / "images")
    for export in exports:
        source = EXPORT / export
        if source.is_dir():
            shutil.copytree(source, root / export)
        else:
            shutil.copy(source, root / f"{source.parent.name}{source.suffix}")
    return root


def assert_given(dataset: Any, ids: list[str]) -> None:
    """Compare masks with those that label-studio-sdk was given."""
    with np.load(FIXTURES / "label_studio.npz") as given:
        assert sorted(given) == ids
        for id in ids:
            mask = dataset.read_mask(id).numpy()
            expected = given[id]
            assert mask.shape == expected.shape and len(np.unique(expected)) > 1
            for label, value in LABELS.items():
                assert ((mask == dataset.classes.index(label)) == (expected == value)).all(), (id, label)


def test_json_equals_what_the_encoder_was_given(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "data", "project.json"))
    assert isinstance(dataset, LabelStudio)
    assert dataset.classes == ("background", "dry soil", "leaf-rust", "stone")
    assert_given(dataset, ["a 1", "b", "c"])
    assert [dataset.has_mask(id) for id in dataset.ids] == [True, True, True, True, False]
    split = resolve_split(dataset, None, 0)
    assert split.unlabeled == ("e",) and len(split.labeled + split.val) == 4


def test_blocks_of_many_values_are_what_its_decoder_says() -> None:
    with np.load(FIXTURES / "label_studio_blocks.npz") as given:
        expected = given["pixels"][..., 3] > 0
        assert (brush_region(given["rle"].tolist(), 9, 7) == expected).all() and 10 < expected.sum() < 53


def test_json_min_is_the_same(tmp_path: Path) -> None:
    whole = open_dataset(make(tmp_path / "data", "project.json"))
    small = open_dataset(make(tmp_path / "min", "min/result.json"))
    assert isinstance(small, LabelStudio) and small.classes == whole.classes
    assert [id for id in small.ids if small.has_mask(id)] == ["a 1", "b", "c", "d"]
    assert all((small.read_mask(id) == whole.read_mask(id)).all() for id in ("a 1", "b", "c", "d"))


def test_polygons_equal_those_of_its_coco_export(tmp_path: Path) -> None:
    root = make(tmp_path / "coco", "coco/result.json")
    text = (root / "coco.json").read_text()
    (root / "coco.json").write_text(text.replace("39c93536__", ""))  # what the converter put before the name
    theirs = open_dataset(root)
    ours = open_dataset(make(tmp_path / "data", "project.json"))
    assert isinstance(theirs, Coco) and theirs.classes == ours.classes and not theirs.has_mask("e")
    assert (ours.read_mask("d") == theirs.read_mask("d")).all()
    assert ours.read_mask("d").unique().tolist() == [0, 3] and 150 < (ours.read_mask("d") == 3).sum() < 250


@pytest.mark.parametrize("tasks", ["project.json", "csv/result.csv", "min/result.json"])
def test_png_masks_with_each_export_that_names_the_images(tmp_path: Path, tasks: str) -> None:
    dataset = open_dataset(make(tmp_path / "data", "png", tasks))
    assert isinstance(dataset, LabelStudio) and dataset.classes == ("background", "dry soil", "leaf-rust")
    assert dataset.ids == ("a 1", "b", "c", "d", "e")  # masks are no images
    assert_given(dataset, ["a 1", "b", "c"])
    assert not dataset.has_mask("d") and not dataset.has_mask("e")


def test_png_masks_beside_the_images(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "project.json")
    for path in (root / "png").iterdir():
        path.rename(root / path.name)
    assert_given(open_dataset(root), ["a 1", "b", "c"])


def test_png_masks_that_overlap_and_a_large_csv(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "csv/result.csv")
    path = root / "csv.csv"
    path.write_text(path.read_text().replace('""rle""', f'""{"x" * 200_000}""'))  # of a large image
    rust, soil = (
        f"task-42-annotation-4-by-someone@example.org-tag-{name}.png" for name in ("leaf-rust-0", "dry soil-7")
    )
    shutil.copy(root / "png" / rust, root / "png" / soil)
    assert open_dataset(root).read_mask("c").unique().tolist() == [0, 2]  # leaf-rust is the later class
    write_lines(root / "classes.txt", "leaf-rust", "dry soil")
    dataset = open_dataset(root)
    assert dataset.classes[2] == "dry soil" and dataset.read_mask("c").unique().tolist() == [0, 2]


def test_png_masks_alone_do_not_say_of_which_image(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png")
    with refused(str(root), "no JSON or CSV export", "which task is which image"):
        open_dataset(root)


def test_classes_in_an_order_of_ones_own(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "csv/result.csv")
    write_lines(root / "classes.txt", "leaf-rust", "dry soil", "background", "never seen")
    dataset = open_dataset(root)
    assert dataset.classes == ("leaf-rust", "dry soil", "background", "never seen")
    assert_given(dataset, ["a 1", "b", "c"])
    write_lines(root / "classes.txt", "leaf-rust")
    with refused("task-", "'dry soil'", "classes.txt", "add it there"):
        open_dataset(root)


def test_an_own_folder_stays_one(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    (root / "masks").mkdir()
    Image.new("L", (32, 24), 1).save(root / "masks" / "b.png")
    assert type(open_dataset(root)) is FolderDataset


@pytest.mark.parametrize(
    "reference",
    [
        "a b.png",
        "/data/upload/3/0a1b2c3d-a%20b.png",
        "/data/local-files/?d=folder/a%20b.jpg",
        "/data/local-files/?d=C%3A\\folder\\a b.jpg",
        "s3://bucket/folder/a b.png",
        "https://example.org/x/a%20b.png?X-Signature=a/b.c",
    ],
)
def test_an_images_name_in_every_form(reference: str) -> None:
    assert find_image(reference, {"a b": Path("a b.png")}) == "a b"
    assert find_image(reference, {"a": Path("a.png")}) is None


def change(root: Path, what: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the tasks of the project."""
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    what(tasks)
    path.write_text(json.dumps(tasks))


def first(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """The first task's first region."""
    return tasks[0]["annotations"][0]["result"][0]


def test_which_annotation_counts(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    latest = open_dataset(root).read_mask("b")
    change(root, lambda tasks: tasks[1]["annotations"].reverse())
    assert (open_dataset(root).read_mask("b") == latest).all()
    change(root, lambda tasks: tasks[1]["annotations"][1].update(ground_truth=True))
    truth = open_dataset(root).read_mask("b")
    assert (truth == 2).sum() == 9 * 26 and not (truth == latest).all()
    change(root, lambda tasks: [one.update(was_cancelled=True) for one in tasks[1]["annotations"]])
    assert not open_dataset(root).has_mask("b")


def test_what_says_nothing_of_pixels_is_passed_over(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    before = open_dataset(root).read_mask("a 1")
    box = {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["box"]}}
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    change(root, lambda tasks: tasks[0]["annotations"][0]["result"].extend([box, choice]))
    change(root, lambda tasks: tasks[4]["annotations"].append({"id": 9, "result": [box]}))
    dataset = open_dataset(root)
    assert (dataset.read_mask("a 1") == before).all() and "box" not in dataset.classes and not dataset.has_mask("e")


BAD_REGIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "cut off": (lambda r: r["value"].update(rle=r["value"]["rle"][:-6]), "cut off"),
    "empty": (lambda r: r["value"].update(rle=[]), "cut off"),
    "of another image": (lambda r: r["value"].update(rle=[0, 0, 12, 4, *r["value"]["rle"][4:]]), "of 3076 values"),
    "beyond the end": (lambda r: r["value"].update(rle=[0, 0, 12, 0, 57, 27, 255, *[255] * 40]), "beyond the 768"),
    "no bytes": (lambda r: r["value"].update(rle=[300]), "no list of bytes"),
    "text": (lambda r: r["value"].update(rle="abc"), "no list of bytes"),
    "size": (lambda r: r.update(original_width=31), "height and width (24, 31)"),
    "no size": (lambda r: r.pop("original_width"), "original_width"),
    "turned": (lambda r: r.update(image_rotation=90), "turned by 90"),
}


@pytest.mark.parametrize("kind", BAD_REGIONS)
def test_regions_that_cannot_be_drawn(tmp_path: Path, kind: str) -> None:
    root = make(tmp_path / "data", "project.json")
    change_region, words = BAD_REGIONS[kind]
    change(root, lambda tasks: change_region(first(tasks)))
    dataset = open_dataset(root)
    with refused(".json", "leaf-rust in image a 1", words, "correct or remove"):
        check_masks(dataset, ["a 1"])


def test_exports_that_cannot_be_used(tmp_path: Path) -> None:
    cases: tuple[tuple[Callable[[list[dict[str, Any]]], Any], str], ...] = (
        (lambda tasks: first(tasks)["value"].update(brushlabels=["a", "b"]), "a region has 2 labels"),
        (lambda tasks: tasks[0]["data"].update(image="x/gone.png"), "task 40: its image 'x/gone.png' is not there"),
        (lambda tasks: tasks[1]["data"].update(image="a 1.png"), "task 41: its image a 1 has been annotated before"),
        (lambda tasks: tasks[0].pop("id"), "no export of Label Studio (KeyError: 'id')"),
        (lambda tasks: tasks[0].update(data={}), "no export of Label Studio"),
        (lambda tasks: [task.update(annotations=[]) for task in tasks], "annotate a few"),
    )
    for index, (what, words) in enumerate(cases):
        root = make(tmp_path / str(index), "project.json")
        change(root, what)
        with refused("label_studio.json", words):
            open_dataset(root)


def test_png_masks_that_do_not_fit(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "project.json")
    path = root / "png" / "task-42-annotation-4-by-someone@example.org-tag-leaf-rust-0.png"
    Image.new("L", (5, 6)).save(path)
    with refused("task-42", "shape (6, 5)"):
        check_masks(open_dataset(root), ["c"])
    path.rename(path.with_name(path.name.replace("task-42", "task-77")))
    with refused("task-77", "task 77 is not in", "same project"):
        open_dataset(root)


def test_an_image_of_another_size(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    Image.new("RGB", (64, 48)).save(root / "images" / "c.png")
    with refused("label_studio.json", "image c", "(24, 32)", "(48, 64)"):
        check_masks(open_dataset(root), ["c"])
