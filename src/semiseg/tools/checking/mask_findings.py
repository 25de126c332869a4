"""Findings about masks: unreadable files, class statistics, rare classes and ambiguous values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semiseg.data.class_names import similar_names, similar_names_note
from semiseg.data.dataset import IGNORE, SegmentationDataset
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.masks.mask_records import (
    black_and_white,
    foreground_is_255,
)
from semiseg.data.splits.annotation_kind import SPARSE_SHARE
from semiseg.tools.checking.finding import (
    Finding,
    Severity,
    format_count,
    format_names,
    from_file_errors,
    image_names,
    mask_names,
)
from semiseg.tools.checking.list_findings import Lists, Role
from semiseg.tools.checking.scan import SampleScan

MASK_ROLES: tuple[Role, ...] = ("labeled", "val", "test")
RARE_PIXELS = 1e-4  # share of the annotated pixels of labeled images
RARE_IMAGES = (2, 10)  # bounds of a hundredth of the labeled images, below which a class is rare
ALMOST_ALL = 0.9
UNNAMED_FIX = "write classes.json with the values that are used"


@dataclass(frozen=True)
class ClassCount:
    """The frequency of a class.

    Attributes:
        name: The class.
        pixels: Its number of pixels in the masks of labeled images.
        share: Its share of the annotated pixels there, in [0, 1].
        images: The number of masks in each list that contain it.
    """

    name: str
    pixels: int
    share: float
    images: dict[str, int]


@dataclass(frozen=True)
class MaskStatistics:
    """Statistics of the readable masks of listed images.

    Attributes:
        ids: The images of each list.
        pixels: int64 ``(images, 256)`` for each list, the number of pixels with each value.
    """

    ids: dict[str, list[str]]
    pixels: dict[str, NDArray[np.int64]]

    @property
    def known(self) -> float | None:
        """The annotated share of the pixels of labeled images, in [0, 1]; None without masks."""
        pixels = self.pixels["labeled"]
        return float(1 - pixels[:, IGNORE].sum() / pixels.sum()) if pixels.sum() else None


def collect_masks(scans: Sequence[SampleScan], lists: Lists) -> MaskStatistics:
    """Group the statistics of the readable masks by list."""
    rows = {
        role: [
            (sample.id, sample.pixels)
            for sample in scans
            if lists.roles[sample.id] == role and sample.pixels is not None
        ]
        for role in MASK_ROLES
    }
    return MaskStatistics(
        {role: [id for id, _ in found] for role, found in rows.items()},
        {
            role: np.array([pixels for _, pixels in found], dtype=np.int64).reshape(-1, IGNORE + 1)
            for role, found in rows.items()
        },
    )


def count_classes(dataset: SegmentationDataset, masks: MaskStatistics) -> tuple[ClassCount, ...]:
    """Return the frequency of each class."""
    labeled = masks.pixels["labeled"].sum(axis=0)
    known = max(1, int(labeled[:IGNORE].sum()))
    images = {role: (pixels > 0).sum(axis=0) for role, pixels in masks.pixels.items()}
    return tuple(
        ClassCount(
            name=name,
            pixels=int(labeled[value]),
            share=int(labeled[value]) / known,
            images={role: int(images[role][value]) for role in MASK_ROLES},
        )
        for value, name in enumerate(dataset.classes)
    )


def unreadable_masks(dataset: SegmentationDataset, scans: Sequence[SampleScan], lists: Lists) -> list[Finding]:
    """Report masks that cannot be used. They are problems if training or evaluation reads them."""
    errors = {sample.id: sample.mask_error for sample in scans if sample.mask_error}
    return from_file_errors(errors, set(lists.ids(*MASK_ROLES)), "mask", dataset.root)


def class_findings(classes: Sequence[ClassCount], masks: MaskStatistics, named: bool = True) -> list[Finding]:
    """Report classes that are absent from the labeled masks or rare in them.

    Args:
        classes: The frequency of each class.
        masks: Statistics of the masks.
        named: Whether a class file names them. Otherwise a note says which values the masks start with.
    """
    labeled = len(masks.ids["labeled"])
    if not labeled:
        return []
    min_images = min(max(RARE_IMAGES[0], math.ceil(labeled / 100)), RARE_IMAGES[1])
    findings = []
    absent = [entry for entry in classes if not entry.images["labeled"]]
    if evaluated := [entry.name for entry in absent if entry.images["val"] or entry.images["test"]]:
        text = f"{_classes(evaluated)} in val or test masks, but in no labeled mask: {format_names(evaluated)}"
        remedy = "annotate training images that show it, because it counts as 0 % IoU without labels"
        findings.append(Finding("warning", "class-not-learned", text, remedy))
    if nowhere := [entry.name for entry in absent if entry.name not in evaluated]:
        text = f"{_classes(nowhere)} in no mask: {format_names(nowhere)}"
        remedy = f"annotate images that show it, or {'remove it from the class file' if named else UNNAMED_FIX}"
        findings.append(Finding("warning", "class-absent", text, remedy))
    rare = [entry for entry in classes if 0 < entry.images["labeled"] < min_images or 0 < entry.share < RARE_PIXELS]
    if rare:
        names = [
            f"{entry.name} ({format_count(entry.images['labeled'], 'image')}, {entry.share:.2%} of pixels)"
            for entry in rare
        ]
        text = f"{_classes(rare)} rare in the labeled masks: {format_names(names)}"
        findings.append(Finding("warning", "class-rare", text, "annotate more images that show it"))
    return findings


def _classes(found: Sequence[object]) -> str:
    return format_count(len(found), "class", "classes")


def content_findings(dataset: SegmentationDataset, masks: MaskStatistics) -> list[Finding]:
    """Report masks of 255 only, of a single class, or in which 255 probably means foreground."""
    ids = [id for role in MASK_ROLES for id in masks.ids[role]]
    pixels = np.concatenate([masks.pixels[role] for role in MASK_ROLES])
    if not ids:
        return []
    shown = pixels[:, :IGNORE] > 0
    class_counts = shown.sum(axis=1)
    findings = []
    if empty := _select(dataset, ids, class_counts == 0):
        text = f"{format_count(len(empty), 'mask')} of 255 (ignored) only: {format_names(empty)}"
        severity: Severity = "problem" if masks.known == 0 else "warning"
        findings.append(Finding(severity, "mask-unknown", text, _unknown_remedy(dataset), empty))
    foreground = _foreground_255(dataset, ids, pixels)
    findings += foreground
    if (single := _select(dataset, ids, class_counts == 1)) and not foreground:
        values = np.flatnonzero(shown[class_counts == 1].any(axis=0)).tolist()
        names = [dataset.classes[value] for value in values]
        findings.append(_single_class(single, names, len(ids), values == [0] and len(dataset.classes) > 1))
    if masks.known is not None and masks.known < SPARSE_SHARE:
        text = f"{masks.known:.1%} of the pixels of labeled images are annotated, the rest is 255"
        remedy = "if the rest was not annotated, train with --annotation partial, which lets a teacher label it"
        findings.append(Finding("warning", "partial", text, remedy))
    return findings


def _unknown_remedy(dataset: SegmentationDataset) -> str:
    if isinstance(dataset, FolderDataset) or not dataset.read_as:
        return "annotate something there"
    command = f"semiseg import {dataset.root} --out {dataset.root}-semiseg --form folders"
    return f"check their values: none is a class of {dataset.name}. If they are your own classes, run: {command}"


def _single_class(files: tuple[str, ...], names: Sequence[str], total: int, background: bool) -> Finding:
    text = f"{len(files)} of {format_count(total, 'mask')} of a single class ({format_names(names)})"
    text = f"{text}: {format_names(files)}"
    if len(files) < ALMOST_ALL * total:
        return Finding("note", "mask-single", text, files=files)
    if background:
        remedy = f"check that their objects are annotated: they show only {names[0]}"
        return Finding("warning", "mask-single", text, remedy, files)
    remedy = "if the other pixels were not annotated, set them to 255 and train with --annotation single-positive"
    return Finding("warning", "mask-single", text, remedy, files)


def _foreground_255(dataset: SegmentationDataset, ids: Sequence[str], pixels: NDArray[np.int64]) -> list[Finding]:
    """Report masks of 0 and 255, in which 255 probably means a class. ``pixels`` is ``(images, 256)``."""
    suspect, beside_ignored = black_and_white(pixels)
    if dataset.file_values or not suspect.any() or not isinstance(dataset, FolderDataset):
        return []
    all_masks = foreground_is_255(pixels)
    if len(dataset.classes) < 2 and not (all_masks and dataset.class_file):
        return []
    files = _select(dataset, ids, suspect)
    text = f"{format_count(len(files), 'mask')} of 0 and 255 only: {format_names(files)}"
    if not all_masks:
        return [
            Finding("warning", "foreground-255", f"{text}; 255 is ignored", dataset.mixed_fix(beside_ignored), files)
        ]
    remedy = f"if 255 means {dataset.classes[-1 if len(dataset.classes) < 2 else 1]}, {dataset.values_fix([0, IGNORE])}"
    return [Finding("problem", "foreground-255", f"{text}; all masks show only class 0", remedy, files)]


def agreement_findings(dataset: SegmentationDataset, scans: Sequence[SampleScan], lists: Lists) -> list[Finding]:
    """Report masks whose palettes contradict each other, and images that EXIF turns differently from their masks."""
    used = set(lists.ids(*MASK_ROLES))
    records = {sample.id: sample.record for sample in scans if sample.id in used and sample.record is not None}
    findings = []
    if isinstance(dataset, FolderDataset):
        if found := dataset.palette_conflict(records):
            files = mask_names(dataset, found.ids)
            text = f"the palettes of {files[0]} and {files[1]} disagree: {found.text}" if files else found.text
            findings.append(Finding("problem" if found.certain else "warning", "palette", text, found.fix, files))
        pixels = np.array([sample.pixels for sample in scans if sample.id in records], dtype=np.int64)
        for doubt in dataset.doubts(records, pixels):
            files = mask_names(dataset, doubt.ids)
            text = f"{doubt.problem}: {format_names(files)}"
            findings.append(Finding("warning", f"mask-{doubt.kind}", text, f"if so, {doubt.fix}", files))
    if apart := [id for id, record in records.items() if record.turned_apart]:
        files = image_names(dataset, apart)
        text = f"{format_count(len(files), 'image')} rotated or flipped by EXIF unlike the mask: {format_names(files)}"
        remedy = "check on the page of --html whether the masks fit, and save masks upright where they do not"
        findings.append(Finding("warning", "exif", text, remedy, files))
    return findings


def reading_findings(dataset: SegmentationDataset) -> list[Finding]:
    """Report class names that are easily confused, and notes on how the data are read."""
    findings = [
        Finding("warning" if note.startswith("warning: ") else "note", "reading", note.removeprefix("warning: "))
        for note in dataset.notes
    ]
    if similar := similar_names(dataset.classes):
        remedy = "use one spelling for each class, in the class file and in the annotation tool"
        findings.append(Finding("warning", "class-names", similar_names_note(similar), remedy))
    return findings


def _select(dataset: SegmentationDataset, ids: Sequence[str], chosen: NDArray[np.bool_]) -> tuple[str, ...]:
    return mask_names(dataset, [id for id, wanted in zip(ids, chosen, strict=True) if wanted])
