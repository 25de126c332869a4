"""Published checkpoints in the form of a run's checkpoint, so that every command accepts them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from semiseg.data.benchmarks.class_lists import classes_of_benchmark
from semiseg.errors import UserError
from semiseg.networks.network_options import GENERAL
from semiseg.networks.published import read_published


def convert_published(content: Any, path: Path) -> dict[str, Any] | None:
    """Return a published checkpoint as one of a run with the method ``supervised``, or None if it is not published.

    Args:
        content: What the file holds.
        path: The file.

    Raises:
        UserError: The network is recognized but not complete, or its number of outputs is not that of a benchmark.
    """
    try:
        published = read_published(content)
    except UserError as error:
        raise UserError(error.problem, path=path, fix=error.fix) from None
    if published is None:
        return None
    benchmark = classes_of_benchmark(published.classes)
    if benchmark is None:
        problem = f"is a network of {published.release} with {published.classes} outputs"
        fix = "use one for VOC 2012 (21), Cityscapes (19), ADE20K (150) or COCO (81)"
        raise UserError(problem, path=path, fix=fix)
    data, classes, palette = benchmark
    structure = {key: value for key, value in asdict(published.options).items() if key not in GENERAL}
    config = structure | {
        "method": "supervised",
        "architecture": published.architecture,
        "encoder": published.encoder,
        "weights": "none",
        "crop_size": published.crop_size,
        "network_version": published.options.version,
    }
    weights = {f"student.{name}": value for name, value in published.weights.items()}
    return {
        "step": 0,
        "best": {"miou": 0.0, "step": 0},
        "config": config,
        "classes": list(classes),
        "palette": [list(color) for color in palette],
        "method": weights | {"class_weights": torch.ones(published.classes)},
        "published": f"{published.description}; {published.classes} outputs: the classes of {data}",
    }
