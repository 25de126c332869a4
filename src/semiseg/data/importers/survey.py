"""Describe a folder that fits no form: which files it holds, and which form is the nearest."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path

from semiseg.data.benchmarks.recognition import OWN_CLASSES
from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.files.image_header import UNREADABLE, open_image
from semiseg.data.importers.source_files import walk_files
from semiseg.errors import UserError

EXAMINED = 20_000
"""Files that are counted at most."""
MASK_COLORS = 64
"""An image with at most this many colors is counted as a mask."""
LARGEST = 10_000_000
"""Pixels of the largest image that is decoded."""
KINDS = {".json": "JSON file", ".xml": "XML file", ".txt": "TXT file", ".csv": "CSV file", ".npy": "NPY file"}


def unknown_form_error(root: Path, tried: bool = False) -> UserError:
    """Return an error that names what a folder holds, and the nearest form.

    Args:
        root: The folder.
        tried: Whether an import without ``--form`` has failed.
    """
    files = [path for path in islice(walk_files(root), EXAMINED) if path.name not in OWN_CLASSES]
    files = [path for path in files if path.parent != root / "splits"]
    counts: dict[Path, Counter[str]] = defaultdict(Counter)
    for path in files:
        suffix = path.suffix.lower()
        kind = "image" if suffix in IMAGE_SUFFIXES else KINDS.get(suffix, f"{suffix[1:].upper() or 'other'} file")
        counts[path.parent][kind] += 1
    first_images: dict[Path, list[Path]] = defaultdict(list)
    for path in files:
        if path.suffix.lower() in IMAGE_SUFFIXES and len(first_images[path.parent]) < 3:
            first_images[path.parent].append(path)
    masks = {folder for folder, paths in first_images.items() if all(map(_is_mask, paths))}
    for folder in first_images:
        counts[folder]["mask" if folder in masks else "photograph"] = counts[folder].pop("image")
    parts = [
        f"{number} {kind}{'s' * (number != 1)} in {_below(folder, root)}"
        for folder, found in sorted(counts.items())
        for kind, number in found.most_common(3)
    ]
    more = f" and {len(parts) - 8} more" if len(parts) > 8 else ""
    problem = f"neither images/ with masks/ nor a form that is known; found {', '.join(parts[:8]) or 'no files'}{more}"
    photographs = [folder for folder in first_images if folder not in masks]
    return UserError(problem, path=root, fix=_nearest(root, counts, photographs, sorted(masks), tried))


def _nearest(
    root: Path, counts: dict[Path, Counter[str]], photographs: list[Path], masks: list[Path], tried: bool
) -> str:
    """Return what to do to bring the files into the nearest form."""
    command = f"semiseg import {root} --out {root}-semiseg"
    kinds = {kind for found in counts.values() for kind in found}
    if _holds_boxes(root):
        return "annotate the outlines of objects: boxes, as in these XML files, do not say which pixels are inside"
    if photographs and masks:
        images, painted = (_below(folders[0], root) for folders in (photographs, masks))
        if tried:
            return f"pass --images and --masks, and --mask-suffix if names in {painted} and {images} differ"
        return f"if {painted} holds the masks of {images}, run: {command}"
    for kind, forms in {
        "JSON file": "labelme, coco, label-studio and others",
        "XML file": "cvat",
        "TXT file": "yolo (which needs data.yaml)",
    }.items():
        if kind in kinds:
            return f"if the {kind}s are the annotation, run: {command} --form NAME (forms: {forms})"
    if photographs:
        return "put the photographs in images/ and masks with the same names in masks/"
    if masks:
        return "add the photographs in images/, with the names of the masks"
    return "give the folder that holds the images and their annotation; semiseg datasets lists the forms"


def _holds_boxes(root: Path) -> bool:
    """Return whether the first XML file holds boxes, as those of Pascal VOC for detection."""
    first = next((path for path in islice(walk_files(root), EXAMINED) if path.suffix.lower() == ".xml"), None)
    if first is None:
        return False
    with first.open("rb") as file:
        return b"<bndbox>" in file.read(100_000)


def _below(folder: Path, root: Path) -> str:
    return "this folder" if folder == root else f"{folder.relative_to(root).as_posix()}/"


def _is_mask(path: Path) -> bool:
    """Return whether an image has few colors."""
    try:
        with open_image(path) as opened:
            if opened.format == "JPEG" or opened.width * opened.height > LARGEST:
                return False
            return opened.getcolors(MASK_COLORS) is not None
    except UNREADABLE:
        return False
