"""Darwin JSON of V7: polygons, ellipses and raster layers."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from semiseg.data.importers.shapes.drawing import fill_ellipse, fill_even_odd, fill_rectangle
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData, parse_annotation
from semiseg.data.importers.source_files import walk_files

RASTER = "raster_layer"
FIRST_BYTES = 200_000


class Darwin(ShapeData):
    """An export of V7 in Darwin JSON 2.0 (or 1.0): one JSON file per image.

    Paths of a polygon are combined by the even-odd rule, so that inner ones are holes. Pixels that only a bounding
    box covers are ignored. Lines, tags and other shapes without an area are left out. The classes are the names that
    occur, sorted.
    """

    form = "darwin"
    title = "a Darwin JSON export of V7"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   or in any other folder",
        "annotations/NAME.json        or in any other folder",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether the first JSON files in the folder or up to three levels below are Darwin JSON."""
        for pattern in ("*.json", "*/*.json", "*/*/*.json", "*/*/*/*.json"):
            for _, path in zip(range(3), sorted(root.glob(pattern)), strict=False):
                if is_darwin(path):
                    return True
        return False

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the JSON files in Darwin JSON."""
        files = (path for path in walk_files(self.root) if path.suffix == ".json" and is_darwin(path))
        return [parse_annotation(path, "V7", partial(_read_image, path)) for path in files]


def is_darwin(path: Path) -> bool:
    """Return whether a file starts like Darwin JSON."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(FIRST_BYTES)
    new = b'"item"' in text and b'"slots"' in text
    return b'"annotations"' in text and (new or b"darwin_json" in text or b'"workview_url"' in text)


def _read_image(path: Path, content: Any) -> AnnotatedImage:
    item = content.get("item") or content["image"]
    sized = next((slot for slot in item.get("slots") or () if slot.get("width")), item)
    size = (int(sized["width"]), int(sized["height"])) if sized.get("width") and sized.get("height") else None
    name = str(item.get("name") or item["filename"])
    names = {str(entry.get("id")): str(entry["name"]).strip() for entry in content["annotations"]}
    shapes: list[Shape] = []
    left_out: list[str] = []
    boxes: list[Shape] = []
    for entry in content["annotations"]:
        found = _shapes(entry, names)
        shapes += found or ()
        if found is None and (box := entry.get("bounding_box")):
            right, bottom = box["x"] + box["w"], box["y"] + box["h"]
            draw = partial(fill_rectangle, box["x"], box["y"], right, bottom)
            boxes.append(Shape(str(entry["name"]).strip(), draw))
        elif found is None and "mask" not in entry:  # the pixels of masks are in the raster layer
            left_out.append(next((key for key in KINDS if key in entry), "unknown shape"))
    return AnnotatedImage(f"{item.get('path') or ''}/{name}", path, shapes, size, left_out, boxes)


KINDS = ("tag", "line", "keypoint", "skeleton", "cuboid", "eye", "graph", "string", "frames")


def _shapes(entry: Any, names: dict[str, str]) -> list[Shape] | None:
    """Return the shapes of an annotation, or None if it has no area."""
    if "polygon" in entry or "complex_polygon" in entry:
        polygon = entry.get("polygon") or entry["complex_polygon"]
        paths = polygon.get("paths") or [polygon["path"], *polygon.get("additional_paths", ())]
        if isinstance(paths[0][0], list):  # a complex polygon of Darwin 1.0
            paths = [*paths[0], *paths[1:]]
        corners = [[(point["x"], point["y"]) for point in path] for path in paths]
        return [Shape(str(entry["name"]).strip(), partial(fill_even_odd, corners))]
    if "ellipse" in entry:
        center, radii = ((entry["ellipse"][key]["x"], entry["ellipse"][key]["y"]) for key in ("center", "radius"))
        return [Shape(str(entry["name"]).strip(), partial(fill_ellipse, center, radii, entry["ellipse"]["angle"]))]
    if RASTER in entry:
        runs = [int(value) for value in entry[RASTER]["dense_rle"]]
        values = entry[RASTER]["mask_annotation_ids_mapping"].items()
        return [Shape(names[str(id)], partial(_draw_runs, runs, int(value))) for id, value in values]
    return None


def _draw_runs(runs: list[int], value: int, height: int, width: int) -> NDArray[np.bool_]:
    """Return the pixels of one value of a raster layer: pairs of value and length, row by row."""
    values, lengths = np.array(runs[::2]), np.array(runs[1::2], dtype=np.int64)
    if len(values) != len(lengths) or (lengths < 0).any() or sum(runs[1::2]) != height * width:
        raise ValueError(f"the run lengths cover {sum(runs[1::2])} pixels, but the image has {height * width}")
    return np.repeat(values == value, lengths).reshape(height, width)
