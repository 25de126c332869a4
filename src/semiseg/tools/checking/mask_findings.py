"""What is told about masks: those that cannot be used, what they show, and which classes have too little to learn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.splits.annotation_kind import SPARSE_SHARE
from semiseg.tools.checking.finding import Finding, Severity, counted, faults, listed, mask_names
from semiseg.tools.checking.list_findings import Lists, Role
from semiseg.tools.checking.scan import Seen

MEASURED: tuple[Role, ...] = ("labeled", "val", "test")
FEW_PIXELS = 1e-4  # of the known pixels of labeled images
FEW_IMAGES = (2, 10)  # a class is rare below a hundredth of the labeled images, within these bounds
ALMOST_ALL = 0.9


@dataclass(frozen=True)
class ClassCount:
    """How much there is of a class.

    Attributes:
        name: the class.
        pixels: its pixels in the masks of labeled images.
        share: of the known pixels there, in [0, 1].
        images: how many masks of each list show it.
    """

    name: str
    pixels: int
    share: float
    images: dict[str, int]


@dataclass(frozen=True)
class Masks:
    """The masks that can be read, of images that serve for something.

    Attributes:
        ids: by list, the images.
        pixels: by list, int64 ``(images, 256)``: how many pixels have each value.
    """

    ids: dict[str, list[str]]
    pixels: dict[str, NDArray[np.int64]]

    @property
    def known(self) -> float | None:
        """The share of labeled images' pixels that are annotated, in [0, 1]; None where there is no mask."""
        pixels = self.pixels["labeled"]
        return float(1 - pixels[:, IGNORE].sum() / pixels.sum()) if pixels.sum() else None


def gather(seen: Sequence[Seen], lists: Lists) -> Masks:
    """Sort the masks that could be read by lists."""
    found = {role: [one for one in seen if lists.roles[one.id] == role] for role in MEASURED}
    masks = {role: [(one.id, one.pixels) for one in ones if one.pixels is not None] for role, ones in found.items()}
    return Masks(
        {role: [id for id, _ in rows] for role, rows in masks.items()},
        {
            role: np.array([pixels for _, pixels in rows], dtype=np.int64).reshape(-1, IGNORE + 1)
            for role, rows in masks.items()
        },
    )


def count_classes(dataset: SegmentationDataset, masks: Masks) -> tuple[ClassCount, ...]:
    """Return how much there is of each class."""
    labeled = masks.pixels["labeled"].sum(axis=0)
    known = max(1, int(labeled[:IGNORE].sum()))
    shown = {role: (pixels > 0).sum(axis=0) for role, pixels in masks.pixels.items()}
    return tuple(
        ClassCount(
            name, int(labeled[value]), int(labeled[value]) / known, {role: int(shown[role][value]) for role in MEASURED}
        )
        for value, name in enumerate(dataset.classes)
    )


def mask_faults(dataset: SegmentationDataset, seen: Sequence[Seen], lists: Lists) -> list[Finding]:
    """Name every mask that cannot be used; it is a problem where training or a measurement would read it."""
    used = set(lists.ids(*MEASURED))
    return faults({one.id: one.mask_fault for one in seen if one.mask_fault}, used, "mask", dataset.root)


