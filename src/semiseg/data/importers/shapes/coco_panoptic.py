"""COCO panoptic (Kirillov et al., 2019): PNG files of segment ids, and a JSON file with the category of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from semiseg.data.dataset import IGNORE
from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import read_mask_file
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.importers.source_files import (
    SKIPPED,
    ImageFinder,
    find_images,
    folder_names,
    is_json,
    json_files,
    list_folder,
    list_word,
    name_images,
    read_bounded_json,
    walk_files,
)
from semiseg.errors import UserError


class CocoPanoptic(ForeignData):
    """COCO panoptic: PNG files of segment ids, and a JSON file with the category of each segment.

    The classes are the categories in the order of their ids. Pixels outside the segments (id 0, black) are ignored.
    A JSON file or a folder of images whose name contains ``val`` or ``test`` defines that list.

    Raises:
        UserError: A file is missing or malformed.
    """

    form = "coco-panoptic"
    title = "a COCO export (panoptic)"
    tree: ClassVar[tuple[str, ...]] = (
        "images/NAME.jpg, .png, ...   or in any other folders",
        "annotations/panoptic_{train,val}.json, or in any other folder",
        "annotations/panoptic_{train,val}/NAME.png   segment ids as R + 256 G + 65536 B",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        files = panoptic_files(root)
        if not files:
            raise UserError("no panoptic JSON found", path=root, fix="give the folder that holds it and the images")
        self._segments: dict[str, dict[int, int]] = {}
        folders = {path.stem for path in files}
        self.set_images(find_images(root, (*SKIPPED, *folders, "panoptic_masks")))
        pngs = name_images(path for path in walk_files(root) if path.suffix.lower() == ".png")
        finders = ImageFinder(self.images, root), ImageFinder(pngs, root)
        contents = {path: read_bounded_json(path) for path in files}
        self._set_categories(contents)
        assigned = {id: list_folder(path.relative_to(root).parent) for id, path in self.images.items()}
        for path, content in contents.items():
            for id in self._read_file(path, content, pngs, *finders):
                assigned[id] = list_word(path.stem) or list_folder(path.relative_to(root).parent) or assigned[id]
        self.require_masks(files[0])
        self.set_lists(assigned)

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder holds a panoptic JSON file."""
        return bool(panoptic_files(root))

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``: the category of each segment, 255 outside."""
        path = self.masks[id]
        red, green, blue = np.moveaxis(read_mask_file(path, colors=True).astype(np.int32), -1, 0)
        segments, places = np.unique(red | green << 8 | blue << 16, return_inverse=True)
        known = {0: IGNORE} | self._segments[id]
        if unknown := [segment for segment in segments.tolist() if segment not in known]:
            raise UserError(f"segment {unknown[0]} is not in segments_info", path=path, fix="export both again")
        classes = np.array([known[segment] for segment in segments.tolist()], dtype=np.uint8)
        return torch.from_numpy(classes[places.reshape(red.shape)])

    def _set_categories(self, contents: dict[Path, Any]) -> None:
        names: dict[int, str] = {}
        for path, content in contents.items():
            try:
                names |= {int(entry["id"]): str(entry["name"]) for entry in content["categories"]}
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise UserError("a category has no id or name", path=path, fix="use a COCO panoptic file") from error
        self._class = {id: index for index, id in enumerate(sorted(names))}
        self.set_classes((names[id] for id in sorted(names)), next(iter(contents)))

    def _read_file(
        self, path: Path, content: Any, pngs: dict[str, Path], images: ImageFinder, masks: ImageFinder
    ) -> list[str]:
        """Add the annotations of a file and return the ids of their images."""
        found = []
        try:
            names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
            annotations = content["annotations"]
            pictures = [names.get(entry["image_id"], str(entry["file_name"])) for entry in annotations]
            files = [(str(entry["file_name"]), (path.stem, "panoptic_masks")) for entry in annotations]
            ids, masks_found = images.find_all([(name, folder_names(path)) for name in pictures]), masks.find_all(files)
            for annotation, name, id, png in zip(annotations, pictures, ids, masks_found, strict=True):
                if id is None or png is None:
                    missing = name if id is None else annotation["file_name"]
                    raise UserError(f"{missing} was not found", path=path, fix="add it to the folder of the export")
                segments = annotation["segments_info"]
                self._segments[id] = {int(part["id"]): self._class[part["category_id"]] for part in segments}
                self.masks[id] = pngs[png]
                found.append(id)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            problem = f"not a COCO panoptic file ({type(error).__name__}: {reason(error)})"
            raise UserError(problem, path=path, fix="export it again") from error
        return found


def panoptic_files(root: Path) -> list[Path]:
    """Return the panoptic JSON files of a folder and those at most two folders below, sorted."""
    return [path for path in json_files(root) if is_json(path, b'"segments_info"', b'"categories"')]
