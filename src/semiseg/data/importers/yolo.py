"""YOLO segmentation: one text file of polygons for each image, and ``data.yaml`` with the class names."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from semiseg.config import read_yaml
from semiseg.data.importers.drawing import Region, fill_polygon, fill_rectangle
from semiseg.data.importers.foreign_data import ImportOptions
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.data.importers.shape_data import AnnotatedImage, Shape, ShapeData
from semiseg.data.importers.source_files import ImageFinder, require_bounded, walk_files
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

LINE = re.compile(r"\d{1,9}(\s+-?[\d.]+(e[-+]?\d+)?)+", re.IGNORECASE)
BOX, SLACK = 5, 0.01
"""Numbers in the line of a box, and how far a coordinate may lie outside of 0 to 1."""
IGNORED = "__ignore__"


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
        "labels/NAME.txt              for annotated images, in labels/ in place of images/",
        "data.yaml                    names; train, val, test: optional",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        if self._yaml is not None and (assigned := self._assigned_lists(self._yaml)):
            self.set_lists(assigned)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder has class names and a label file."""
        return (_yaml_file(root) is not None or (root / "classes.txt").is_file()) and bool(label_files(root, 50))

    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Read the class names and the label files."""
        self._yaml = _yaml_file(self.root)
        source = self._yaml or self.root / "classes.txt"
        names = read_names(source) if self._yaml else read_lines(source)
        self._tool_classes = names
        entries, boxes, polygons = [], 0, 0
        by_label = {label: path for path in self.images.values() for label in _label_paths(path)}
        for file in label_files(self.root):
            shapes, found = read_labels(file, names)
            boxes, polygons = boxes + found, polygons + len(shapes) - found
            entries.append(AnnotatedImage(str(by_label.get(file, file.with_suffix(".jpg"))), file, shapes))
        if boxes and not polygons:
            problem = "the labels are boxes, which do not say which pixels are inside"
            raise UserError(problem, path=self.root, fix="export the data set for segmentation, with polygons")
        if boxes:
            self.notes.append(f"{boxes} objects have only a box: their pixels are ignored (255)")
        return entries

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
                assigned |= dict.fromkeys(named, name)
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


def read_labels(path: Path, names: tuple[str, ...]) -> tuple[list[Shape], int]:
    """Return the shapes in a label file, boxes first, and the number of boxes.

    Raises:
        UserError: A line is malformed.
    """
    require_bounded(path)
    boxes, polygons = [], []
    for number, line in enumerate(read_lines(path), 1):
        label, *values = line.split()
        if not LINE.fullmatch(line) or int(label) >= len(names):
            problem = f"line {number}, {line!r:.60}, is not a class below {len(names)} and numbers"
            raise UserError(problem, path=path, fix="export it again")
        try:
            numbers = [float(value) for value in values]
        except ValueError:
            numbers = []
        if (len(numbers) != BOX - 1 and len(numbers) < 6) or len(numbers) % 2:
            problem = f"line {number} has {len(numbers)} coordinates instead of pairs x y of at least three corners"
            raise UserError(problem, path=path, fix="export the data set for segmentation")
        if not all(-SLACK <= value <= 1 + SLACK for value in numbers):
            problem = f"line {number} has coordinates outside of 0 to 1"
            raise UserError(problem, path=path, fix="divide x by the width and y by the height of the image")
        if len(numbers) == BOX - 1:
            boxes.append(Shape(IGNORED, partial(_draw_box, numbers)))
        else:
            polygons.append(Shape(names[int(label)], partial(_draw_polygon, numbers)))
    return [*boxes, *polygons], len(boxes)


def _draw_polygon(numbers: list[float], height: int, width: int) -> Region:
    corners = [(x * width, y * height) for x, y in zip(numbers[::2], numbers[1::2], strict=True)]
    return fill_polygon(corners, (), height, width)


def _draw_box(numbers: list[float], height: int, width: int) -> Region:
    x, y, across, down = numbers
    edges = (x - across / 2) * width, (y - down / 2) * height, (x + across / 2) * width, (y + down / 2) * height
    return fill_rectangle(*edges, height, width)


def read_names(path: Path) -> tuple[str, ...]:
    """Return the class names in ``data.yaml``: a list, or a mapping from 0, 1, ... to names.

    Raises:
        UserError: The file or the names are malformed.
    """
    names: Any = read_yaml(path).get("names")
    if isinstance(names, dict):
        keys = [str(key) for key in names]
        names = list(names.values()) if keys == [str(index) for index in range(len(keys))] else None
    if not isinstance(names, list) or not names:
        fix = "write names: [NAME, ...], or a line 0: NAME for each class"
        raise UserError("names is not a list of class names", path=path, fix=fix)
    return tuple(map(str, names))


def label_files(root: Path, limit: int | None = None) -> list[Path]:
    """Return the label files, or those among the first ``limit`` text files.

    These are text files in folders called ``labels`` that are empty or begin with a class and numbers.
    """
    texts = (path for path in walk_files(root) if path.suffix.lower() == ".txt" and "labels" in _folders(path, root))
    return [path for path in islice(texts, limit) if _starts_like_a_label(path)]


def _starts_like_a_label(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(300)
    return not start.strip() or re.match(rb"\s*\d+(\s+-?[\d.]+){4,}", start) is not None


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
