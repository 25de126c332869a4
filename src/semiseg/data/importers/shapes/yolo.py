"""YOLO segmentation: one text file of polygons for each image, and ``data.yaml`` with the class names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from semiseg.config import read_yaml
from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.importers.foreign_data import ImportOptions
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.data.importers.shapes.drawing import Region, fill_polygon, fill_rectangle
from semiseg.data.importers.shapes.shape_data import AnnotatedImage, Shape, ShapeData
from semiseg.data.importers.source_files import ImageFinder, require_bounded, walk_files
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

LINE = re.compile(r"\d{1,9}(\.0*)?(\s+-?[\d.]+(e[-+]?\d+)?)+", re.IGNORECASE)
CORNERS, BOX, SLACK = 6, 4, 0.1
"""The least numbers of a polygon, those of a box, and how far a coordinate may lie outside of 0 to 1."""
IGNORED = "__ignore__"
NAMES = ("classes.txt", "train.txt", "val.txt", "test.txt")
"""Text files that are not label files."""


class Yolo(ShapeData):
    """YOLO segmentation: ``labels/`` beside ``images/``, one line for each object: class, x, y, x, y, ... in 0 to 1.

    The classes are ``background`` and the names in ``data.yaml`` (or ``classes.txt``). Later lines are drawn over
    earlier ones. The lists are the keys ``train``, ``val`` and ``test`` of ``data.yaml``: a folder, a file of paths, or
    several. An image without a label file is unlabeled; an empty label file says that nothing is to be seen.

    Raises:
        UserError: A file is missing or malformed, or all labels are boxes.
    """

    form = "yolo"
    title = "a YOLO data set"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, {train,val,test}/images/NAME.jpg, or images/{train,val,test}/NAME.jpg",
        "labels/NAME.txt              for annotated images, in labels/ in place of images/, or next to the image",
        "data.yaml                    names; train, val, test: optional",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        if self._yaml is not None and (assigned := self._assigned_lists(self._yaml)):
            self.set_lists(assigned)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has label files, in folders ``labels`` or beside images with class names."""
        found = label_files(root, 50)
        here = (root / "labels").is_dir() or len(list(root.glob("*/labels"))) > 1
        return bool(found) and (_class_file(root) is not None or (here and any(path.stat().st_size for path in found)))

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the class names and the label files."""
        self._yaml, files = _yaml_file(self.root), label_files(self.root)
        source = _class_file(self.root)
        if source is None:
            problem = "the labels are numbers, and neither data.yaml nor classes.txt names the classes"
            raise UserError(problem, path=files[0], fix=f"write {self.root / 'classes.txt'} with one name per line")
        names = read_names(source) if self._yaml else dict(enumerate(read_lines(source)))
        self._tool_classes = tuple(names.values())
        lines = {file: read_labels(file, names) for file in files}
        self._remove_confidence(lines)
        by_label = {label: path for path in self.images.values() for label in _label_paths(path)}
        counts, entries = Counter[str](), []
        for file, rows in lines.items():
            shapes = make_shapes(file, rows, names, counts)
            entries.append(AnnotatedImage(str(by_label.get(file, file.with_suffix(".jpg"))), file, shapes))
        if counts["box"] and not counts["polygon"]:
            problem = "the labels are boxes, which do not say which pixels are inside"
            raise UserError(problem, path=self.root, fix="export the data set for segmentation, with polygons")
        if counts["box"]:
            self.notes.append(f"objects with only a box, whose pixels are ignored (255): {counts['box']}")
        if counts["degenerate"]:
            self.notes.append(f"polygons with fewer than three corners are left out: {counts['degenerate']}")
        if counts["clipped"]:
            self.notes.append(f"polygons that reach beyond the image are cut off: {counts['clipped']}")
        return entries

    def _remove_confidence(self, lines: Mapping[Path, list[Row]]) -> None:
        """Remove the last number of all lines if it makes each odd, as the confidence of predictions does."""
        rows = [row for found in lines.values() for row in found]
        if rows and all(len(row.numbers) % 2 and len(row.numbers) > BOX for row in rows):
            self.notes.append("the last number of each line is taken for a confidence: left out")
            for row in rows:
                row.numbers.pop()

    def _assigned_lists(self, path: Path) -> dict[str, str | None]:
        """Return the list of each image that ``data.yaml`` names."""
        content, finder = read_yaml(path), ImageFinder(self.images, self.root)
        assigned: dict[str, str | None] = {}
        for key, name in LIST_FOLDERS.items():
            entries = content.get(key)
            for entry in entries if isinstance(entries, list) else [entries] if entries else []:
                named = self._named_by(str(entry), finder)
                if not named:
                    self.notes.append(f"{key} in {path.name} names no image: {entry}")
                repeated = [id for id in named if name != "train" and assigned.get(id) == "train"]
                if repeated:
                    self.notes.append(f"{key} in {path.name} repeats {len(repeated)} images of train: they stay there")
                assigned |= dict.fromkeys((id for id in named if id not in repeated), name)
        return assigned

    def _named_by(self, entry: str, finder: ImageFinder) -> list[str]:
        """Return the images in a folder or a file of paths, which may be absolute, or relative to any parent."""
        parts = [part for part in entry.replace("\\", "/").split("/") if part not in ("", ".", "..")]
        for start in range(len(parts)):  # the longest ending that exists
            place = self.root.joinpath(*parts[start:])
            if place.is_dir():
                return [id for id, path in self.images.items() if path.is_relative_to(place)]
            if place.is_file():
                return [id for line in read_lines(place) if (id := finder.find(line))]
        return []


class Row(NamedTuple):
    """A line of a label file: its number, the class and the coordinates."""

    line: int
    label: int
    numbers: list[float]


def read_labels(path: Path, names: Mapping[int, str]) -> list[Row]:
    """Read the lines of a label file. Raises UserError if one is malformed."""
    require_bounded(path)
    rows = []
    for number, line in enumerate(read_lines(path), 1):
        label, *values = line.split()
        try:
            row = Row(number, int(float(label)), [float(value) for value in values])
        except ValueError:
            row = Row(number, -1, [])
        if not LINE.fullmatch(line) or row.label not in names:
            known = f"below {len(names)}" if max(names) < len(names) else f"of {', '.join(map(str, names))}"
            problem = f"line {number}, {line!r:.60}, is not a class {known} and numbers"
            raise UserError(problem, path=path, fix="export it again, or add the class to the file of names")
        rows.append(row)
    return rows


def make_shapes(path: Path, rows: list[Row], names: Mapping[int, str], counts: Counter[str]) -> list[Shape]:
    """Return the shapes of a label file, boxes first.

    Args:
        path: The file.
        rows: Its lines.
        names: The name of each class.
        counts: Counts boxes, polygons, lines without an area, and lines that were clipped.

    Raises:
        UserError: A line has an odd number of coordinates, or one far outside of the image.
    """
    shapes: dict[str, list[Shape]] = {"box": [], "polygon": []}
    for number, label, numbers in rows:
        if len(numbers) < CORNERS and len(numbers) != BOX:
            counts["degenerate"] += 1
            continue
        if len(numbers) % 2:
            problem = f"line {number} has {len(numbers)} coordinates instead of pairs x y of at least three corners"
            raise UserError(problem, path=path, fix="export the data set for segmentation")
        if not all(-SLACK <= value <= 1 + SLACK for value in numbers):
            problem = f"line {number} has coordinates outside of 0 to 1"
            fix = "divide x by the width and y by the height of the image"
            raise UserError(problem, path=path, fix=fix)
        kind = "box" if len(numbers) == BOX else "polygon"
        counts[kind] += 1
        counts["clipped"] += not all(0 <= value <= 1 for value in numbers)
        draw = _draw_box if kind == "box" else _draw_polygon
        shapes[kind].append(Shape(IGNORED if kind == "box" else names[label], partial(draw, numbers)))
    return [*shapes["box"], *shapes["polygon"]]


def _draw_polygon(numbers: list[float], height: int, width: int) -> Region:
    corners = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return fill_polygon(corners, (), height, width)


def _draw_box(numbers: list[float], height: int, width: int) -> Region:
    x, y, across, down = numbers
    edges = (x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height
    return fill_rectangle(*edges, height, width)


def read_names(path: Path) -> dict[int, str]:
    """Return the class names in ``data.yaml`` by number: from a list, or a mapping from numbers to names.

    Raises:
        UserError: The file or the names are malformed.
    """
    names: Any = read_yaml(path).get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names or not all(str(key).isdecimal() for key in names):
        fix = "write names: [NAME, ...], or a line 0: NAME for each class"
        raise UserError("names is not a list of class names", path=path, fix=fix)
    return {int(key): str(name) for key, name in sorted(names.items(), key=lambda item: int(item[0]))}


def label_files(root: Path, limit: int | None = None) -> list[Path]:
    """Return the label files, or those among the first ``limit`` text files.

    These are text files in folders called ``labels``, or beside an image of their name, that are empty or begin with a
    class and numbers.
    """
    texts = (path for path in walk_files(root) if path.suffix.lower() == ".txt" and path.name not in NAMES)
    kept = (path for path in texts if "labels" in _folders(path, root) or _has_image(path))
    return [path for path in islice(kept, limit) if _starts_like_a_label(path)]


def _has_image(path: Path) -> bool:
    suffixes = (end for suffix in IMAGE_SUFFIXES for end in (suffix, suffix.upper()))
    return any(path.with_suffix(suffix).is_file() for suffix in suffixes)


def _class_file(root: Path) -> Path | None:
    """Return the file of class names: YAML, or ``classes.txt`` in the folder or in ``labels/``."""
    texts = (root / name for name in ("classes.txt", "obj.names", "labels/classes.txt"))
    return _yaml_file(root) or next((path for path in texts if path.is_file()), None)


def _starts_like_a_label(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(300)
    return not start.strip() or re.match(rb"\s*\d+(\.0*)?(\s+-?[\d.]+){4,}", start) is not None


def _folders(path: Path, root: Path) -> tuple[str, ...]:
    return path.relative_to(root).parts[:-1]


def _label_paths(image: Path) -> list[Path]:
    """Return where the label file of an image may be: ``labels`` in place of each ``images`` in its path."""
    parts = image.with_suffix(".txt").parts
    places = [index for index, part in enumerate(parts) if part == "images"]
    return [Path(*parts[:place], "labels", *parts[place + 1 :]) for place in reversed(places)]


def _yaml_file(root: Path) -> Path | None:
    """Return the YAML file with the class names."""
    for path in sorted((*root.glob("*.yaml"), *root.glob("*.yml"))):
        if path.is_file() and path.stat().st_size < 1_000_000 and re.search(rb"(?m)^names\s*:", path.read_bytes()):
            return path
    return None
