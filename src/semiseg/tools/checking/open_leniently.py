"""Open a data set like training does, but collect all errors and open as much as possible."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semiseg.data import detect_layout, open_dataset
from semiseg.data.class_file import ClassFile
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES, list_files
from semiseg.data.files.mask_files import lossy_mask_error
from semiseg.data.files.mask_matching import check_mask_names, match_masks
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.tag_file import Tags
from semiseg.errors import UserError


def open_leniently(data: str | Path) -> tuple[SegmentationDataset | None, list[UserError]]:
    """Return the data set, or None if nothing can be opened, and the errors that training would raise.

    A plain folder is opened in parts. Other layouts fail only if essential folders are missing.
    """
    try:
        return open_dataset(data), []
    except UserError as error:
        errors = [error]
        if (error.fix or "").startswith("run: semiseg import"):  # anything else would be said about other data
            return None, errors
    # is_dir() excludes generated data, whose text has a colon.
    if Path(data).is_dir() and detect_layout(data) == "folder":
        folder = LenientFolder(data)
        if folder.ids:
            known = {str(error) for error in errors}
            return folder, errors + [error for error in folder.errors if str(error) not in known]
    return None, errors


class LenientFolder(FolderDataset):
    """A plain folder that collects errors instead of raising them.

    If the class file is invalid, the classes are ``class0`` to the largest value of the masks.

    Attributes:
        errors: The errors that training would raise.
        class_file_failed: Whether the class file is invalid.
        classes_unclear: Whether there is no class file and the values of the masks do not look like classes.
        only_lossy: Whether all masks are JPEG files, which are among the errors.
    """

    def __init__(self, root: str | Path) -> None:
        self.errors: list[UserError] = []
        self.class_file_failed = self.classes_unclear = self.only_lossy = False
        super().__init__(root)

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images = list_files(self.root / "images", IMAGE_SUFFIXES, self.errors, nested=True)
        masks = list_files(self.root / "masks", MASK_SUFFIXES, self.errors, nested=True)
        jpegs = list_files(self.root / "masks", JPEG_SUFFIXES, self.errors, nested=True)
        self.errors += [self._with_source(lossy_mask_error(path, "JPEG")) for path in jpegs.values()]
        self.only_lossy = bool(jpegs) and not masks
        matched = match_masks(images, masks)
        try:
            check_mask_names(self.root, images, masks, matched)
        except UserError as error:
            self.errors.append(error)
        return images, matched

    def _read_class_file(self) -> ClassFile | None:
        try:
            return super()._read_class_file()
        except UserError as error:
            self.errors.append(error)
            self.class_file_failed = True
            return None

    def _infer_classes(self) -> tuple[str, ...]:
        if not self.class_file_failed and not self.only_lossy:
            try:
                return super()._infer_classes()
            except UserError as error:
                self.errors.append(error)
                self.classes_unclear = bool(self.masks)
        return self._reader.accept_values()

    def _read_tags(self) -> dict[str, Tags]:
        try:
            return super()._read_tags()
        except UserError as error:
            self.errors.append(error)
            return {}
