"""How a run reads its images: at which part of their size they are decoded, and where they are kept decoded."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.files.image_files import image_size
from semiseg.data.preview_selection import evenly_spaced
from semiseg.data.splits.dataset_split import Split
from semiseg.data.stream.decoded_cache import HEADER_BYTES, RESERVED_BYTES, DecodedCache, user_cache
from semiseg.data.stream.image_reader import ImageReader
from semiseg.errors import UserError
from semiseg.training.disk_space import size
from semiseg.training.find_method import find_method

LOOKED_AT = 64  # images of a list whose size is looked up to say how much room all will take


def make_reader(config: TrainConfig, dataset: SegmentationDataset, split: Split) -> tuple[ImageReader, list[str]]:
    """Return what reads the images of a run, and lines that say what a person should know of it.

    Raises:
        UserError: the cache's folder cannot be made or written.
    """
    factor, notes = decode_factor(config), []
    if factor > 1:
        notes.append(f"decode: images at 1/{factor} of their size")
    elif config.decode == "reduced":
        rule = "it takes --image-scale x --scale-max of 0.5 or less"
        notes.append(f"warning: --decode reduced changes nothing: views are too large, {rule}")
    if split.shards is not None and config.cache is not None:
        notes.append("--cache keeps the folder's images alone: those of shards are decoded each time")
    if config.cache is None:
        return ImageReader(dataset, factor), notes
    read = (split.labeled, split.unlabeled) if find_method(config.method).uses_unlabeled else (split.labeled,)
    cache, told = open_cache(config.cache, dataset, read, factor)
    return ImageReader(dataset, factor, cache), [*notes, told]


def decode_factor(config: TrainConfig) -> int:
    """Return the largest of 1, 2, 4 and 8 by which images may be smaller so that no view has to enlarge them."""
    if config.decode == "full":
        return 1
    return next(factor for factor in (8, 4, 2, 1) if factor * config.image_scale * config.scale_max <= 1 or factor == 1)


def open_cache(
    name: str, dataset: SegmentationDataset, lists: Sequence[Sequence[str]], factor: int
) -> tuple[DecodedCache | None, str]:
    """Return the cache in the folder that ``--cache`` names, None where it is of no use or too small; and a line on it.

    Args:
        name: a folder, or ``auto``: ``semiseg/decoded`` where the user's caches are.
        dataset: whose images will be read.
        lists: ids of those images.
        factor: of their decoding.

    Raises:
        UserError: the folder cannot be made or written.
    """
    folder = user_cache() / "decoded" if name == "auto" else Path(name)
    if dataset.image_path(lists[0][0]) is None:
        return None, f"warning: --cache keeps nothing: images of {dataset.name} are no files"
    try:
        cache = DecodedCache(folder)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise UserError(
            f"--cache {name}: {folder} cannot be written ({error.strerror}): make it writable, or give another folder"
        ) from None
    needed = sum(cache_bytes(cache, dataset, ids, factor) for ids in lists)
    told = f"cache: about {size(needed)} more in {folder}, {size(free)} free"
    if needed + RESERVED_BYTES > free:
        return None, f"warning: {told}, {size(RESERVED_BYTES)} of it for all else: the run goes on without"
    return cache, told


def cache_bytes(cache: DecodedCache, dataset: SegmentationDataset, ids: Sequence[str], factor: int) -> int:
    """Return about what a list's images that are not kept yet will take, by the heads of a few of them."""
    looked_at = evenly_spaced(ids, LOOKED_AT)
    total = 0
    for path in filter(None, map(dataset.image_path, looked_at)):
        place = cache.path_of(path, factor)
        if place is not None and not place.exists():
            with suppress(UserError):  # it cannot be read: nothing is kept of it
                width, height = image_size(path)
                total += HEADER_BYTES + 3 * -(-width // factor) * -(-height // factor)
    return total * len(ids) // max(1, len(looked_at))
