"""Check a data set: open it, read every sample once, collect findings and suggest a training command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.splits.annotation_kind import check_annotation
from semiseg.data.splits.dataset_split import resolve_split
from semiseg.errors import UserError
from semiseg.tools.checking.file_findings import file_findings
from semiseg.tools.checking.finding import SEVERITIES, Finding, from_errors
from semiseg.tools.checking.image_findings import (
    Pair,
    duplicate_findings,
    format_findings,
    near_duplicate_findings,
    size_findings,
    unreadable_images,
)
from semiseg.tools.checking.list_findings import ROLES, Lists, read_lists
from semiseg.tools.checking.mask_findings import (
    ClassCount,
    MaskStatistics,
    agreement_findings,
    class_findings,
    collect_masks,
    content_findings,
    count_classes,
    reading_findings,
    unreadable_masks,
)
from semiseg.tools.checking.open_leniently import LenientFolder, open_leniently
from semiseg.tools.checking.scan import Progress, SampleScan, scan
from semiseg.tools.checking.suggested_command import training_command

Size = tuple[int, int]


@dataclass(frozen=True)
class DataCheck:
    """The result of checking a data set.

    Attributes:
        data: The data set, as it was given.
        name: Its name.
        images: The number of images.
        masks: The number of images with a mask.
        lists: The number of images in each list: labeled, unlabeled, val and test.
        sizes: Width and height of the smallest, the median and the largest image by area; empty without images.
        known: The annotated share of the pixels of labeled images, in [0, 1]; None without masks.
        classes: The frequency of each class.
        findings: What is wrong or worth knowing, most severe first.
        command: A training command that suits the data.
    """

    data: str
    name: str
    images: int
    masks: int
    lists: dict[str, int]
    sizes: tuple[Size, ...]
    known: float | None
    classes: tuple[ClassCount, ...]
    findings: tuple[Finding, ...]
    command: str

    @property
    def usable(self) -> bool:
        """Whether training would start, which is the case without problems."""
        return not self.with_severity("problem")

    def with_severity(self, severity: str) -> tuple[Finding, ...]:
        """Return the findings with a severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    of = with_severity  # the name in version 0.1.0

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain dicts and lists."""
        return {"usable": self.usable} | asdict(self)


@dataclass(frozen=True)
class CheckedSamples:
    """The samples that a page can show: the data set, its lists, and near-duplicates, most similar first."""

    dataset: SegmentationDataset
    lists: Lists
    scans: Sequence[SampleScan]
    pairs: Sequence[Pair]


def check_data(data: str | Path, progress: Progress | None = None) -> tuple[DataCheck, CheckedSamples | None]:
    """Check a data set and return the result and its samples, or None if it cannot be opened.

    Each image and mask is read once. (Opening a plain folder without class file reads its masks before, to find the
    largest value.)
    """
    dataset, errors = open_leniently(data)
    findings = from_errors(errors, "refused", Path(data))
    if dataset is None:
        return DataCheck(str(data), str(data), 0, 0, {}, (), None, (), tuple(findings), ""), None
    if dataset.read_as:
        findings.append(Finding("note", "form", dataset.read_as))
    findings += format_findings(dataset)  # before the images are read
    lists = read_lists(dataset)
    scans = scan(dataset, progress)
    masks = collect_masks(scans, lists)
    unclear = isinstance(dataset, LenientFolder) and dataset.classes_unclear
    classes = () if unclear else count_classes(dataset, masks)
    near_duplicates, pairs = near_duplicate_findings(dataset, scans, lists)
    findings += [
        *lists.findings,
        *unreadable_images(dataset, scans, lists),
        *unreadable_masks(dataset, scans, lists),
        *file_findings(dataset),
        *duplicate_findings(dataset, scans, lists),
        *near_duplicates,
        *size_findings(dataset, scans),
        *reading_findings(dataset),
        *agreement_findings(dataset, scans, lists),
        *(() if unclear else content_findings(dataset, masks)),
        *class_findings(classes, masks, getattr(dataset, "class_file", "given") is not None),
    ]
    if not any(finding.severity == "problem" for finding in findings):
        findings += _training_errors(dataset, masks)
    sizes = _sizes(scans)
    result = DataCheck(
        data=str(data),
        name=dataset.name,
        images=len(dataset),
        masks=sum(map(dataset.has_mask, dataset.ids)),
        lists={role: len(lists.ids(role)) for role in ROLES},
        sizes=sizes,
        known=masks.known,
        classes=classes,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        command=training_command(data, dataset, lists, masks.known),
    )
    return result, CheckedSamples(dataset, lists, scans, pairs)


def _training_errors(dataset: SegmentationDataset, masks: MaskStatistics) -> list[Finding]:
    """Run the checks of training itself, which may raise an error that no finding reports."""
    try:
        resolve_split(dataset, None, 0)
        check_annotation(dataset, tuple(masks.ids["labeled"]), masks.pixels["labeled"], "full")
    except UserError as error:
        return from_errors([error], "refused", dataset.root)
    return []


def _sizes(scans: Sequence[SampleScan]) -> tuple[Size, ...]:
    sizes = sorted((sample.size for sample in scans if sample.size), key=lambda size: (size[0] * size[1], size))
    return tuple(sizes[int(index)] for index in np.linspace(0, len(sizes) - 1, 3)) if sizes else ()
