"""Choose the size at which a run decodes images, and the cache directory that keeps them decoded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from rich.filesize import decimal

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.image_files import image_size
from semiseg.data.preview_selection import evenly_spaced
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.decoded_cache import HEADER_BYTES, RESERVED_BYTES, DecodedCache, user_cache
from semiseg.data.stream.image_reader import ImageReader
from semiseg.errors import UserError, os_error
from semiseg.training.find_method import find_method

SIZE_SAMPLES = 64  # images per list whose size is read to estimate the size of the cache


def make_reader(config: TrainConfig, dataset: SegmentationDataset, split: Split) -> tuple[ImageReader, list[str]]:
    """Return the reader of a run's images, and notes about decoding and cache.

    Raises:
        UserError: The cache directory cannot be created or written.
    """
    factor, notes = decode_factor(config), []
    if factor > 1:
        notes.append(f"decode: images at 1/{factor} of their size")
    elif config.decode == "reduced":
        notes.append(
            "warning: --decode reduced has no effect: views are too large. It needs --image-scale x --scale-max <= 0.5 "
            "without --short-side."
        )
    if split.shards is not None and config.cache is not None:
        notes.append("cache: images of shards are not cached, only those of the directory")
    if config.cache is None:
        return ImageReader(dataset, factor), notes
    lists = (split.labeled, split.unlabeled) if find_method(config.method).uses_unlabeled else (split.labeled,)
    cache, note = open_cache(config.cache, dataset, lists, factor)
    return ImageReader(dataset, factor, cache), [*notes, note]


def decode_factor(config: TrainConfig) -> int:
    """Return the largest of 1, 2, 4 and 8 by which images can be reduced without enlarging them for any view."""
    if config.decode == "full" or config.short_side:  # with a short side, the scale differs between images
        return 1
    return next(factor for factor in (8, 4, 2, 1) if factor * config.image_scale * config.scale_max <= 1 or factor == 1)


def open_cache(
    name: str, dataset: SegmentationDataset, lists: Sequence[Sequence[str]], factor: int
) -> tuple[DecodedCache | None, str]:
    """Open the cache directory given by ``--cache``.

    Args:
        name: A directory, or ``auto`` for ``semiseg/decoded`` in the user's cache directory.
        dataset: The data set whose images are read.
        lists: Ids of those images.
        factor: Images are decoded at ``1 / factor`` of their size.

    Returns:
        The cache, or None if it has no effect or the disk is too small, and a note about it.

    Raises:
        UserError: The directory cannot be created or written.
    """
    folder = user_cache() / "decoded" if name == "auto" else Path(name)
    if dataset.image_path(lists[0][0]) is None:
        return None, f"warning: --cache has no effect: the images of {dataset.name} are not files"
    try:
        cache = DecodedCache(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise os_error(error, "cannot be written", folder, "make it writable, or choose another --cache") from None
    needed = sum(cache_bytes(cache, dataset, ids, factor) for ids in lists)
    note = f"cache: about {decimal(needed)} more in {folder}, {decimal(free)} free"
    if needed + RESERVED_BYTES > free:
        return None, f"warning: {note}, minus {decimal(RESERVED_BYTES)} reserved. Training without cache."
    return cache, note


def cache_bytes(cache: DecodedCache, dataset: SegmentationDataset, ids: Sequence[str], factor: int) -> int:
    """Estimate the size of the images of a list that are not cached yet, from the headers of a sample of them."""
    sample = evenly_spaced(ids, SIZE_SAMPLES)
    total = 0
    for path in filter(None, map(dataset.image_path, sample)):
        cached = cache.path_of(path, factor, dataset.pixel_format)
        if cached is not None and not cached.exists():
            with suppress(UserError):  # unreadable images are not cached
                width, height = image_size(path)
                total += HEADER_BYTES + dataset.pixel_format.channels * -(-width // factor) * -(-height // factor)
    return total * len(ids) // max(1, len(sample))
