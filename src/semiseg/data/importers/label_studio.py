"""Exports of Label Studio: JSON with brush strokes and polygons, or one PNG mask per label."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_json
from semiseg.data.files.file_lists import list_tree
from semiseg.data.files.image_files import image_size
from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import read_mask_file
from semiseg.data.importers.polygons import brush_region, polygon_region, with_background
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

PNG = re.compile(r"task-(\d+)-annotation-(\d+)-by-[^-]*-(?:tag|[^-]+)-(.+)-(\d+)\.png")
"""The name of a mask: task, annotation, user (without hyphens), control, label and a number."""


class Region(NamedTuple):
    """The area of one label: a PNG file, or a result of the JSON export merged with its value."""

    label: str
    source: Path | dict[str, Any]


class Task(NamedTuple):
    """A task of a project: one image and its annotations."""

    id: str
    image: str
    annotations: list[dict[str, Any]]


class LabelStudio(FileDataset):
    """A Label Studio export: JSON (or JSON-MIN) with brush strokes and polygons, or PNG masks.

    If a task has several annotations, the ground truth is used, else the one with the largest id. Skipped annotations
    and predictions are ignored. Brush strokes and polygons are rendered in the order of the file, later ones over
    earlier ones. Boxes, key points and choices are ignored because they do not describe pixels.

    The names of PNG masks contain the task but not the image. A JSON or CSV export of the same project must be present
    to map tasks to images. PNG masks are rendered in the order of the classes, later ones over earlier ones.

    The classes are those of ``classes.txt``, else the labels that occur, sorted. ``background`` comes first unless a
    label has that name. An image without a task, or whose task has no region, is unlabeled.

    Args:
        root: The folder with the export and the images, which may be in subfolders.

    Raises:
        UserError: A file is missing or malformed.
    """

    images: dict[str, Path]
    masks: dict[str, Path]
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   with the names under which they were imported",
        "PROJECT.json                 or, with PROJECT.json or .csv to map tasks to images:",
        "task-ID-annotation-ID-by-USER-tag-LABEL-N.png, here or in a folder",
        "classes.txt, splits/{train,val,test}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.name = self.root.resolve().name
        self.images = {id: path for id, path in list_tree(self.root).items() if not PNG.fullmatch(path.name)}
        self._regions: dict[str, list[Region]] = {}
        self.masks = {}
        files, masks = export_files(self.root), png_masks(self.root)
        if not files or not self.images:
            missing = "no images found" if files else "no JSON or CSV export found, which maps tasks to images"
            raise UserError(missing, path=root, fix="give the folder that holds the images and the export")
        tasks = [(path, task) for path in files for task in read_tasks(path)]
        for path, task in tasks:
            self._add(path, task, masks)
        if not self.masks:
            raise UserError(
                "no image has a brush stroke, polygon or PNG mask", path=files[0], fix="annotate a few images"
            )
        for id in sorted(masks.keys() - {task.id for _, task in tasks}):
            mask = next(iter(masks[id].values()))[0].source
            raise UserError(f"task {id} is not in {files[0]}", path=str(mask), fix="export both from the same project")
        self.ids = tuple(self.images)
        self._set_classes()

    def read_mask(self, id: str) -> Tensor:
        """Render a mask as uint8 ``(H, W)`` of class indices."""
        width, height = image_size(self.images[id])
        mask = np.full((height, width), self._background, dtype=np.uint8)
        for region in self._regions[id]:
            try:
                pixels = _render(region.source, height, width)
            except (ValueError, TypeError, KeyError, OverflowError) as error:
                path = region.source if isinstance(region.source, Path) else self.masks[id]
                raise UserError(
                    f"region {region.label!r} of image {id} is malformed: {reason(error)}",
                    path=path,
                    fix="correct or remove it",
                ) from error
            mask[pixels] = self.classes.index(region.label)
        return torch.from_numpy(mask)

    def _add(self, path: Path, task: Task, masks: dict[str, dict[int, list[Region]]]) -> None:
        """Add the regions of a task."""
        layers = masks.get(task.id, {})
        try:
            regions = json_regions(path, task) if not masks else layers[max(layers)] if layers else []
        except (TypeError, AttributeError, ValueError, KeyError) as error:
            raise UserError(
                f"task {task.id} has a malformed result ({type(error).__name__}: {reason(error)})",
                path=path,
                fix="export the project again as JSON",
            ) from error
        if not regions:
            return
        id = find_image(task.image, self.images)
        if id is None:
            raise UserError(
                f"image {task.image!r} of task {task.id} is missing", path=path, fix="add it under that name"
            )
        if self._regions.setdefault(id, regions) is not regions:
            raise UserError(
                f"image {id} of task {task.id} also belongs to another task", path=path, fix="keep one of the two"
            )
        self.masks[id] = regions[0].source if isinstance(regions[0].source, Path) else path

    def _set_classes(self) -> None:
        labels = {region.label: id for id, regions in self._regions.items() for region in regions}
        file = self.root / "classes.txt"
        names = read_lines(file) if file.exists() else tuple(sorted(labels))
        for label, id in labels.items():
            if label not in names:
                raise UserError(
                    f"label {label!r} of image {id} is not in {file}", path=self.masks[id], fix="add it there"
                )
        self.classes, self._background = with_background(names)
        if len(set(self.classes)) < len(self.classes) or len(self.classes) > 255:
            raise UserError(
                f"found {len(self.classes)} class names", path=file, fix="write 1 to 254 class names, each only once"
            )
        self.palette = default_palette(len(self.classes))
        for id, regions in self._regions.items():
            if isinstance(regions[0].source, Path):
                self._regions[id] = sorted(regions, key=lambda region: self.classes.index(region.label))


def _render(source: Path | dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    if isinstance(source, Path):
        values = read_mask_file(source)
        if values.shape != (height, width):
            raise ValueError(f"shape {values.shape} of the mask does not match the image {(height, width)}")
        return values > 0
    size = source["original_height"], source["original_width"]
    if size != (height, width) or source.get("image_rotation"):
        rotation = f", rotated by {source['image_rotation']}," if source.get("image_rotation") else ""
        raise ValueError(f"height and width {size}{rotation} do not match the image {(height, width)}")
    if "rle" in source:
        return brush_region(source["rle"], height, width)
    corners = [[x / 100 * width, y / 100 * height] for x, y in source["points"]]
    return polygon_region([[value for corner in corners for value in corner]], height, width)


def json_regions(path: Path, task: Task) -> list[Region]:
    """Return the regions of the annotation that is used.

    Raises:
        UserError: A region does not have exactly one label.
    """
    kept = [annotation for annotation in task.annotations if not annotation.get("was_cancelled")]
    if not kept:
        return []
    order = range(len(kept))
    best = max(order, key=lambda i: (bool(kept[i].get("ground_truth")), _number(kept[i].get("id")), i))
    regions = []
    for result in kept[best].get("result") or ():
        value = result.get("value") or {}
        labels = next((found for key, found in value.items() if key.endswith("labels")), None)
        if labels is None or not ("rle" in value or "points" in value):
            continue
        if len(labels) != 1:
            raise UserError(
                f"a region of task {task.id} has {len(labels)} labels", path=path, fix="give it exactly one label"
            )
        regions.append(Region(str(labels[0]), {**result, **value}))
    return regions


def find_image(reference: str, images: Mapping[str, Path]) -> str | None:
    """Return the id of the image that a task names by path, URL or upload, or None if there is no such image.

    Label Studio prefixes the names of uploads with eight characters and a hyphen.
    """
    _, _, local = reference.partition("?d=")
    name = unquote(local or reference.split("?")[0]).replace("\\", "/").rsplit("/", 1)[-1]
    stem = name.rsplit(".", 1)[0]
    return next((form for form in (stem, re.sub(r"^[0-9a-f]{8}-", "", stem)) if form in images), None)


def read_tasks(path: Path) -> Iterable[Task]:
    """Read the tasks of a JSON, JSON-MIN or CSV export.

    Raises:
        UserError: The file is malformed.
    """
    csv.field_size_limit(2**31 - 1)  # one cell holds all strokes of an image
    try:
        rows: Any = list(csv.DictReader(read_lines(path))) if path.suffix == ".csv" else read_json(path)
        tasks: dict[str, Task] = {}
        for row in rows:
            data = row.get("data", row)
            named = (value for value in data.values() if isinstance(value, str) and re.search(r"\.\w{3,4}\b", value))
            task = tasks.setdefault(str(row["id"]), Task(str(row["id"]), str(data.get("image") or next(named)), []))
            annotations = row["annotations"] if "annotations" in row else [_minimal(row)]
            if not all(isinstance(annotation, dict) for annotation in annotations):
                raise TypeError("an annotation is not an object")
            task.annotations.extend(annotations)
        return tasks.values()
    except (KeyError, TypeError, AttributeError, StopIteration, csv.Error) as error:
        raise UserError(
            f"not an export of Label Studio ({type(error).__name__}: {reason(error)})",
            path=path,
            fix="export the project as JSON, in which each task has an id, an image and annotations",
        ) from error


def _minimal(row: dict[str, Any]) -> dict[str, Any]:
    """Convert a row of JSON-MIN to an annotation. For a row of a CSV export it is empty."""
    values = (value for values in row.values() if isinstance(values, list) for value in values)
    results = [{**value, "value": value} for value in values if isinstance(value, dict)]
    return {"id": row.get("annotation_id"), "result": results}


def _number(id: Any) -> int:
    """Return the id of an annotation as a number, or 0 if it is not numeric."""
    return int(id) if isinstance(id, int) or (isinstance(id, str) and id.isdecimal()) else 0


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:  # missing or not readable
        return []


def png_masks(root: Path) -> dict[str, dict[int, list[Region]]]:
    """Return the PNG masks in a folder and its subfolders by task and annotation, sorted by number."""
    found: dict[str, dict[int, list[Region]]] = {}
    folders = (root, *(folder for folder in root.glob("*/") if folder.name != "images"))
    names = ((folder, name) for folder in folders for name in _names(folder) if name.startswith("task-"))
    matches = [(match, folder / name) for folder, name in names if (match := PNG.fullmatch(name))]
    for match, path in sorted(matches, key=lambda pair: int(pair[0][4])):
        found.setdefault(match[1], {}).setdefault(int(match[2]), []).append(Region(match[3], path))
    return found


def export_files(root: Path) -> list[Path]:
    """Return the JSON exports in a folder, or the CSV exports if there are none."""
    for suffix, first, words in (("json", b"[", (b'"annotation',)), ("csv", b"", (b"annotation_id", b"annotator"))):
        found = []
        for path in sorted(root.glob(f"*.{suffix}")):
            text = path.read_bytes() if path.is_file() else b""  # reading a pipe would block
            if text.lstrip()[:1].startswith(first) and all(word in text for word in words):
                found.append(path)
        if found:
            return found
    return []


def is_label_studio_layout(root: str | Path) -> bool:
    """Return whether a folder holds PNG masks of Label Studio, or its JSON export without being a plain folder."""
    root = Path(root)
    own = (root / "masks").is_dir() and (root / "images").is_dir()
    exported = not own and any(path.suffix == ".json" for path in export_files(root))
    return exported or bool(png_masks(root))
