"""The training command that fits the data."""

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

FEW = 60  # labels: the settings of docs/start.md, which need no GPU
FEW_SIDE = 360  # pixels: what is larger is seen smaller by them
FEW_OPTIONS = ("--preset", "small", "--steps", "1200", "--batch-size", "6")
FEW_CROP = 128
SMALLEST_CROP = 32  # pixels: what encoders make one field of


def training_command(
    data: str | Path,
    dataset: SegmentationDataset,
    lists: Lists,
    known: float | None,
    sizes: Sequence[tuple[int, int]],
) -> str:
    """Return ``semiseg train ...`` with the options that these data ask for; the defaults are left out.

    Args:
        data: what ``--data`` is.
        dataset: the same, opened.
        lists: what its images serve for.
        known: the share of pixels of labeled images that are annotated.
        sizes: of the smallest, the median and the largest image.
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
    if len(lists.ids("labeled")) <= FEW and lists.ids("unlabeled"):
        words += FEW_OPTIONS
        crop = FEW_CROP
        if side > FEW_SIDE:
            words += ["--image-scale", f"{FEW_SIDE / side:.2g}"]
    crop = max(SMALLEST_CROP, min(crop, side // SMALLEST_CROP * SMALLEST_CROP))
    if crop != TrainConfig.crop_size:
        words += ["--crop-size", str(crop)]
    return shlex.join([*words, "--out", "runs/first"])


def _fits(dataset: SegmentationDataset, share: str, existing_only: bool) -> bool:
    """Tell whether training takes the lists that come with the data for a share, and some images stay unlabeled."""
    try:
        return bool(resolve_split(dataset, share, 0, existing_only=existing_only).unlabeled)
    except UserError:
        return False
