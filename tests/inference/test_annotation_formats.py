"""The formats of annotation tools that ``semiseg predict`` writes: ``semiseg import`` reads the same regions again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy.ndimage import maximum_filter, minimum_filter

import semiseg
from semiseg.data import Shapes
from semiseg.inference.formats.labelme_results import write_labelme
from semiseg.inference.formats.yolo_results import write_yolo

Call = Callable[..., tuple[int, str, str]]
CLASSES = ["background", "leaf", "ring"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    dataset = Shapes(images=3, val=1, test=1, size=64, seed=4)
    for name, id in zip(("a", "day 1/a", "day 1/b"), dataset.ids, strict=False):
        path = tmp_path / "photos" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(dataset.read_image(id).permute(1, 2, 0).numpy()[:50]).save(path)
    return tmp_path / "photos"


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def imported(source: Path) -> Path:
    """Import an export and return the own folder."""
    out = source.with_name(f"{source.name}-imported")
    semiseg.import_data(source, out)
    return out


def nested() -> np.ndarray:
    """A ring on the left edge around background, which surrounds a leaf with unknown pixels inside."""
    mask = np.zeros((60, 80), dtype=np.uint8)
    mask[5:55, :60] = 2
    mask[10:50, 5:55] = 0
    mask[15:45, 10:40] = 1
    mask[20:30, 15:30] = 255
    return mask


def test_labelme_polygons_show_regions_inside_regions(tmp_path: Path) -> None:
    mask = nested()
    source = tmp_path / "export"
    source.mkdir()
    Image.new("RGB", (80, 60)).save(source / "a.png")
    write_labelme(source / "a.json", "a.png", mask, CLASSES)
    content = json.loads((source / "a.json").read_text())
    assert [shape["label"] for shape in content["shapes"]] == ["ring", "background", "leaf", "__ignore__"]
    assert content["shapes"][0]["points"] == [[0, 5], [59, 5], [59, 54], [0, 54]]
    assert (content["imageHeight"], content["imageWidth"], content["version"]) == (60, 80, "5.4.1")
    assert np.array_equal(read(imported(source) / "masks" / "a.png"), mask)


def test_yolo_polygons_have_no_holes_and_no_unknown_pixels(tmp_path: Path) -> None:
    mask = nested()
    for folder in ("images", "labels"):
        (tmp_path / "export" / folder).mkdir(parents=True)
    Image.new("RGB", (80, 60)).save(tmp_path / "export" / "images" / "a.png")
    (tmp_path / "export" / "data.yaml").write_text("names: [leaf, ring]\n")
    write_yolo(tmp_path / "export" / "labels" / "a.txt", mask, CLASSES)
    expected = np.zeros_like(mask)
    expected[5:55, :60] = 2
    expected[15:45, 10:40] = 1
    assert np.array_equal(read(imported(tmp_path / "export") / "masks" / "a.png"), expected)


def boundaries(mask: np.ndarray) -> np.ndarray:
    """Return the pixels at most two pixels from another class."""
    near: np.ndarray = maximum_filter(mask, 5) != minimum_filter(mask, 5)
    return near


@pytest.mark.parametrize("format", ["labelme", "yolo"])
def test_polygons_of_predictions_are_imported_within_two_pixels(
    run: Path, call: Call, photos: Path, format: str
) -> None:
    out = photos.with_name("out")
    status, printed, _ = call(run, photos, "--out", out, "--format", format)
    assert (status, printed) == (0, f"3 masks in {out}\n{format}: {out / format}\n")
    data = imported(out / format)
    assert sorted(path.relative_to(data).as_posix() for path in (data / "masks").rglob("*.png")) == [
        "masks/a.png",
        "masks/day 1/a.png",
        "masks/day 1/b.png",
    ]
    assert json.loads((data / "classes.json").read_text())["classes"] == list(semiseg.load(run).classes)
    for name in ("a", "day 1/a", "day 1/b"):
        again, mask = read(data / "masks" / f"{name}.png"), read(out / f"{name}.png")
        inside = ~boundaries(mask)
        assert again.shape == mask.shape and inside.any() and (again == mask)[inside].all()
        assert np.array_equal(read(data / "images" / f"{name}.png"), read(photos / f"{name}.png"))


def test_corrected_labelme_files_are_kept(run: Path, call: Call, photos: Path) -> None:
    arguments = (run, photos, "--out", photos.with_name("out"), "--format", "labelme")
    assert call(*arguments)[0] == 0
    file = photos.with_name("out") / "labelme" / "day 1" / "a.json"
    file.write_text("corrected")
    status, _, errors = call(*arguments)
    assert status == 2 and "exists. Choose another --out, or add --skip-existing" in errors
    assert call(*arguments, "--skip-existing")[0] == 0 and file.read_text() == "corrected"


def test_class_files_hold_the_names_of_the_classes(run: Path, call: Call, photos: Path) -> None:
    names = ["circle", "square", "triangle", "star", "cross", "ring"]
    for format in ("labelme", "yolo"):
        assert call(run, photos / "a.png", "--out", photos.with_name(format), "--format", format)[0] == 0
    labels = (photos.with_name("labelme") / "labelme" / "labels.txt").read_text().splitlines()
    assert labels == ["__ignore__", "background", *names]
    content = yaml.safe_load((photos.with_name("yolo") / "yolo" / "data.yaml").read_text())
    assert content == {"train": "images", "names": dict(enumerate(names))}


def test_coco_of_predictions_is_imported_with_the_same_pixels(run: Path, call: Call, photos: Path) -> None:
    pytest.importorskip("pycocotools")
    out = photos.with_name("out")
    assert call(run, photos, "--out", out, "--format", "coco")[0] == 0
    (out / "coco.json").rename(photos / "coco.json")
    data = imported(photos)
    for name in ("a", "day 1/a", "day 1/b"):
        assert np.array_equal(read(data / "masks" / f"{name}.png"), read(out / f"{name}.png"))


def test_submitted_label_studio_predictions_are_imported_with_the_same_pixels(
    run: Path, call: Call, photos: Path
) -> None:
    out = photos.with_name("out")
    assert call(run, photos, "--out", out, "--format", "label-studio")[0] == 0
    tasks = json.loads((out / "label-studio.json").read_text())
    for number, task in enumerate(tasks, 1):  # as the tool exports them after Submit
        task |= {"id": number, "annotations": [{"id": number, "result": task["predictions"][0]["result"]}]}
    (photos / "project.json").write_text(json.dumps(tasks))
    data = imported(photos)
    classes, trained = json.loads((data / "classes.json").read_text())["classes"], semiseg.load(run).classes
    for name in ("a", "day 1/a", "day 1/b"):
        values = np.array([trained.index(label) for label in classes])[read(data / "masks" / f"{name}.png")]
        assert np.array_equal(values, read(out / f"{name}.png"))
