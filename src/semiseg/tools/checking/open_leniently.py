"""Open data as training does; where that is refused, take what is left, and keep every reason rather than the first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from semiseg.data import DATASETS, detect_layout, open_dataset
from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.files.image_files import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES, list_files, lossy_mask_error
from semiseg.data.folder_dataset import FolderDataset, match_masks
from semiseg.data.tag_file import Tags
from semiseg.errors import UserError


def open_anyhow(data: str | Path) -> tuple[SegmentationDataset | None, list[str]]:
    """Return the data set, None where nothing can be looked at, and why training would refuse it.

    An own folder is opened in parts. A published data set is refused only where folders are missing that make it one:
    then there is nothing to go on with.
    """
    try:
        return open_dataset(data), []
    except UserError as error:
        refusals = [str(error)]
    # CamVid in its other layout is an own folder by its code alone; text before a colon means data that are generated.
    if Path(data).is_dir() and DATASETS[detect_layout(data)] is FolderDataset:
        folder = RestOfFolder(data)
        if folder.ids:
            return folder, list(dict.fromkeys(refusals + folder.refusals))
    return None, refusals


class RestOfFolder(FolderDataset):
    """An own folder that is not fit to be opened, without what made it so.

    Where the class file cannot be used, the classes are those that the masks' values ask for.

    Attributes:
        refusals: what is wrong, as training would say it.
    """

    def __init__(self, root: str | Path) -> None:
        self.refusals: list[str] = []
        super().__init__(root)

    def _find_files(self) -> tuple[Mapping[str, Path], Mapping[str, Path]]:
        images = list_files(self.root / "images", IMAGE_SUFFIXES, self.refusals)
        masks = list_files(self.root / "masks", MASK_SUFFIXES, self.refusals)
        jpegs = list_files(self.root / "masks", JPEG_SUFFIXES, self.refusals)
        self.refusals += [str(lossy_mask_error(path, "JPEG")) for path in jpegs.values()]
        return images, match_masks(images, masks)

    def _read_classes(self) -> tuple[str, ...]:
        try:
            classes = super()._read_classes()
            self._check_classes(classes)
            return classes
        except UserError as error:
            self.refusals.append(str(error))
        self._class_file, self._ignored, self._skipped, self._colors = None, (), (), ()
        largest = max(self._mask_values() - {IGNORE}, default=0)
        return tuple(f"class{index}" for index in range(largest + 1))

    def _read_tags(self) -> dict[str, Tags]:
        try:
            return super()._read_tags()
        except UserError as error:
            self.refusals.append(str(error))
            return {}
