"""Hugging Face ``datasets``: a folder written by ``save_to_disk`` or a name on the hub."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.dataset import IGNORE, Decoded, SegmentationDataset, default_palette
from semiseg.data.file_dataset import lists_in, read_json
from semiseg.data.files.image_files import decode
from semiseg.data.files.image_header import reason
from semiseg.data.files.mask_files import decode_mask, mask_values
from semiseg.data.splits.list_files import read_lines, read_list
from semiseg.errors import UserError

LISTS = {"validation": "val", "valid": "val", "val": "val", "dev": "val", "test": "test"}
"""The list of each split by its name; all other splits are for training."""
IMAGE_COLUMNS = ("image", "img", "pixel_values", "images")
MASK_COLUMNS = ("mask", "label", "labels", "annotation", "segmentation_mask", "segmentation", "label_map", "masks")


class HuggingFace(SegmentationDataset):
    """A data set of Hugging Face ``datasets`` (extra ``hf``).

    Each row is an image with the id ``SPLIT-NUMBER``. It is unlabeled if its mask is null or its split has no mask
    column. A mask is an image of integers, with one channel or three equal ones, or nested lists of integers; 255 is
    ignored. Class names come from the feature of the mask column (lists of ``ClassLabel``) or, in a local folder, from
    ``classes.txt`` or ``id2label.json``. Otherwise they are ``class0`` to the largest value, and every mask is read
    once to find it.

    Args:
        text: The text after ``hf:``: ``FOLDER`` or ``OWNER/NAME``, and optionally ``:IMAGE_COLUMN,MASK_COLUMN``.

    Raises:
        UserError: The data cannot be loaded, or no column holds images or masks.
    """

    tree: ClassVar[tuple[str, ...]] = (
        "hf:FOLDER  written by save_to_disk; splits/{train,val,test}.txt and classes.txt: optional",
        "hf:OWNER/NAME  on the hub",
        "hf:...:IMAGE_COLUMN,MASK_COLUMN",
    )

    def __init__(self, text: str) -> None:
        source, _, columns = text.rpartition(":")
        if columns.count(",") != 1:
            source, columns = text, ""
        self.name = f"hf:{source}"
        parts = load_parts(source)
        self.root = Path(source) if Path(source).is_dir() else None
        image, mask = self._choose_columns(parts, columns)
        self._rows: dict[str, tuple[str, int]] = {}
        self._images: dict[str, Any] = {}
        self._masks: dict[str, Any] = {}
        self._masked: set[str] = set()
        for part, rows in parts.items():
            self._add(part, rows, image, mask)
        self.ids = tuple(sorted(self._rows))
        if not self._masked:
            raise UserError(
                f"column {mask!r} has no mask in any row",
                path=self.name,
                fix="annotate a few images or name another column",
            )
        self.classes = self._read_classes(next(part.features[mask] for part in parts.values() if mask in part.features))
        self.palette = default_palette(len(self.classes))

    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(3, H, W)``, RGB, upright."""
        return self.read_decoded(id, 1).pixels

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image at ``1 / factor`` of its size."""
        part, index = self._rows[id]
        (value,) = self._images[part][index].values()
        if value is None:
            raise UserError("the row has no image", path=f"{self.name}, {id}", fix="remove the row")
        return decode(_file(value), f"{self.name}, {id}", factor)

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
        return torch.from_numpy(mask)

    def has_mask(self, id: str) -> bool:
        """Return whether the mask of the row is not null."""
        return id in self._masked

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the ids of a list: ``splits/NAME.txt`` of a local folder, else the splits of that name."""
        path = self.root / "splits" / f"{name}.txt" if self.root else None
        if path and path.is_file():
            return read_list(path, self, missing)
        ids = [id for id in self.ids if LISTS.get(self._rows[id][0], "train") == name]
        if name == "train":
            taken = {id for other in ("val", "test") for id in self.split(other, []) or ()}  # may come from splits/
            return tuple(id for id in ids if id not in taken) or None
        return tuple(id for id in ids if name == "test" or self.has_mask(id)) or None

    def published_lists(self, labeled: str, seed: int) -> tuple[Path, Path] | None:
        """Return the two files in ``splits/1_16/seed0`` (or similar) of a local folder."""
        return lists_in(self.root / "splits" / labeled.replace("/", "_"), seed) if self.root else None

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

    def _add(self, part: str, rows: Any, image: str, mask: str) -> None:
        """Add a split. No image or mask is decoded, not even to find out which masks are null."""
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
        if mask in rows.features:
            self._masks[part] = rows.select_columns([mask])
            tables = self._masks[part].with_format("arrow").iter(batch_size=1000)
            valid = [there for table in tables for there in table.column(0).is_valid().to_pylist()]
            self._masked |= {id for id, there in zip(ids, valid, strict=True) if there}

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
        names, file = (
            getattr(feature, "names", None),
            self.root
            and next((path for name in ("classes.txt", "id2label.json") if (path := self.root / name).exists()), None),
        )
        if file:
            names = read_lines(file) if file.suffix == ".txt" else read_labels(file)
        if not names:
            found = {value for id in sorted(self._masked) for value in np.unique(self._read_values(id)).tolist()}
            if found <= {0, IGNORE}:
                values = " and ".join(map(str, sorted(found)))
                raise UserError(
                    f"the masks contain only {values}", path=self.name, fix="store them as 0 and 1 (255 is ignored)"
                )
            names = [f"class{value}" for value in range(max(found - {IGNORE}) + 1)]
        if len(names) > IGNORE or len(set(names)) < len(names):
            raise UserError(
                f"found {len(names)} class names",
                path=file or self.name,
                fix="give at most 255 class names, each only once",
            )
        return tuple(names)


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
    if not source:
        raise UserError("hf: is not followed by a name", fix="give hf:FOLDER or hf:OWNER/NAME")
    saved = any((Path(source) / name).is_file() for name in ("dataset_dict.json", "state.json"))
    try:
        loaded: Any = datasets.load_from_disk(source) if saved else datasets.load_dataset(source)
    except Exception as error:  # files, hub and network raise many types
        raise UserError(
            f"cannot be loaded ({type(error).__name__}: {reason(error)})",
            path=f"hf:{source}",
            fix="give a folder written by save_to_disk or OWNER/NAME of data on the hub",
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}


def _file(value: dict[str, Any]) -> Path | BytesIO:
    return BytesIO(value["bytes"]) if value["bytes"] is not None else Path(value["path"])
