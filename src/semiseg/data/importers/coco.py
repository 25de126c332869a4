"""COCO JSON (Lin et al., 2014): images, and files of polygons and run lengths, as semantic masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_json
from semiseg.data.files.image_files import image_size, list_tree, reason
from semiseg.data.importers.polygons import counts_region, polygon_region, with_background
from semiseg.errors import UserError

PUBLISHED = re.compile(r"instances_(train|val)(2014|2017)\.json")
"""COCO's own files: there, an image without annotations shows none of the categories, and is no unlabeled one."""

IN_FOLDER = "_annotations.coco.json"
"""What Roboflow calls the file, beside the images of each list."""

Annotation = dict[str, Any]


class Coco(FileDataset):
    """COCO JSON (instances): polygons and run lengths, drawn into masks of the categories.

    The classes are the categories in the order of their ids, after ``background``, which every pixel of an annotated
    image is that no annotation covers; a category of that name takes its place. Annotations are drawn in the order of
    the file, a later one over an earlier one; crowds (``iscrowd``), whose outlines are coarse, below all others. An
    image without annotations is unlabeled, except in the files of COCO 2014 and 2017.

    A file named after ``val`` or ``test`` is that list, restricted to annotated images; images of all other files are
    training images. So are images that no file names, unless a folder of theirs is named after ``val`` or ``test``.

    Args:
        root: the folder with the images, anywhere below it, and the JSON files.

    Raises:
        UserError: a file cannot be used; the message names it, and the annotation.
    """

    masks: dict[str, Path]
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   or in any other folders",
        "annotations/instances_{train,val,test}.json, or {train,valid,test}/_annotations.coco.json, or NAME.json",
        "splits/{train,val,test}.txt: optional",
    )

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.name = self.root.resolve().name
        self.images = list_tree(self.root)
        files = coco_files(self.root)
        if not files or not self.images:
            raise UserError(f"{root}: no COCO JSON or no images there; give the folder that holds both")
        self._category_class: dict[int, int] = {}
        self._annotations: dict[str, list[Annotation]] = {}
        self._sizes: dict[str, tuple[int, int] | None] = {}
        self._lists: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        self.masks = {}
        contents = {path: read_json(path) for path in files}
        self._read_categories(contents)
        listed: dict[str, Path] = {}
        for path, content in contents.items():
            self._read_file(path, content, listed)
        if not self.masks:
            raise UserError(f"{files[0]}: no image of it that is there is annotated; annotate a few, add their images")
        self.ids = tuple(self.images)
        for id in self.ids:
            if id not in listed:
                folders = self.images[id].relative_to(self.root).parent
                self._lists[list_name(str(folders))].append(id)

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids in ``splits/NAME.txt``, or else those of the files and folders of that name."""
        ids = super().split(name, missing)
        if ids is not None or not self._lists[name]:
            return ids
        absent = [id for id in self._lists[name] if id not in self.images]
        if absent and missing is None:
            raise UserError(
                f"{self.root}: {len(absent)} images of the {name} annotations are not there, e.g. {absent[0]}; add "
                "them, or leave them out by --existing-only"
            )
        if missing is not None:
            missing += absent
        if name != "train":  # published test annotations are empty: then there is nothing to measure on
            return tuple(id for id in self._lists[name] if id in self.masks) or None
        taken = {id for other in ("val", "test") for id in self.split(other, []) or ()}  # by a list in splits/
        return tuple(id for id in self._lists[name] if id in self.images and id not in taken)

    def read_mask(self, id: str) -> Tensor:
        """Draw a mask as uint8 ``(H, W)``: class index."""
        real = image_size(self.images[id])
        width, height = self._sizes[id] or real
        if (width, height) != real:
            raise UserError(
                f"{self.masks[id]}: image {id} is {width}x{height} there, {self.images[id]} is {real[0]}x{real[1]}; "
                "take the image that was annotated"
            )
        mask = np.full((height, width), self._background, dtype=np.uint8)
        for annotation in sorted(self._annotations.get(id, ()), key=lambda a: not a.get("iscrowd")):
            try:
                region = _region(annotation.get("segmentation"), height, width)
            except (ValueError, TypeError, OverflowError) as error:
                raise UserError(
                    f"{self.masks[id]}: annotation {annotation.get('id')} of image {id}: {reason(error)}; correct or "
                    "remove it"
                ) from error
            mask[region] = self._category_class[annotation["category_id"]]
        return torch.from_numpy(mask)

    def _read_categories(self, contents: dict[Path, Any]) -> None:
        """Set the classes, which all files must agree on."""
        names: dict[int, str] = {}
        first = next(iter(contents))
        for path, content in contents.items():
            try:
                found = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError(f"{path}: a category has no id or name; take a COCO instances file") from error
            names = names or dict(sorted(found.items()))
            if found != names:
                raise UserError(f"{path}: its categories are not those of {first}; export both with the same labels")
        self.classes, self._background = with_background(tuple(names.values()))
        if not names or len(set(self.classes)) < len(self.classes) or len(self.classes) > 255:
            raise UserError(f"{first}: {len(names)} categories; there must be 1 to 254, each with a name of its own")
        self._category_class = {id: self.classes.index(name) for id, name in names.items()}
        self.palette = default_palette(len(self.classes))

    def _read_file(self, path: Path, content: Any, listed: dict[str, Path]) -> None:
        """Take in a file's images and annotations."""
        ids: dict[Any, str] = {}
        try:
            for entry in content["images"]:
                id = ids[entry["id"]] = Path(str(entry["file_name"]).replace("\\", "/")).stem
                if id in listed:
                    raise UserError(f"{path}: image {id} is in {listed[id]} already; keep it in one, under one name")
                listed[id] = path
                width, height = entry.get("width"), entry.get("height")  # Label Studio leaves them out here and there
                self._sizes[id] = (int(width), int(height)) if width and height else None
            for annotation in content["annotations"]:
                if annotation["category_id"] not in self._category_class:
                    what = f"annotation {annotation.get('id')} has category {annotation['category_id']}"
                    raise UserError(f"{path}: {what}, which is not among the categories; add it there")
                if annotation["image_id"] not in ids:
                    what = f"annotation {annotation.get('id')} is of image {annotation['image_id']}"
                    raise UserError(f"{path}: {what}, which is not among the images; add it there")
                self._annotations.setdefault(ids[annotation["image_id"]], []).append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"{path}: no COCO instances ({type(error).__name__}: {reason(error)}); an image has id and file_name, "
                "an annotation image_id, category_id and segmentation"
            ) from error
        self._lists[list_name(path.parent.name if path.name == IN_FOLDER else path.stem)] += ids.values()
        masked = ids.values() if PUBLISHED.fullmatch(path.name) else self._annotations
        self.masks |= {id: path for id in masked if id in self.images and listed[id] == path}


