"""COCO JSON (Lin et al., 2014): polygons and run lengths as semantic masks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiseg.data.dataset import default_palette
from semiseg.data.file_dataset import FileDataset, read_json
from semiseg.data.files.file_lists import list_tree
from semiseg.data.files.image_files import image_size
from semiseg.data.files.image_header import reason
from semiseg.data.importers.polygons import counts_region, polygon_region, with_background
from semiseg.errors import UserError

PUBLISHED = re.compile(r"instances_(train|val)(2014|2017)\.json")
"""The published files of COCO. In these, an image without annotations is all background rather than unlabeled."""

ROBOFLOW_FILE = "_annotations.coco.json"
"""The file that Roboflow writes next to the images of each list."""

Annotation = dict[str, Any]


class Coco(FileDataset):
    """COCO JSON (instances): polygons and run lengths, rendered as masks of the categories.

    The classes are ``background`` and the categories in the order of their ids. Pixels that no annotation covers are
    ``background``, or the category of that name if there is one. Annotations are rendered in the order of the file,
    later ones over earlier ones. Crowds (``iscrowd``) have coarse outlines and are rendered first. An image without
    annotations is unlabeled, except in the files of COCO 2014 and 2017.

    A file whose name contains ``val`` or ``test`` defines that list, restricted to annotated images. Images of all
    other files are training images. The list of an image that no file names depends on its folder in the same way.

    Args:
        root: The folder with the JSON files and the images, which may be in subfolders.

    Raises:
        UserError: A file is missing or malformed.
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
            raise UserError("no COCO JSON or no images found", path=root, fix="give the folder that holds both")
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
            raise UserError(
                "no annotated image was found", path=files[0], fix="annotate a few images and add their files"
            )
        self.ids = tuple(self.images)
        for id in self.ids:
            if id not in listed:
                folders = self.images[id].relative_to(self.root).parent
                self._lists[list_name(str(folders))].append(id)

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of a list: ``splits/NAME.txt``, else the files and folders of that name."""
        ids = super().split(name, missing)
        if ids is not None or not self._lists[name]:
            return ids
        absent = [id for id in self._lists[name] if id not in self.images]
        if absent and missing is None:
            raise UserError(
                f"{len(absent)} images of the {name} annotations are missing, e.g. {absent[0]}",
                path=self.root,
                fix="add them or skip them with --existing-only",
            )
        if missing is not None:
            missing += absent
        if name != "train":  # published test annotations are empty
            return tuple(id for id in self._lists[name] if id in self.masks) or None
        taken = {id for other in ("val", "test") for id in self.split(other, []) or ()}  # may come from splits/
        return tuple(id for id in self._lists[name] if id in self.images and id not in taken)

    def read_mask(self, id: str) -> Tensor:
        """Render a mask as uint8 ``(H, W)`` of class indices."""
        actual = image_size(self.images[id])
        width, height = self._sizes[id] or actual
        if (width, height) != actual:
            raise UserError(
                f"size {width}x{height} of image {id} does not match {self.images[id]} ({actual[0]}x{actual[1]})",
                path=self.masks[id],
                fix="use the image that was annotated",
            )
        mask = np.full((height, width), self._background, dtype=np.uint8)
        for annotation in sorted(self._annotations.get(id, ()), key=lambda a: not a.get("iscrowd")):
            try:
                region = _region(annotation.get("segmentation"), height, width)
            except (ValueError, TypeError, OverflowError) as error:
                raise UserError(
                    f"annotation {annotation.get('id')} of image {id} is malformed: {reason(error)}",
                    path=self.masks[id],
                    fix="correct or remove it",
                ) from error
            mask[region] = self._category_class[annotation["category_id"]]
        return torch.from_numpy(mask)

    def _read_categories(self, contents: dict[Path, Any]) -> None:
        """Set the classes. All files must define the same categories."""
        names: dict[int, str] = {}
        first = next(iter(contents))
        for path, content in contents.items():
            try:
                found = {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError("a category has no id or name", path=path, fix="use a COCO instances file") from error
            names = names or dict(sorted(found.items()))
            if found != names:
                raise UserError(
                    f"the categories differ from those of {first}", path=path, fix="export both with the same labels"
                )
        self.classes, self._background = with_background(tuple(names.values()))
        if not names or len(set(self.classes)) < len(self.classes) or len(self.classes) > 255:
            raise UserError(
                f"found {len(names)} categories", path=first, fix="define 1 to 254 categories, each with a unique name"
            )
        self._category_class = {id: self.classes.index(name) for id, name in names.items()}
        self.palette = default_palette(len(self.classes))

    def _read_file(self, path: Path, content: Any, listed: dict[str, Path]) -> None:
        """Add the images and annotations of a file."""
        ids: dict[Any, str] = {}
        try:
            for entry in content["images"]:
                id = ids[entry["id"]] = Path(str(entry["file_name"]).replace("\\", "/")).stem
                if id in listed:
                    raise UserError(
                        f"image {id} is already listed in {listed[id]}", path=path, fix="list each image only once"
                    )
                listed[id] = path
                width, height = entry.get("width"), entry.get("height")  # Label Studio may omit them
                self._sizes[id] = (int(width), int(height)) if width and height else None
            for annotation in content["annotations"]:
                if annotation["category_id"] not in self._category_class:
                    raise UserError(
                        f"annotation {annotation.get('id')} has the undefined category {annotation['category_id']}",
                        path=path,
                        fix="add it to the categories",
                    )
                if annotation["image_id"] not in ids:
                    raise UserError(
                        f"annotation {annotation.get('id')} belongs to the undefined image {annotation['image_id']}",
                        path=path,
                        fix="add it to the images",
                    )
                self._annotations.setdefault(ids[annotation["image_id"]], []).append(annotation)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                f"not a COCO instances file ({type(error).__name__}: {reason(error)})",
                path=path,
                fix="give each image id and file_name, and each annotation image_id, category_id and segmentation",
            ) from error
        self._lists[list_name(path.parent.name if path.name == ROBOFLOW_FILE else path.stem)] += ids.values()
        masked = ids.values() if PUBLISHED.fullmatch(path.name) else self._annotations
        self.masks |= {id: path for id in masked if id in self.images and listed[id] == path}


def _region(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, dict):
        return counts_region(segmentation.get("counts"), segmentation.get("size"), height, width)
    if not segmentation:
        raise ValueError("it has no segmentation, perhaps only a box")
    return polygon_region(segmentation, height, width)


def list_name(text: str) -> str:
    """Return ``val`` or ``test`` if the name of a file or folder contains that word, else ``train``."""
    words = {"val": "val", "valid": "val", "validation": "val", "test": "test"}
    return next((words[word] for word in re.split(r"[^a-z]+", text.lower()) if word in words), "train")


def coco_files(root: str | Path) -> list[Path]:
    """Return the COCO JSON files of a folder, sorted.

    These are ``annotations/instances_*.json`` if there are any. Otherwise they are all COCO files in ``annotations/``
    and in the folder itself, and ``_annotations.coco.json`` in its subfolders. A folder that holds ``images/`` and
    ``masks/`` is a plain folder, for which the list is empty.
    """
    root = Path(root)
    if (root / "masks").is_dir() and (root / "images").is_dir():
        return []
    named = sorted((root / "annotations").glob("instances_*.json"))
    if named:
        return named
    candidates = (root / "annotations").glob("*.json"), root.glob("*.json"), root.glob(f"*/{ROBOFLOW_FILE}")
    return [path for paths in candidates for path in sorted(paths) if _is_coco(path)]


def _is_coco(path: Path) -> bool:
    try:
        text = path.read_bytes() if path.is_file() else b""  # reading a pipe would block
    except OSError:
        return False
    return text.lstrip()[:1] == b"{" and all(key in text for key in (b'"images"', b'"annotations"', b'"categories"'))
