"""``semiseg predict``: segment images with a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import tyro

from semiseg.cli.option_parsing import Argv, is_rank_zero, parse
from semiseg.option_ranges import AT_LEAST_ONE, range_error


@dataclass
class Predict:
    """Write an indexed mask with palette for every image, at the size of the image."""

    run: tyro.conf.Positional[str]
    """Run directory or checkpoint file."""
    images: tyro.conf.Positional[tuple[str, ...]]
    """Image files and directories; or shards: a directory or URL of tar files, or their index.json."""
    out: str
    """Directory for the masks: OUT/<stem>.png; for shards, OUT/<name>.tar that contains <key>.png."""
    network: str | None = None
    """Network to use: student, teacher1, ..., teachers-average."""
    checkpoint: Literal["best", "last"] = "best"
    """Checkpoint of the run."""
    overlay: bool = False
    """Also write OUT/<stem>_overlay.png."""
    confidence: bool = False
    """Also write OUT/<stem>_confidence.png: gray, 255 for certain."""
    skip_existing: bool = False
    """Skip masks that already exist in OUT; otherwise existing files are an error."""
    sliding: bool = False
    """Use a sliding window of the training crop size."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device to compute on."""
    devices: int | Literal["auto"] = "auto"
    """Number of devices (processes) that split the images; auto: one, or those started by torchrun."""


def predict(argv: Argv) -> None:
    """Segment images with a trained model."""
    from semiseg.workflows.predict import predict as run

    args: Predict = parse(Predict, argv, "semiseg predict")
    if args.devices != "auto" and args.devices < 1:
        raise range_error("devices", args.devices, AT_LEAST_ONE)
    options = {key: value for key, value in vars(args).items() if key not in ("run", "images", "out")}
    written = run(args.run, args.images, args.out, **options)
    if is_rank_zero():
        shards = written and written[0].suffix == ".tar"
        print(f"{len(written)} {'shards of masks' if shards else 'masks'} in {args.out}")
