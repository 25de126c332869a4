"""Exports of Label Studio: JSON with brush strokes, polygons and ellipses, or one PNG mask per label."""

from __future__ import annotations

import csv
import math
import os
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import read_mask_file
from semiseg.data.importers.shapes.drawing import fill_ellipse, fill_polygon
from semiseg.data.importers.shapes.polygons import brush_region, polygon_region
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData
from semiseg.data.importers.source_files import find_images, is_json, name_images, read_bounded_json, require_bounded
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


class LabelStudio(ShapeData):
    """A Label Studio export: JSON (or JSON-MIN) with brush strokes, polygons and ellipses, or PNG masks.

    If a task has several annotations, the ground truth is used, else the one with regions that has the largest id.
    Skipped annotations and predictions are ignored. Regions are drawn in the order of the file, later ones over earlier
    ones. Pixels that only a box covers are ignored. Key points are left out.

    The names of PNG masks contain the task but not the image. A JSON or CSV export of the same project must be present
    to map tasks to images. PNG masks are drawn in the order of the classes, later ones over earlier ones.

    The classes are those of ``classes.txt``, else the labels that occur, sorted. ``background`` comes first unless a
    label has that name. An image without a task, or whose task has no annotation, is unlabeled.

    Raises:
        UserError: A file is missing or malformed.
    """

    form = "label-studio"
    title = "a Label Studio export"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   with the names under which they were imported",
        "PROJECT.json                 or, with PROJECT.json or .csv to map tasks to images:",
        "task-ID-annotation-ID-by-USER-tag-LABEL-N.png, here or in a folder",
        "classes.txt                  optional",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder holds PNG masks or a JSON export of Label Studio."""
        return bool(png_masks(root)) or any(path.suffix == ".json" for path in export_files(root))

    def find_images(self) -> dict[str, Path]:
        """Return the images by id, without the PNG masks."""
        return name_images([path for path in find_images(self.root).values() if not PNG.fullmatch(path.name)])

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the tasks with annotation."""
        files, self._masks = export_files(self.root), png_masks(self.root)
        if not files:
            problem = "no JSON or CSV export found, which maps tasks to images"
            raise UserError(problem, path=self.root, fix="give the folder that holds the images and the export")
        tasks = [(path, task) for path in files for task in read_tasks(path)]
        for id in sorted(self._masks.keys() - {task.id for _, task in tasks}):
            mask = next(iter(self._masks[id].values()))[0].source
            raise UserError(f"task {id} is not in {files[0]}", path=str(mask), fix="export both from the same project")
        kept = [[one for one in task.annotations if not one.get("was_cancelled")] for _, task in tasks]
        if several := sum(len(annotations) > 1 for annotations in kept):
            verb = "task has" if several == 1 else "tasks have"
            how = "the ground truth is used, else the newest one with regions"
            self.notes.append(f"{several} {verb} several annotations: {how}")
        return [entry for path, task in tasks if (entry := self._read_task(path, task)) is not None]

    def _read_task(self, path: Path, task: Task) -> AnnotatedImage | None:
        """Return the annotation of a task, or None if it has none."""
        layers, left_out, boxes = self._masks.get(task.id, {}), list[str](), list[Shape]()
        try:
            if self._masks:
                regions = layers[max(layers)] if layers else None
            else:
                regions = json_regions(path, task, left_out, boxes)
        except (TypeError, AttributeError, ValueError, KeyError) as error:
            problem = f"task {task.id} has a malformed result ({type(error).__name__}: {reason(error)})"
            raise UserError(problem, path=path, fix="export the project again as JSON") from error
        if regions is None:
            return None
        shapes = [Shape(region.label, partial(_render, region.source)) for region in regions]
        file = regions[0].source if regions and isinstance(regions[0].source, Path) else path
        return AnnotatedImage(image_path(task.image), file, shapes, None, left_out, boxes)

    def _set_classes(self) -> None:
        super()._set_classes()
        if self._masks:
            for entry in self._annotation.values():
                entry.shapes.sort(key=lambda shape: self.classes.index(shape.label))


