"""What a data set is: images, masks and lists under ids, read one at a time, without any augmentation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from semiseg.errors import UserError

IGNORE = 255
"""The mask value for pixels of which nothing is known: no loss and no metric looks at them."""

Color = tuple[int, int, int]
S = TypeVar("S")
T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One image as it lies in the data set.

    Attributes:
        image: uint8 ``(3, H, W)``, RGB.
        mask: uint8 ``(H, W)``, class index or 255, or None where the image has no mask.
        id: the name of the image in every list.
    """

    image: Tensor
    mask: Tensor | None
    id: str


@dataclass(frozen=True)
class Decoded:
    """An image decoded whole or at a part of its size.

    Attributes:
        pixels: uint8 ``(3, ceil(height / factor), ceil(width / factor))``, RGB, upright.
        size: height and width of the whole image.
        factor: 1, 2, 4 or 8: a pixel is about the mean of so many of the image's, across and down.
    """

    pixels: Tensor
    size: tuple[int, int]
    factor: int = 1


class SegmentationDataset(ABC):
    """Images, some with masks, and the lists that come with them.

    A subclass sets the five attributes and says how to read one image and one mask. Nothing here is random and nothing
    is changed by reading, so that worker processes may share a data set.

    Attributes:
        name: what to call it in messages and reports.
        root: its directory, None where it is generated.
        classes: the class names; mask value ``k`` means ``classes[k]``.
        palette: one RGB color per class, 0 to 255, for pictures and indexed PNG files.
        ids: every image, sorted.
        image_ending: what the names of image files in lists have behind the id, beside a suffix.
        mask_folder: where a person puts a mask, below ``root``; empty where masks come from a tool.
    """

    name: str
    root: Path | None
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    ids: Sequence[str]
    image_ending: str = ""
    mask_folder: str = ""

    @abstractmethod
    def read_image(self, id: str) -> Tensor:
        """Read an image as uint8 ``(3, H, W)``, RGB. Raises UserError, naming the file, if it cannot be read."""

    def read_decoded(self, id: str, factor: int) -> Decoded:
        """Read an image as ``read_image``, at a part of its size where it comes out of a file, to be quicker."""
        image = self.read_image(id)
        return Decoded(image, (image.shape[-2], image.shape[-1]))

    @abstractmethod
    def read_mask(self, id: str) -> Tensor:
        """Read a mask as uint8 ``(H, W)``, values below ``len(classes)`` or 255.

        Raises UserError, naming the file, if it cannot be read or holds other values.
        """

    @abstractmethod
    def has_mask(self, id: str) -> bool:
        """Tell whether there is a mask, without opening it."""

    def split(self, name: str, missing: list[str] | None = None) -> tuple[str, ...] | None:
        """Return the list ``train``, ``val`` or ``test`` that comes with the data, None where there is none.

        Images that it names and that are not there are an error; where ``missing`` is given, they are put there.
        """
        return None

    def published_lists(self, labeled: str, seed: int) -> tuple[Path, Path] | None:
        """Return the files of labeled and unlabeled images that come with the data for ``"1/16"`` (or ``"92"``) and a
        seed, None if absent.
        """
        return None

    def tags(self, id: str) -> tuple[int, ...] | None:
        """Return what is known of each class in an image: 1 present, 0 absent, -1 unknown; None without tags."""
        return None

    def any_tags(self, *lists: Sequence[str]) -> bool:
        """Tell whether any image of some lists has tags."""
        return any(self.tags(id) is not None for ids in lists for id in ids)

    def image_path(self, id: str) -> Path | None:
        """Return the image's file for messages, None where it is generated."""
        return None

    def mask_path(self, id: str) -> Path | None:
        """Return the mask's file for messages, None where there is none."""
        return None

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        return read_sample(self, self.ids[index])


def read_sample(dataset: SegmentationDataset, id: str) -> Sample:
    """Read an image and, where it has one, its mask; raises UserError if their sizes differ."""
    image = dataset.read_image(id)
    if not dataset.has_mask(id):
        return Sample(image, None, id)
    mask = dataset.read_mask(id)
    check_size(dataset, id, image.shape[-2:], mask)
    return Sample(image, mask, id)


def check_size(dataset: SegmentationDataset, id: str, size: Sequence[int], mask: Tensor) -> None:
    """Raise UserError where a mask, ``(H, W)``, has another size than its image, whose height and width are given."""
    if tuple(mask.shape) != tuple(size):
        (height, width), (mask_height, mask_width) = size, mask.shape
        raise UserError(
            f"{dataset.mask_path(id) or id}: the mask is {mask_width}x{mask_height}, its image "
            f"{dataset.image_path(id) or id} is {width}x{height}; save the mask at the size of its image"
        )


def read_ahead(read: Callable[[S], T], items: Iterable[S], workers: int | None = 2, ahead: int = 4) -> Generator[T]:
    """Yield ``read(item)`` for each item in order, reading the next ones in threads while the caller is at work.

    Args:
        read: what to do with an item.
        items: in this order.
        workers: threads; None: as many as suit the machine.
        ahead: how many are at most read and not yet yielded, which bounds memory.
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
    """Return one distinct color per class: Pascal VOC's color map, which spreads an index's bits over R, G and B."""

    def color(index: int) -> Color:
        channels = [0, 0, 0]
        for bit in range(8):
            for channel in range(3):
                channels[channel] |= (index >> (3 * bit + channel) & 1) << (7 - bit)
        return channels[0], channels[1], channels[2]

    return tuple(color(index) for index in range(classes))
