"""COCO JSON (Lin et al., 2014): polygons and run lengths as semantic masks."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE
from semiseg.data.files.image_header import reason
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.shapes.polygons import (
    DegenerateShapeError,
    box_region,
    counts_region,
    polygon_region,
    with_background,
)
from semiseg.data.importers.shapes.shape_data import degenerate_note
from semiseg.data.importers.source_files import (
    ImageFinder,
    find_images,
    folder_names,
    is_json,
    json_files,
    list_folder,
    list_word,
    read_bounded_json,
)
from semiseg.errors import UserError

Annotation = dict[str, Any]
KEYS = (b'"images"', b'"annotations"', b'"categories"')


class Coco(ForeignData):
    """COCO JSON (instances): polygons and run lengths, rendered as masks of the categories.

    The classes are ``background`` and the categories in the order of their ids; equal names are one class. Pixels that
    no annotation covers are ``background``, or the category of that name if there is one. Annotations are rendered in
    the order of the file, later ones over earlier ones. Crowds (``iscrowd``) have coarse outlines and are rendered
    first. Pixels of annotations that have only a box are ignored.

    Images that a file lists without annotations show nothing: ``--empty``. Images that no file lists are unlabeled, as
    are all images of a file without any annotation, such as published test sets.

    A file or a folder of images whose name contains ``val`` or ``test`` defines that list.

    Raises:
        UserError: A file is missing or malformed.
    """

    form = "coco"
    title = "a COCO export (instances)"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   or in any other folders",
        "annotations/instances_{train,val,test}.json, or {train,valid,test}/_annotations.coco.json, or NAME.json",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        files = coco_files(root)
        if not files:
            raise UserError("no COCO JSON found", path=root, fix="give the folder that holds it and the images")
        self.set_images(find_images(root))
        self._annotations: dict[str, list[Annotation]] = {}
        self._class: dict[Path, dict[Any, int]] = {}
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._missing: list[str] = []
        self._degenerate: Counter[str] = Counter()
        self._boxes: Counter[bool] = Counter()
        finder, listed, empty = ImageFinder(self.images, root), dict[str, Path](), dict[str, Path]()
        contents = {path: read_bounded_json(path) for path in files}
        self._read_categories(contents)
        for path, content in contents.items():
            empty |= self._read_file(path, content, listed, finder)
        self._check_boxes(files[0])
        self.add_empty(empty)
        if self._missing and not listed:
            problem = f"none of the {len(self._missing)} listed images was found, such as {self._missing[0]}"
            raise UserError(problem, path=files[0], fix=f"copy the images below {root}")
        self.require_masks(files[0])
        assigned = {id: list_folder(path.relative_to(root).parent) for id, path in self.images.items()}
        self.set_lists(
            assigned
            | {
                id: word
                for id, path in listed.items()
                if (word := list_word(path.stem) or list_folder(path.relative_to(root).parent))
            }
        )
        if self._missing:
            self.notes.append(f"{len(self._missing)} listed images are missing, such as {self._missing[0]}: left out")

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder holds a COCO file."""
        return bool(coco_files(root))

    def read_mask(self, id: str) -> Tensor:
        """Render a mask as uint8 ``(H, W)`` of class indices."""
        path = self.masks[id]
        self._degenerate.pop(id, None)
        mask = self.canvas(id, self._sizes[id])
        for annotation in sorted(self._annotations.get(id, ()), key=lambda a: not a.get("iscrowd")):
            try:
                region, known = _region(annotation, *mask.shape)
            except DegenerateShapeError:
                self._degenerate[id] += 1
                continue
            except (ValueError, TypeError, OverflowError) as error:
                problem = f"annotation {annotation.get('id')} of image {id} is malformed: {reason(error)}"
                raise UserError(problem, path=path, fix="correct it and export again") from error
            mask[region] = self._class[path][int(annotation["category_id"])] if known else IGNORE
        return torch.from_numpy(mask)

    def describe(self) -> list[str]:
        """Return the lines of the base class, and the number of polygons without an area."""
        total = sum(map(len, self._annotations.values()))
        return [*super().describe(), *degenerate_note(self._degenerate, total, self.masks)]

    def _read_categories(self, contents: dict[Path, Any]) -> None:
        """Set the classes: the union of the categories of all files by name."""
        names: dict[str, None] = {}
        tables: dict[Path, dict[Any, str]] = {}
        for path, content in contents.items():
            try:
                table = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
                used = {int(annotation["category_id"]) for annotation in content["annotations"]}
                groups = {str(entry.get("supercategory")) for entry in content["categories"]}
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
                raise UserError("a category has no id or name", path=path, fix="use a COCO instances file") from error
            if table.get(0) in groups and 0 not in used and len(table) > 1:
                del table[0]  # Roboflow lists the project itself as category 0
            tables[path] = table
            names |= dict.fromkeys(table[id] for id in sorted(table))
        first = next(iter(contents))
        if not names:
            raise UserError("found 0 categories", path=first, fix="use a COCO instances file")
        classes, self.background = with_background(tuple(names))
        self.set_classes(classes, first)
        self._class = {
            path: {id: self.classes.index(name) for id, name in table.items()} for path, table in tables.items()
        }

    def _read_file(self, path: Path, content: Any, listed: dict[str, Path], finder: ImageFinder) -> dict[str, Path]:
        """Add the images and annotations of a file, and return its images without annotations."""
        ids: dict[Any, str | None] = {}
        try:
            names, folders = [str(entry["file_name"]) for entry in content["images"]], folder_names(path)
            found = finder.find_all([(name, folders) for name in names])
            for entry, name, id in zip(content["images"], names, found, strict=True):
                ids[str(entry["id"])] = id
                if id is None:
                    self._missing.append(name)
                    continue
                if id in listed:
                    problem = f"image {id} is already listed in {listed[id]}"
                    fix = "import the two files from folders of their own"
                    if listed[id] == path:
                        problem, fix = f"image {id} is listed twice", "list it once, with all its annotations"
                    raise UserError(problem, path=path, fix=fix)
                listed[id] = path
                width, height = entry.get("width"), entry.get("height")  # Label Studio may omit them
                self._sizes[id] = (int(width), int(height)) if width and height else None
            for annotation in content["annotations"]:
                self._require_defined(path, annotation, ids)
                id = ids[str(annotation["image_id"])]
                self._boxes[not annotation.get("segmentation")] += 1
                if id is not None:
                    self._annotations.setdefault(id, []).append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"not a COCO instances file ({type(error).__name__}: {reason(error)})",
                path=path,
                fix="give each image id and file_name, and each annotation image_id, category_id and segmentation",
            ) from error
        own = {id: path for id in ids.values() if id is not None}
        self.masks |= {id: path for id in own if id in self._annotations}
        return {id: path for id in own if id not in self._annotations} if content["annotations"] else {}

    def _check_boxes(self, path: Path) -> None:
        """Note annotations that have only a box. Raises UserError, naming ``path``, if all are."""
        if self._boxes[True] and not self._boxes[False]:
            fix = "annotate the outlines of objects"
            raise UserError("the annotations are boxes, which do not say which pixels are inside", path=path, fix=fix)
        if self._boxes[True]:
            self.notes.append(f"annotations with only a box, whose pixels are ignored (255): {self._boxes[True]}")

    def _require_defined(self, path: Path, annotation: Annotation, ids: dict[Any, str | None]) -> None:
        """Raise UserError if the category or the image of an annotation is not defined in its file."""
        for key, known in (("category_id", {str(id) for id in self._class[path]}), ("image_id", ids)):
            if str(annotation[key]) not in known:
                noun = key.removesuffix("_id")
                problem = f"annotation {annotation.get('id')} has the undefined {noun} {annotation[key]}"
                raise UserError(problem, path=path, fix="export it again")


def _region(annotation: Annotation, height: int, width: int) -> tuple[np.ndarray, bool]:
    """Return the pixels of an annotation, and whether they are known: those of a box are not."""
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        return counts_region(segmentation.get("counts"), segmentation.get("size"), height, width), True
    if not segmentation:
        left, top, across, down = annotation["bbox"] if annotation.get("bbox") else (0, 0, 0, 0)
        return box_region(left, top, left + across, top + down, height, width), False
    return polygon_region(segmentation, height, width), True


def coco_files(root: Path) -> list[Path]:
    """Return the COCO JSON files of a folder, sorted.

    These are ``annotations/instances_*.json`` if there are any, else all COCO files at most two folders below.
    """
    named = sorted((root / "annotations").glob("instances_*.json"))
    return named or [
        path for path in json_files(root) if is_json(path, *KEYS) and not is_json(path, b'"segments_info"')
    ]
