"""Predict images of any size within the available memory: at once if possible, else in windows."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from semiseg.errors import UserError, printable
from semiseg.inference.memory_estimate import available_memory, bytes_per_pixel, is_allocation_error
from semiseg.inference.predictor import Predictor
from semiseg.inference.windows import Region, predict_windows

MODES = ("auto", "whole", "slide")
ALWAYS_FITS = 2**20  # pixels; memory is not estimated for smaller images
AUTO_WINDOW = 1024  # pixels of the resized image
SHARE = 0.8  # of the available memory


class Pixels(Protocol):
    """An image to predict.

    Attributes:
        name: The file, for messages.
        size: Height and width in pixels.
    """

    name: str
    size: tuple[int, int]

    def read(self, top: int, left: int, height: int, width: int) -> Tensor:
        """Return the pixels of a rectangle, uint8 ``(3, height, width)``."""


class BoundedPredictor:
    """Predict images at once, or in windows if they do not fit into memory.

    Args:
        predictor: Its mode must be ``whole``.
        crop_size: The side of the windows, in pixels of the resized image. Images that do not fit into memory are
            predicted in windows of up to ``AUTO_WINDOW``, which give nearly the result of the whole image.
        mode: ``auto``, ``whole`` (never in windows) or ``slide`` (always).
        window: The side of the windows in all cases.
        processes: The number of processes that share the memory of the machine.
    """

    def __init__(
        self, predictor: Predictor, crop_size: int, mode: str = "auto", window: int | None = None, processes: int = 1
    ) -> None:
        self.predictor, self.mode, self.crop_size, self.window = predictor, mode, crop_size, window
        self.processes = processes if predictor.device.type == "cpu" else 1
        self._bytes_per_pixel = 0.0
        self._noted = False

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether an image of this height and width is predicted at once."""
        if self.mode != "auto":
            return self.mode == "whole"
        pixels = self.predictor.peak_pixels(*size)
        return pixels <= ALWAYS_FITS or self._has_memory_for(pixels)

    def _has_memory_for(self, pixels: int) -> bool:
        self._bytes_per_pixel = self._bytes_per_pixel or bytes_per_pixel(self.predictor)
        return pixels * self._bytes_per_pixel <= SHARE * self.free_memory()

    def window_side(self, estimate: bool = True) -> int:
        """Return the side of the windows, in pixels of the image; the least one without an ``estimate`` of memory."""
        side = self.window or self.crop_size
        if self.mode == "auto" and self.window is None and estimate:
            larger = AUTO_WINDOW
            while larger > side and not self._has_memory_for(larger**2):
                larger //= 2
            side = max(side, larger)
        return max(1, round(side / self.predictor.image_scale))

    def free_memory(self) -> float:
        """Return the memory in bytes that this process may use on its device."""
        return available_memory(self.predictor.device) / self.processes

    def regions(self, image: Pixels, probabilities: bool = True) -> Iterator[Region]:
        """Yield the probabilities of an image in disjoint rectangles that cover it.

        Args:
            image: The image.
            probabilities: Whether they are needed; otherwise any scores with the same largest class are enough.

        Raises:
            UserError: There is not enough memory.
        """
        if fits := self.fits(image.size):
            try:
                predict = self.predictor.probabilities if probabilities else self.predictor.scores
                whole = Region(0, 0, predict(image.read(0, 0, *image.size)))
            except (RuntimeError, MemoryError) as error:
                if not is_allocation_error(error):
                    raise
                if self.mode == "whole":
                    raise self.exhausted(image, "pass --mode slide") from None
            else:
                yield whole
                return
            if self.predictor.device.type == "cuda":
                torch.cuda.empty_cache()
        side = self.window_side(estimate=not fits)
        if self.mode == "auto":
            self._note(image, side)
        try:
            yield from predict_windows(self.predictor, image.read, image.size, side)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_error(error):
                raise
            raise self.exhausted(image, "pass a smaller --window") from None

    def exhausted(self, image: Pixels, fix: str) -> UserError:
        """Return the error about an image for which there is not enough memory."""
        height, width = image.size
        problem = f"{width} x {height} pixels do not fit into the available memory"
        return UserError(problem, path=image.name, fix=fix)

    def _note(self, image: Pixels, side: int) -> None:
        """Print once that images are predicted in windows."""
        if not self._noted:
            height, width = image.size
            text = f"{image.name}: {width} x {height} pixels do not fit into memory at once"
            print(printable(f"note: {text}. Predicting such images in windows of {side} pixels"), file=sys.stderr)
            self._noted = True
