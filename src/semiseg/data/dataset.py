"""The data set interface: images, masks and lists by id, read one at a time, without augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semiseg.data.files.pixel_format import RGB, Bands, PixelFormat, White
from semiseg.errors import UserError

IGNORE = 255
"""The mask value of unknown pixels. Losses and metrics skip them."""

Color = tuple[int, int, int]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One image and its mask, at their original size.

    Attributes:
        image: uint8 ``(channels, H, W)``, usually RGB.
        mask: uint8 ``(H, W)``, class index or 255; None if the image has no mask.
        id: The name of the image in every list.
    """

    image: Tensor
    mask: Tensor | None
    id: str


@dataclass(frozen=True)
class Decoded:
    """An image decoded at full or reduced size.

    Attributes:
        pixels: uint8 ``(channels, ceil(height / factor), ceil(width / factor))``, upright.
        size: Height and width of the full image.
        factor: 1, 2, 4 or 8. Each pixel is about the mean of ``factor * factor`` pixels of the full image.
    """

    pixels: Tensor
    size: tuple[int, int]
    factor: int = 1


@dataclass(frozen=True)
class MaskRecord:
    """What has to agree between masks, and between a mask and its image.

    Attributes:
        colors: The displayed color of each used index of an indexed mask.
        image_orientation: The EXIF orientation of the image, 1 to 8.
        mask_orientation: The EXIF orientation of the mask.
        turned_apart: Whether the two differ and the sizes do not show which one is right.
        steps: How the stored integers change between distant values; see ``mask_doubts.count_steps``.
        plain: Whether the mask has no palette, and values other than 0 and 255.
    """

    colors: Mapping[int, Color]
    image_orientation: int = 1
    mask_orientation: int = 1
    turned_apart: bool = False
    steps: tuple[int, int] = (0, 0)
    plain: bool = False


class SegmentationDataset(ABC):
    """Images, some with masks, and the lists that come with them.

    A subclass sets the attributes and implements the abstract methods. Nothing is random and reading changes nothing,
    so worker processes may share a data set.

    Attributes:
        name: The name in messages and reports.
        root: The directory; None if the data set is generated.
        classes: The class names; mask value ``k`` means ``classes[k]``.
        palette: One RGB color per class, 0 to 255, for pictures and indexed PNG files.
        ids: All images, sorted.
        image_ending: The part of a file name after the id and before the suffix, as ``_leftImg8bit``. Lists may
            include it.
        read_as: A note why the data is read as a benchmark, and how to read it otherwise; empty if there is no doubt.
        notes: What the user should know about how the data are read.
        file_values: The value of each class in mask files, if the user chose them; empty for class indices.
        pixel_format: The bands and the white value of the images.
        pixel_notes: Lines about the choice of ``pixel_format``.
        mask_folder: The folder below ``root`` for masks that the user adds; empty if a tool exports the masks.
    """

    name: str
    root: Path | None
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: Sequence[str]
    image_ending: str = ""
    notes: Sequence[str] = ()
    file_values: Sequence[int] = ()
    pixel_format: PixelFormat = RGB
    pixel_notes: Sequence[str] = ()
    mask_folder: str = ""
    read_as: str = ""

    @abstractmethod
    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(channels, H, W)``, RGB unless ``pixel_format`` selects bands.

        Raises:
            UserError: The file cannot be read.
        """

    def choose_pixel_format(self, bands: Bands = None, white: White = None) -> None:  # noqa: B027 (only files have one)
        """Set ``pixel_format`` and ``pixel_notes`` by the options of a run; see ``semiseg.data.pixel_range``."""

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image at ``1 / factor`` of its size. The default ignores ``factor`` and reads the full image."""
        image = self.read_image(id)
        return Decoded(image, (image.shape[-2], image.shape[-1]))

    @abstractmethod
    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``, values below ``len(classes)`` or 255.

        Raises:
            UserError: The file cannot be read or holds other values.
        """

    def read_mask_record(self, id: str) -> tuple[Tensor, MaskRecord | None]:
        """Read a mask like ``read_mask``, and its record for ``compare_masks``, if the data set keeps any."""
        return self.read_mask(id), None

    def compare_masks(self, records: Mapping[str, MaskRecord], pixels: NDArray[np.int64]) -> list[str]:
        """Compare all masks of a run before training, and return notes for the user.

        Args:
            records: The records of the masks by id.
            pixels: ``(masks, 256)``, the number of pixels of each value.

        Raises:
            UserError: The masks contradict each other.
        """
        return []

    def size_hint(self, id: str) -> str:
        """Return why the size of a mask may differ from that of its image, as the end of a sentence, or nothing."""
        return ""

    @abstractmethod
    def has_mask(self, id: str) -> bool:
        """Return whether the image has a mask, without opening it."""

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the list ``train``, ``val`` or ``test`` of the data set, or None if there is none.

        Args:
            name: The list.
            missing: Collects listed images that do not exist. If None, they raise UserError.
        """
        return None

    def published_lists(self, labeled: str, seed: int) -> tuple[Path, Path] | None:
        """Return the published lists of labeled and unlabeled images for ``"1/16"`` or ``"92"`` and a seed, if any."""
        return None

    def tags(self, id: str) -> tuple[int, ...] | None:
        """Return one tag per class (1 present, 0 absent, -1 unknown), or None if the image has no tags."""
        return None

    def any_tags(self, *lists: Sequence[str]) -> bool:
        """Return whether any image in the lists has tags."""
        return any(self.tags(id) is not None for ids in lists for id in ids)

    def image_path(self, id: str) -> Path | None:
        """Return the image file, or None if the image is generated."""
        return None

    def mask_path(self, id: str) -> Path | None:
        """Return the mask file, or None if there is none."""
        return None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self, self.ids[index])


