"""Match masks to images by name, and recognize masks and images that a name or suffix hides."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from semiseg.data.files.file_lists import IMAGE_SUFFIXES, MASK_SUFFIXES, list_files, other_files
from semiseg.data.files.image_header import describe_unsupported, way_out
from semiseg.errors import UserError, printable

AFFIX = r"[\W_]*(masks?|labels?|labell?ed|seg|segm|segmentation|gt|ground[\W_]?truth|annotation|anno)[\W_]*"
"""Words that tools add to the names of masks, with what separates them from the name of the image."""


def match_masks(images: Mapping[str, Path], masks: Mapping[str, Path]) -> dict[str, Path]:
    """Match masks to images of the same stem, or of the stem without ``_L``, which CamVid adds.

    If there is an image ``a_L``, the mask ``a_L`` belongs to it and not to an image ``a``.
    """
    tolerated = {s.removesuffix("_L"): path for s, path in masks.items() if s.endswith("_L") and s not in images}
    return {stem: path for stem, path in (tolerated | dict(masks)).items() if stem in images}


def unmatched_masks(images: Collection[str], masks: Mapping[str, Path], matched: Mapping[str, Path]) -> dict[str, Path]:
    """Return the masks that ``match_masks`` leaves out, by id."""
    return {id: path for id, path in masks.items() if id not in images and id.removesuffix("_L") not in matched}


def misnamed_masks(images: Collection[str], unmatched: Collection[str], matched: Collection[str]) -> dict[str, str]:
    """Return the image of each unmatched mask whose name differs by case, by an image suffix or by an added word.

    Examples are ``IMG_1`` for ``img_1``, ``a.jpg`` for ``a``, and ``a_mask``, ``mask-a`` or ``a GT`` for ``a``. An
    image that has a mask is not considered.

    Args:
        images: The ids of the images.
        unmatched: The ids of the masks without an image of the same id.
        matched: The ids of the images that have a mask.
    """
    if not unmatched:
        return {}
    candidates = (id for id in images if id not in matched)
    by_key: dict[str, str] = {}
    for id in candidates:
        by_key.setdefault(id.casefold(), id)
    return {mask: by_key[key] for mask in unmatched for key in _plain_names(mask) if key in by_key}


def _plain_names(mask: str) -> Iterator[str]:
    """Yield the names that an image of a mask may have, in lower case; the most similar one comes last."""
    folder, slash, name = mask.casefold().rpartition("/")
    plain = re.sub(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})$", "", name)
    for form in (name, plain):
        yield folder + slash + re.sub(rf"^{AFFIX}", "", form)
        yield folder + slash + re.sub(rf"{AFFIX}$", "", form)
    yield folder + slash + plain
    yield folder + slash + name


def check_mask_names(
    root: Path, images: Mapping[str, Path], masks: Mapping[str, Path], matched: Mapping[str, Path]
) -> None:
    """Check that the masks of a folder are named after its images.

    Raises:
        UserError: Masks have other names than their images, or no mask belongs to an image.
    """
    unmatched = unmatched_masks(images, masks, matched)
    misnamed = misnamed_masks(images, unmatched, matched)
    fix = f"run: semiseg import {root} --out {root}-semiseg"
    if misnamed:
        mask, image = next(iter(misnamed.items()))
        more = f" ({len(misnamed)} masks of {len(masks)} are named like this)" if len(misnamed) > 1 else ""
        problem = f"the name differs from that of its image, {images[image].name}{more}"
        raise UserError(problem, path=masks[mask], fix=fix)
    if masks and not matched:
        first = next(iter(masks))
        skipped = other_files(root / "images", IMAGE_SUFFIXES)
        kinds = Counter(path.suffix for id, path in skipped.items() if id in masks)
        if kinds:
            suffix, count = kinds.most_common(1)[0]
            problem = f"its image is a {suffix} file, which is not read (like {count} of {len(masks)} masks)"
            raise UserError(problem, path=masks[first], fix="convert the images to JPEG or PNG")
        raise UserError("no mask has the stem of an image", path=masks[first], fix=f"{fix}, or name masks after images")


def unread_files_note(root: Path) -> str:
    """Return a warning that counts and names the files in ``images/`` that are not read, or "" if there are none."""
    files = other_files(root / "images", IMAGE_SUFFIXES)
    if not files:
        return ""
    masks = list_files(root / "masks", MASK_SUFFIXES, clashes=[], nested=True)
    annotated = sum(id in masks for id in files)
    shown = ", ".join(path.relative_to(root).as_posix() for path in list(files.values())[:3])
    more = f" and {len(files) - 3} more" if len(files) > 3 else ""
    with_mask = f"; {annotated} of them have a mask" if annotated else ""
    known = [path for path in files.values() if way_out(path)]
    ways = f"; {describe_unsupported(known)}" if known else ""
    text = f"{len(files)} files in images/ are of a type that is not read: {printable(shown)}{more}{with_mask}{ways}"
    return f"warning: {text}"
