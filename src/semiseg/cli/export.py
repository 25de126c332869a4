"""``semiseg export``: write a trained network for other programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, parse


@dataclass
class Export:
    """Write a trained network with a model card, and compare its outputs with PyTorch."""

    run: tyro.conf.Positional[str]
    """Run directory, checkpoint file, or published checkpoint (docs/published-networks.md)."""
    format: Literal["safetensors", "torch", "onnx"] = "safetensors"
    """safetensors: for semiseg.load; torch: a .pt2 file of torch.export; onnx: with a script that needs no PyTorch."""
    out: str | None = None
    """New directory; default: RUN/export-FORMAT."""
    network: str | None = None
    """Network to export: student, teacher1, ..."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    data: str | None = None
    """Data set of the run if it has moved, for two images to check the export with."""


def export(argv: Argv) -> None:
    """Write a trained network as safetensors, torch.export or ONNX."""
    from semiseg.workflows.export import export as run

    args: Export = parse(Export, argv, "semiseg export")
    path, difference = run(
        args.run, args.format, args.out, network=args.network, checkpoint=args.checkpoint, data=args.data
    )
    print(f"{path}: logits differ from PyTorch by at most {difference:.1e}. Choose a license and complete README.md.")