def read_sample(dataset: SegmentationDataset, id: str) -> Sample:
    """Read an image and its mask, if it has one.

    Raises:
        UserError: A file cannot be read, or the sizes differ.
    """
    image = dataset.read_image(id)
    if not dataset.has_mask(id):
        return Sample(image, None, id)
    mask = dataset.read_mask(id)
    check_size(dataset, id, image.shape[-2:], mask)
    return Sample(image, mask, id)


def check_size(dataset: SegmentationDataset, id: str, size: Sequence[int], mask: Tensor) -> None:
    """Raise UserError unless the mask ``(H, W)`` has the height and width of its image."""
    if tuple(mask.shape) != tuple(size):
        (height, width), (mask_height, mask_width) = size, mask.shape
        image = dataset.image_path(id) or id
        hint = dataset.size_hint(id) if (mask_width, mask_height) == (height, width) else ""
        fix = (
            "save a copy of the mask that is upright like its image"
            if hint
            else "save the mask at the size of its image"
        )
        raise UserError(
            f"the mask is {mask_width}x{mask_height}, its image {image} is {width}x{height}{hint}",
            path=dataset.mask_path(id) or id,
            fix=fix,
        )


def read_ahead(read: Callable[[S], T], items: Iterable[S], workers: int | None = 2, ahead: int = 4) -> Generator[T]:
    """Yield ``read(item)`` for each item in order, reading the next items in threads.

    Args:
        read: The function.
        items: Its arguments.
        workers: The number of threads; None for the default of ``ThreadPoolExecutor``.
        ahead: The maximum number of results kept in memory.
    """
    pool = ThreadPoolExecutor(max_workers=workers)
    try:
        pending: deque[Future[T]] = deque()
        for item in items:
            pending.append(pool.submit(read, item))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def default_palette(classes: int) -> tuple[Color, ...]:
    """Return the first colors of Pascal VOC's color map, which spreads the bits of an index over R, G and B."""

    def color(index: int) -> Color:
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        return channels[0], channels[1], channels[2]

    return tuple(color(index) for index in range(classes))
