"""Hold out validation images by a hash of their ids, if the data have no val list."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from semiseg.data.files.file_lists import nfc

SHARE = 1 / 5
FEW_VAL = 20
"""With fewer val images, differences of a few points of mIoU are chance."""


def hash_of(id: str) -> float:
    """Return a number in [0, 1) that depends on the id alone: the first 8 bytes of its SHA-256."""
    digest = hashlib.sha256(nfc(id).encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def hold_out(ids: Iterable[str]) -> set[str]:
    """Return the images to validate on: about a fifth, at least one, and not all of several.

    The choice depends on no seed. As long as an image is below ``SHARE`` and another is not, masks that are added later
    move no image from the training to the validation list.
    """
    ordered = sorted(ids, key=hash_of)
    below = sum(hash_of(id) < SHARE for id in ordered)
    return set(ordered[: max(1, min(below, len(ordered) - 1))])
