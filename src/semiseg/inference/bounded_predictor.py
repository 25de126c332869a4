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
        window: The side of the windows, in pixels of the resized image.
        mode: ``auto``, ``whole`` (never in windows) or ``slide`` (always).
        processes: The number of processes that share the memory of the machine.
    """

    def __init__(self, predictor: Predictor, window: int, mode: str = "auto", processes: int = 1) -> None:
        self.predictor, self.mode = predictor, mode
        self.window = max(1, round(window / predictor.image_scale))
        self.processes = processes if predictor.device.type == "cpu" else 1
        self._bytes_per_pixel = 0.0
        self._noted = False

    def fits(self, size: tuple[int, int]) -> bool:
        """Return whether an image of this height and width is predicted at once."""
        if self.mode != "auto":
            return self.mode == "whole"
        pixels = self.predictor.peak_pixels(*size)
        if pixels <= ALWAYS_FITS:
            return True
        self._bytes_per_pixel = self._bytes_per_pixel or bytes_per_pixel(self.predictor)
        return pixels * self._bytes_per_pixel <= SHARE * self.free_memory()

    def free_memory(self) -> float:
        """Return the memory in bytes that this process may use on its device."""
        return available_memory(self.predictor.device) / self.processes

    def regions(self, image: Pixels) -> Iterator[Region]:
        """Yield the probabilities of an image in disjoint rectangles that cover it.

        Raises:
            UserError: There is not enough memory.
        """
        if self.fits(image.size):
            try:
                whole = Region(0, 0, self.predictor.probabilities(image.read(0, 0, *image.size)))
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
        if self.mode == "auto":
            self._note(image)
        try:
            yield from predict_windows(self.predictor, image.read, image.size, self.window)
        except (RuntimeError, MemoryError) as error:
            if not is_allocation_error(error):
                raise
            raise self.exhausted(image, "pass a smaller --window") from None

    def exhausted(self, image: Pixels, fix: str) -> UserError:
        """Return the error about an image for which there is not enough memory."""
        height, width = image.size
        problem = f"{width} x {height} pixels do not fit into the available memory"
        return UserError(problem, path=image.name, fix=fix)

    def _note(self, image: Pixels) -> None:
        """Print once that images are predicted in windows."""
        if not self._noted:
            height, width = image.size
            text = f"{image.name}: {width} x {height} pixels do not fit into memory at once"
            print(
                printable(f"note: {text}. Predicting such images in windows of {self.window} pixels"), file=sys.stderr
            )
            self._noted = True
