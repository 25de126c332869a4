"""Find the image that a line of a list or table names: with or without folders and suffix, in any Unicode form."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property

from semiseg.data.files.file_lists import IMAGE_SUFFIXES, nfc
from semiseg.errors import UserError

SUFFIX = "(?:" + "|".join(map(re.escape, IMAGE_SUFFIXES)) + ")"


class IdLookup:
    """Finds ids by the names in lists.

    The first of these that exists is found: the name itself, the name without its suffix, the same without its leading
    folders one by one, and the only id that ends with the name. Leading folders are removed only up to a folder that
    holds images: if there are images in ``2023/``, then ``2023/b.jpg`` is not an image ``b``.

    Args:
        ids: All ids.
        ending: The part of file names after the id and before the suffix (``SegmentationDataset.image_ending``).
    """

    def __init__(self, ids: Iterable[str], ending: str = "") -> None:
        self.known, self.ending = set(ids), ending

    @cached_property
    def _folders(self) -> set[str]:
        """The folders that hold images, and the folders above them."""
        direct = {id.rpartition("/")[0] for id in self.known if "/" in id}
        return {"/".join(parts[:end]) for parts in (f.split("/") for f in direct) for end in range(1, len(parts) + 1)}

    @cached_property
    def _by_name(self) -> dict[str, list[str]]:
        """The ids in folders by their last component."""
        groups: dict[str, list[str]] = defaultdict(list)
        for id in self.known if self._folders else ():
            groups[id.rpartition("/")[2]].append(id)
        return groups

    def find(self, text: str) -> str | None:
        """Return the id that ``text`` names, or None.

        Raises:
            UserError: Several images could be meant.
        """
        if text in self.known:
            return text
        parts = _parts(text)
        for start in range(len(parts)):
            for form in self._forms("/".join(parts[start:])):
                if form in self.known:
                    return form
            if "/".join(parts[start:-1]) in self._folders:
                break
        return self._find_tail(parts)

    def _find_tail(self, parts: list[str]) -> str | None:
        """Return the only id that ends with the parts, without suffix, or None."""
        for form in self._forms("/".join(parts)) if parts and self._folders else ():
            candidates = self._by_name.get(form.rpartition("/")[2], ())
            found = sorted(id for id in candidates if id.endswith("/" + form))
            if len(found) > 1:
                problem = f"{form!r} may be {found[0]} or {found[1]}"
                raise UserError(problem, fix="write the folder before the name")
            if found:
                return found[0]
        return None

    def missing_id(self, text: str) -> str:
        """Return the id for a name that is not an image: without suffix, and without folders unless ids have some."""
        parts = _parts(text)
        return self._forms("/".join(parts if self._folders else parts[-1:]))[-1]

    def _forms(self, name: str) -> tuple[str, str, str]:
        """Return a name, then without its suffix, then without the ending of the data set as well."""
        stem = re.sub(rf"{SUFFIX}$", "", name, flags=re.IGNORECASE)
        return name, stem, stem.removesuffix(self.ending)


def _parts(text: str) -> list[str]:
    """Return the folders and the name in ``text``."""
    return [part for part in re.split(r"[/\\]", nfc(text)) if part not in ("", ".")]
