"""What lies beside the images and masks, and how the files are named."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

from semiseg.data.dataset import SegmentationDataset
from semiseg.data.file_dataset import FileDataset
from semiseg.data.files.image_files import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES
from semiseg.tools.checking.finding import Finding, counted, image_names, listed, relative


def file_findings(dataset: SegmentationDataset) -> list[Finding]:
    """Return what names and folders give away, without opening a file."""
    findings = _same_but_for_case(dataset)
    if isinstance(dataset, FileDataset):
        folders = {path.parent for path in dataset.images.values()}
        mask_folders = {path.parent for path in dataset.masks.values()} or {dataset.root / "masks"}
        findings += _of_other_kinds(dataset, folders, IMAGE_SUFFIXES, "images")
        # Where masks have other stems than images (Cityscapes), more files than masks belong beside them.
        if all(path.stem == id for id, path in dataset.masks.items()):
            findings += _without_image(dataset, mask_folders)
            findings += _of_other_kinds(dataset, mask_folders - folders, (*MASK_SUFFIXES, *JPEG_SUFFIXES), "masks")
    return findings


def _same_but_for_case(dataset: SegmentationDataset) -> list[Finding]:
    groups: dict[str, list[str]] = defaultdict(list)
    for id in dataset.ids:
        groups[id.casefold()].append(id)
    ids = [id for group in groups.values() if len(group) > 1 for id in group]
    if not ids:
        return []
    files = image_names(dataset, ids)
    text = f"{len(files)} images whose names differ only by case: {listed(files)}"
    remedy = "rename them: other systems would keep only one of each"
    return [Finding("warning", "case", text, remedy, files)]


def _without_image(dataset: FileDataset, folders: set[Path]) -> list[Finding]:
    strays = [path for path in _files(folders, MASK_SUFFIXES) if path.stem not in dataset.images]
    if not strays:
        return []
    files = tuple(relative(path, dataset.root) for path in strays)
    text = f"{counted(len(files), 'mask')} without image: {listed(files)}"
    unmasked = {id.casefold(): id for id in dataset.ids if id not in dataset.masks}
    guess = next((hint for path in strays if (hint := _meant(path, dataset, unmasked))), "")
    return [Finding("warning", "mask-without-image", text, f"name each mask after its image{guess}", files)]


def _meant(mask: Path, dataset: FileDataset, unmasked: Mapping[str, str]) -> str:
    """Return which image a mask may be of: one whose name is the same but for case, or the beginning of the mask's."""
    stem = mask.stem.casefold()
    beginnings = (stem[:length] for length in range(len(stem), 0, -1))
    id = next((unmasked[beginning] for beginning in beginnings if beginning in unmasked), None)
    if id is None:
        return ""
    return f": {mask.name} may be meant for {dataset.images[id].name}, and would be {id}{mask.suffix}"


def _of_other_kinds(
    dataset: FileDataset, folders: Iterable[Path], suffixes: tuple[str, ...], noun: str
) -> list[Finding]:
    others = [path for path in _files(folders, None) if path.suffix.lower() not in suffixes]
    if not others:
        return []
    files = tuple(relative(path, dataset.root) for path in others)
    text = f"{counted(len(files), 'file')} among the {noun} of a kind that is not read: {listed(files)}"
    return [Finding("note", "other-files", text, files=files)]


def _files(folders: Iterable[Path], suffixes: tuple[str, ...] | None) -> list[Path]:
    """Return the files of some folders, sorted, hidden ones left out; only those with one of the suffixes, if given."""
    found = []
    for folder in sorted(folder for folder in folders if folder.is_dir()):
        paths = (folder / name for name in os.listdir(folder) if not name.startswith("."))
        found += [path for path in paths if path.is_file()]  # False for a link to itself, where DirEntry raises
    return sorted(path for path in found if suffixes is None or path.suffix.lower() in suffixes)
