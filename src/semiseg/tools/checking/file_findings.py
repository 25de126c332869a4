"""Findings about file names and stray files, without opening any file."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES
from semiseg.tools.checking.finding import Finding, format_count, format_names, image_names, relative


def file_findings(dataset: SegmentationDataset) -> list[Finding]:
    """Report names that differ only by case, masks without image and files with unsupported suffixes."""
    findings = _case_conflicts(dataset)
    if isinstance(dataset, FileDataset):
        folders = {path.parent for path in dataset.images.values()}
        mask_folders = {path.parent for path in dataset.masks.values()} or {dataset.root / "masks"}
        findings += _unsupported_files(dataset, folders, IMAGE_SUFFIXES, "images")
        # If masks and images have different stems (Cityscapes), mask folders hold further files.
        if all(path.stem == id for id, path in dataset.masks.items()):
            findings += _masks_without_image(dataset, mask_folders)
            findings += _unsupported_files(dataset, mask_folders - folders, (*MASK_SUFFIXES, *JPEG_SUFFIXES), "masks")
    return findings


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


def _masks_without_image(dataset: FileDataset, folders: set[Path]) -> list[Finding]:
    paths = [path for path in _files(folders, MASK_SUFFIXES) if path.stem not in dataset.images]
    if not paths:
        return []
    files = tuple(relative(path, dataset.root) for path in paths)
    text = f"{format_count(len(files), 'mask')} without image: {format_names(files)}"
    unmasked = {id.casefold(): id for id in dataset.ids if id not in dataset.masks}
    suggestion = next((hint for path in paths if (hint := _suggest_name(path, dataset, unmasked))), "")
    return [Finding("warning", "mask-without-image", text, f"name each mask after its image{suggestion}", files)]


def _suggest_name(mask: Path, dataset: FileDataset, unmasked: Mapping[str, str]) -> str:
    """Suggest a name for a mask if an image has the same name in another case, or a prefix of it."""
    stem = mask.stem.casefold()
    prefixes = (stem[:length] for length in range(len(stem), 0, -1))
    id = next((unmasked[prefix] for prefix in prefixes if prefix in unmasked), None)
    if id is None:
        return ""
    return f"; {mask.name} may belong to {dataset.images[id].name} and would be {id}{mask.suffix}"


def _unsupported_files(
    dataset: FileDataset, folders: Iterable[Path], suffixes: tuple[str, ...], noun: str
) -> list[Finding]:
    others = [path for path in _files(folders, None) if path.suffix.lower() not in suffixes]
    if not others:
        return []
    files = tuple(relative(path, dataset.root) for path in others)
    text = f"{format_count(len(files), 'file')} of an unsupported type among the {noun}: {format_names(files)}"
    return [Finding("note", "other-files", text, files=files)]


def _files(folders: Iterable[Path], suffixes: tuple[str, ...] | None) -> list[Path]:
    """Return the files in some folders with one of the suffixes (any if None), sorted, without hidden files."""
    found = []
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        paths = (folder / name for name in os.listdir(folder) if not name.startswith("."))
        found += [path for path in paths if path.is_file()]  # False for a symlink loop, where DirEntry raises
    return sorted(path for path in found if suffixes is None or path.suffix.lower() in suffixes)
