"""Data as people have it: read right in place, imported right, or refused with the fix. Every case compares pixels."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image, ImageFilter

import semiseg
from scenes import COLORS, NAMES, PALETTE, Pixels, corners, save_image, scene, write_own
from semiseg.data import SegmentationDataset, check_masks, open_dataset
from trees import refused

Make = Callable[[Path], object]


def number_of(id: str) -> int:
    """Return the number of the scene in an id such as ``train/img03_jpg.rf.a``."""
    return int("".join(filter(str.isdigit, id.rpartition("/")[2]))[:4])


def assert_masks(data: SegmentationDataset, count: int, classes: tuple[str, ...], soft: float = 1) -> None:
    """Compare the masks with those of ``scene`` by the names of classes; names that it lacks are background."""
    annotated = [id for id in data.ids if data.has_mask(id)]
    assert (len(annotated), data.classes) == (count, classes)
    meaning = np.array([NAMES.index(name) if name in NAMES else 0 for name in classes], np.uint8)
    whole = "disc" in classes
    for id in annotated:
        expected = scene(number_of(id), disc=whole)[1]
        assert (meaning[data.read_mask(id).numpy()] == expected).mean() >= soft, id


# Read in place.


def palette_by_file(root: Path) -> None:
    def save(path: Path, values: Pixels, number: int) -> None:
        order = [[0, 1, 2], [0, 2, 1], [2, 0, 1]][number % 3]
        image = Image.fromarray(np.argsort(order).astype(np.uint8)[values])
        image.putpalette(COLORS[order].tobytes())
        image.save(path)

    write_own(root, save=save, classes=())
    (root / "palette.txt").write_text(PALETTE)


def names_in_two_forms(root: Path) -> None:
    write_own(root, unicodedata.normalize("NFD", "Blüte {:02d}.jpg"), unicodedata.normalize("NFC", "Blüte {:02d}.png"))


def avif(root: Path) -> None:
    write_own(root)
    for number, path in enumerate(sorted((root / "images").iterdir())):
        if number in (2, 7):
            Image.open(path).save(path.with_suffix(".avif"))
            path.unlink()


def nested(root: Path) -> None:
    write_own(root, "2023/site a/img{:02d}.JPG", "2023/site a/img{:02d}.png")


def listed_values(root: Path) -> None:
    write_own(root, save=lambda path, values, _: save_image(path, np.array([0, 255, 128], np.uint8)[values]))
    (root / "classes.txt").unlink()
    names = {"0": "background", "255": "square", "128": "disc"}
    (root / "classes.json").write_text(json.dumps({"values": names}))


IN_PLACE: dict[str, tuple[Make, tuple[str, ...]]] = {
    "indexed PNG, palette order of each file": (palette_by_file, NAMES),
    "names in NFD and NFC": (names_in_two_forms, NAMES),
    "AVIF photographs": (avif, NAMES),
    "images in nested folders": (nested, NAMES),
    "values named in classes.json": (listed_values, ("background", "disc", "square")),
}


@pytest.mark.parametrize("case", IN_PLACE)
def test_read_in_place(tmp_path: Path, case: str) -> None:
    make, classes = IN_PLACE[case]
    make(tmp_path / "data")
    data = open_dataset(tmp_path / "data")
    assert len(data.ids) == 8
    assert_masks(data, 5, data.classes if set(data.classes) == set(classes) else classes)


def test_a_folder_called_shapes_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_own(tmp_path / "shapes")
    monkeypatch.chdir(tmp_path)
    data = open_dataset("shapes")
    assert_masks(data, 5, NAMES)
    assert "shapes is a directory" in data.read_as


def test_image_and_mask_with_one_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()

    def save(path: Path, values: Pixels, number: int) -> None:
        exif[0x0112] = (3, 6)[number % 2]
        save_image(path, values, exif=exif)

    write_own(tmp_path / "data", save=save)
    for number, path in enumerate(sorted((tmp_path / "data/images").iterdir())):
        exif[0x0112] = (3, 6)[number % 2]
        Image.open(path).copy().save(path, exif=exif, quality=95)
    data = open_dataset(tmp_path / "data")
    for id in data.ids[:5]:
        upright = np.rot90(scene(number_of(id))[1], 2 if number_of(id) % 2 == 0 else 3)
        assert (data.read_mask(id).numpy() == upright).all()
        red = data.read_image(id)[0].numpy().astype(int) - data.read_image(id)[1].numpy()
        assert red[upright == 1].mean() > red[upright == 0].mean() + 20


def test_two_hundred_classes(tmp_path: Path) -> None:
    def save(path: Path, values: Pixels, number: int) -> None:
        save_image(path, many(number))

    classes = tuple(f"species {number}" for number in range(200))
    data = open_dataset(write_own(tmp_path / "data", save=save, classes=classes))
    assert data.classes == classes
    assert all((data.read_mask(id).numpy() == many(number_of(id))).all() for id in data.ids[:5])


def many(seed: int) -> Pixels:
    return np.random.default_rng(seed).integers(0, 200, (48, 48), dtype=np.uint8)


# Imported.


class Import(NamedTuple):
    """A case that ``semiseg import`` reads.

    Attributes:
        make: Writes the data.
        title: A part of the name of the form; empty if the data are an own folder.
        masks: The number of masks.
        classes: The classes.
        options: Options of the import.
        soft: The share of pixels that have to be equal.
    """

    make: Make
    title: str
    masks: int = 5
    classes: tuple[str, ...] = NAMES
    options: dict[str, Any] = {}  # noqa: RUF012
    soft: float = 1


def labelme2voc(root: Path) -> None:
    for number in range(8):
        pixels, values = scene(number)
        save_image(root / f"JPEGImages/img{number:02d}.jpg", pixels)
        save_image(root / f"SegmentationClassVisualization/img{number:02d}.jpg", pixels)
        if number < 5:
            image = Image.fromarray(values)
            image.putpalette(COLORS.tobytes())
            (root / "SegmentationClass").mkdir(exist_ok=True)
            image.save(root / f"SegmentationClass/img{number:02d}.png")
    (root / "class_names.txt").write_text("_background_\nsquare\ndisc\n")


def divided(image: str, mask: str, parts: tuple[str, str] = ("train", "val"), colors: bool = False) -> Make:
    """Return a function that writes six images of one list and two of another, all with masks."""

    def make(root: Path) -> None:
        for number in range(8):
            pixels, values = scene(number)
            names = {"part": parts[number > 5], "name": f"img{number:02d}"}
            save_image(root / image.format(**names), pixels, quality=95)
            save_image(root / mask.format(**names), COLORS[values] if colors else values)

    return make


def with_file(make: Make, name: str, text: str) -> Make:
    """Return a function that also writes a text file."""

    def both(root: Path) -> None:
        make(root)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    return both


def roboflow(root: Path) -> None:
    divided("{part}/{name}_jpg.rf.a.jpg", "{part}/{name}_jpg.rf.a_mask.png", ("train", "valid"))(root)
    for part in ("train", "valid"):
        (root / part / "_classes.csv").write_text("Pixel Value, Class\n0, background\n1, square\n2, disc\n")


def antialiased_gray(root: Path) -> None:
    def save(path: Path, values: Pixels, _: int) -> None:
        Image.fromarray((values > 0).astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(1.2)).save(path)

    write_own(root, save=save, classes=())


def antialiased_colors(root: Path) -> None:
    def save(path: Path, values: Pixels, _: int) -> None:
        image = Image.fromarray(COLORS[values]).resize((47, 47), Image.Resampling.BILINEAR)
        image.resize((48, 48), Image.Resampling.BILINEAR).save(path)

    write_own(root, save=save, classes=())
    (root / "palette.txt").write_text(PALETTE)


def one_mask_per_class(root: Path) -> None:
    def save(path: Path, values: Pixels, _: int) -> None:
        for value, name in ((1, "square"), (2, "disc")):
            save_image(path.with_name(f"{path.stem}_class_{name}.png"), (values == value).astype(np.uint8) * 255)

    write_own(root, save=save, classes=())


def other_case(root: Path) -> None:
    write_own(root, "IMG_{:04d}.JPG", "img_{:04d}.png")


def panoptic(root: Path) -> None:
    images, annotations = [], []
    for number in range(6):
        pixels, values = scene(number)
        name = f"img{number:02d}"
        save_image(root / f"images/{name}.jpg", pixels)
        save_image(root / f"annotations/panoptic_train/{name}.png", np.stack([values + 1, values * 0, values * 0], 2))
        segments = [{"id": value + 1, "category_id": value, "iscrowd": 0, "area": 1} for value in range(3)]
        images.append({"id": number, "file_name": f"{name}.jpg", "width": 48, "height": 48})
        annotations.append({"image_id": number, "file_name": f"{name}.png", "segments_info": segments})
    categories = [{"id": value, "name": name, "isthing": 1} for value, name in enumerate(NAMES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations/panoptic_train.json").write_text(json.dumps(content))


def square_polygons(write: Callable[[Path, int, str, list[tuple[int, int]]], None], folder: str = "images") -> Make:
    """Return a function that writes six images and, with ``write``, the corners of the square in each."""

    def make(root: Path) -> None:
        for number in range(6):
            save_image(root / folder / f"img{number:02d}.jpg", scene(number, disc=False)[0])
            left, right, top, bottom = corners(number)
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
            write(root, number, f"img{number:02d}", points)

    return make


def yolo(root: Path, number: int, name: str, points: list[tuple[int, int]]) -> None:
    (root / "labels").mkdir(exist_ok=True)
    text = " ".join(f"{value / 48:.4f}" for point in points for value in point)
    (root / f"labels/{name}.txt").write_text(f"0 {text}\n")
    (root / "data.yaml").write_text("train: images\nnames: {0: square}\n")


def labelme(root: Path, number: int, name: str, points: list[tuple[int, int]]) -> None:
    shape = {"label": "square", "points": points, "group_id": None, "shape_type": "polygon", "flags": {}}
    size = {"imageHeight": 48, "imageWidth": 48}
    content = {
        "version": "5.4.1",
        "flags": {},
        "shapes": [shape],
        "imagePath": f"{name}.jpg",
        "imageData": None,
        **size,
    }
    (root / f"{name}.json").write_text(json.dumps(content))


def cvat(root: Path, number: int, name: str, points: list[tuple[int, int]]) -> None:
    text = ";".join(f"{x},{y}" for x, y in points)
    row = f'<image id="{number}" name="{name}.jpg" width="48" height="48">'
    row += f'<polygon label="square" occluded="0" points="{text}" z_order="0"></polygon></image>'
    path = root / "annotations.xml"
    before = path.read_text().removesuffix("</annotations>") if path.exists() else "<annotations><version>1.1</version>"
    path.write_text(f"{before}{row}</annotations>")


def supervisely(root: Path, number: int, name: str, points: list[tuple[int, int]]) -> None:
    (root / "ds0/ann").mkdir(exist_ok=True)
    shape = {"classTitle": "square", "geometryType": "polygon", "points": {"exterior": points, "interior": []}}
    content = {"size": {"height": 48, "width": 48}, "objects": [shape]}
    (root / f"ds0/ann/{name}.jpg.json").write_text(json.dumps(content))
    (root / "meta.json").write_text(json.dumps({"classes": [{"title": "square", "shape": "polygon"}], "tags": []}))


def label_studio(root: Path, number: int, name: str, points: list[tuple[int, int]]) -> None:
    wide = [(points[0][0], points[0][1]), (points[1][0] + 1, points[1][1])]
    wide += [(points[2][0] + 1, points[2][1] + 1), (points[3][0], points[3][1] + 1)]  # outlines lie between pixels
    value = {"points": [[x * 100 / 48, y * 100 / 48] for x, y in wide], "polygonlabels": ["square"]}
    result = {"original_width": 48, "original_height": 48, "image_rotation": 0, "type": "polygonlabels", "value": value}
    image = "/data/local-files/?d=" + quote(f"set\\{name}.jpg")  # as on Windows
    task = {"id": number, "data": {"image": image}, "annotations": [{"id": number, "result": [result]}]}
    path = root / "project-1.json"
    path.write_text(json.dumps([*(json.loads(path.read_text()) if path.exists() else ()), task]))


SQUARE = ("background", "square")
TREE = "a tree of images and masks"
GRAY = Import(antialiased_gray, "", classes=("background", "foreground"), options={"threshold": 128}, soft=0.9)
IMPORTED: dict[str, Import] = {
    "labelme2voc": Import(labelme2voc, "labelme2voc", classes=("_background_", "square", "disc")),
    "ADE20K-like folders": Import(
        with_file(
            divided("images/{part}/{name}.jpg", "annotations/{part}/{name}.png", ("training", "validation")),
            "classes.txt",
            "background\nsquare\ndisc\n",
        ),
        TREE,
        8,
    ),
    "CamVid export of CVAT": Import(
        with_file(
            divided("{part}/{name}.png", "{part}annot/{name}.png", colors=True),
            "label_colors.txt",
            "0 0 0 background\n220 20 60 square\n0 160 80 disc\n",
        ),
        TREE,
        8,
    ),
    "train/images and train/masks": Import(
        with_file(divided("{part}/images/{name}.png", "{part}/masks/{name}.png"), "classes.txt", "\n".join(NAMES)),
        TREE,
        8,
    ),
    "images/train and masks/train": Import(
        with_file(divided("images/{part}/{name}.png", "masks/{part}/{name}.png"), "classes.txt", "\n".join(NAMES)),
        TREE,
        8,
    ),
    "semantic masks of Roboflow": Import(roboflow, "Roboflow", 8),
    "antialiased gray masks": GRAY,
    "antialiased colors": Import(antialiased_colors, "", options={"threshold": 128}, soft=0.97),
    "NAME_mask.png": Import(lambda root: write_own(root, mask="img{:02d}_mask.png"), ""),
    "NAME.jpg.png": Import(lambda root: write_own(root, mask="img{:02d}.jpg.png"), ""),
    "names of other case": Import(other_case, ""),
    "one mask per class": Import(one_mask_per_class, "", classes=("background", "disc", "square")),
    "COCO panoptic": Import(panoptic, "panoptic", 6),
    "YOLO": Import(square_polygons(yolo), "YOLO", 6, SQUARE),
    "LabelMe": Import(square_polygons(labelme, ""), "LabelMe", 6, SQUARE),
    "CVAT for images": Import(square_polygons(cvat), "CVAT", 6, SQUARE, soft=0.985),  # corners are between pixels
    "Supervisely": Import(square_polygons(supervisely, "ds0/img"), "Supervisely", 6, SQUARE),
    "Label Studio on Windows": Import(square_polygons(label_studio, "photos"), "Label Studio", 6, SQUARE),
}


@pytest.mark.parametrize("case", IMPORTED)
def test_imported(tmp_path: Path, case: str) -> None:
    wanted, root = IMPORTED[case], tmp_path / "data"
    wanted.make(root)
    if wanted.title:
        with refused(str(root), "this is", wanted.title, f"Run: semiseg import {root} --out {root}-semiseg."):
            open_dataset(root)
    result = semiseg.import_data(root, tmp_path / "own", **wanted.options)
    assert wanted.title in result.title and result.checked.usable
    data = open_dataset(result.out)
    if wanted is GRAY:
        for id in data.ids[:5]:
            assert ((scene(number_of(id))[1] > 0) == data.read_mask(id).numpy()).mean() > 0.97
    else:
        assert_masks(data, wanted.masks, wanted.classes, wanted.soft)
    lists = [len(data.split(name) or ()) for name in ("train", "val")]
    assert lists == ([6, 2] if wanted.masks == 8 else [0, 0])


# Refused.

REFUSED: dict[str, tuple[Make, tuple[str, ...]]] = {
    "0/255 and classes.txt": (
        lambda root: write_own(
            root,
            save=lambda path, values, _: save_image(path, (values == 1).astype(np.uint8) * 255),
            classes=("background", "square"),
        ),
        ("0 and 255", 'classes.json with {"values": {"0": "background", "255": "square"}}'),
    ),
    "antialiased gray masks": (antialiased_gray, ("antialiased", "--threshold 128")),
    "antialiased colors": (antialiased_colors, ("masks/img00.png", "antialiased")),
    "classes.txt in UTF-16": (
        lambda root: (write_own(root) / "classes.txt").write_text("background\nsquare\ndisc", encoding="utf-16"),
        ("classes.txt", "UTF-16", "Save it as UTF-8"),
    ),
    "numbered lines": (
        lambda root: (write_own(root) / "classes.txt").write_text("1 background\n2 square\n3 disc\n"),
        ("classes.txt", "the lines are numbered 1, 2, 3", "classes.json"),
    ),
    "DICOM": (
        lambda root: [path.rename(path.with_suffix(".dcm")) for path in (write_own(root) / "images").iterdir()],
        ("images", "no images there, but 8 .dcm files", "Convert them to PNG or TIFF"),
    ),
    "masks with a suffix": (
        lambda root: write_own(root, mask="img{:02d}_mask.png"),
        ("img00_mask.png", "the name differs from that of its image, img00.jpg", "semiseg import"),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(tmp_path: Path, case: str) -> None:
    make, words = REFUSED[case]
    make(tmp_path / "data")
    with refused(*words):
        data = open_dataset(tmp_path / "data")
        check_masks(data, data.ids[:5])
    assert not semiseg.check(tmp_path / "data").usable
    if "semiseg import" not in " ".join(words) and "--threshold 128" not in words:
        with refused(*words):
            semiseg.import_data(tmp_path / "data", tmp_path / "own")