def _render(source: Path | dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    if isinstance(source, Path):
        values = read_mask_file(source)
        if values.shape != (height, width):
            raise ValueError(f"shape {values.shape} of {source} does not match the image {(height, width)}")
        return values > 0
    size = source["original_height"], source["original_width"]
    if size != (height, width) or source.get("image_rotation"):
        rotation = f", rotated by {source['image_rotation']}," if source.get("image_rotation") else ""
        raise ValueError(f"height and width {size}{rotation} do not match the image {(height, width)}")
    if "rle" in source:
        return brush_region(source["rle"], height, width)
    across, down = width / 100, height / 100
    if "radiusX" in source:
        center, radii = (
            (source["x"] * across, source["y"] * down),
            (source["radiusX"] * across, source["radiusY"] * down),
        )
        return fill_ellipse(center, radii, math.radians(source.get("rotation") or 0), height, width)
    corners = [[x * across, y * down] for x, y in source["points"]]
    return polygon_region([[value for corner in corners for value in corner]], height, width)


def _draw_box(value: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of a box, which is rotated around its first corner."""
    left, top = value["x"] / 100 * width, value["y"] / 100 * height
    across, down = value["width"] / 100 * width, value["height"] / 100 * height
    turn = math.radians(value.get("rotation") or 0)
    cos, sin = math.cos(turn), math.sin(turn)
    offsets = ((0, 0), (across, 0), (across, down), (0, down))
    return fill_polygon([(left + x * cos - y * sin, top + x * sin + y * cos) for x, y in offsets], (), height, width)


def json_regions(path: Path, task: Task, left_out: list[str], boxes: list[Shape]) -> list[Region] | None:
    """Return the regions of the annotation that is used, or None if the task has none.

    Args:
        path: The export.
        task: The task.
        left_out: Collects the types of results without an area.
        boxes: Collects boxes.

    Raises:
        UserError: A region does not have exactly one label.
    """
    kept = [annotation for annotation in task.annotations if not annotation.get("was_cancelled")]
    if not kept:
        return None
    order = range(len(kept))
    best = max(
        order,
        key=lambda i: (
            bool(kept[i].get("ground_truth")),
            any(_has_area(result) for result in kept[i].get("result") or ()),
            _number(kept[i].get("id")),
            i,
        ),
    )
    regions = []
    for result in kept[best].get("result") or ():
        value = result.get("value") or {}
        labels = next((found for key, found in value.items() if key.endswith("labels")), None)
        if labels is None:  # about the whole image
            continue
        if {"x", "y", "width", "height"} <= value.keys() and "rle" not in value:
            label = str(labels[0]) if labels else ShapeData.ignored_labels[0]
            boxes.append(Shape(label, partial(_draw_box, value)))
            continue
        if not {"rle", "points", "radiusX"}.intersection(value):
            left_out.append(str(result.get("type") or "region"))
            continue
        if len(labels) != 1:
            problem = f"a region of task {task.id} has {len(labels)} labels"
            raise UserError(problem, path=path, fix="give it exactly one label")
        regions.append(Region(str(labels[0]), {**result, **value}))
    return regions


def _has_area(result: dict[str, Any]) -> bool:
    """Return whether a result is a region, not a choice about the whole image."""
    return any(key.endswith("labels") for key in result.get("value") or ())


def image_path(reference: str) -> str:
    """Return the path of an image that a task names by path, URL, upload or local file, without its encoding."""
    _, _, local = reference.partition("?d=")
    return unquote(local or reference.split("?")[0])


def read_tasks(path: Path) -> Iterable[Task]:
    """Read the tasks of a JSON, JSON-MIN or CSV export.

    Raises:
        UserError: The file is malformed.
    """
    require_bounded(path)
    csv.field_size_limit(2**31 - 1)  # one cell holds all strokes of an image
    try:
        rows: Any = list(csv.DictReader(read_lines(path))) if path.suffix == ".csv" else read_bounded_json(path)
        tasks: dict[str, Task] = {}
        for row in rows:
            data = row.get("data", row)
            named = (value for value in data.values() if isinstance(value, str) and re.search(r"\.\w{3,4}\b", value))
            task = tasks.setdefault(str(row["id"]), Task(str(row["id"]), str(data.get("image") or next(named)), []))
            annotations = row["annotations"] if "annotations" in row else _minimal(row)
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


def _minimal(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Convert a row of JSON-MIN to an annotation, unless it has none. For a row of a CSV export it is empty."""
    values = (value for values in row.values() if isinstance(values, list) for value in values)
    results = [{**value, "value": value} for value in values if isinstance(value, dict)]
    id = row.get("annotation_id")
    return [{"id": id, "result": results}] if results or id is not None else []


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
    if found := [path for path in sorted(root.glob("*.json")) if is_json(path, b'"annotation', start=b"[")]:
        return found
    return [path for path in sorted(root.glob("*.csv")) if is_json(path, b"annotation_id", b"annotator", start=b"")]
