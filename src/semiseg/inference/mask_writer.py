"""What ``semiseg predict`` writes of an image: its mask, and pictures of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import PIL.Image
import torch
from torch import Tensor

from semiseg.data.dataset import Color
from semiseg.data.files.image_files import reason
from semiseg.errors import UserError
from semiseg.inference.predictor import Predictor
from semiseg.visualization.mask_pictures import Picture, indexed_picture, overlay, save_picture


class Masks:
    """Draws the kinds of pictures that are asked for: "" (the mask), ``_overlay``, ``_confidence``."""

    def __init__(self, predictor: Predictor, palette: Sequence[Color], kinds: Sequence[str]) -> None:
        self.predictor, self.palette, self.kinds = predictor, palette, kinds

    def draw(self, image: Tensor, kinds: Iterable[str]) -> dict[str, Picture]:
        """Return pictures, by kind, of what the network says of an image, uint8 ``(3, H, W)``."""
        mask, confidence = (part.cpu() for part in self.predictor(image))
        made = {
            "": lambda: indexed_picture(mask, self.palette),
            "_overlay": lambda: overlay(image, mask, self.palette),
            "_confidence": lambda: PIL.Image.fromarray((confidence * 255).round().to(torch.uint8).numpy()),
        }
        return {kind: made[kind]() for kind in kinds}


def write_pictures(pictures: Mapping[str, Picture], files: Mapping[str, Path]) -> None:
    """Write pictures to the files of their kinds, each whole or not at all.

    Raises:
        UserError: one cannot be written.
    """
    for kind, picture in pictures.items():
        try:
            save_picture(picture, files[kind])
        except OSError as error:
            problem = f"{files[kind]}: cannot be written ({reason(error)}): choose another --out, or rename"
            raise UserError(problem) from None
