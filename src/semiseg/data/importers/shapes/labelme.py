"""LabelMe: one JSON file for each image, with polygons, rectangles, circles and bitmaps."""

from __future__ import annotations

import base64
import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from PIL import Image, ImageDraw

from semiseg.data.files.image_header import open_image
from semiseg.data.importers.shapes.drawing import Region, check_corners, place
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData, parse_content
from semiseg.data.importers.source_files import (
    ImageFinder,
    find_images,
    is_json,
    name_images,
    read_bounded_json,
    walk_files,
)
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

POLYGONS = ("polygon", "rotation", "quadrilateral", "oriented_rectangle")
"""Shapes whose points are their corners. X-AnyLabeling writes the last three."""
KEYS = (b'"shapes"', b'"imagePath"')


class LabelMe(ShapeData):
    """LabelMe: one JSON file for each image, next to the image or in another folder.

    Polygons, rectangles, circles and bitmaps are drawn as LabelMe does. Lines and points have no
    area and are left out. Images that only exist inside their JSON file are extracted. ``labels.txt`` defines the order
    of the classes, without it they are sorted; the label ``__ignore__`` is read as 255.
    """

    form = "labelme"
    title = "a LabelMe export"
    tree: ClassVar[tuple[str, ...]] = (
        "NAME.jpg, .png, ...          here or in any folder",
        "NAME.json                    for annotated images, here or in any folder",
        "labels.txt: optional",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether one of the first 50 JSON files is of LabelMe."""
        return any(is_json(path, *KEYS) for path in islice(_json_files(root), 50))

    def find_images(self) -> dict[str, Path]:
        """Return the image files by id, with those that are inside JSON files."""
        images = find_images(self.root)
        self._contents = [(path, read_bounded_json(path)) for path in _json_files(self.root) if is_json(path, *KEYS)]
        finder, extracted = ImageFinder(images, self.root), []
        self._references: dict[Path, str] = {}
        for path, content in self._contents:
            reference = parse_content(path, "LabelMe", partial(_reference, path, content))
            beside = str(path.with_suffix(".jpg"))  # of any image format
            found = next((name for name in (reference, beside) if finder.find(name)), reference)
            named, near = finder.find(reference), finder.find(beside)
            if named and near and images[named].stem != images[near].stem and finder.is_beside(near, path):
                problem = f"imagePath is {images[named].name}, but the file is named like {images[near].name}"
                raise UserError(problem, path=path, fix="set imagePath to the image that was annotated")
            self._references[path] = found
            if not finder.find(found) and content.get("imageData"):
                self._references[path] = str(self._extract(path, content["imageData"]))
                extracted.append(Path(self._references[path]))
        if extracted:
            self.notes.append(f"images taken from inside their JSON file: {len(extracted)}")
            for id, path in name_images(extracted).items():
                images[id if id not in images else f"{id}_json"] = path
        return dict(sorted(images.items()))

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the JSON files and ``labels.txt``."""
        labels = self.root / "labels.txt"
        if labels.is_file():
            self._tool_classes = tuple(name for name in read_lines(labels) if name not in self.ignored_labels)
        elif not (self.root / "classes.txt").is_file():
            self.notes.append("no labels.txt: the classes are in alphabetical order")
        return [parse_content(path, "LabelMe", partial(self._parse, path, content)) for path, content in self._contents]

    def class_source(self) -> Path:
        """Return ``labels.txt``."""
        return self.root / "labels.txt"

    def _parse(self, path: Path, content: Any) -> AnnotatedImage:
        shapes, left_out = [], []
        for shape in content["shapes"]:
            kind = shape.get("shape_type") or "polygon"
            if kind in (*POLYGONS, "rectangle", "circle", "mask"):
                shapes.append(Shape(str(shape["label"]), partial(draw, shape, kind)))
            else:
                left_out.append(str(kind))
        width, height = content.get("imageWidth"), content.get("imageHeight")
        size = (int(width), int(height)) if width and height else None
        return AnnotatedImage(self._references[path], path, shapes, size, left_out)

    def _extract(self, path: Path, data: Any) -> Path:
        """Write the image inside a JSON file to a temporary folder, which is removed with this object."""

        def extract() -> Path:
            content = base64.b64decode(data, validate=True)
            with open_image(BytesIO(content)) as opened:
                suffix = {"JPEG": ".jpg", "MPO": ".jpg", "TIFF": ".tif"}.get(opened.format or "", f".{opened.format}")
            if not hasattr(self, "_folder"):
                self._folder = tempfile.TemporaryDirectory(prefix="semiseg-labelme-")
            target = Path(self._folder.name, path.relative_to(self.root)).with_suffix(suffix.lower())
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            return target

        return parse_content(path, "LabelMe", extract)


def draw(shape: Any, kind: str, height: int, width: int) -> Region:
    """Return the pixels of a shape as bool ``(H, W)``, drawn by the same functions of Pillow as in LabelMe.

    Raises:
        ValueError: The shape is malformed; other exceptions of ``MALFORMED`` too.
    """
    points = check_corners(shape["points"], height, width, 3 if kind in POLYGONS else 2)
    if kind == "mask":
        left, top = map(int, points[0])
        with open_image(BytesIO(base64.b64decode(shape["mask"], validate=True))) as opened:
            return place(np.array(opened.convert("L")) > 0, left, top, height, width)
    image = Image.new("L", (width, height))
    drawing = ImageDraw.Draw(image)
    if kind in POLYGONS or len(points) > 2:
        drawing.polygon(points, outline=1, fill=1)
    elif kind == "rectangle":
        (left, right), (top, bottom) = (sorted(values) for values in zip(*points, strict=True))
        drawing.rectangle((left, top, right, bottom), outline=1, fill=1)
    else:
        (x, y), radius = points[0], math.dist(*points)
        drawing.ellipse((x - radius, y - radius, x + radius, y + radius), outline=1, fill=1)
    return np.array(image) > 0


def _reference(path: Path, content: Any) -> str:
    """Return the path of the image of a JSON file, whose ``imagePath`` is relative to its folder."""
    return os.path.normpath(path.parent / str(content["imagePath"]).replace("\\", "/"))


def _json_files(root: Path) -> Iterator[Path]:
    return (path for path in walk_files(root) if path.suffix.lower() == ".json")
