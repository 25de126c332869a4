"""Findings about file names and stray files, without opening any file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES, list_files, other_files
from semiseg.data.files.image_header import describe_unsupported, way_out
from semiseg.data.files.mask_matching import misnamed_masks, unmatched_masks
from semiseg.data.folder_dataset import FolderDataset
from semiseg.data.unread_files import unread_files
from semiseg.tools.checking.finding import Finding, format_count, format_names, image_names, relative


def file_findings(dataset: SegmentationDataset) -> list[Finding]:
    """Report names that differ only by case, masks without image and files with unsupported suffixes."""
    findings = _case_conflicts(dataset)
    if isinstance(dataset, FolderDataset) and (dataset.root / "images").is_dir():
        return findings + _own_folder_findings(dataset)
    if isinstance(dataset, FileDataset):
        folders = {path.parent for path in dataset.images.values()}
        findings += _unsupported_files(dataset, _files(folders), IMAGE_SUFFIXES, "images")
    return findings


def _own_folder_findings(dataset: FolderDataset) -> list[Finding]:
    """Report masks without image, and files in ``images/`` and ``masks/`` that are not read."""
    masks = list_files(dataset.root / "masks", MASK_SUFFIXES, clashes=[], nested=True)
    skipped = other_files(dataset.root / "images", IMAGE_SUFFIXES)
    lonely = unmatched_masks(dataset.images, masks, dataset.masks)
    misnamed = misnamed_masks(dataset.images, lonely, dataset.masks)  # an error of training
    without = [path for id, path in lonely.items() if id not in misnamed and id not in skipped]
    findings = []
    if without:
        files = tuple(relative(path, dataset.root) for path in without)
        text = f"{format_count(len(files), 'mask')} without image: {format_names(files)}"
        remedy = "name each mask after its image, or add the images"
        findings.append(Finding("warning", "mask-without-image", text, remedy, files))
    if annotated := [path for id, path in skipped.items() if id in lonely]:
        files = tuple(relative(path, dataset.root) for path in annotated)
        text = f"{format_count(len(files), 'image')} with a mask of a type that is not read: {format_names(files)}"
        remedy = "convert the images to JPEG or PNG, or they are not used"
        findings.append(Finding("warning", "skipped-images", text, remedy, files))
    rest = [path for id, path in skipped.items() if id not in lonely]
    findings += _unsupported_files(dataset, rest, (), "images")
    of_masks = other_files(dataset.root / "masks", (*MASK_SUFFIXES, *JPEG_SUFFIXES)).values()
    unread = [Finding("warning", "unread", *found) for found in unread_files(dataset)]
    named = {file for finding in unread for file in finding.files}
    rest = [path for path in of_masks if relative(path, dataset.root) not in named]
    return findings + unread + _unsupported_files(dataset, rest, (), "masks")


def _case_conflicts(dataset: SegmentationDataset) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for id in dataset.ids:
        groups[id.casefold()].append(id)
    ids = [id for group in groups.values() if len(group) > 1 for id in group]
    if not ids:
        return []
    files = image_names(dataset, ids)
    text = f"{len(files)} images whose names differ only by case: {format_names(files)}"
    remedy = "rename them, because other file systems keep only one of each"
    return [Finding("warning", "case", text, remedy, files)]


def _unsupported_files(
    dataset: FileDataset, paths: Iterable[Path], suffixes: tuple[str, ...], noun: str
) -> list[Finding]:
    others = [path for path in paths if path.suffix.lower() not in suffixes]
    if not others:
        return []
    files = tuple(relative(path, dataset.root) for path in others)
    text = f"{format_count(len(files), 'file')} of an unsupported type among the {noun}: {format_names(files)}"
    if noun == "images" and (images := [path for path in others if way_out(path)]):
        return [Finding("warning", "other-files", f"{text}; {describe_unsupported(images)}", files=files)]
    return [Finding("note", "other-files", text, files=files)]


def _files(folders: Iterable[Path]) -> list[Path]:
    """Return the files in some folders, sorted, without hidden files."""
    found = []
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        paths = (folder / name for name in os.listdir(folder) if not name.startswith("."))
        found += [path for path in paths if path.is_file()]  # False for a symlink loop, where DirEntry raises
    return sorted(found)
