"""``semiseg evaluate``, ``predict``, ``report`` and ``export``: what one does with a run."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from semiseg.cli.option_parsing import Argv, is_first_process, parse
from semiseg.errors import UserError, printable


@dataclass
class Evaluate:
    """Evaluate a trained model, all of its networks, exactly."""

    run: tyro.conf.Positional[str]
    """Run directory, or checkpoint file."""
    data: str | None = None
    """Data set; that of the run where absent."""
    split: Literal["test", "val", "labeled"] = "test"
    """List of images; labeled: those it learned from, to see how well it knows them."""
    network: str | None = None
    """Network whose figures come first: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    sliding: bool = False
    """Use a sliding window of the training's crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    json: bool = False
    """Print one JSON object and nothing else."""


def evaluate(argv: Argv) -> None:
    """Measure a trained model on a list of images."""
    from semiseg.tools.models.evaluate_model import evaluate as evaluate_model
    from semiseg.workflows.report import report as write_report

    a: Evaluate = parse(Evaluate, argv, "semiseg evaluate")
    result = evaluate_model(
        a.run, a.data, a.split, network=a.network, checkpoint=a.checkpoint, sliding=a.sliding, accelerator=a.accelerator
    )
    show(a, result)
    page = Path(a.run) / "report.html"
    if a.data is None and not a.sliding and a.split in ("val", "test") and page.is_file():
        try:
            write_report([a.run])  # its page shows the new figures
        except UserError as error:
            print(f"warning: the report is as it was: {printable(str(error))}", file=sys.stderr)


def show(a: Evaluate, result: dict[str, Any]) -> None:
    """Print what was measured."""
    if a.json:
        print(json.dumps(result))
        return
    networks = result["networks"]
    width = max(map(len, result["iou"]), default=0)
    print(f"{a.split} IoU in percent, {a.checkpoint} checkpoint (step {result['step']})")
    print(" " * width, *(f"{name:>16}" for name in networks))
    for row in ("miou", "pixel_accuracy", *result["iou"]):
        values = [net[row] if row in net else net["iou"][row] for net in networks.values()]
        print(f"{row:<{width}}", *(f"{'-' if value is None else f'{value:.2f}':>16}" for value in values))


@dataclass
class Predict:
    """Write a mask, indexed with palette, at the image's own size, for every image."""

    run: tyro.conf.Positional[str]
    """Run directory, or checkpoint file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files, and directories of such; or shards: a directory or a URL of tar files, or their index.json."""
    out: str
    """Directory for the masks, OUT/<stem>.png; of shards, OUT/<name>.tar with <key>.png in it."""
    network: str | None = None
    """Network to ask: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    overlay: bool = False
    """Write OUT/<stem>_overlay.png too."""
    confidence: bool = False
    """Write OUT/<stem>_confidence.png too: gray, 255 for certainty."""
    skip_existing: bool = False
    """Write only what is not in OUT yet; otherwise a file that is there is an error."""
    sliding: bool = False
    """Use a sliding window of the training's crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute."""
    devices: int | Literal["auto"] = "auto"
    """Number of devices (processes) that share the images; auto: one, or those that torchrun has started."""


def predict(argv: Argv) -> None:
    """Segment images with a trained model."""
    from semiseg.workflows.predict import predict as predict_model

    a: Predict = parse(Predict, argv, "semiseg predict")
    options = {key: value for key, value in vars(a).items() if key not in ("run", "images", "out")}
    if a.devices != "auto" and a.devices < 1:
        raise UserError(f"--devices is {a.devices}: it must be auto or at least 1")
    written = predict_model(a.run, a.images, a.out, **options)
    if is_first_process():
        shards = written and written[0].suffix == ".tar"
        print(f"{len(written)} {'shards of masks' if shards else 'masks'} in {a.out}")


@dataclass
class Report:
    """Write the report of a run; of several: the page and the picture that compare them."""

    runs: tyro.conf.Positional[tuple[str, ...]]
    """Run directories."""
    out: str | None = None
    """HTML file; where absent, report.html in the run, or beside the first of several."""


def report(argv: Argv) -> None:
    """Write the report of one run, or compare several."""
    from semiseg.workflows.report import report as write_report

    a: Report = parse(Report, argv, "semiseg report")
    print(write_report(a.runs, a.out))


@dataclass
class Export:
    """Write a trained network for others to use, with a model card, and check it against PyTorch."""

    run: tyro.conf.Positional[str]
    """Run directory, or checkpoint file."""
    format: Literal["safetensors", "torch", "onnx"] = "safetensors"
    """safetensors: for semiseg.load; torch: torch.export's .pt2; onnx: with a script that needs no PyTorch."""
    out: str | None = None
    """New folder; RUN/export-FORMAT where absent."""
    network: str | None = None
    """Network to export: student, teacher1, ..."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""


def export(argv: Argv) -> None:
    """Write a trained network as safetensors, torch.export or ONNX."""
    from semiseg.workflows.export import export as export_model

    a: Export = parse(Export, argv, "semiseg export")
    path, difference = export_model(a.run, a.format, a.out, network=a.network, checkpoint=a.checkpoint)
    print(f"{path}: logits differ from PyTorch's by at most {difference:.1e}; license and text of README.md are yours")
