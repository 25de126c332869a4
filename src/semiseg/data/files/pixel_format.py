"""The pixel format of a data set: which bands are read, and which value is white."""

from __future__ import annotations

from dataclasses import dataclass

Bands = tuple[int, ...] | str | None
"""Bands counted from 1, or ``all``."""
White = float | str | None
"""A value, or a percentile such as ``p99.8``."""


@dataclass(frozen=True)
class PixelFormat:
    """Which bands of a file are read, and which value becomes white.

    Attributes:
        bands: The bands to read, counted from 1. None reads RGB, or gray as RGB.
        white: The value that becomes 255 in images of more than 8 bits; larger values are clipped. None is the rule of
            version 0.1.0: 65535 for 16 bits, and the largest value of the image beyond that.
    """

    bands: tuple[int, ...] | None = None
    white: float | None = None

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return len(self.bands) if self.bands else 3


RGB = PixelFormat()
