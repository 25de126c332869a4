"""The base of importers whose annotation lists labeled shapes for each image: classes, images, notes and rendering."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE
from semiseg.data.files.image_header import UNREADABLE, reason
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.list_folders import lists_by_folder
from semiseg.data.importers.shapes.polygons import DegenerateShapeError, with_background
from semiseg.data.importers.source_files import ImageFinder, find_images, read_bounded_json
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

T = TypeVar("T")
MALFORMED = (*UNREADABLE, AttributeError, RecursionError)
"""The exceptions that malformed annotation raises."""


Draw = Callable[[int, int], NDArray[np.bool_]]


class Shape(NamedTuple):
    """One labeled shape of an image.

    Attributes:
        label: The class.
        draw: Returns its pixels as bool ``(H, W)`` from the height and width of the image.
    """

    label: str
    draw: Draw


class AnnotatedImage(NamedTuple):
    """The annotation of one image.

    Attributes:
        image: The name or path of the image in the annotation.
        file: The annotation file.
        shapes: The shapes, in drawing order.
        size: Width and height of the annotated image, if known.
        left_out: The kinds of the shapes that are not drawn, as ``polyline``.
        boxes: Objects that have only a box. Their pixels are ignored.
    """

    image: str
    file: Path
    shapes: list[Shape]
    size: tuple[int, int] | None = None
    left_out: Sequence[str] = ()
    boxes: Sequence[Shape] = ()


class ShapeData(ForeignData):
    """Images with labeled shapes, drawn in the order of the file, later ones over earlier ones.

    The classes are those of ``classes.txt`` or the tool, else the labels that occur, sorted. ``background`` comes first
    unless a label has that name. A subclass implements ``read_annotation``.

    Attributes:
        ignored_labels: Labels whose pixels are 255.

    Raises:
        UserError: The annotation is malformed, or names no image or an image twice.
    """

    ignored_labels: ClassVar[tuple[str, ...]] = ("__ignore__",)

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        self.set_images(self.find_images())
        self._annotation: dict[str, AnnotatedImage] = {}
        self._degenerate: dict[str, list[Shape]] = {}
        self._tool_classes: Sequence[str] = ()
        missing = self._match(self.read_annotation())
        self._note_left_out()
        self._choose_annotated()
        if missing:
            self.notes.append(f"annotated images that are not in the folder: {len(missing)}, such as {missing[0]}")
        if not self.masks:
            problem, fix = "no image has a shape", "annotate a few images and export again"
            if missing:
                problem = f"no shape belongs to an image (looked for {missing[0]})"
                fix = f"copy the annotated images below {root}"
            if any(entry.boxes for entry in self._annotation.values()):
                problem += ", only boxes, which do not say which pixels are inside"
                fix = "annotate the outlines of objects and export again"
            raise UserError(problem, path=root, fix=fix)
        self._set_classes()
        self.lists = lists_by_folder({id: id.split("/")[:-1] for id in self.ids}, self.masks)

    @abstractmethod
    def read_annotation(self) -> Iterable[AnnotatedImage]:
        """Return the annotation of each image. May set ``_tool_classes``, the classes in the order of the tool."""

    def find_images(self) -> dict[str, Path]:
        """Return the image files by id."""
        return find_images(self.root)

    def read_mask(self, id: str) -> Tensor:
        """Draw a mask as uint8 ``(H, W)`` of class indices."""
        annotated = self._annotation[id]
        self._degenerate.pop(id, None)
        mask = self.canvas(id, annotated.size)
        boxes = [Shape(self.ignored_labels[0], box.draw) for box in annotated.boxes]
        for shape in (*boxes, *annotated.shapes):
            try:
                mask[shape.draw(*mask.shape)] = self._value(shape.label)
            except DegenerateShapeError:
                self._degenerate.setdefault(id, []).append(shape)
            except MALFORMED as error:
                problem = f"a shape {shape.label!r} of image {id} is malformed: {reason(error)}"
                raise UserError(problem, path=annotated.file, fix="correct it in the tool and export again") from error
        return torch.from_numpy(mask)

    def describe(self) -> list[str]:
        """Return the lines of the base class, and the number of shapes without an area."""
        total = sum(len(entry.shapes) for entry in self._annotation.values())
        return [
            *super().describe(),
            *degenerate_note({id: len(found) for id, found in self._degenerate.items()}, total, self.masks),
        ]

    def _value(self, label: str) -> int:
        """Return the class of a label, or 255."""
        return IGNORE if label in self.ignored_labels else self.classes.index(label)

    def _match(self, entries: Iterable[AnnotatedImage]) -> list[str]:
        """Assign annotation to images and return the names of the images that do not exist."""
        entries = list(entries)
        missing, unclear = list[str](), list[tuple[str, list[str]]]()
        references = [(entry.image, self._folders(entry.file)) for entry in entries]
        finder = ImageFinder(self.images, self.root)
        for entry, id in zip(entries, finder.find_all(references), strict=True):
            if id is None:
                equal = finder.find_equal(entry.image, *self._folders(entry.file))
                if len(equal) > 1:
                    unclear.append((entry.image, equal))
                else:
                    missing.append(entry.image)
            elif id in self._annotation:
                problem = f"image {self.images[id]} is annotated a second time, first in {self._annotation[id].file}"
                raise UserError(problem, path=entry.file, fix="import each export on its own")
            else:
                self._annotation[id] = entry
        if unclear:
            name, equal = unclear[0]
            files = " and ".join(self.images[id].relative_to(self.root).as_posix() for id in equal[:2])
            self.notes.append(
                f"warning: {len(unclear)} annotated images fit several files, such as {name} ({files}): left out. Give "
                "the files different names, or import each folder on its own"
            )
        return missing

    def _folders(self, file: Path) -> Sequence[str]:
        """Return the folders of an annotation file below the root, which the folders of its images may have too."""
        return file.relative_to(self.root).parts[:-1] if file.is_relative_to(self.root) else ()

    def _note_left_out(self) -> None:
        kinds = Counter(kind for entry in self._annotation.values() for kind in entry.left_out)
        if kinds:
            listed = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
            self.notes.append(f"shapes without an area are left out: {listed}")
        if boxes := sum(len(entry.boxes) for entry in self._annotation.values()):
            self.notes.append(f"objects with only a box, whose pixels are ignored (255): {boxes}")

    def _choose_annotated(self) -> None:
        """Set ``masks``: images with shapes, and those annotated as empty if they count as background."""
        entries = sorted(self._annotation.items())
        self.masks = {id: entry.file for id, entry in entries if entry.shapes}
        empty = (id for id, entry in entries if not (entry.shapes or entry.left_out or entry.boxes))
        self.add_empty({id: self._annotation[id].file for id in empty})

    def class_source(self) -> Path:
        """Return the file that defines the classes of the tool, for messages."""
        return self.root

    def _shows(self, id: str, label: str) -> bool:
        entry = self._annotation[id]
        return any(label in (shape.label, shape.label.strip()) for shape in (*entry.shapes, *entry.boxes))

    def _set_classes(self) -> None:
        file = self.root / "classes.txt"
        shapes = [shape for entry in self._annotation.values() for shape in (*entry.shapes, *entry.boxes)]
        if blank := next((id for id in self._annotation if self._shows(id, "")), None):
            problem, fix = (
                f"a shape of image {blank} has an empty label",
                "give it a label in the tool and export again",
            )
            raise UserError(problem, path=self._annotation[blank].file, fix=fix)
        labels = {shape.label for shape in shapes} - {*self.ignored_labels}
        names = list(read_lines(file)) if file.is_file() else list(self._tool_classes) or sorted(labels)
        if unknown := sorted(labels.difference(names)):
            source = file if file.is_file() else self.class_source()
            where = next(entry.file for id, entry in self._annotation.items() if self._shows(id, unknown[0]))
            problem = f"it does not list the label {unknown[0]!r} of {where}"
            raise UserError(problem, path=source, fix="add the label there, or correct it in the other file")
        classes, self.background = with_background(names)
        self.set_classes(classes, file if file.is_file() else self.root)


def degenerate_note(counts: Mapping[str, int], total: int, files: Mapping[str, Path]) -> list[str]:
    """Return a line on polygons with fewer than three corners. Raises UserError if all shapes are such.

    Args:
        counts: Their number in each image that has some.
        total: The number of all shapes.
        files: The annotation file of each image.
    """
    if not (number := sum(counts.values())):
        return []
    id, file = next(iter(counts)), files[next(iter(counts))]
    if number >= total:
        raise UserError("no shape has three corners", path=file, fix="annotate outlines and export them again")
    return [f"shapes of no size or fewer than three corners are left out: {number}, such as one of {id} in {file.name}"]


def parse_annotation(path: Path, tool: str, parse: Callable[[Any], T]) -> T:
    """Return ``parse`` of the content of a JSON file. Raises UserError if it cannot be read or has another form."""
    content = read_bounded_json(path)
    return parse_content(path, tool, lambda: parse(content))


def parse_content(path: Path, tool: str, parse: Callable[[], T]) -> T:
    """Return ``parse()``. Raises UserError, naming the file, if it fails on malformed content."""
    try:
        return parse()
    except MALFORMED as error:
        problem = f"not an annotation of {tool} ({type(error).__name__}: {reason(error)})"
        raise UserError(problem, path=path, fix="export it again") from error
