"""``semiseg evaluate``: measure a trained model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse

DETAILS = ("dice", "precision", "recall", "boundary_iou")


@dataclass
class Evaluate:
    """Evaluate all networks of a trained model on full-size masks."""

    run: tyro.conf.Positional[str]
    """Run directory, checkpoint file, or published checkpoint (docs/published-networks.md)."""
    data: str | None = None
    """Data set; default: that of the run. The lists of the run apply if it contains their images (data that moved)."""
    split: Literal["test", "val", "labeled"] | None = None
    """List of images; labeled: the images the model was trained on. Default: test, else val."""
    network: str | None = None
    """Network whose figures come first: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    sliding: bool = False
    """Use a sliding window of the training crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    json: bool = False
    """Print one JSON object and nothing else."""


def evaluate(argv: Argv) -> None:
    """Measure a trained model on a list of images."""
    from semiseg.workflows.evaluate import evaluate as run
    from semiseg.workflows.evaluate import refresh_report

    args: Evaluate = parse(Evaluate, argv, "semiseg evaluate")
    options = {key: value for key, value in vars(args).items() if key not in ("run", "json")}
    result = run(args.run, **options)
    if args.json:
        print(json.dumps(result))
    else:
        print_table(args, result)
    if not args.sliding and result["split"] in ("val", "test"):
        refresh_report(args.run)


def print_table(args: Evaluate, result: dict[str, Any]) -> None:
    """Print mIoU, pixel accuracy and the IoU of each class by network, and further figures of the first network."""
    networks = result["networks"]
    width = max(map(len, ("pixel_accuracy", *result["iou"])))
    print(f"{result['split']} IoU in percent, {args.checkpoint} checkpoint (step {result['step']})")
    print(" " * width, *(f"{name:>16}" for name in networks))
    for row in ("miou", "pixel_accuracy", *result["iou"]):
        values = [net[row] if row in net else net["iou"][row] for net in networks.values()]
        print(f"{row:<{width}}", *map(cell, values))
    print(f"\n{result['network']}, in percent\n{' ' * width}", *(f"{name:>16}" for name in DETAILS))
    print(f"{'mean':<{width}}", *(cell(result[f"mean_{name}"]) for name in DETAILS))
    for row in result["iou"]:
        print(f"{row:<{width}}", *(cell(result[name][row]) for name in DETAILS))


def cell(value: float | None) -> str:
    """Return a cell of the table: a percentage, or a dash."""
    return f"{'-' if value is None else f'{value:.2f}':>16}"
