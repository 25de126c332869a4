"""Projects of Supervisely: ``meta.json`` and one JSON file per image with polygons, bitmaps and rectangles."""

from __future__ import annotations

import base64
import io
import re
import zlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.files.image_header import open_image
from semiseg.data.importers.shapes.drawing import fill_polygon, fill_rectangle, place
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData, parse_annotation
from semiseg.data.importers.source_files import name_images, walk_files


class Supervisely(ShapeData):
    """A Supervisely project: ``DATASET/img/NAME.jpg`` with ``DATASET/ann/NAME.jpg.json``.

    The classes are those of ``meta.json``, in its order. Data sets called ``train``, ``val`` and ``test`` become lists.
    """

    form = "supervisely"
    title = "a Supervisely project"
    tree: ClassVar[tuple[str, ...]] = (
        "meta.json",
        "DATASET/img/NAME.jpg, .png, ...",
        "DATASET/ann/NAME.jpg.json",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder holds ``meta.json`` and a folder ``ann`` at most two levels below."""
        return (root / "meta.json").is_file() and any(
            path.is_dir() for pattern in ("*/ann", "ann", "*/*/ann", "*/*/*/ann") for path in root.glob(pattern)
        )

    def find_images(self) -> dict[str, Path]:
        """Return the images in the folders ``img``; their ids leave out that folder."""
        files = (path for path in walk_files(self.root) if path.suffix.lower() in IMAGE_SUFFIXES)
        images = name_images([path for path in files if path.parent.name == "img"])
        return {re.sub(r"(^|/)img/([^/]+)$", r"\1\2", id): path for id, path in images.items()}

    def class_source(self) -> Path:
        """Return ``meta.json``."""
        return self.root / "meta.json"

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read ``meta.json`` and the files in the folders ``ann``."""
        self._tool_classes = parse_annotation(
            self.root / "meta.json", "Supervisely", lambda meta: [str(entry["title"]) for entry in meta["classes"]]
        )
        return [
            parse_annotation(path, "Supervisely", partial(_read_image, path))
            for path in walk_files(self.root)
            if path.parent.name == "ann" and path.suffix == ".json"
        ]


def _read_image(path: Path, content: Any) -> AnnotatedImage:
    size = content["size"]
    shapes, left_out = [], []
    for entry in content["objects"]:
        kind = str(entry.get("geometryType") or entry.get("shape"))
        if (draw := _drawing(kind, entry)) is None:
            left_out.append(kind)
        else:
            shapes.append(Shape(str(entry["classTitle"]), draw))
    image = path.parent.parent / "img" / path.name.removesuffix(".json")
    return AnnotatedImage(str(image), path, shapes, (int(size["width"]), int(size["height"])), left_out)


def _drawing(kind: str, entry: Any) -> Any:
    """Return the function that draws a shape, or None if the kind has no area."""
    if kind == "bitmap":
        left, top = (int(value) for value in entry["bitmap"]["origin"])
        return partial(_draw_bitmap, str(entry["bitmap"]["data"]), left, top)
    if kind not in ("polygon", "rectangle"):
        return None
    points = entry["points"]["exterior"]
    if kind == "polygon":
        return partial(fill_polygon, points, list(entry["points"].get("interior") or ()))
    (left, top), (right, bottom) = points
    left, right, top, bottom = min(left, right), max(left, right), min(top, bottom), max(top, bottom)
    return partial(fill_rectangle, left, top, right + 1, bottom + 1)


def _draw_bitmap(data: str, left: int, top: int, height: int, width: int) -> NDArray[np.bool_]:
    """Decode base64 of a PNG, usually compressed by zlib once more, to at most one byte per pixel of the image."""
    packed, limit = base64.b64decode(data, validate=True), 4 * height * width + 65_536
    try:
        unpacker = zlib.decompressobj()
        packed, rest = unpacker.decompress(packed, limit), unpacker.unconsumed_tail
    except zlib.error:  # a PNG without further compression
        rest = b""
    if rest:
        raise ValueError(f"the bitmap is larger than {limit} bytes")
    with open_image(io.BytesIO(packed)) as opened:
        if opened.width > width + 1 or opened.height > height + 1:
            raise ValueError(f"the bitmap is {opened.width}x{opened.height}, the image {width}x{height}")
        if opened.mode == "P":
            pixels = np.array(opened)
        elif "A" in opened.getbands():
            pixels = np.array(opened.getchannel("A"))
        else:
            pixels = np.array(opened.convert("L"))
    return place(pixels > 0, left, top, height, width)
