"""The ``config.json`` of an export: describes the network besides its weights; read by ``semiseg.load``."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from semiseg.config import read_train_config
from semiseg.data.dataset import Color
from semiseg.data.files.pixel_format import PixelFormat
from semiseg.data.pixel_range import check_bands, check_white
from semiseg.errors import UserError, require_regular_file
from semiseg.networks import SegmentationNetwork, build
from semiseg.training.build import network_options
from semiseg.version import __version__

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Description:
    """What is needed to use an exported network, and how it was trained.

    Attributes:
        architecture, encoder: Arguments of ``networks.build``.
        classes: Class names; class ``k`` is channel ``k`` of the logits.
        palette: One RGB color per class.
        mean, std: Normalization per channel in [0, 1], applied inside the network.
        image_scale: Factor by which images are resized for the network.
        size_multiple: Input sides are multiples of this number of pixels.
        least_side: Smallest input side in pixels.
        method, network, checkpoint, step: Identify the network within the run.
        training: Options of the run, with shortened paths (`public_settings`).
        bands: The bands of an image file that are the channels, counted from 1; None means RGB.
        white: The value that becomes 1 in images of more than 8 bits; None means 65535.
    """

    architecture: str
    encoder: str
    classes: tuple[str, ...]
    palette: tuple[Color, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_scale: float
    size_multiple: int
    least_side: int
    method: str
    network: str
    checkpoint: str
    step: int
    training: dict[str, Any]
    bands: tuple[int, ...] | None = None
    white: float | None = None

    def write(self, folder: Path) -> None:
        """Write ``config.json``."""
        content = {"semiseg_export": FORMAT, "semiseg": __version__} | asdict(self)
        (folder / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


PATHS = ("data", "labeled", "unlabeled", "weights", "init")
"""Options that may contain paths."""


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a run with every path shortened to its last part.

    Exports are published; they must not reveal the directories of the machine.
    """

    def shorten(key: str, value: Any) -> Any:
        if not isinstance(value, str) or (key not in PATHS and not Path(value).is_absolute()):
            return value
        if key == "labeled" and re.fullmatch(r"\d+/\d+", value):
            return value  # a fraction
        kind, colon, name = value.partition(":") if value.startswith(("hf:", "shapes:")) else ("", "", value)
        return kind + colon + (name if kind == "shapes" else Path(name).name)

    return {key: shorten(key, value) for key, value in settings.items()}


def colors(values: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    """Convert a palette read from a file."""
    return tuple((red, green, blue) for red, green, blue in values)


def _check(description: Description) -> None:
    """Raise ValueError or TypeError if a value is invalid."""
    d = description
    if not all(isinstance(name, str) for name in (*d.classes, d.architecture, d.encoder, d.method, d.network)):
        raise TypeError("names must be text")
    if not 1 <= len(d.classes) == len(set(d.classes)) == len(d.palette) <= 255 or not isinstance(d.training, dict):
        raise ValueError("there must be 1 to 255 different classes, each with a color")
    if not all(type(value) is int and 0 <= value <= 255 for color in d.palette for value in color):
        raise ValueError("colors must be in [0, 255]")
    bands, white = check_bands(d.bands), check_white(d.white)
    if isinstance(bands, str) or isinstance(white, str):
        raise TypeError("bands and white must be numbers")
    channels = PixelFormat(bands, white).channels
    if not (len(d.mean) == len(d.std) == channels and all(map(math.isfinite, (*d.mean, *d.std))) and min(d.std) > 0):
        raise ValueError(f"mean and std must have {channels} finite values")


def read_export(weights: Path) -> tuple[Description, SegmentationNetwork]:
    """Build the network of an export on the CPU, from ``model.safetensors`` and ``config.json``.

    Args:
        weights: The path of ``model.safetensors``; ``config.json`` is in the same directory.

    Raises:
        UserError: A file is missing or damaged, or the two do not fit each other.
    """
    config = weights.with_name(CONFIG)
    if not config.exists():
        problem = f"not an export of semiseg (no {CONFIG} in its directory)"
        raise UserError(problem, path=weights, fix="give a run, a checkpoint, or a directory made by semiseg export")
    try:
        content = json.loads(require_regular_file(config).read_text(encoding="utf-8"))
        if content.pop("semiseg_export") != FORMAT:
            raise ValueError("another version")
        names = {field.name for field in fields(Description)}
        content["palette"] = colors(content["palette"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in names}
        description = Description(**values)
        _check(description)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, UserError) as error:
        problem = f"not the configuration of an export ({type(error).__name__})"
        raise UserError(problem, path=config, fix="export the run again") from None
    classes, channels = len(description.classes), len(description.mean)
    options = network_options(read_train_config(description.training, str(config)))
    network = build(description.architecture, description.encoder, classes, "none", channels, options)
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:120]
        raise UserError(f"its weights cannot be used ({reason})", path=weights, fix="export the run again") from None
    for buffer, constants in ((network.mean, description.mean), (network.std, description.std)):
        buffer.copy_(torch.tensor(constants).view_as(buffer))
    return description, network.eval()
