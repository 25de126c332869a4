"""Decide which files of a tree are images and which are masks, by the names of folders and files and by content."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from semiseg.data.files.file_lists import IMAGE_SUFFIXES, JPEG_SUFFIXES, MASK_SUFFIXES
from semiseg.data.files.image_header import UNREADABLE, open_image
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.data.importers.source_files import walk_files

Role = Literal["image", "mask", ""]

_IMAGES = (
    "image images img imgs jpegimages photo photos photograph photographs picture pictures rgb sat input inputs "
    "leftimg8bit"
)
_MASKS = (
    "mask masks label labels labelids annotation annotations annot annots ann anns gt gts groundtruth ground truth seg "
    "segs segmentation segmentations segmentationclass segmentationclassaug segmentationclasspng target targets gtfine "
    "semantic"
)
IMAGE_WORDS, MASK_WORDS = frozenset(_IMAGES.split()), frozenset(_MASKS.split())
"""Words in the names of folders and files of images and of masks, in lower case."""
OVERLAY_WORDS = frozenset(("viz", "vis", "overlay", "overlays", "visualization", "blend", "blended"))
"""Words in the names of pictures that tools write beside masks. They are left out."""
JOINED = re.compile(rf"^({'|'.join(LIST_FOLDERS)})({'|'.join(sorted(IMAGE_WORDS | MASK_WORDS))})$", re.IGNORECASE)
"""Names of folders in one word, such as ``trainannot`` of CamVid."""
SAMPLED = 3
FLAT, MANY_COLORS = 0.7, 256
"""Masks are flat: at least this share of neighboring pixels is equal, and they have at most this many colors."""


@dataclass
class Group:
    """The files of one role below one folder.

    Attributes:
        folder: The folder, relative to the root.
        role: The role by the words in the names; empty if they do not name one.
        content: The role by the pixels of a sample; empty if unclear.
        files: The files, each with its location: the folders without words for images or masks.
        suffix: The part after the name of the image, for masks beside their images, as ``_mask``.
    """

    folder: Path
    role: Role
    files: list[tuple[Path, tuple[str, ...]]]
    suffix: str = ""
    content: Role = ""

    def __str__(self) -> str:
        where = "this folder" if self.folder == Path() else f"{self.folder.as_posix()}/"
        return f"{where}*{self.suffix}.*" if self.suffix else where


def find_groups(root: Path, mask_suffix: str | None, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Group]:
    """Return the groups of image files below a folder, with their roles.

    Args:
        root: The folder.
        mask_suffix: The end of the names of masks, if the user gave it.
        suffixes: The suffixes of images and masks.
    """
    folders: dict[Path, list[Path]] = defaultdict(list)
    for path in walk_files(root):
        if path.suffix.lower() in suffixes:
            folders[path.parent].append(path)
    groups: dict[tuple[Path, Role, str], Group] = {}
    for folder, files in folders.items():
        parts = folder.relative_to(root).parts
        role, top, place = locate(parts)
        beside = {} if role == "mask" else masks_beside(files, mask_suffix)
        for path in files:
            if strip_word(path.stem, OVERLAY_WORDS) != path.stem and (beside or role == "mask"):
                continue
            key: tuple[Path, Role, str] = (Path(*top), "mask" if path in beside else role, beside.get(path, ""))
            groups.setdefault(key, Group(key[0], key[1], [], key[2])).files.append((path, place))
    for group in groups.values():
        group.content = content_of(path for path, _ in group.files)
    return list(groups.values())


def group_below(root: Path, folder: str, role: Role, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Group:
    """Return the files below a folder that the user named as the one of images or masks."""
    files = [path for path in walk_files(root / folder) if path.suffix.lower() in suffixes]
    return Group(Path(folder), role, [(path, path.relative_to(root / folder).parts[:-1]) for path in files])


def locate(parts: tuple[str, ...]) -> tuple[Role, tuple[str, ...], tuple[str, ...]]:
    """Return the role that the names of folders imply, the folders down to the last one that does, and the others.

    Words for images and masks are removed from the others: ``train_images/a`` and ``train_masks/a`` are ``train/a``.
    """
    role: Role = ""
    top, place = parts[:1], []
    for index, part in enumerate(parts):
        words = re.split(r"[\W_]+", JOINED.sub(r"\1_\2", part))
        kept = [word for word in words if word.lower() not in MASK_WORDS | IMAGE_WORDS]
        if len(kept) < len(words):
            role = "mask" if any(word.lower() in MASK_WORDS for word in words) else "image"
            top = parts[: index + 1]
            part = next((word for word in kept if word.lower() in LIST_FOLDERS), "_".join(kept))
        if part:
            place.append(part)
    return role, top, tuple(place)


def masks_beside(files: Iterable[Path], mask_suffix: str | None) -> dict[Path, str]:
    """Return the masks among the files of one folder that holds images and masks, each with its suffix.

    ``NAME_mask.png`` is a mask if ``NAME.jpg`` or ``NAME_image.jpg`` is there. Without such names, ``NAME.png`` is one
    if ``NAME.jpg`` is there and its pixels are those of a mask.
    """
    files = list(files)
    names = {
        form for path in files for form in (key(path.stem), key(strip_word(path.stem, IMAGE_WORDS)), key(path.name))
    }
    found: dict[Path, str] = {}
    for path in files:
        core = mask_core(path.stem, mask_suffix)
        if core != path.stem and key(core) in names:
            found[path] = path.stem.replace(core, "", 1) or path.stem
    if not found:
        photographs = {key(path.stem) for path in files if path.suffix.lower() in JPEG_SUFFIXES}
        twins = [p for p in files if p.suffix.lower() in MASK_SUFFIXES and key(p.stem) in photographs]
        if twins and content_of(twins) == "mask":
            found = dict.fromkeys(twins, "")
    return found


def mask_core(stem: str, mask_suffix: str | None) -> str:
    """Return the stem of a mask without the suffix that the user gave, else without words for masks."""
    return stem.removesuffix(mask_suffix) if mask_suffix else strip_word(stem, MASK_WORDS)


def strip_word(stem: str, words: frozenset[str]) -> str:
    """Return a stem without the words at its end, or the one at its start, that other characters separate from it.

    The stem ``mask`` becomes empty.
    """
    if stem.lower() in words:
        return ""
    kept = stem
    while match := re.fullmatch(r"(.+?)[\s_.-]+([^\W_]+)", kept):
        if match[2].lower() not in words and not (match[2] == "L" and words is MASK_WORDS):
            break
        kept = match[1]
    if kept == stem and (match := re.fullmatch(r"([^\W_]+)[\s_.-]+(.+)", stem)) and match[1].lower() in words:
        return match[2]
    return kept


def key(text: str) -> str:
    """Return a name for comparisons: Unicode NFC."""
    return unicodedata.normalize("NFC", text)


def content_of(files: Iterable[Path]) -> Role:
    """Return the role that the pixels of a sample of files have; empty if they differ or cannot be read."""
    files = list(files)
    if files and all(path.suffix == ".npy" for path in files):
        return "mask"
    sample = files[:: max(1, -(-len(files) // SAMPLED))]
    found = {_content(path) for path in sample}
    return found.pop() if len(found) == 1 else ""


def _content(path: Path) -> Role:
    try:
        with open_image(path) as opened:
            if opened.mode == "P" and path.suffix.lower() in MASK_SUFFIXES:
                pixels = np.array(opened)[..., None]
            else:
                colored = len(opened.getbands()) > 2
                pixels = np.array(opened.convert("RGB") if colored else opened)
                pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    except UNREADABLE:
        return ""
    height, width = (max(0, side // 2 - 512) for side in pixels.shape[:2])
    pixels = pixels[height : height + 1024, width : width + 1024]
    if min(pixels.shape[:2]) < 2:
        return ""
    flat = np.mean([(np.diff(pixels, axis=axis) == 0).all(axis=-1).mean() for axis in (0, 1)])
    few = len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) <= MANY_COLORS
    return "mask" if flat >= FLAT and (few or flat >= 0.9) else "image"