def _region(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        return counts_region(segmentation.get("counts"), segmentation.get("size"), height, width)
    if not segmentation:
        raise ValueError("it has no segmentation, perhaps a box alone")
    return polygon_region(segmentation, height, width)


def list_name(text: str) -> str:
    """Return the list that the name of a file or folder says: ``val`` or ``test``, else ``train``."""
    found = {"val": "val", "valid": "val", "validation": "val", "test": "test"}
    return next((found[word] for word in re.split(r"[^a-z]+", text.lower()) if word in found), "train")


def coco_files(root: str | Path) -> list[Path]:
    """Return the COCO JSON files of a folder, sorted, none where it is an own folder of images/ and masks/.

    ``annotations/instances_*.json``, since other files lie there too; else whatever JSON of that form lies in
    ``annotations/``, in the folder itself or, as ``_annotations.coco.json``, in one below.
    """
    root = Path(root)
    if (root / "masks").is_dir() and (root / "images").is_dir():
        return []
    named = sorted((root / "annotations").glob("instances_*.json"))
    if named:
        return named
    places = (root / "annotations").glob("*.json"), root.glob("*.json"), root.glob(f"*/{IN_FOLDER}")
    return [path for place in places for path in sorted(place) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    try:
        text = path.read_bytes() if path.is_file() else b""  # a pipe would be waited for
    except OSError:
        return False
    return text.lstrip()[:1] == b"{" and all(key in text for key in (b'"images"', b'"annotations"', b'"categories"'))
