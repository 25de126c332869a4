"""Find the image of each mask by name: equal, with a suffix, with two suffixes, in other case or Unicode form."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from semiseg.data.files.file_lists import IMAGE_SUFFIXES
from semiseg.data.importers.list_folders import LIST_FOLDERS
from semiseg.data.importers.mask_trees.groups import IMAGE_WORDS, key, mask_core, strip_word
from semiseg.errors import UserError

Located = tuple[Path, tuple[str, ...]]
"""A file and its folders without words for images or masks."""
MASK_FILES = (*IMAGE_SUFFIXES, ".npy")


class Pair(NamedTuple):
    """A mask and its image.

    Attributes:
        image: The image file.
        mask: The mask file.
        rest: The part of the mask's name after the name of the image, unless it is a word for masks.
        how: How the names were matched, for a note; empty if they are equal.
    """

    image: Path
    mask: Path
    rest: str
    how: str


def pair_masks(
    images: Iterable[Located], masks: Iterable[Located], mask_suffix: str | None, several: bool = False
) -> list[Pair]:
    """Return the masks that belong to an image.

    Each mask is compared with the images in the same folders. If no mask has its image there, all are compared with all
    images. The first way that finds an image counts. A suffix counts only if it is not a number and most masks have it.

    Args:
        images: The images.
        masks: The masks.
        mask_suffix: The suffix that the user gave.
        several: Whether an image may have several masks: a folder or a suffix, also a number, may name the class.

    Raises:
        UserError: A mask matches several images.
    """
    images = list(images)
    finder = _Finder(images)
    named = [located for located in masks if mask_suffix is None or _ends(located[0], mask_suffix)]
    pairs = [pair for mask, place in named if (pair := finder.find_near(mask, _fold(place), mask_suffix))]
    if several:
        paired = {pair.mask for pair in pairs}
        rest = ((mask, _fold(place)) for mask, place in named if mask not in paired)
        pairs += [pair for mask, place in rest if (pair := finder.find_above(mask, place, mask_suffix))]
    else:
        pairs = _drop_accidental(pairs)
    if not pairs:
        folders = len({place for _, place in images})
        how = "by name in another folder" if folders > 1 else ""
        found = [pair for mask, _ in named if (pair := finder.find_in(mask, None, mask_suffix))]
        pairs = [pair._replace(how=f"{pair.how} {how}".strip()) for pair in found]
    return pairs


def _drop_accidental(pairs: list[Pair]) -> list[Pair]:
    """Return the pairs without those whose mask has a further suffix, if it is a number or fewer masks have one."""
    suffixed = [pair for pair in pairs if pair.rest]
    numbered = {pair.mask for pair in suffixed if re.fullmatch(r"[\W_]*\d+[\W_]*", pair.rest)}
    few = 2 * len(suffixed) < len(pairs)
    return [pair for pair in pairs if not (pair.rest and (few or pair.mask in numbered))]


def notes_on(pairs: Iterable[Pair]) -> list[str]:
    """Return a line for each way of matching other than by equal names, with the number of masks."""
    counts = Counter(pair.how for pair in pairs if pair.how)
    return [f"{count} mask{'s are' if count > 1 else ' is'} matched {how}" for how, count in counts.items()]


class _Finder:
    """Images by name, in several forms."""

    def __init__(self, images: Iterable[Located]) -> None:
        self._forms: dict[tuple[str, tuple[str, ...] | None, str], set[Path]] = defaultdict(set)
        for path, place in images:
            for kind, name in (
                ("name", key(path.name)),
                ("stem", key(path.stem)),
                ("core", key(strip_word(path.stem, IMAGE_WORDS))),
            ):
                for folders in (_fold(place), None):
                    self._forms[kind, folders, name].add(path)
                    self._forms[f"{kind}, other case", folders, name.lower()].add(path)

    def find_near(self, mask: Path, place: tuple[str, ...], mask_suffix: str | None) -> Pair | None:
        """Return the pair with an image in the same folders, also if the name of the mask only starts like it."""
        return self.find_in(mask, place, mask_suffix) or self._find_start(mask, place)

    def find_above(self, mask: Path, place: tuple[str, ...], mask_suffix: str | None) -> Pair | None:
        """Return the pair of a mask in a folder that is named after its class, or after its image."""
        for index in reversed(range(len(place))):
            if pair := self.find_near(mask, place[:index] + place[index + 1 :], mask_suffix):
                return pair
        found = self._forms.get(("stem, other case", place[:-1], place[-1]), set()) if place else set()
        return Pair(next(iter(found)), mask, f"_{key(mask.stem)}", "by its folder") if len(found) == 1 else None

    def find_in(self, mask: Path, place: tuple[str, ...] | None, mask_suffix: str | None) -> Pair | None:
        """Return the pair of a mask and an image in some folders, None for any folder, or None if no image matches."""
        stem = key(mask.stem)
        core, inner = key(mask_core(stem, mask_suffix)), key(mask_core(without_suffix(stem), mask_suffix))
        removed = f"without {mask_suffix or stem.replace(core, '', 1) or stem.replace(inner, '', 1)!r}"
        forms = [
            ("name", stem, "with the suffix of the image"),
            ("stem", stem, ""),
            ("stem", without_suffix(stem), "without the second suffix"),
        ]
        forms += [("name", core, removed), ("stem", core, removed), ("core", core, removed), ("core", inner, removed)]
        ways: list[tuple[str, Callable[[str], str], str]] = [
            ("", str, ""),
            (", other case", str.lower, " in other case"),
        ]
        for extra, change, words in ways:
            for kind, form, how in forms:
                if place is None and not form:  # the name of the folder is the name of the image
                    continue
                found = self._forms.get((kind + extra, place, change(form)), set())
                if len(found) > 1:
                    raise _several(mask, sorted(found))
                if found:
                    return Pair(next(iter(found)), mask, "", (how + words).strip())
        return None

    def _find_start(self, mask: Path, place: tuple[str, ...]) -> Pair | None:
        """Return the pair with the image whose name the mask's name starts with, the longest one, if any."""
        name = key(mask.stem)
        for match in reversed(list(re.finditer(r"[\W_]", name))):
            start = name[: match.start()].lower()
            found = self._forms.get(("stem, other case", place, start)) or self._forms.get(
                ("core, other case", place, start), set()
            )
            if len(found) > 1:
                raise _several(mask, sorted(found))
            if found:
                rest = name[match.start() :]
                dotted = next((end for end in IMAGE_SUFFIXES if rest.lower().startswith(end)), "")
                return Pair(next(iter(found)), mask, rest[len(dotted) :], f"without {rest!r}")
        return None


def _ends(mask: Path, mask_suffix: str) -> bool:
    return mask.stem.endswith(mask_suffix) or without_suffix(mask.stem).endswith(mask_suffix)


def without_suffix(stem: str) -> str:
    """Return the stem of ``NAME.jpg.png`` without ``.jpg``, or the stem itself."""
    end = next((suffix for suffix in MASK_FILES if stem.lower().endswith(suffix)), "")
    return stem[: len(stem) - len(end)]


def _fold(place: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(key(part).lower() for part in place)


def _several(mask: Path, images: list[Path]) -> UserError:
    problem = f"the mask fits {images[0]} and {images[1]}"
    return UserError(problem, path=mask, fix=f"name it after one of them, as {images[0].name}{mask.suffix}")


def own_folders(image_place: tuple[str, ...], mask_place: tuple[str, ...]) -> str:
    """Return the folders of a mask that its image and the lists do not have, joined by slashes."""
    return "/".join(part for part in mask_place if part not in image_place and part.lower() not in LIST_FOLDERS)
