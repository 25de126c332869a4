"""Projects of the VGG Image Annotator (VIA): JSON or CSV with polygons, rectangles, circles and ellipses."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from semiseg.data.files.image_header import reason
from semiseg.data.importers.shapes.drawing import fill_ellipse, fill_polygon, fill_rectangle
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData, parse_annotation, parse_content
from semiseg.data.importers.source_files import require_bounded
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

USUAL = ("class", "label", "category")
"""Names of the region attribute that holds the class, in order of preference."""
SHOWN = 3  # values of an attribute that an error lists
FIRST_BYTES = 200_000


class Via(ShapeData):
    """A project, JSON or CSV of the VGG Image Annotator 1 or 2, beside its images or above their folder.

    The class of a region is the value of one region attribute: the one of the option ``attribute``, the first of
    ``USUAL`` that occurs, or the only one. A project lists the values in the order of its options. Points and polylines
    have no area and are left out. Among images of one name, the size of the file decides.

    Raises:
        UserError: A file is malformed, or several attributes may hold the class.
    """

    uses: ClassVar[tuple[str, ...]] = ("empty", "attribute")
    form = "via"
    title = "a project of the VGG Image Annotator"
    tree: ClassVar[tuple[str, ...]] = (
        "NAME.jpg, .png, ...          here or in any folder",
        "via_project.json, via_region_data.json or via_region_data.csv",
    )

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a JSON or CSV file in the folder or one level below is of VIA."""
        return bool(via_files(root))

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the files of VIA and choose the attribute that holds the class."""
        entries: list[tuple[Path, Any]] = []
        options: dict[str, Any] = {}
        for path in via_files(self.root):
            content = read_csv(path) if path.suffix == ".csv" else parse_annotation(path, "VIA", dict)
            images = content.get("_via_img_metadata", content)
            entries += [(path, entry) for entry in images.values() if isinstance(entry, dict) and "filename" in entry]
            options |= (content.get("_via_attributes") or {}).get("region") or {}
        attribute = self._choose_attribute(entries)
        listed: Any = None
        if attribute:
            listed = (options.get(attribute) or {}).get("options")
            self._tool_classes = list(listed) if isinstance(listed, dict) else ()
        data = [parse_entry(path, entry, attribute) for path, entry in entries]
        data = [one._replace(image=self._file_of_size(entry)) for one, (_, entry) in zip(data, entries, strict=True)]
        names = {id: str(text).strip() for id, text in listed.items()} if self._tool_classes else {}
        if not all(names.values()) or len(set(names.values())) < len(names) or names == {id: id for id in names}:
            return data
        self._tool_classes = [*names.values()]
        self.notes.append(f"names of its options: {', '.join(f'{id} is {name}' for id, name in names.items())}")
        renamed = (
            [shape._replace(label=names.get(shape.label, shape.label)) for shape in entry.shapes] for entry in data
        )
        return [entry._replace(shapes=shapes) for entry, shapes in zip(data, renamed, strict=True)]

    def _file_of_size(self, entry: Any) -> str:
        """Return the image of an entry: its name, or the only file of that name with its number of bytes."""
        name, size = str(entry["filename"]), entry.get("size")
        same = [path for path in self.images.values() if path.name == name]
        fitting = [path for path in same if path.stat().st_size == size] if len(same) > 1 else []
        return str(fitting[0]) if len(fitting) == 1 else name

    def _choose_attribute(self, entries: list[tuple[Path, Any]]) -> str:
        """Return the region attribute that holds the class, and note the choice; an empty string if there is none."""
        values: dict[str, dict[str, None]] = {}
        for path, entry in entries:
            for name, value in _attributes(path, entry):
                values.setdefault(name, {}).update(dict.fromkeys(filter(None, value)))
        wanted = self.options.attribute
        if wanted is not None and wanted not in values:
            problem = f"no region has the attribute {wanted!r}"
            fix = f"choose one of {', '.join(values)}" if values else "leave it out"
            raise UserError(problem, option="attribute", fix=fix)
        if not values:
            self.notes.append("regions have no attribute: one class, object")
            return ""
        usual = [name for word in USUAL for name in values if name.lower() == word]
        filled = [name for name, found in values.items() if found]
        chosen = wanted or next(iter([*usual, *filled, *values]))
        if wanted is None and not usual and len(filled) > 1:
            listed = "; ".join(f"{name}: {', '.join(list(found)[:SHOWN])}" for name, found in values.items())
            problem = f"regions have several attributes that may be the class ({listed})"
            raise UserError(problem, path=entries[0][0], fix=f"choose one, such as --attribute {chosen}")
        others = [name for name in values if name != chosen]
        self.notes.append(
            f"the class of a region is its attribute {chosen!r}"
            + (f" (not used: {', '.join(others)}; --attribute uses another one)" if others else "")
        )
        return chosen


def via_files(root: Path) -> list[Path]:
    """Return the JSON files of VIA in a folder or one level below, or the CSV files if there are none."""
    for suffix, words in ((".json", (b'"shape_attributes"', b'"filename"')), (".csv", (b"region_shape_attributes",))):
        files = [path for pattern in ("*", "*/*") for path in sorted(root.glob(pattern + suffix)) if path.is_file()]
        if found := [path for path in files if all(word in _start(path) for word in words)]:
            return found
    return []


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(FIRST_BYTES)


def read_csv(path: Path) -> dict[str, Any]:
    """Read a CSV export, one region per line, as the entries of a JSON export."""
    require_bounded(path)
    csv.field_size_limit(2**31 - 1)  # one cell holds all corners of a polygon
    images: dict[str, Any] = {}
    try:
        for row in csv.DictReader(read_lines(path)):
            name = row.get("filename") or row["#filename"]
            entry = images.setdefault(name, {"filename": name, "size": int(row["file_size"]), "regions": []})
            shape = json.loads(row["region_shape_attributes"])
            if shape:
                region = {"shape_attributes": shape, "region_attributes": json.loads(row["region_attributes"])}
                entry["regions"].append(region)
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        problem = f"not a CSV export of VIA ({type(error).__name__}: {reason(error)})"
        raise UserError(problem, path=path, fix="export it again") from error
    return images


def _regions(entry: Any) -> list[Any]:
    """Return the regions of an image: a list, or a dict in VIA 1."""
    regions = entry["regions"]
    return list(regions.values()) if isinstance(regions, dict) else list(regions)


def _attributes(path: Path, entry: Any) -> list[tuple[str, list[str]]]:
    """Return the names of the attributes of each region of an image, with their values."""

    def parse() -> list[tuple[str, list[str]]]:
        found = [pair for region in _regions(entry) for pair in (region.get("region_attributes") or {}).items()]
        return [(name, [str(one) for one in (value if isinstance(value, dict) else [value])]) for name, value in found]

    return parse_content(path, "VIA", parse)


def parse_entry(path: Path, entry: Any, attribute: str) -> AnnotatedImage:
    """Return the annotation of one image. Raises UserError if it is malformed or a region has no class."""

    def parse() -> AnnotatedImage:
        shapes, left_out = [], []
        for region in _regions(entry):
            attributes = region["shape_attributes"]
            if (draw := _drawing(attributes)) is None:
                left_out.append(str(attributes.get("name")))
                continue
            value = region.get("region_attributes", {}).get(attribute, "") if attribute else "object"
            chosen = [name for name, on in value.items() if on] if isinstance(value, dict) else [str(value).strip()]
            if len(chosen) != 1 or not chosen[0]:
                problem = f"a region of {entry['filename']} has {len(chosen) if chosen[:1] != [''] else 0} classes"
                fix = f"give its attribute {attribute!r} one value"
                raise UserError(problem, path=path, fix=fix)
            shapes.append(Shape(chosen[0], draw))
        return AnnotatedImage(str(entry["filename"]), path, shapes, None, left_out)

    return parse_content(path, "VIA", parse)


def _drawing(shape: Any) -> Any:
    """Return the function that draws a shape, or None if it has no area."""
    kind = shape.get("name")
    if kind == "polygon":
        corners = list(zip(shape["all_points_x"], shape["all_points_y"], strict=True))
        return partial(_draw_inside, corners, partial(fill_polygon, corners, ()))
    if kind == "rect":
        x, y, width, height = (shape[key] for key in ("x", "y", "width", "height"))
        return partial(
            _draw_inside, [(x, y), (x + width, y + height)], partial(fill_rectangle, x, y, x + width, y + height)
        )
    if kind == "circle":
        return partial(fill_ellipse, (shape["cx"], shape["cy"]), (shape["r"], shape["r"]), 0)
    if kind == "ellipse":
        center, radii = (shape["cx"], shape["cy"]), (shape["rx"], shape["ry"])
        return partial(fill_ellipse, center, radii, shape.get("theta", 0))
    return None


def _draw_inside(corners: list[Any], draw: Any, height: int, width: int) -> Any:
    """Draw a shape whose corners have to be in the image, because VIA does not store the size that was annotated."""
    x, y = max(corner[0] for corner in corners), max(corner[1] for corner in corners)
    if x > width + 1 or y > height + 1:
        raise ValueError(f"it reaches {x:g}, {y:g}, but the image is {width}x{height}")
    return draw(height, width)
