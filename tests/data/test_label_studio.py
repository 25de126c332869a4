"""Tests of the Label Studio reader: masks equal the input of its encoder, choice of annotations, errors."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import semiseg.data
from semiseg.data import FolderDataset, check_masks, resolve_split
from semiseg.data.importers import ImportOptions
from semiseg.data.importers.shapes.coco import Coco
from semiseg.data.importers.shapes.label_studio import LabelStudio, image_path
from semiseg.data.importers.shapes.polygons import brush_region
from semiseg.data.importers.source_files import ImageFinder
from trees import refused, write_lines

FIXTURES = Path(__file__).parents[1] / "fixtures"  # made by fixtures/make_label_studio.py
EXPORT = FIXTURES / "label_studio"
LABELS = {"background": 0, "leaf-rust": 1, "dry soil": 2}


def open_dataset(root: Path) -> LabelStudio:
    return LabelStudio(root, ImportOptions())


def make(root: Path, *exports: str) -> Path:
    """Copy the images and one or more of the exports."""
    shutil.copytree(EXPORT / "images", root / "images")
    for export in exports:
        source = EXPORT / export
        if source.is_dir():
            shutil.copytree(source, root / export)
        else:
            shutil.copy(source, root / f"{source.parent.name}{source.suffix}")
    return root


def assert_masks_equal_input(dataset: Any, ids: list[str]) -> None:
    """Compare masks with the input of label-studio-sdk."""
    with np.load(FIXTURES / "label_studio.npz") as given:
        assert sorted(given) == ids
        for id in ids:
            mask = dataset.read_mask(id).numpy()
            expected = given[id]
            assert mask.shape == expected.shape and len(np.unique(expected)) > 1
            for label, value in LABELS.items():
                assert ((mask == dataset.classes.index(label)) == (expected == value)).all(), (id, label)


def test_json_masks_equal_the_input_of_the_encoder(tmp_path: Path) -> None:
    dataset = open_dataset(make(tmp_path / "data", "project.json"))
    assert isinstance(dataset, LabelStudio)
    assert dataset.classes == ("background", "dry soil", "leaf-rust", "stone")
    assert_masks_equal_input(dataset, ["a 1", "b", "c"])
    assert [dataset.has_mask(id) for id in dataset.ids] == [True, True, True, True, False]
    split = resolve_split(dataset, None, 0)
    assert split.unlabeled == ("e",) and len(split.labeled + split.val) == 4


def test_brush_blocks_equal_the_output_of_the_decoder() -> None:
    with np.load(FIXTURES / "label_studio_blocks.npz") as given:
        expected = given["pixels"][..., 3] > 0
        assert (brush_region(given["rle"].tolist(), 9, 7) == expected).all() and 10 < expected.sum() < 53


def test_json_min_equals_json(tmp_path: Path) -> None:
    whole = open_dataset(make(tmp_path / "data", "project.json"))
    small = open_dataset(make(tmp_path / "min", "min/result.json"))
    assert isinstance(small, LabelStudio) and small.classes == whole.classes
    assert [id for id in small.ids if small.has_mask(id)] == ["a 1", "b", "c", "d"]
    assert all((small.read_mask(id) == whole.read_mask(id)).all() for id in ("a 1", "b", "c", "d"))


def test_polygons_equal_those_of_the_coco_export(tmp_path: Path) -> None:
    root = make(tmp_path / "coco", "coco/result.json")
    theirs = Coco(root, ImportOptions(empty="unlabeled"))
    ours = open_dataset(make(tmp_path / "data", "project.json"))
    assert theirs.classes == ours.classes and not theirs.has_mask("e")
    assert (ours.read_mask("d") == theirs.read_mask("d")).all()
    assert ours.read_mask("d").unique().tolist() == [0, 3] and 150 < (ours.read_mask("d") == 3).sum() < 250


@pytest.mark.parametrize("tasks", ["project.json", "csv/result.csv", "min/result.json"])
def test_png_masks_with_each_export_that_maps_tasks(tmp_path: Path, tasks: str) -> None:
    dataset = open_dataset(make(tmp_path / "data", "png", tasks))
    assert isinstance(dataset, LabelStudio) and dataset.classes == ("background", "dry soil", "leaf-rust")
    assert dataset.ids == ("a 1", "b", "c", "d", "e")  # without the masks
    assert_masks_equal_input(dataset, ["a 1", "b", "c"])
    assert not dataset.has_mask("d") and not dataset.has_mask("e")


def test_png_masks_beside_the_images(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "project.json")
    for path in (root / "png").iterdir():
        path.rename(root / path.name)
    assert_masks_equal_input(open_dataset(root), ["a 1", "b", "c"])


def test_overlapping_png_masks_and_a_large_csv(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "csv/result.csv")
    path = root / "csv.csv"
    path.write_text(path.read_text().replace('""rle""', f'""{"x" * 200_000}""'))  # as for a large image
    rust, soil = (
        f"task-42-annotation-4-by-someone@example.org-tag-{name}.png" for name in ("leaf-rust-0", "dry soil-7")
    )
    shutil.copy(root / "png" / rust, root / "png" / soil)
    assert open_dataset(root).read_mask("c").unique().tolist() == [0, 2]  # leaf-rust is the later class
    write_lines(root / "classes.txt", "leaf-rust", "dry soil")
    dataset = open_dataset(root)
    assert dataset.classes[2] == "dry soil" and dataset.read_mask("c").unique().tolist() == [0, 2]


def test_png_masks_without_export_raise_an_error(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png")
    with refused(str(root), "no JSON or CSV export", "maps tasks to images"):
        open_dataset(root)


def test_class_file_sets_the_order(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "csv/result.csv")
    write_lines(root / "classes.txt", "leaf-rust", "dry soil", "background", "never seen")
    dataset = open_dataset(root)
    assert dataset.classes == ("leaf-rust", "dry soil", "background", "never seen")
    assert_masks_equal_input(dataset, ["a 1", "b", "c"])
    write_lines(root / "classes.txt", "leaf-rust")
    with refused("'dry soil'", "classes.txt", "Add the label there"):
        open_dataset(root)


def test_own_folder_takes_precedence(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    (root / "masks").mkdir()
    Image.new("L", (32, 24), 1).save(root / "masks" / "b.png")
    assert type(semiseg.data.open_dataset(root)) is FolderDataset


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
def test_image_reference_formats(reference: str) -> None:
    for images, id in (({"a b": Path("x/a b.png")}, "a b"), ({"a": Path("x/a.png")}, None)):
        assert ImageFinder(images, Path()).find(image_path(reference)) == id


def change(root: Path, edit: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Edit the tasks of the project."""
    path = next(root.glob("*.json"))
    tasks = json.loads(path.read_text())
    edit(tasks)
    path.write_text(json.dumps(tasks))


