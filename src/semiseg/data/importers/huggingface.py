"""Hugging Face ``datasets``: a folder written by ``save_to_disk`` or a name on the hub."""

from __future__ import annotations

import re
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, Decoded
from semiseg.data.file_dataset import read_json
from semiseg.data.files.image_files import decode
from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import decode_mask, mask_values
from semiseg.data.importers.foreign_data import ForeignData, ImportOptions
from semiseg.data.masks.mask_patterns import implausible_classes
from semiseg.data.splits.list_files import read_lines
from semiseg.errors import UserError

LISTS = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
"""The list of each split by its name; all other splits are for training."""
IMAGE_COLUMNS = ("image", "img", "pixel_values", "images")
MASK_COLUMNS = ("mask", "label", "labels", "annotation", "segmentation_mask", "segmentation", "label_map", "masks")


class HuggingFace(ForeignData):
    """A data set of Hugging Face ``datasets`` (extra ``hf``).

    Each row is an image with the id ``SPLIT-NUMBER``. It is unlabeled if its mask is null or its split has no mask
    column. A mask is an image of integers, with one channel or three equal ones, or nested lists of integers; 255 is
    ignored. Class names come from the feature of the mask column (lists of ``ClassLabel``) or, in a local folder, from
    ``classes.txt`` or ``id2label.json``. Otherwise they are ``class0`` to the largest value, and every mask is read
    once to find it.

    Args:
        root: The text after ``hf:``: ``FOLDER`` or ``OWNER/NAME``, and optionally ``:IMAGE_COLUMN,MASK_COLUMN``.
        options: The options of ``semiseg import``.

    Raises:
        UserError: The data cannot be loaded, or no column holds images or masks.
    """

    form = "hf"
    title = "a data set of Hugging Face"
    uses: ClassVar[tuple[str, ...]] = ()
    tree: ClassVar[tuple[str, ...]] = (
        "hf:FOLDER  written by save_to_disk; splits/{train,val,test}.txt and classes.txt: optional",
        "hf:OWNER/NAME  on the hub",
        "hf:...:IMAGE_COLUMN,MASK_COLUMN",
    )

    def __init__(self, root: Path, options: ImportOptions) -> None:
        super().__init__(root, options)
        text = root.as_posix()
        source, _, columns = text.rpartition(":")
        if columns.count(",") != 1:
            source, columns = text, ""
        self.root, self.name = Path(source), f"hf:{source}"
        parts = load_parts(source)
        image, mask = self._choose_columns(parts, columns)
        self._rows: dict[str, tuple[str, int]] = {}
        self._images: dict[str, Any] = {}
        self._masks: dict[str, Any] = {}
        self._shown: set[int] = set()
        masked: set[str] = set()
        for part, rows in parts.items():
            masked |= self._add(part, rows, image, mask)
        self.ids = tuple(sorted(self._rows))
        self.images = {id: Path(self._rows[id][0], id) for id in self.ids}
        self.masks = {id: self.images[id] for id in self.ids if id in masked}
        if not self.masks:
            fix = "annotate a few images or name another column"
            raise UserError(f"column {mask!r} has no mask in any row", path=self.name, fix=fix)
        feature = next(part.features[mask] for part in parts.values() if mask in part.features)
        self.set_classes(self._read_classes(feature), Path(self.name))
        self.notes.append(f"images are column {image!r}, masks are column {mask!r}")
        self.set_lists({id: LISTS.get(part, "train") for id, (part, _) in self._rows.items()})

    @classmethod
    def recognizes(cls, root: Path) -> bool:
        """Return whether a folder was written by ``save_to_disk``."""
        return is_saved(root)

    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(3, H, W)``, RGB, upright."""
        return self.read_decoded(id, 1).pixels

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image at ``1 / factor`` of its size."""
        return decode(_file(self._image(id)), f"{self.name}, {id}", factor)

    def image_path(self, id: str) -> Path | None:  # type: ignore[override]  # rows may hold the bytes of the file
        """Return the image file of the row, or None if the row holds the bytes of the file."""
        value = self._image(id)
        return Path(value["path"]) if value["bytes"] is None else None

    def image_content(self, id: str) -> bytes:
        """Return the bytes of an image file in a row."""
        return bytes(self._image(id)["bytes"])

    def mask_path(self, id: str) -> Path | None:
        """Return None: the mask is not a file."""
        return None

    def _image(self, id: str) -> dict[str, Any]:
        part, index = self._rows[id]
        (value,) = self._images[part][index].values()
        if value is None:
            raise UserError("the row has no image", path=f"{self.name}, {id}", fix="filter the row out")
        return dict(value)

    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)`` of class indices or 255."""
        mask = self._read_values(id)
        wrong = (mask >= len(self.classes)) & (mask != IGNORE)
        if wrong.any():
            raise UserError(
                f"value {mask[wrong].min()} is not one of the {len(self.classes)} classes (0 to "
                f"{len(self.classes) - 1}, 255 is ignored)",
                path=f"{self.name}, {id}",
                fix="correct the mask or the class names",
            )
        self._shown |= set(np.unique(mask).tolist())
        return torch.from_numpy(mask)

    def describe(self) -> list[str]:
        """Return the lines of the base class. Raises UserError if all masks hold only 0 and 255."""
        if self._shown == {0, IGNORE} and len(self.classes) > 1:
            problem = "all masks hold only 0 and 255, and 255 is ignored"
            raise UserError(problem, path=self.name, fix="store them as 0 and 1")
        return super().describe()

    def _choose_columns(self, parts: dict[str, Any], columns: str) -> tuple[str, str]:
        """Return the image and the mask column: the requested ones, else the first with a usual name."""
        import datasets

        features = {name: feature for part in parts.values() for name, feature in part.features.items()}
        image, mask = (column.strip() for column in columns.split(",")) if columns else ("", "")
        image = image or next((name for name in IMAGE_COLUMNS if name in features), "")
        plain = (datasets.Value, datasets.ClassLabel)  # a label of the whole image
        pictures = [name for name, feature in features.items() if not isinstance(feature, plain)]
        mask = mask or next((name for name in MASK_COLUMNS if name in pictures), "")
        if not isinstance(features.get(image), datasets.Image) or mask not in pictures or mask == image:
            raise UserError(
                f"{image or 'no column'} and {mask or 'no column'} cannot be the columns of images and masks",
                path=self.name,
                fix=f"name two of {', '.join(features)}, as {self.name}:IMAGE_COLUMN,MASK_COLUMN",
            )
        return image, mask

    def _add(self, part: str, rows: Any, image: str, mask: str) -> set[str]:
        """Add a split and return the ids with masks. No image or mask is decoded."""
        import datasets

        if not re.fullmatch(r"\w[\w.-]*", part):  # ids become file names, so they must not contain slashes
            raise UserError(
                f"the name of split {part!r} contains unsupported characters",
                path=self.name,
                fix="rename it, using letters and digits",
            )

        for column in (image, mask):
            if isinstance(rows.features.get(column), datasets.Image):
                rows = rows.cast_column(column, datasets.Image(decode=False))
        if image not in rows.features:
            raise UserError(f"split {part!r} has no column {image!r}", path=self.name, fix="remove the split")
        digits = max(6, len(str(len(rows))))
        ids = [f"{part}-{index:0{digits}d}" for index in range(len(rows))]
        self._rows |= {id: (part, index) for index, id in enumerate(ids)}
        self._images[part] = rows.select_columns([image])
        if mask not in rows.features:
            return set()
        self._masks[part] = rows.select_columns([mask])
        tables = self._masks[part].with_format("arrow").iter(batch_size=1000)
        valid = [there for table in tables for there in table.column(0).is_valid().to_pylist()]
        return {id for id, there in zip(ids, valid, strict=True) if there}

    def _read_values(self, id: str) -> NDArray[np.uint8]:
        part, index = self._rows[id]
        (value,) = self._masks[part][index].values()
        name = f"{self.name}, {id}"
        if isinstance(value, dict):
            values = decode_mask(_file(value), name)
            if values.ndim == 3 and (values == values[..., :1]).all():
                values = values[..., 0].copy()
        else:
            try:
                values = mask_values(np.array(value), name)
            except (ValueError, TypeError) as error:
                raise UserError(
                    f"the mask cannot be read ({reason(error)})", path=name, fix="correct the row"
                ) from error
        if values.ndim != 2:
            raise UserError(f"the mask has shape {values.shape}", path=name, fix="store one class index per pixel")
        return values

    def _read_classes(self, feature: Any) -> tuple[str, ...]:
        while hasattr(feature, "feature"):  # a list of a list of ClassLabel
            feature = feature.feature
        names: Any = getattr(feature, "names", None)
        files = (self.root / name for name in ("classes.txt", "id2label.json"))
        file = next((path for path in files if path.exists()), None)
        if file:
            names = read_lines(file) if file.suffix == ".txt" else read_labels(file)
        if not names:
            names = self._infer_classes()
        return tuple(names)

    def _infer_classes(self) -> list[str]:
        """Return a name for each value up to the largest one. Raises UserError if the values are not class numbers."""
        used = [np.unique(self._read_values(id)) for id in self.masks]
        examples = [np.where(values == IGNORE, 0, values) for values in map(self._read_values, islice(self.masks, 4))]
        found = {value for values in used for value in values.tolist()}
        if found <= {0, IGNORE}:
            problem = f"the masks contain only {' and '.join(map(str, sorted(found)))}"
            raise UserError(problem, path=self.name, fix="store them as 0 and 1 (255 is ignored)")
        if pattern := implausible_classes(used, examples, lambda _: "store class numbers from 0", inferred=True):
            raise UserError(pattern[0], path=self.name, fix=pattern[1])
        return [f"class{value}" for value in range(max(found - {IGNORE}) + 1)]


def read_labels(path: Path) -> list[str]:
    """Read ``id2label.json``, a mapping ``{"0": "name", ...}``.

    Raises:
        UserError: The file is malformed or skips a number.
    """
    content = read_json(path)
    try:
        return [str(content[str(index)]) for index in range(len(content))]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{error} is missing", path=path, fix='write {"0": "name", "1": "name", ...} without gaps'
        ) from error


def load_parts(source: str) -> dict[str, Any]:
    """Return the splits of a folder or of a name on the hub, each a ``datasets.Dataset``.

    Raises:
        UserError: The data cannot be loaded.
    """
    try:
        import datasets
    except ImportError as error:
        raise UserError(
            "datasets is not installed", path=f"hf:{source}", fix="run pip install 'semiseg[hf]'"
        ) from error
    try:
        loaded: Any = datasets.load_from_disk(source) if is_saved(Path(source)) else datasets.load_dataset(source)
    except Exception as error:  # files, hub and network raise many types
        raise UserError(
            f"cannot be loaded ({type(error).__name__}: {reason(error)})",
            path=f"hf:{source}",
            fix="give a folder written by save_to_disk or OWNER/NAME of data on the hub",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def _file(value: dict[str, Any]) -> Path | BytesIO:
    return BytesIO(value["bytes"]) if value["bytes"] is not None else Path(value["path"])
