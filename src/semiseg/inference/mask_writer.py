"""Render the pictures that ``semiseg predict`` writes for an image: mask, overlay and confidence."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.errors import os_error
from semiseg.inference.predictor import Predictor
from semiseg.visualization.mask_pictures import Picture, indexed_picture, overlay, save_picture


class PredictionRenderer:
    """Predict an image and render the result.

    Args:
        predictor: Predicts classes and confidence of an image.
        palette: The color of each class.
        kinds: The pictures to write: "" (the mask), ``_overlay``, ``_confidence``.
    """

    def __init__(self, predictor: Predictor, palette: Sequence[Color], kinds: Sequence[str]) -> None:
        self.predictor, self.palette, self.kinds = predictor, palette, kinds

    def render(self, image: Tensor, kinds: Iterable[str]) -> dict[str, Picture]:
        """Return the pictures of an image by kind.

        Args:
            image: uint8 ``(3, H, W)``.
            kinds: The pictures to return, any of ``self.kinds``.
        """
        mask, confidence = (tensor.cpu() for tensor in self.predictor(image))
        render = {
            "": lambda: indexed_picture(mask, self.palette),
            "_overlay": lambda: overlay(image, mask, self.palette),
            "_confidence": lambda: PIL.Image.fromarray((confidence * 255).round().to(torch.uint8).numpy()),
        }
        return {kind: render[kind]() for kind in kinds}


def write_pictures(pictures: Mapping[str, Picture], files: Mapping[str, Path]) -> None:
    """Write each picture to the file of its kind. A file is written completely or not at all.

    Raises:
        UserError: A file cannot be written.
    """
    for kind, picture in pictures.items():
        try:
            save_picture(picture, files[kind])
        except OSError as error:
            fix = "choose another --out or rename the image"
            raise os_error(error, "cannot be written", files[kind], fix) from None