def first_region(tasks: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the first region of the first task."""
    return tasks[0]["annotations"][0]["result"][0]


def test_choice_among_several_annotations(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    latest = open_dataset(root).read_mask("b")
    change(root, lambda tasks: tasks[1]["annotations"].reverse())
    assert (open_dataset(root).read_mask("b") == latest).all()
    change(root, lambda tasks: tasks[1]["annotations"].append({"id": 999, "result": []}))
    assert (open_dataset(root).read_mask("b") == latest).all()
    assert "1 task has several annotations: the ground truth is used" in "".join(open_dataset(root).notes)
    change(root, lambda tasks: tasks[1]["annotations"][1].update(ground_truth=True))
    truth = open_dataset(root).read_mask("b")
    assert (truth == 2).sum() == 9 * 26 and not (truth == latest).all()
    change(root, lambda tasks: [one.update(was_cancelled=True) for one in tasks[1]["annotations"]])
    assert not open_dataset(root).has_mask("b")


def test_boxes_are_ignored_pixels_and_choices_are_left_out(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    before = open_dataset(root).read_mask("a 1")
    box = {"type": "rectanglelabels", "value": {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["box"]}}
    choice = {"type": "choices", "value": {"choices": ["good"]}}
    change(root, lambda tasks: tasks[0]["annotations"][0]["result"].extend([box, choice]))
    change(root, lambda tasks: tasks[4]["annotations"].append({"id": 9, "result": [box]}))
    dataset = open_dataset(root)
    assert "box" in dataset.classes and not dataset.has_mask("e")  # the class is known, its pixels are not
    assert "objects with only a box, whose pixels are ignored (255): 2" in dataset.notes
    boxed, names = dataset.read_mask("a 1"), open_dataset(make(tmp_path / "plain", "project.json")).classes
    before = torch.tensor([dataset.classes.index(name) for name in names])[before.long()]
    assert (boxed == 255).sum() == 12 and ((boxed == before) | ((boxed == 255) & (before == 0))).all()


BAD_REGIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "truncated": (lambda r: r["value"].update(rle=r["value"]["rle"][:-6]), "truncated"),
    "empty": (lambda r: r["value"].update(rle=[]), "truncated"),
    "of another image": (lambda r: r["value"].update(rle=[0, 0, 12, 4, *r["value"]["rle"][4:]]), "hold 3076 values"),
    "beyond the end": (lambda r: r["value"].update(rle=[0, 0, 12, 0, 57, 27, 255, *[255] * 40]), "exceed the 768"),
    "no bytes": (lambda r: r["value"].update(rle=[300]), "not a list of bytes"),
    "text": (lambda r: r["value"].update(rle="abc"), "not a list of bytes"),
    "size": (lambda r: r.update(original_width=31), "height and width (24, 31)"),
    "no size": (lambda r: r.pop("original_width"), "original_width"),
    "rotated": (lambda r: r.update(image_rotation=90), "rotated by 90"),
}


@pytest.mark.parametrize("kind", BAD_REGIONS)
def test_malformed_regions_raise_an_error(tmp_path: Path, kind: str) -> None:
    root = make(tmp_path / "data", "project.json")
    change_region, words = BAD_REGIONS[kind]
    change(root, lambda tasks: change_region(first_region(tasks)))
    dataset = open_dataset(root)
    with refused(".json", "a shape 'leaf-rust' of image a 1", words, "Correct it in the tool"):
        check_masks(dataset, ["a 1"])


def test_malformed_exports_raise_an_error(tmp_path: Path) -> None:
    cases: tuple[tuple[Callable[[list[dict[str, Any]]], Any], str], ...] = (
        (lambda tasks: first_region(tasks)["value"].update(brushlabels=["a", "b"]), "task 40 has 2 labels"),
        (lambda tasks: tasks[1]["data"].update(image="a 1.png"), "a 1.png is annotated a second time"),
        (lambda tasks: tasks[0].pop("id"), "not an export of Label Studio (KeyError: 'id')"),
        (lambda tasks: tasks[0].update(data={}), "not an export of Label Studio"),
        (lambda tasks: [task.update(annotations=[]) for task in tasks], "Annotate a few images and export again"),
    )
    for index, (edit, words) in enumerate(cases):
        root = make(tmp_path / str(index), "project.json")
        change(root, edit)
        with refused(str(root), words):
            open_dataset(root)


def test_missing_images_are_counted(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    change(root, lambda tasks: tasks[0]["data"].update(image="x/gone.png"))
    dataset = open_dataset(root)
    assert "annotated images that are not in the folder: 1, such as x/gone.png" in dataset.notes
    assert not dataset.has_mask("a 1") and dataset.has_mask("b")


def test_annotations_without_regions_are_background_or_unlabeled(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    change(root, lambda tasks: tasks[4]["annotations"].append({"id": 9, "result": []}))
    dataset = open_dataset(root)
    assert dataset.read_mask("e").unique().tolist() == [0]
    assert "images without regions: 1, background (--empty unlabeled if they are not annotated yet)" in dataset.notes
    assert not LabelStudio(root, ImportOptions(empty="unlabeled")).has_mask("e")


def test_ellipses(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    value = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 25, "rotation": 0, "ellipselabels": ["stone"]}
    ellipse = {"type": "ellipselabels", "original_width": 32, "original_height": 24, "image_rotation": 0}
    change(root, lambda tasks: tasks[4]["annotations"].append({"id": 9, "result": [ellipse | {"value": value}]}))
    dataset = open_dataset(root)
    rows, columns = np.mgrid[:24, :32]
    expected = ((columns - 16) / 8) ** 2 + ((rows - 12) / 6) ** 2 <= 1
    assert ((dataset.read_mask("e").numpy() == dataset.classes.index("stone")) == expected).all()


def test_import_and_the_message_of_other_commands(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    with refused(str(root), "this is a Label Studio export", f"semiseg import {root} --out {root}-semiseg"):
        semiseg.data.open_dataset(root)
    imported = semiseg.data.open_dataset(semiseg.import_data(root, tmp_path / "own").out)
    assert all((imported.read_mask(id) == open_dataset(root).read_mask(id)).all() for id in ("a 1", "b", "c", "d"))


def test_png_masks_of_another_size_or_task_raise_an_error(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "png", "project.json")
    path = root / "png" / "task-42-annotation-4-by-someone@example.org-tag-leaf-rust-0.png"
    Image.new("L", (5, 6)).save(path)
    with refused("task-42", "shape (6, 5)"):
        check_masks(open_dataset(root), ["c"])
    path.rename(path.with_name(path.name.replace("task-42", "task-77")))
    with refused("task-77", "task 77 is not in", "same project"):
        open_dataset(root)


def test_image_of_another_size_raises_an_error(tmp_path: Path) -> None:
    root = make(tmp_path / "data", "project.json")
    Image.new("RGB", (64, 48)).save(root / "images" / "c.png")
    with refused("label_studio.json", "image c", "(24, 32)", "(48, 64)"):
        check_masks(open_dataset(root), ["c"])
