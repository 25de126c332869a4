"""The check itself: open, read, look, and say what there is and what to do."""

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
from semiseg.tools.checking.finding import SEVERITIES, Finding, from_messages
from semiseg.tools.checking.image_findings import Pair, copies, image_faults, look_alikes, size_findings
from semiseg.tools.checking.list_findings import ROLES, Lists, read_lists
from semiseg.tools.checking.mask_findings import (
    ClassCount,
    Masks,
    class_findings,
    content_findings,
    count_classes,
    gather,
    mask_faults,
)
from semiseg.tools.checking.open_leniently import open_anyhow
from semiseg.tools.checking.scan import Progress, Seen, scan
from semiseg.tools.checking.suggested_command import training_command

Size = tuple[int, int]


@dataclass(frozen=True)
class DataCheck:
    """What was found in a data set.

    Attributes:
        data: what was checked, as it was given.
        name: the data set's name.
        images: how many images there are.
        masks: how many of them have a mask.
        lists: how many images are labeled, unlabeled, for validation and for the test.
        sizes: width and height of the smallest, the median and the largest image, by area; empty without images.
        known: the share of labeled images' pixels that are annotated, in [0, 1]; None without masks.
        classes: how much there is of each class.
        findings: what is wrong or good to know, the gravest first.
        command: a first training that fits the data.
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
        """Whether training would begin: no finding is a problem."""
        return not self.of("problem")

    def of(self, severity: str) -> tuple[Finding, ...]:
        """Return the findings of one severity."""
        return tuple(finding for finding in self.findings if finding.severity == severity)

    def to_json(self) -> dict[str, Any]:
        """Return the same as plain dicts and lists."""
        return {"usable": self.usable} | asdict(self)


@dataclass(frozen=True)
class Material:
    """What pictures can be made of: the data, their lists, and the pairs that look alike, the most alike first."""

    dataset: SegmentationDataset
    lists: Lists
    seen: Sequence[Seen]
    pairs: Sequence[Pair]


def examine(data: str | Path, progress: Progress | None = None) -> tuple[DataCheck, Material | None]:
    """Check a data set; return what was found, and what pictures can be made of, None where there is nothing to see.

    Each image and each mask is read once. (Opening an own folder without class file reads its masks beforehand, for
    their largest value.)
    """
    dataset, refusals = open_anyhow(data)
    findings = from_messages(refusals, "refused", Path(data))
    if dataset is None:
        return DataCheck(str(data), str(data), 0, 0, {}, (), None, (), tuple(findings), ""), None
    lists = read_lists(dataset)
    seen = scan(dataset, progress)
    masks = gather(seen, lists)
    classes = count_classes(dataset, masks)
    alike, pairs = look_alikes(dataset, seen, lists)
    findings += [*lists.findings, *image_faults(dataset, seen, lists), *mask_faults(dataset, seen, lists)]
    findings += [*file_findings(dataset), *copies(dataset, seen, lists), *alike, *size_findings(dataset, seen)]
    findings += [*content_findings(dataset, masks), *class_findings(classes, masks)]
    findings += _still_refused(dataset, masks, lists, findings)
    checked = DataCheck(
        data=str(data),
        name=dataset.name,
        images=len(dataset),
        masks=sum(map(dataset.has_mask, dataset.ids)),
        lists={role: len(lists.ids(role)) for role in ROLES},
        sizes=_sizes(seen),
        known=masks.known,
        classes=classes,
        findings=tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))),
        command=training_command(data, dataset, lists, masks.known, _sizes(seen)),
    )
    return checked, Material(dataset, lists, seen, pairs)


def _still_refused(
    dataset: SegmentationDataset, masks: Masks, lists: Lists, findings: Sequence[Finding]
) -> list[Finding]:
    """Ask what training asks; where nothing above has found a problem, what it refuses is one of its own."""
    if any(finding.severity == "problem" for finding in findings):
        return []
    try:
        resolve_split(dataset, None, 0)
        check_annotation(dataset, tuple(masks.ids["labeled"]), masks.pixels["labeled"], "full")
    except UserError as error:
        return from_messages([str(error)], "refused", dataset.root)
    return []


def _sizes(seen: Sequence[Seen]) -> tuple[Size, ...]:
    sizes = sorted((one.size for one in seen if one.size), key=lambda size: (size[0] * size[1], size))
    return tuple(sizes[int(place)] for place in np.linspace(0, len(sizes) - 1, 3)) if sizes else ()
