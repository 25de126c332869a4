"""What a network is, beside its weights: ``config.json``, written with every export, read by ``semiseg.load``."""

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

from semiseg import __version__
from semiseg.data.dataset import Color
from semiseg.errors import UserError, require_regular_file
from semiseg.networks import SegmentationNetwork, build

FORMAT = 1
WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Description:
    """All that is needed to use an exported network, and how it came about.

    Attributes:
        architecture, encoder: what ``networks.build`` was asked for.
        classes: class names; class ``k`` is channel ``k`` of the logits.
        palette: one RGB color per class.
        mean, std: per channel of RGB in [0, 1]; the network itself normalizes by them.
        image_scale: factor on an image's size before the network sees it.
        size_multiple: sides of the network's input are multiples of it.
        least_side: and at least this long.
        method, network, checkpoint, step: which of a run's networks this is.
        training: the run's configuration, but for places on the machine that it ran on.
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

    def write(self, folder: Path) -> None:
        """Write ``config.json``."""
        content = {"semiseg_export": FORMAT, "semiseg": __version__} | asdict(self)
        (folder / CONFIG).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


PATHS = ("data", "labeled", "unlabeled", "weights")
"""Options that may name a place."""


def public_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a run's configuration with the last part of every path in place of the whole.

    An export is made to be given away: the folders of the machine that trained it are nobody's business.
    """

    def shorten(key: str, value: Any) -> Any:
        if not isinstance(value, str) or (key not in PATHS and not Path(value).is_absolute()):
            return value
        if key == "labeled" and re.fullmatch(r"\d+/\d+", value):
            return value  # a share
        kind, colon, place = value.partition(":") if value.startswith(("hf:", "shapes:")) else ("", "", value)
        return kind + colon + (place if kind == "shapes" else Path(place).name)

    return {key: shorten(key, value) for key, value in settings.items()}


def colors(values: Sequence[Sequence[int]]) -> tuple[Color, ...]:
    """Return a palette from a file's lists of lists."""
    return tuple((red, green, blue) for red, green, blue in values)


def _check(description: Description) -> None:
    """Raise ValueError or TypeError where a value is not what those rely on who use it."""
    d = description
    if not all(isinstance(name, str) for name in (*d.classes, d.architecture, d.encoder, d.method, d.network)):
        raise TypeError("names are text")
    if not 1 <= len(d.classes) == len(set(d.classes)) == len(d.palette) <= 255 or not isinstance(d.training, dict):
        raise ValueError("there are 1 to 255 classes, each with a color")
    if not all(type(value) is int and 0 <= value <= 255 for color in d.palette for value in color):
        raise ValueError("colors are of 0 to 255")
    if not (len(d.mean) == len(d.std) == 3 and all(map(math.isfinite, (*d.mean, *d.std))) and min(d.std) > 0):
        raise ValueError("mean and std are of three channels")


def read_export(weights: Path) -> tuple[Description, SegmentationNetwork]:
    """Build the network of an export from ``model.safetensors`` and the ``config.json`` beside it, on the CPU.

    Raises:
        UserError: one of the two is missing, damaged, or does not fit the other.
    """
    config = weights.with_name(CONFIG)
    try:
        content = json.loads(require_regular_file(config).read_text(encoding="utf-8"))
        if content.pop("semiseg_export") != FORMAT:
            raise ValueError("of another version")
        names = {field.name for field in fields(Description)}
        content["palette"] = colors(content["palette"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items() if k in names}
        description = Description(**values)
        _check(description)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{config}: not the configuration of an export ({type(error).__name__}): export the run again"
        ) from None
    network = build(description.architecture, description.encoder, len(description.classes), weights="none")
    try:
        network.load_state_dict(load_file(weights))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1].strip()[:120]
        raise UserError(f"{weights}: its weights cannot be used ({reason}): export the run again") from None
    for buffer, constants in ((network.mean, description.mean), (network.std, description.std)):
        buffer.copy_(torch.tensor(constants).view_as(buffer))
    return description, network.eval()