def class_findings(classes: Sequence[ClassCount], masks: Masks) -> list[Finding]:
    """Tell classes that no label shows, or hardly any."""
    labeled = len(masks.ids["labeled"])
    if not labeled:
        return []
    few = min(max(FEW_IMAGES[0], math.ceil(labeled / 100)), FEW_IMAGES[1])
    findings = []
    absent = [one for one in classes if not one.images["labeled"]]
    if measured := [one.name for one in absent if one.images["val"] or one.images["test"]]:
        text = f"{_classes(measured)} in val or test masks, but in no labeled one: {listed(measured)}"
        remedy = "annotate training images that show it: nobody learns what no label shows, and it counts as 0 % IoU"
        findings.append(Finding("warning", "class-not-learned", text, remedy, ()))
    if nowhere := [one.name for one in absent if one.name not in measured]:
        text = f"{_classes(nowhere)} in no mask at all: {listed(nowhere)}"
        remedy = "annotate images that show it, or take the name out of the class file"
        findings.append(Finding("warning", "class-absent", text, remedy, ()))
    rare = [one for one in classes if 0 < one.images["labeled"] < few or 0 < one.share < FEW_PIXELS]
    if rare:
        named = [f"{one.name} ({counted(one.images['labeled'], 'image')}, {one.share:.2%} of pixels)" for one in rare]
        text = f"{_classes(rare)} hardly in any labeled mask: {listed(named)}"
        findings.append(Finding("warning", "class-rare", text, "annotate more images that show it", ()))
    return findings


def _classes(found: Sequence[object]) -> str:
    return counted(len(found), "class", "classes")


def content_findings(dataset: SegmentationDataset, masks: Masks) -> list[Finding]:
    """Tell masks that know nothing, that show one class only, or whose 255 was hardly meant to be ignored."""
    ids = [id for role in MEASURED for id in masks.ids[role]]
    pixels = np.concatenate([masks.pixels[role] for role in MEASURED])
    if not ids:
        return []
    shown, ignored = pixels[:, :IGNORE] > 0, pixels[:, IGNORE] > 0
    kinds = shown.sum(axis=1)
    findings = []
    if len(unknown := _named(dataset, ids, kinds == 0)):
        text = f"{counted(len(unknown), 'mask')} of nothing but 255, which is ignored: {listed(unknown)}"
        severity: Severity = "problem" if masks.known == 0 else "warning"
        findings.append(Finding(severity, "mask-unknown", text, "annotate something in it, or remove it", unknown))
    foreground = _foreground_255(dataset, ids, shown, ignored)
    findings += foreground
    if len(single := _named(dataset, ids, kinds == 1)) and not foreground:
        names = [dataset.classes[value] for value in np.flatnonzero(shown[kinds == 1].any(axis=0))]
        text = f"{len(single)} of {counted(len(ids), 'mask')} of a single class ({listed(names)}): {listed(single)}"
        if len(single) >= ALMOST_ALL * len(ids):
            remedy = (
                "if a mask's other pixels were not looked at, they have to be 255, and --annotation single-positive"
            )
            findings.append(Finding("warning", "mask-single", text, remedy, single))
        else:
            findings.append(Finding("note", "mask-single", text, files=single))
    if masks.known is not None and masks.known < SPARSE_SHARE:
        text = f"{masks.known:.1%} of the pixels of labeled images are annotated, the rest is 255"
        remedy = "if nobody annotated the rest, train with --annotation partial, so that a teacher fills it in"
        findings.append(Finding("warning", "partial", text, remedy))
    return findings


def _foreground_255(
    dataset: SegmentationDataset, ids: Sequence[str], shown: NDArray[np.bool_], ignored: NDArray[np.bool_]
) -> list[Finding]:
    """Tell masks of 0 and 255, unless 255 stands beside other classes too: then it is what nobody annotated."""
    classes = shown.sum(axis=1)
    suspect = ignored & (classes == 1) & shown[:, 0]
    if not suspect.any() or (ignored & (classes > 0) & ~suspect).any() or len(dataset.classes) < 2:
        return []
    files = _named(dataset, ids, suspect)
    every = not shown[:, 1:].any()
    text = f"{counted(len(files), 'mask')} of 0 and 255 only: {listed(files)}"
    text += ": no mask shows anything but class 0" if every else ""
    remedy = f"255 is ignored: where it is meant as {dataset.classes[1]}, save it as 1"
    return [Finding("problem" if every else "warning", "foreground-255", text, remedy, files)]


def _named(dataset: SegmentationDataset, ids: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return mask_names(dataset, [id for id, wanted in zip(ids, chosen, strict=True) if wanted])
