"""Suggest a training command that suits the data."""

from __future__ import annotations

import shlex
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.annotation_kind import SPARSE_SHARE
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.errors import UserError
from semiseg.tools.checking.list_findings import Lists, published_shares


def training_command(
    data: str | Path,
    dataset: SegmentationDataset,
    lists: Lists,
    known: float | None,
) -> str:
    """Return ``semiseg train ...`` with the options that the plan of a run does not choose.

    Args:
        data: The value of ``--data``.
        dataset: The opened data set.
        lists: Its lists.
        known: The annotated share of the pixels of labeled images.
    """
    words = ["semiseg", "train", "--data", str(data)]
    if not lists.ids("unlabeled"):
        share = next((share for share in published_shares(dataset) if _fits(dataset, share, lists.incomplete)), None)
        words += ["--labeled", share] if share else ["--method", "supervised"]
    if lists.incomplete:
        words.append("--existing-only")
    if known is not None and known < SPARSE_SHARE:
        words += ["--annotation", "partial"]
    return shlex.join([*words, "--out", "runs/first"])


def _fits(dataset: SegmentationDataset, share: str, existing_only: bool) -> bool:
    """Return whether the published lists of a share are valid and leave images unlabeled."""
    try:
        return bool(resolve_split(dataset, share, 0, existing_only=existing_only).unlabeled)
    except UserError:
        return False
