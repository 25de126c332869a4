"""Suggest a training command that suits the data."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from semiseg.config import TrainConfig
from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.annotation_kind import SPARSE_SHARE
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.errors import UserError
from semiseg.tools.checking.list_findings import Lists, published_shares

SMALL_DATA = 60  # labeled images up to which the CPU settings of docs/start.md are suggested
SMALL_DATA_OPTIONS = ("--preset", "small", "--steps", "1200", "--batch-size", "6")
SMALL_DATA_SIDE = 360  # pixels to which larger images are scaled by these settings
SMALL_DATA_CROP = 128
MIN_CROP = 32  # pixels; encoders reduce this to one cell


def training_command(
    data: str | Path,
    dataset: SegmentationDataset,
    lists: Lists,
    known: float | None,
    sizes: Sequence[tuple[int, int]],
) -> str:
    """Return ``semiseg train ...`` with the options that differ from the defaults.

    Args:
        data: The value of ``--data``.
        dataset: The opened data set.
        lists: Its lists.
        known: The annotated share of the pixels of labeled images.
        sizes: Width and height of the smallest, the median and the largest image.
    """
    words = ["semiseg", "train", "--data", str(data)]
    if not lists.ids("unlabeled"):
        share = next((share for share in published_shares(dataset) if _fits(dataset, share, lists.incomplete)), None)
        words += ["--labeled", share] if share else ["--method", "supervised"]
    if lists.incomplete:
        words.append("--existing-only")
    if known is not None and known < SPARSE_SHARE:
        words += ["--annotation", "partial"]
    crop, side = TrainConfig.crop_size, min(sizes[1]) if sizes else TrainConfig.crop_size
    if len(lists.ids("labeled")) <= SMALL_DATA and lists.ids("unlabeled"):
        words += SMALL_DATA_OPTIONS
        crop = SMALL_DATA_CROP
        if side > SMALL_DATA_SIDE:
            words += ["--image-scale", f"{SMALL_DATA_SIDE / side:.2g}"]
    crop = max(MIN_CROP, min(crop, side // MIN_CROP * MIN_CROP))
    if crop != TrainConfig.crop_size:
        words += ["--crop-size", str(crop)]
    return shlex.join([*words, "--out", "runs/first"])


def _fits(dataset: SegmentationDataset, share: str, existing_only: bool) -> bool:
    """Return whether the published lists of a share are valid and leave images unlabeled."""
    try:
        return bool(resolve_split(dataset, share, 0, existing_only=existing_only).unlabeled)
    except UserError:
        return False
