"""Choose the bands and the white value of a data set from a sample of its images."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semiseg.data.files.image_header import UNREADABLE
from semiseg.data.files.pixel_format import RGB, Bands, PixelFormat, White
from semiseg.data.files.stored_values import StoredFormat, stored_format, stored_values
from semiseg.errors import UserError, require_regular_file

SAMPLE = 64  # images whose header is read
VALUES_OF = 24  # images of more than 8 bits whose values are read
VALUES_EACH = 1 << 16  # values per band and image
MAX_VALUES = 500_000_000  # after which no further image is read
DEFAULT_WHITE = "p99.8"
FULL_BANDS = "all"


@dataclass(frozen=True)
class PixelChoice:
    """The pixel format of a data set.

    Attributes:
        format: The format.
        notes: The range of the values and the bands, one line each; warnings begin with ``warning: ``.
    """

    format: PixelFormat = RGB
    notes: tuple[str, ...] = ()


def choose_pixel_format(
    images: Mapping[str, Path], root: Path, bands: Bands = None, white: White = None, limit: int = SAMPLE
) -> PixelChoice:
    """Choose the bands and the white value of images.

    ``bands`` and ``white`` in ``classes.json`` apply unless the arguments are given. Without either, images are RGB,
    except those of two or more than four bands, which keep all; the white value is percentile 99.8. Images of 8 bits
    have no white value.

    Args:
        images: The image files by id. A deterministic sample of them is read.
        root: The folder of the data set.
        bands: Numbers from 1, or ``all``.
        white: A value, or a percentile such as ``p99.8``.
        limit: The number of images whose header is read.

    Raises:
        UserError: An option is invalid, or the images do not have the same bands.
    """
    given = read_pixel_options(root)
    bands = check_bands(given.get("bands"), root / "classes.json") if bands is None else check_bands(bands)
    white = check_white(given.get("white"), root / "classes.json") if white is None else check_white(white)
    formats = read_formats(images[id] for id in sample_ids(images, limit))
    chosen, notes = choose_bands(formats, bands)
    deep = {path: kind for path, kind in formats.items() if kind.deep}
    if not deep:
        return PixelChoice(PixelFormat(chosen, white if isinstance(white, float) else None), tuple(notes))
    values = read_sample(deep, chosen)
    if not values.size:
        return PixelChoice(PixelFormat(chosen), tuple(notes))
    value, source = choose_white(values, deep.values(), white)
    notes.insert(0, range_note(values, Counter(kind.kind for kind in deep.values()), value, source))
    if float(np.percentile(values, 1)) < -value / 50:
        raise UserError(
            f"images hold values below 0, such as {values.min():g}",
            path=next(iter(deep)),
            fix="add a constant to all images, so that black is 0",
        )
    if len(deep) < len(formats):
        shallow = next(path for path in formats if path not in deep)
        notes.append(
            f"warning: {len(deep)} of {len(formats)} images have more than 8 bits, the others, such as {shallow.name}, "
            "have 8: white applies to the former only. Save all images with the same depth"
        )
    return PixelChoice(PixelFormat(chosen, value), tuple(notes))


def sample_ids(ids: Iterable[str], count: int) -> list[str]:
    """Return at most ``count`` ids, those with the smallest hash, which does not depend on other ids."""
    return sorted(ids, key=lambda id: hashlib.sha256(id.encode("utf-8", "surrogateescape")).digest())[:count]


def read_formats(paths: Iterable[Path]) -> dict[Path, StoredFormat]:
    """Return the format of each image. Unreadable images are left out; they are reported when they are used."""
    formats = {}
    for path in paths:
        try:
            formats[path] = stored_format(path)
        except UNREADABLE:
            continue
    return formats


def choose_bands(formats: Mapping[Path, StoredFormat], bands: Bands) -> tuple[tuple[int, ...] | None, list[str]]:
    """Return the bands to read, None for RGB, and notes about them.

    Raises:
        UserError: An image lacks a band, or the images have different numbers of bands and all are to be read.
    """
    if isinstance(bands, tuple):
        for path, kind in formats.items():
            if max(bands) > kind.bands:
                raise UserError(
                    f"it has {kind.bands} bands, and band {max(bands)} is selected",
                    path=path,
                    fix='correct "bands" in classes.json or --bands',
                )
        return bands, [f"images: bands {', '.join(map(str, bands))} of {band_counts(formats)}"]
    many = {path: kind for path, kind in formats.items() if kind.bands > 4 or (kind.bands == 2 and not kind.alpha)}
    if bands == FULL_BANDS or many:
        first, kind = next(iter((many or formats).items()))
        other = next((path for path, other in formats.items() if other.bands != kind.bands), None)
        if other is not None:
            raise UserError(
                f"it has {formats[other].bands} bands, and {first.name} has {kind.bands}",
                path=other,
                fix='select bands that all images have by "bands" in classes.json, such as [1, 2, 3]',
            )
        note = f"images: all {kind.bands} bands are used"
        return tuple(range(1, kind.bands + 1)), [
            f'{note}. Set "bands" in classes.json to select some' if many else note
        ]
    if any(kind.bands == 4 and not kind.alpha and not kind.inks for kind in formats.values()):
        unused = (
            'images: the fourth band is not used. Set "bands" in classes.json to "all", or to a list such as [4, 3, 2]'
        )
        return None, [unused]
    return None, []


def band_counts(formats: Mapping[Path, StoredFormat]) -> str:
    """Return the numbers of bands of the images in words."""
    return " or ".join(map(str, sorted({kind.bands for kind in formats.values()})))


def read_sample(formats: Mapping[Path, StoredFormat], bands: tuple[int, ...] | None) -> NDArray[np.float32]:
    """Return values of a few images, evenly spaced over each, without missing ones and transparency."""
    found: list[NDArray[np.float32]] = [np.empty(0, dtype=np.float32)]
    read = 0
    for path, kind in list(formats.items())[:VALUES_OF]:
        if read > MAX_VALUES:
            break
        try:
            stored = stored_values(path)
        except UNREADABLE:
            continue
        read += stored.values.size
        count = kind.bands - kind.alpha
        for band in [band - 1 for band in bands] if bands else range(min(count, 3)):
            values = stored.values[..., band]
            valid = values if stored.missing is None else values[~stored.missing[..., band]]
            found.append(valid.ravel()[:: max(1, valid.size // VALUES_EACH)].astype(np.float32))
    return np.concatenate(found)


def choose_white(values: NDArray[np.float32], kinds: Iterable[StoredFormat], white: White) -> tuple[float, str]:
    """Return the white value, and in words where it is from.

    By default it is 65535, for floats 1 or 255, if that is the end of the range and more than half of it is used.
    """
    if isinstance(white, float):
        return white, "as given"
    name = white or DEFAULT_WHITE
    value = percentile(values, float(name[1:]))
    ends = (65535.0,) if all(kind.integer for kind in kinds) else (1.0, 255.0)
    for end in ends:
        if white is None and end / 2 < value <= end and float(values.max()) <= end:
            return end, "the end of the range"
    return value, name


def percentile(values: NDArray[np.float32], percent: float) -> float:
    """Return a percentile with six digits, or the largest value or 1 if it is not above 0."""
    value = float(f"{np.percentile(values, percent):.6g}")
    return value if value > 0 else max(float(values.max()), 0.0) or 1.0


def range_note(values: NDArray[np.float32], kinds: Counter[str], white: float, source: str) -> str:
    """Return the range of the values in one line."""
    kind = " and ".join(sorted(kinds))
    return (
        f"images: {kind}, values {values.min():g} to {values.max():g}; white is {white:g} ({source}). "
        'Set "white" in classes.json to change it'
    )


def read_pixel_options(root: Path) -> dict[str, Any]:
    """Return ``bands`` and ``white`` of ``classes.json``; an unusable file is reported when its classes are read."""
    try:
        content = json.loads(require_regular_file(root / "classes.json").read_text(encoding="utf-8-sig"))
        return {key: content[key] for key in ("bands", "white") if content.get(key) is not None}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}


def check_bands(value: Any, path: Path | None = None) -> Bands:
    """Return ``bands`` as a tuple, ``all`` or None. Raises UserError, naming ``path`` or the option, otherwise."""
    if value is None or value == FULL_BANDS:
        return FULL_BANDS if value else None
    if (
        isinstance(value, (list, tuple))
        and 1 <= len(value) <= 512
        and all(type(band) is int and band > 0 for band in value)
    ):
        return tuple(value)
    problem = f'"bands" is {value!r:.60}' if path else f"{value!r:.60} is not a list of bands"
    raise UserError(problem, path=path, option=None if path else "bands", fix='write numbers from 1, or "all"')


def check_white(value: Any, path: Path | None = None) -> White:
    """Return ``white`` as a float, ``pN`` or None. Raises UserError, naming ``path`` or the option, otherwise."""
    if value is None:
        return None
    try:
        if isinstance(value, str) and value.startswith("p") and 50 <= float(value[1:]) <= 100:
            return value
        if not isinstance(value, bool) and 0 < float(value) < 1e30:
            return float(value)
    except (TypeError, ValueError):
        pass
    problem = f'"white" is {value!r:.60}' if path else f"{value!r:.60} is not a white value"
    fix = "write a value above 0, or a percentile from p50 to p100, such as p99.8"
    raise UserError(problem, path=path, option=None if path else "white", fix=fix)
