"""Annotation whose image is missing does not go to an image of the same name in another folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

import semiseg
from scenes import NAMES, save_image, scene
from semiseg.data.importers import ForeignData, ImportOptions, open_foreign
from semiseg.data.importers.source_files import ImageFinder
from trees import refused, write_lines

OPTIONS = ImportOptions()


def photograph(path: Path, number: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_image(path, scene(number)[0])


def opened(root: Path) -> ForeignData:
    return open_foreign(root, None, OPTIONS)


def write_text(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def test_a_yolo_label_is_not_read_for_another_folder(tmp_path: Path) -> None:
    write_lines(tmp_path / "data.yaml", "names: [leaf]")
    for name in ("train/a", "val/b", "val/c"):
        photograph(tmp_path / f"images/{name}.jpg")
        write_text(tmp_path / f"labels/{name}.txt", "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    (tmp_path / "images/val/c.jpg").rename(tmp_path / "images/train/c.jpg")
    data = opened(tmp_path)
    assert list(data.masks) == ["train/a", "val/b"]
    assert any("annotated images that are not in the folder: 1, such as" in note for note in data.notes)


def test_a_labelme_file_is_not_read_for_another_folder(tmp_path: Path) -> None:
    shape = {"label": "leaf", "shape_type": "rectangle", "points": [[1, 1], [9, 9]]}
    for name in ("a", "b"):
        write_text(tmp_path / f"json/{name}.json", {"imagePath": f"{name}.jpg", "shapes": [shape]})
    photograph(tmp_path / "imgs/a.jpg")
    photograph(tmp_path / "other/b.jpg")
    data = opened(tmp_path)
    assert list(data.masks) == ["imgs/a"]


def test_a_supervisely_file_is_not_read_for_another_folder(tmp_path: Path) -> None:
    write_text(tmp_path / "meta.json", {"classes": [{"title": "leaf"}]})
    points = {"exterior": [[1, 1], [9, 1], [9, 9]], "interior": []}
    content = {
        "size": {"width": 96, "height": 96},
        "objects": [{"classTitle": "leaf", "geometryType": "polygon", "points": points}],
    }
    for folder, name in (("one", "a"), ("two", "b"), ("one", "c")):
        write_text(tmp_path / folder / f"ann/{name}.jpg.json", content)
    for folder, name in (("one", "a"), ("two", "b"), ("two", "c")):
        photograph(tmp_path / folder / f"img/{name}.jpg")
    assert list(opened(tmp_path).masks) == ["one/a", "two/b"]


@pytest.mark.parametrize("name", ["train/{}.jpg", "{}.jpg"])
def test_a_coco_entry_is_not_read_for_another_folder(tmp_path: Path, name: str) -> None:
    photograph(tmp_path / "train/a.jpg")
    photograph(tmp_path / "valid/b.jpg")
    images = [{"id": number, "file_name": name.format("ab"[number])} for number in range(2)]
    polygon = {"category_id": 1, "segmentation": [[1, 1, 9, 1, 9, 9]]}
    annotations = [{"id": number, "image_id": number, **polygon} for number in range(2)]
    content = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "leaf"}]}
    write_text(tmp_path / "train/_annotations.coco.json", content)
    data = opened(tmp_path)
    assert list(data.masks) == ["train/a"] and any("1 listed images are missing" in note for note in data.notes)


def test_paths_of_other_machines_and_bare_names_find_images_in_any_folder() -> None:
    images = {name: Path("root/photos", name, "x.jpg") for name in ("one", "two")} | {"c": Path("root/photos/c.jpg")}
    finder = ImageFinder(images, Path("root"))
    assert finder.find_all([("C:\\d\\one\\x.jpg", ()), ("C:\\d\\two\\x.jpg", ()), ("C:\\d\\c.jpg", ())]) == [*images]
    assert finder.find_all([("/data/upload/3/01234567-c.jpg", ()), ("c.jpg", ())]) == ["c", "c"]


@pytest.mark.parametrize(
    ("images", "masks", "matched"),
    [
        (["site1/images/a.jpg", "site1/images/c.jpg"], ["site1/masks/a.png", "site2/masks/c.png"], ["a"]),
        (["imgs/plot.jpg", "imgs/plot_1.jpg"], ["gt/plot_1.png", "gt/plot_9.png"], ["plot_1"]),
        (["imgs/a.jpg", "imgs/b.jpg", "imgs/c.jpg"], ["gt/a.png", "gt/b.png", "gt/c_old.png"], ["a", "b"]),
        (["imgs/site1/a.jpg", "imgs/site2/b.jpg"], ["gt/a.png", "gt/b.png"], ["site1/a", "site2/b"]),
    ],
)
def test_a_mask_is_not_read_for_another_image(
    tmp_path: Path, images: list[str], masks: list[str], matched: list[str]
) -> None:
    write_lines(tmp_path / "classes.txt", *NAMES)
    for path in images:
        photograph(tmp_path / path)
    for path in masks:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(0)[1]).save(tmp_path / path)
    data = opened(tmp_path)
    assert list(data.masks) == matched and (data.read_mask(matched[0]).numpy() == scene(0)[1]).all()
    alone = [note for note in data.notes if note.startswith("masks without an image: 1, such as")]
    assert len(alone) == (len(masks) > len(matched)), np.array(data.notes)


def binary(root: Path, pattern: str, both: bool = True, inverted: bool = False) -> Path:
    for number in range(4):
        image, mask = scene(number)
        save_image(root / f"images/img{number}.jpg", image)
        for value, label in ((1, "square"), (2, "disc")):
            if both or value == number % 2 + 1:
                layer = (mask == value) != inverted
                save_image(root / pattern.format(number=number, label=label, value=value), np.uint8(255) * layer)
    return root


@pytest.mark.parametrize(
    "pattern", ["masks/{label}/img{number}.png", "{label}/img{number}.png", "masks/img{number}/{label}.png"]
)
def test_folders_of_binary_masks_are_classes(tmp_path: Path, pattern: str) -> None:
    data = opened(binary(tmp_path, pattern))
    assert data.form == "mask-per-class" and data.classes == ("background", "disc", "square")
    for number in range(4):
        assert (np.array([0, 2, 1])[data.read_mask(f"img{number}").numpy()] == scene(number)[1]).all()


def test_folders_of_binary_masks_of_different_images_are_not_merged(tmp_path: Path) -> None:
    with refused("folders disc and square hold masks of two values", "--form mask-per-class"):
        opened(binary(tmp_path, "masks/{label}/img{number}.png", both=False))
    data = open_foreign(tmp_path, "mask-per-class", OPTIONS)
    assert data.classes == ("background", "disc", "square")
    assert (data.read_mask("img0").numpy() == 2 * (scene(0)[1] == 1)).all()


def test_numbered_masks_are_not_classes(tmp_path: Path) -> None:
    with refused("masks of one image are numbered (1, 2)", "--form mask-per-class"):
        opened(binary(tmp_path, "masks/img{number}_{value}.png"))


def test_inverted_masks_are_refused(tmp_path: Path) -> None:
    data = opened(binary(tmp_path, "masks/img{number}_{label}.png", inverted=True))
    for id in data.ids:
        data.read_mask(id)
    with refused("masks of two classes overlap in", "Invert the masks"):
        data.describe()


def test_lists_of_voc_folders_below_are_read(tmp_path: Path) -> None:
    voc = tmp_path / "VOCdevkit/VOC2007"
    for number in range(3):
        image, mask = scene(number)
        save_image(voc / f"JPEGImages/{number}.jpg", image)
        save_image(voc / f"SegmentationClass/{number}.png", mask)
    for name, ids in (("train", "01"), ("val", "2")):
        (voc / "ImageSets/Segmentation").mkdir(parents=True, exist_ok=True)
        write_lines(voc / f"ImageSets/Segmentation/{name}.txt", *ids)
    write_lines(tmp_path / "labels.txt", *NAMES)
    data = opened(tmp_path)
    assert data.split("train") == ("0", "1") and data.split("val") == ("2",)


def test_class_files_that_disagree_name_an_import_of_each_folder(tmp_path: Path) -> None:
    for folder, names in (("site1", NAMES), ("site2", NAMES[::-1])):
        save_image(tmp_path / folder / "images/a.jpg", scene(0)[0])
        save_image(tmp_path / folder / "masks/a.png", scene(0)[1])
        write_lines(tmp_path / folder / "classes.txt", *names)
    site = tmp_path / "site2"
    with refused("its classes differ from those of", f"semiseg import {site} --out {site}-semiseg"):
        opened(tmp_path)


@pytest.mark.parametrize("empty", ["background", "unlabeled"])
def test_many_images_without_a_region_are_warned_about_first(
    tmp_path: Path, empty: Literal["background", "unlabeled"]
) -> None:
    write_lines(tmp_path / "export/data.yaml", "names: [leaf]")
    for number in range(4):
        photograph(tmp_path / f"export/images/{number}.jpg")
        write_text(tmp_path / f"export/labels/{number}.txt", "" if number else "0 0.1 0.1 0.5 0.1 0.5 0.5\n")
    notes = semiseg.import_data(tmp_path / "export", tmp_path / "own", empty=empty).notes
    warning = (
        "warning: 3 of 4 images have no region and become all background. If they are not annotated yet, import with "
        "--empty unlabeled"
    )
    assert (notes[0] == warning) == (empty == "background") and (warning in notes) == (empty == "background")


def test_tags_and_lists_of_an_own_folder_are_carried_over(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for number in range(3):
        save_image(root / f"images/{number}.jpg", scene(number)[0])
        save_image(root / f"masks/{number}.png", scene(number)[1])
    write_lines(root / "classes.txt", *NAMES)
    write_lines(root / "tags.csv", "image,square", "0,1")
    write_lines(root / "splits/1_2/labeled.txt", "0")
    write_lines(root / "splits/1_2/seed0/labeled.txt", "images/2.jpg masks/2.png")
    write_lines(root / "splits/1_3/labeled.txt", "7")
    notes = semiseg.import_data(root, tmp_path / "own").notes
    assert "carried over: tags.csv, splits/1_2/labeled.txt, splits/1_2/seed0/labeled.txt" in notes
    assert any(note.startswith("splits/1_3/labeled.txt is not carried over: ") for note in notes)
    assert (tmp_path / "own/splits/1_2/seed0/labeled.txt").read_text() == "2\n"
    assert (tmp_path / "own/tags.csv").read_text() == "image,square\n0,1\n"
    assert not (tmp_path / "own/splits/1_3").exists()


def test_a_project_of_boxes_only_asks_for_outlines(tmp_path: Path) -> None:
    photograph(tmp_path / "a.jpg")
    box = {"x": 1, "y": 1, "width": 9, "height": 9, "rectanglelabels": ["leaf"]}
    result = {"type": "rectanglelabels", "original_width": 48, "original_height": 48, "value": box}
    write_text(
        tmp_path / "project.json", [{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}]
    )
    with refused("no image has a shape, only boxes", "Annotate the outlines of objects"):
        opened(tmp_path)
